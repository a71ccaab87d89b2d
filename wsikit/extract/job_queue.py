"""Workers as jobs of a queue (SLURM, PBS, LSF, SGE), by dask-jobqueue."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal

from distributed import Client
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from wsikit.errors import ConfigError
from wsikit.extract.clusters import LIGHT, THREADS, Crew, quiet
from wsikit.extract.existing_cluster import wait_for_worker
from wsikit.registry import nearest


class JobQueue(BaseModel):
    """What one job asks for, and how many jobs there may be.

    A job with GPUs runs one worker for each of them; one without runs a worker for each core.

    Attributes:
        kind: ``slurm``, ``pbs``, ``lsf`` or ``sge``.
        queue: Queue or partition; default: the site's own.
        cores: CPU cores of a job.
        memory: Of a job, for instance ``64GB``.
        walltime: Of a job, ``HH:MM:SS`` or ``D-HH:MM:SS``, at least ten minutes. Workers leave before it ends.
        gpus: Of a job.
        min_jobs: Jobs that are kept from beginning to end.
        max_jobs: Jobs at most; their number follows the work that is left.
        job_extra: More lines of the job's header, without the prefix: ``--account=pathology``.
        prologue: Lines of shell before the worker starts: ``module load cuda``.
        python: The interpreter on the compute nodes; default: this one.
        interface: Network between nodes and this machine, for instance ``ib0``.
        log_directory: Where the jobs' logs go; default: as the queue does it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["slurm", "pbs", "lsf", "sge"]
    queue: str | None = None
    cores: Annotated[int, Field(ge=1)]
    memory: str
    walltime: str
    gpus: Annotated[int, Field(ge=0)] = 0
    min_jobs: Annotated[int, Field(ge=1)] = 1
    max_jobs: Annotated[int, Field(ge=1)]
    job_extra: list[str] = Field(default_factory=list)
    prologue: list[str] = Field(default_factory=list)
    python: str | None = None
    interface: str | None = None
    log_directory: str | None = None

    @field_validator("walltime", mode="before")
    @classmethod
    def _walltime(cls, value: Any) -> Any:
        if isinstance(value, int):  # 12:00:00 without quotes is a number to the base of 60 in YAML
            raise ValueError('put it in quotes: walltime: "12:00:00"')
        if isinstance(value, str) and (seconds := _seconds(value)) < 600:
            raise ValueError(f"it is {seconds} s; expected HH:MM:SS or D-HH:MM:SS, at least 00:10:00")
        return value

    @field_validator("memory")
    @classmethod
    def _memory(cls, value: str) -> str:
        if not re.fullmatch(r"\d+ ?[KMGT]i?B", value):
            raise ValueError("expected a number with its unit, for instance 64GB")
        return value

    @model_validator(mode="after")
    def _together(self) -> JobQueue:
        if self.min_jobs > self.max_jobs:
            raise ValueError(f"min_jobs is {self.min_jobs} and max_jobs {self.max_jobs}")
        if self.kind == "sge" and self.cores > 1 and not any(line.startswith("-pe ") for line in self.job_extra):
            raise ValueError(
                f"cores is {self.cores}: on SGE a parallel environment gives a job several cores, and its name is the "
                f"site's ('qconf -spl' lists them): add for instance '-pe smp {self.cores}' to job_extra"
            )
        return self

    @property
    def workers(self) -> int:
        """Workers of a job."""
        return self.gpus or self.cores

    @property
    def reader_threads(self) -> int:
        """Threads that decode for each of the shards that a worker is at."""
        return max(1, self.cores // (THREADS * self.workers))

    @property
    def lifetime_s(self) -> tuple[int, int]:
        """Seconds after which a worker hands its work back and ends, give or take so many seconds.

        Even the last to go leaves two minutes or more of the walltime, in which its job could start up; not all go
        at once, so that somebody is there to take the work.
        """
        walltime = _seconds(self.walltime)
        stagger = min(600, walltime // 10)
        return walltime - stagger - max(120, min(600, walltime // 20)), stagger


def load_job_queue(path: str | PathLike[str]) -> JobQueue:
    """Read a YAML file with the settings of :class:`JobQueue`.

    Raises:
        ConfigError: No file, bad YAML, an unknown setting (with the nearest known one), an unusable value.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"no file {path}: expected a YAML file, as pipelines/extract/slurm.yaml")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected settings such as 'kind: slurm', found {type(values).__name__}")
    try:
        return JobQueue(**values)
    except ValidationError as error:
        raise ConfigError(f"{path}: " + "; ".join(_problem(one) for one in error.errors())) from None
    except TypeError as error:  # a key that is no text
        raise ConfigError(f"{path}: {error}") from None


def _problem(problem: Any) -> str:
    name, known = ".".join(str(part) for part in problem["loc"]), list(JobQueue.model_fields)
    if problem["type"] == "extra_forbidden":
        return f"no setting {name!r}{nearest(name, known)} (there are: {', '.join(known)})"
    if problem["type"] == "missing":
        return f"setting {name!r} is missing"
    said = problem["msg"].removeprefix("Value error, ")
    return f"{name} is {problem['input']!r}: {said}" if name else said


def _seconds(walltime: str) -> int:
    """Seconds of ``HH:MM:SS`` or ``D-HH:MM:SS``, or 0 for anything else."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", walltime)
    if not found:
        return 0
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def job_cluster(queue: JobQueue) -> Any:
    """The dask-jobqueue cluster, without any job yet; ``.job_script()`` shows what would be submitted.

    Raises:
        ConfigError: dask-jobqueue is not installed.
    """
    try:
        import dask_jobqueue
    except ImportError as error:
        raise ConfigError("job queues need dask-jobqueue: pip install 'wsikit[cluster]'") from error
    lifetime, stagger = queue.lifetime_s
    hours, rest = divmod(_seconds(queue.walltime), 3600)
    walltime = f"{hours:02d}:{rest // 60:02d}"  # LSF knows no seconds, and no queue but SLURM knows days
    options: dict[str, Any] = {
        "queue": queue.queue,
        "cores": queue.cores,
        "memory": queue.memory,
        "processes": queue.workers,
        "walltime": walltime if queue.kind == "lsf" else f"{walltime}:{rest % 60:02d}",
        "job_extra_directives": list(queue.job_extra),
        "job_script_prologue": [*_environment(), *queue.prologue],
        "python": queue.python,
        "interface": queue.interface,
        "log_directory": queue.log_directory,
        # The later of two --nthreads counts. A worker's second thread reads while the first encodes.
        "worker_extra_args": [
            "--nthreads", str(THREADS), "--lifetime", f"{lifetime}s", "--lifetime-stagger", f"{stagger}s",
        ],
        "scheduler_options": {"dashboard_address": ":0"},
        "silence_logs": logging.CRITICAL,
    }  # fmt: skip
    memory = queue.memory.replace(" ", "")
    if queue.kind == "pbs":
        gpus = f":ngpus={queue.gpus}" if queue.gpus else ""
        options["resource_spec"] = f"select=1:ncpus={queue.cores}{gpus}:mem={memory.replace('i', '').lower()}"
    elif queue.gpus:
        ask = {"slurm": f"--gres=gpu:{queue.gpus}", "lsf": f'-gpu "num={queue.gpus}"', "sge": f"-l gpu={queue.gpus}"}
        options["job_extra_directives"].insert(0, ask[queue.kind])
    return getattr(dask_jobqueue, f"{queue.kind.upper()}Cluster")(**options)


def _environment() -> Iterator[str]:
    """What Dask, and the C library, are to know in a job before any of its processes starts."""
    for name, value in LIGHT.items():
        yield f"export DASK_{name.upper().replace('-', '_').replace('.', '__')}={value}"
    yield "export MALLOC_ARENA_MAX=${MALLOC_ARENA_MAX:-1}  # one heap for all threads: see wsikit.allocator"


@contextlib.contextmanager
def _closing(cluster: Any) -> Iterator[Any]:
    """A cluster whose jobs are cancelled at the end, though the queue has refused some of them."""
    try:
        yield cluster
    finally:
        # Dask asserts that each of these knows of its end. Jobs of dask-jobqueue 0.9 never do: they only pass where
        # they are garbage by then, and one that was refused is held by its error.
        cluster._created.clear()
        cluster.close()


@contextlib.contextmanager
def queue_crew(queue: JobQueue, *, patience_s: float, say: Callable[[str], None]) -> Iterator[Crew]:
    """Workers that come as jobs, as many as there is work for, and are cancelled at the end.

    Args:
        queue: What to ask for.
        patience_s: How long to wait for the first.
        say: Told what is waited for.

    Raises:
        ConfigError: There is no such queue on this machine, it refuses the job, or the nodes have another wsikit.
        NoWorkersError: No job was started, or all ended.
    """
    import dask

    where = f"queue {queue.queue or 'of the site'} ({queue.kind})"
    hint = {"slurm": "squeue --me", "pbs": "qstat -u $USER", "lsf": "bjobs", "sge": "qstat"}[queue.kind]
    hint = f"see the jobs ('{hint}') and their logs"
    settings = {"distributed.comm.timeouts.connect": "60s", "distributed.scheduler.allowed-failures": 3, **LIGHT}
    with quiet(), dask.config.set(settings), _closing(job_cluster(queue)) as cluster:
        if shutil.which(cluster.job_cls.submit_command) is None:
            raise ConfigError(
                f"kind is {queue.kind!r}, and there is no {cluster.job_cls.submit_command!r} here; run the command "
                "where jobs are submitted, or see --scheduler-file"
            )
        try:
            for _ in range(queue.min_jobs):
                cluster.worker_spec.update(cluster.new_worker_spec())
            cluster.sync(cluster._correct_state)  # submits here and now; 'scale' would keep a refusal to its log
        except RuntimeError as error:
            said = str(error).partition("stderr:\n")[2].strip() or str(error)
            raise ConfigError(f"{where}: refuses the job: {said}\nThe job was:\n{cluster.job_script()}") from error
        # A minute without need for a job before it is given up: another wait in the queue costs more.
        cluster.adapt(minimum_jobs=queue.min_jobs, maximum_jobs=queue.max_jobs, interval="5s", wait_count=12)
        with Client(cluster, set_as_default=False) as client:
            wait_for_worker(client, where, patience_s, hint, say)
            most = queue.max_jobs * queue.workers * THREADS
            yield Crew(client, shared=True, most=most, patience_s=patience_s, hint=hint)
