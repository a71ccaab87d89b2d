"""Fixtures of the whole suite, and what makes every run of it the same."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from wsikit.testing.svs import write_svs

os.environ.setdefault("MPLBACKEND", "Agg")  # for subprocesses too: no window on a laptop

settings.register_profile("wsikit", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wsikit")

ROOT = Path(__file__).resolve().parents[1]

LONG = (
    "test_docs.py", "test_kill.py", "test_crossval.py", "test_extract.py", "test_demo.py", "test_notebooks.py",
    "test_contract.py", "test_tune.py", "test_real_slides.py", "test_audit.py", "test_stage.py", "test_tissue.py",
    "test_cli.py", "test_leaks.py", "test_ranks.py", "test_doctor.py", "test_privacy.py", "test_train.py",
)  # fmt: skip
"""Files of a minute and more, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: two processes share the suite by file, and the last file of one is waited for by the other."""
    rank = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread: sums in one order, so equal bits, and no quarrel over cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Real slides and tables, not part of the tree; tests that need them are skipped where they are absent."""
    data = Path(os.environ.get("WSIKIT_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not data.is_dir():
        pytest.skip(f"no test data at {data}; name the folder in WSIKIT_TEST_DATA")
    return data


@pytest.fixture(scope="session")
def slides_dir(test_data: Path) -> Path:
    """Real slides of several vendors."""
    return test_data / "slides"


@pytest.fixture(scope="session")
def two_slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two small slides, a.svs and b.svs: an island of stained tissue on glass."""
    folder = tmp_path_factory.mktemp("slides")
    y, x = np.mgrid[:1536, :2048]
    tissue = ((x - 1024) / 800) ** 2 + ((y - 768) / 550) ** 2 < 1
    for name, seed in (("a", 0), ("b", 1)):
        rgb = np.full((1536, 2048, 3), 243, np.uint8)
        grain = np.random.default_rng(seed).normal(0, 18, (int(tissue.sum()), 3))
        rgb[tissue] = np.clip(np.array([205, 130, 175]) + grain, 0, 255).astype(np.uint8)
        write_svs(folder / f"{name}.svs", rgb, mpp=0.5, levels=(1, 4))
    return folder


class S3Server:
    """moto's S3 server, and a door in front of it that counts, and can be shut.

    Attributes:
        url: The door.
        requests: (method, path) of every request.
        bytes_sent: What the server answered, heads included.
        denied: Methods that are answered with "no permission".
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self.requests: list[tuple[str, str]] = []
        self.bytes_sent = 0
        self.denied: tuple[str, ...] = ()
        self._pipes: set[socket.socket] = set()
        self._door: socket.socket | None = None
        self._port = 0
        self.open()
        self.url = f"http://127.0.0.1:{self._port}"

    def open(self) -> None:
        """Let requests in."""
        self._door = socket.create_server(("127.0.0.1", self._port), backlog=64)
        self._port = self._door.getsockname()[1]
        threading.Thread(target=self._accept, args=[self._door], daemon=True).start()

    def shut(self) -> None:
        """As if the server were gone: connections break, new ones are refused."""
        assert self._door is not None
        for each in [self._door, *self._pipes]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self, door: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = door.accept()[0]
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._pipes |= {client, server}
                threading.Thread(target=self._pipe, args=[client, server, True], daemon=True).start()
                threading.Thread(target=self._pipe, args=[server, client, False], daemon=True).start()

    def _pipe(self, source: socket.socket, target: socket.socket, asking: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if asking:
                    found = re.match(rb"(GET|PUT|HEAD|POST|DELETE) (\S+) HTTP/1.1\r\n", data)
                    if found:
                        self.requests.append((found[1].decode(), found[2].decode()))
                    if found and found[1].decode() in self.denied:
                        body = b"<Error><Code>AccessDenied</Code></Error>"
                        head = f"HTTP/1.1 403 Forbidden\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                        source.sendall(head.encode() + body)
                        break
                else:
                    self.bytes_sent += len(data)
                target.sendall(data)
        for each in (source, target):
            self._pipes.discard(each)
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server on this machine; its package has a venv of its own, because it needs an older dateutil."""
    found = shutil.which("moto_server", path=os.pathsep.join([
        os.environ.get("WSIKIT_MOTO", ""), str(Path(sys.prefix) / "s3" / ("Scripts" if os.name == "nt" else "bin")),
    ]))  # fmt: skip
    if found is None:
        pytest.skip("no moto_server; 'make setup' installs it, or name its folder in WSIKIT_MOTO")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([found, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/").close()
                break
            except urllib.error.URLError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.1)
        server = S3Server(port)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", server.url)
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.setenv(name, "wsikit")
            patch.setenv("AWS_REGION", "us-east-1")
            yield server
        server.shut()
    finally:
        process.kill()
        process.wait()


def new_bucket(server: S3Server) -> str:
    """An empty bucket of its own, as a URL."""
    name = f"b{uuid.uuid4().hex[:12]}"
    urllib.request.urlopen(urllib.request.Request(f"{server.url}/{name}", method="PUT")).close()
    return f"s3://{name}"


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """An empty bucket of this test alone."""
    return new_bucket(s3_server)


@pytest.fixture(scope="module")
def shared_bucket(s3_server: S3Server) -> str:
    """A bucket of all tests of a file."""
    return new_bucket(s3_server)
