"""Segmentation networks from files: ONNX, TorchScript, exported programs, and plain parameters.

Nothing that can run code of its own choosing is unpickled: parameters are read with torch's
``weights_only`` loader or from safetensors, and what that refuses is refused here, by name.
"""

from __future__ import annotations

import importlib
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.provenance import sha256_file

if TYPE_CHECKING:
    import torch

Tensor3 = npt.NDArray[np.float32]
Forward = Callable[[Tensor3], Tensor3]
"""One tile (3, h, w) float32 -> logits (classes, h, w) float32, h and w perhaps rounded up."""

SUFFIXES = {
    ".onnx": "ONNX, through onnxruntime",
    ".pt": "TorchScript, or parameters with recipe=",
    ".ts": "TorchScript",
    ".pt2": "exported program (torch.export)",
    ".ckpt": "parameters, with recipe=",
    ".pth": "parameters, with recipe=",
    ".safetensors": "parameters, with recipe=",
}


def check_weights(path: Path) -> None:
    """Raise ConfigError where there is no such file, or its ending says nothing about how to load it."""
    if not path.is_file():
        raise ConfigError(f"segmentation network {path}: no such file; give the path of its weights as weights=")
    if path.suffix.lower() not in SUFFIXES:
        kinds = "; ".join(f"{suffix}: {what}" for suffix, what in SUFFIXES.items())
        raise ConfigError(f"segmentation network {path.name}: unknown ending {path.suffix!r}; expected {kinds}")


def weights_identity(path: Path) -> dict[str, str]:
    """sha256 of the weights and of each file that they are spread over: what a store records instead of a path."""
    return dict(_identity(path, path.stat().st_size, path.stat().st_mtime_ns))


@lru_cache(maxsize=8)
def _identity(path: Path, size: int, changed_ns: int) -> tuple[tuple[str, str], ...]:
    del size, changed_ns  # only there so that a replaced file is hashed again
    beside = onnx_data(path) if path.suffix.lower() == ".onnx" else []
    data = [(f"weights_data_sha256_{i}", sha256_file(file)) for i, file in enumerate(beside)]
    return (("weights_sha256", sha256_file(path)), *data)


def onnx_data(path: Path) -> list[Path]:
    """Files beside an ONNX file that hold its large tensors.

    Raises:
        ConfigError: One of them is missing.
    """
    # external_data { key: "location"  value: NAME } in protobuf's wire format, so that onnx need not be installed.
    content = path.read_bytes()
    found = re.finditer(rb"\n\x08location\x12([\x01-\x7f])", content)
    names = {content[at.end() : at.end() + at[1][0]].decode() for at in found}
    files = [path.parent / name for name in sorted(names)]
    for file in files:
        if not file.is_file():
            raise ConfigError(
                f"segmentation network {path.name}: its tensors are in {file.name!r}, which is not beside it; "
                "copy that file into the same folder"
            )
    return files


def load_forward(path: Path, architecture: str | None) -> Forward:
    """Load a network, to be run on one thread.

    Args:
        path: Its file.
        architecture: For files that hold parameters only: "hest" or "grandqc".

    Raises:
        ConfigError: The file cannot be used; says why.
    """
    check_weights(path)
    return _load(path, architecture, path.stat().st_size, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _load(path: Path, architecture: str | None, size: int, changed_ns: int) -> Forward:
    del size, changed_ns
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return _onnx(path)
    try:
        import torch

        if suffix == ".pt2":
            return _torch_forward(torch.export.load(str(path)).module())
        if suffix in (".pt", ".ts") and _is_torchscript(path):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as such
                load: Any = torch.jit.load
                return _torch_forward(load(str(path), map_location="cpu").eval())
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise ConfigError(f"segmentation network {path.name}: torch cannot load it: {error}") from error
    return _torch_forward(_with_parameters(path, read_parameters(path), architecture))


def _onnx(path: Path) -> Forward:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"segmentation network {path.name}: ONNX files need onnxruntime: pip install 'wsikit[segmenters]'"
        ) from error
    onnx_data(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds have no common base
        raise ConfigError(f"segmentation network {path.name}: onnxruntime cannot load it: {error}") from error
    if len(session.get_inputs()) != 1 or session.get_inputs()[0].type != "tensor(float)":
        found = [(i.name, i.type) for i in session.get_inputs()]
        raise ConfigError(f"segmentation network {path.name}: inputs {found}; expected one, (B, 3, h, w) float32")
    name = session.get_inputs()[0].name
    return lambda tile: np.asarray(session.run(None, {name: tile[None]})[0][0], np.float32)


def _torch_forward(network: Any) -> Forward:
    import torch

    def forward(tile: Tensor3) -> Tensor3:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.inference_mode():
                out = network(torch.from_numpy(tile)[None])
        finally:
            torch.set_num_threads(threads)
        if isinstance(out, Mapping):  # torchvision's segmentation networks
            out = out["out"]
        return np.asarray((out[0] if isinstance(out, (tuple, list)) else out)[0].float().numpy(), np.float32)

    return forward


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/")[1:2] == ["code"] for name in archive.namelist())


def read_parameters(path: Path) -> dict[str, torch.Tensor]:
    """Named tensors of a file, without running any code in it; Lightning's and DataParallel's prefixes are taken off.

    Raises:
        ConfigError: The file holds more than tensors.
    """
    import pickle

    import torch

    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"segmentation network {path.name}: refused: it is a pickle of Python objects, which can run any code when "
            "opened. Export it where you trust it: torch.save(model.state_dict(), ...), torch.jit or ONNX"
        ) from error
    except Exception as error:  # damaged files raise anything from EOFError to RuntimeError
        raise ConfigError(f"segmentation network {path.name}: torch cannot read it: {error}") from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    tensors = {k.removeprefix("module.").removeprefix("model."): v for k, v in state.items() if hasattr(v, "shape")}
    if not tensors:
        raise ConfigError(f"segmentation network {path.name}: no parameters in it; expected a state dict")
    return tensors


def _with_parameters(path: Path, tensors: dict[str, torch.Tensor], architecture: str | None) -> Any:
    if architecture is None:
        raise ConfigError(
            f"segmentation network {path.name} holds parameters only; say whose they are with recipe='hest' or "
            "recipe='grandqc', or export the network as ONNX or TorchScript"
        )
    try:
        if architecture == "hest":
            from wsikit.slides.networks.deeplab import DeepLabV3

            # The auxiliary head is of use in training only.
            tensors = {name: value for name, value in tensors.items() if not name.startswith("aux")}
            network: Any = DeepLabV3(classes=len(tensors["classifier.4.weight"]))
        else:
            network = _unet_plus_plus(classes=len(tensors["segmentation_head.0.weight"]))
        network.load_state_dict(tensors)
    except (RuntimeError, KeyError) as error:
        raise ConfigError(
            f"segmentation network {path.name}: its parameters are not those of {architecture!r}: {error}"
        ) from error
    return network.eval()


def _unet_plus_plus(classes: int) -> Any:
    try:
        smp = importlib.import_module("segmentation_models_pytorch")
    except ImportError as error:
        raise ConfigError(
            "segmentation network 'grandqc' needs segmentation_models_pytorch: pip install segmentation-models-pytorch"
        ) from error
    return smp.UnetPlusPlus("timm-efficientnet-b0", encoder_weights=None, classes=classes)
