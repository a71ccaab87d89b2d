"""Any torch network as an encoder: resize, normalise and forward, on the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.encoders.card import EncoderCard, Features, check_tiles
from wsikit.errors import ConfigError

if TYPE_CHECKING:
    import torch

INTERPOLATIONS = ("bicubic", "bilinear")
"""What torch resizes with an antialiasing filter."""

_BATCH = {"cpu": 32, "cuda": 256}
"""Tiles per forward: activations that stay in the cache of a CPU; enough to fill a GPU."""


class NetworkEncoder:
    """A frozen network with its transform.

    Tiles of another size than the network's input are resized with an antialiasing filter to 8-bit
    levels (as PIL does it, so features agree with the usual PIL transforms), never cropped: a tile's
    border is tissue like the rest of it.

    Args:
        card: Facts; ``mean``, ``std`` and ``interpolation`` must be given.
        model: (N, 3, H, W) float32 -> (N, D); taken over, moved to the device and set to eval.
        identity: What else decides the numbers; the transform and the precision are added.
        input_px: Height and width that the network takes.
        precision: ``float32``, or autocast to ``bfloat16`` or, on CUDA, ``float16``.
        device: As torch names it.
    """

    def __init__(
        self,
        card: EncoderCard,
        model: torch.nn.Module,
        *,
        identity: Mapping[str, Any],
        input_px: tuple[int, int],
        precision: str = "float32",
        device: str = "cpu",
    ) -> None:
        import torch

        if card.mean is None or card.std is None or card.interpolation not in INTERPOLATIONS:
            raise ConfigError(
                f"encoder {card.name!r}: interpolation {card.interpolation!r}, mean {card.mean}, std {card.std}; "
                f"expected interpolation {' or '.join(INTERPOLATIONS)} and a mean and std"
            )
        self.card = card
        self._device = usable_device(card.name, device, precision)
        self._dtype: torch.dtype = getattr(torch, precision)
        self._input_px = input_px
        self.identity: Mapping[str, Any] = {
            **identity,
            "precision": precision,
            "transform": {
                "input_px": list(input_px),
                "interpolation": card.interpolation,
                "antialias": True,
                "levels": "8-bit",
                "mean": list(card.mean),
                "std": list(card.std),
            },
        }
        # Convolutions of half precision run on tensor cores only in this layout; on the CPU it is no slower.
        model = model.eval().requires_grad_(False).to(self._device)
        self._model: torch.nn.Module = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._mean = torch.tensor(card.mean, device=self._device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(card.std, device=self._device).view(1, 3, 1, 1) * 255

    def encode(self, pixels: npt.NDArray[np.uint8]) -> Features:
        """(N, H, W, 3) uint8 RGB -> (N, D) float32."""
        import torch

        check_tiles(self.card.name, pixels)
        height, width = pixels.shape[1:3]
        if height * self._input_px[1] != width * self._input_px[0]:
            raise ConfigError(
                f"encoder {self.card.name!r}: tiles of {width} x {height} px would be distorted to its input of "
                f"{self._input_px[1]} x {self._input_px[0]} px; expected the same aspect"
            )
        batch = _BATCH["cuda" if self._device.type == "cuda" else "cpu"]
        features = [torch.empty((0, self.card.dim), device=self._device)]
        with torch.inference_mode(), self._arithmetic():
            for start in range(0, len(pixels), batch):
                vectors = self._model(self._input(pixels[start : start + batch]))  # (n, D)
                if vectors.shape[1:] != (self.card.dim,):
                    raise ConfigError(
                        f"encoder {self.card.name!r} returned {tuple(vectors.shape)} for a batch of "
                        f"{len(vectors)}, expected (N, {self.card.dim}): one pooled vector per tile"
                    )
                features.append(vectors.float())
            return torch.cat(features).cpu().numpy()

    def _input(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        """(n, H, W, 3) uint8 on the host -> (n, 3, h, w) float32 on the device, normalised."""
        import torch
        import torch.nn.functional as F

        # Copied once: from page-locked memory the transfer runs beside the kernels of the batch before.
        host = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        host.numpy()[...] = pixels
        x = host.to(self._device, non_blocking=True).permute(0, 3, 1, 2).float()  # channels last in memory
        assert self.card.interpolation is not None
        # Rows first and rounded in between, as PIL does it: one pass for both puts every fifth level off by one.
        for size in ((x.shape[2], self._input_px[1]), self._input_px):
            if x.shape[2:] != size:
                x = F.interpolate(x, size, mode=self.card.interpolation, align_corners=False, antialias=True)
                x = x.add_(0.5).floor_().clamp_(0, 255)  # halves go up; bicubic overshoots
        return x.sub_(self._mean).div_(self._std)

    @contextlib.contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """The precision asked for, and on CUDA kernels that repeat their bits (and no TF32 under float32)."""
        import torch

        cuda = self._device.type == "cuda"
        kernels = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        reduced = self._dtype != torch.float32
        dtype = self._dtype if reduced else torch.bfloat16
        with (
            kernels if cuda else contextlib.nullcontext(),
            torch.autocast(self._device.type, dtype=dtype, enabled=reduced),
        ):
            yield


def usable_device(name: str, device: str, precision: str = "float32") -> torch.device:
    """The torch device, refused where this machine or the precision does not allow it."""
    import torch

    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"encoder {name!r}: no device {device!r}; expected cpu, cuda or cuda:<number>") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"encoder {name!r}: device {device!r} asked for, but torch {torch.__version__} finds no GPU")
    if chosen.type == "cpu" and precision == "float16":
        raise ConfigError(f"encoder {name!r}: float16 needs a GPU; on the CPU use float32 or bfloat16")
    return chosen
