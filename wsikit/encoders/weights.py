"""Weights of a network: read from a file, put into a model with every mismatch named, and hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikit.errors import WsikitError

if TYPE_CHECKING:
    import torch

_WRAPPERS = ("state_dict", "model", "model_state_dict", "teacher")
"""Keys under which training code keeps the state dict inside a checkpoint."""

_PREFIXES = ("module.", "backbone.", "encoder.", "model.", "_orig_mod.")
"""What data parallel wrappers, self-supervised training code and torch.compile put before every name."""


class WeightsError(WsikitError, OSError):
    """The weights of an encoder cannot be had, or are not those of the model."""

    state = "no-weights"


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name from a ``.safetensors`` file or a torch checkpoint; no code in the file is run.

    A checkpoint that wraps its state dict (``{"state_dict": ...}``) is unwrapped, and a prefix that
    all names share (``module.``) is taken off.

    Raises:
        WeightsError: The file is missing, is damaged, or holds more than tensors.
    """
    import torch

    if not path.is_file():
        raise WeightsError(f"weights file {str(path)!r} does not exist; weights= takes 'hub', 'random' or a file")
    state: Any
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(path)
        except SafetensorError as error:
            raise WeightsError(f"weights file {str(path)!r} is not a readable safetensors file: {error}") from error
    else:
        import pickle

        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise WeightsError(
                f"weights file {str(path)!r} does not load as plain tensors; if you trust it, load it yourself and "
                f"save its state dict with safetensors.torch.save_file ({str(error).splitlines()[0]})"
            ) from error
    for key in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            break
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"weights file {str(path)!r} holds {type(state).__name__}, expected tensors by name")
    return dict(state)


def load_weights(
    model: torch.nn.Module, state: Mapping[str, torch.Tensor], *, name: str, source: str, without: tuple[str, ...] = ()
) -> None:
    """Copy ``state`` into ``model``: every tensor of the model, no other, each of the same shape.

    Args:
        model: Changed in place.
        state: Tensors by name.
        name: The encoder's, for messages.
        source: Where the state came from, for messages.
        without: Layers of the state that the model has no use for (its classifier).

    Raises:
        WeightsError: Naming the missing, unexpected and misshapen tensors.
    """
    own = model.state_dict()
    unused = tuple(f"{layer}." for layer in without)
    state = {key: value for key, value in _without_prefix(state, own).items() if not key.startswith(unused)}
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if any(faults.values()):
        found = "; ".join(f"{len(keys)} {fault}: {_some(keys)}" for fault, keys in faults.items() if keys)
        raise WeightsError(
            f"weights {source!r} are not those of encoder {name!r}, which has {len(own)} tensors: {found}; "
            "check the model's name, or pass what differs as model_options"
        )
    model.load_state_dict(state)


def weights_sha256(model: torch.nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a model's tensors, in the order of their names."""
    import torch

    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _without_prefix(state: Mapping[str, torch.Tensor], own: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
    """Take off prefixes that every name has and that the model does not use itself."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if state and all(key.startswith(prefix) for key in state) and not any(k.startswith(prefix) for k in own):
                state = {key.removeprefix(prefix): value for key, value in state.items()}
                stripped = True
    return state


def _some(keys: list[str], count: int = 5) -> str:
    return ", ".join(keys[:count]) + (f" and {len(keys) - count} more" if len(keys) > count else "")
