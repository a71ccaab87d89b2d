"""Tissue by a segmentation network whose weights you give: HEST, GrandQC, SHELL, or one of your own.

The network is asked about what is on the glass only. Bare glass is glass whatever a network says of
it: those that normalise within a tile (group or instance norm) find shapes in the noise of an empty one.

Reference:
    HEST: Jaume G et al., HEST-1k, NeurIPS 2024, arXiv:2406.16192. GrandQC: Weng Z et al., Nat Commun
    2024;15:10685. SHELL: laviolette-lab/shell (MIT). Their weights are not part of wsikit.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.errors import ConfigError
from wsikit.slides.base import Pixels
from wsikit.slides.glass import find_glass, largest_density
from wsikit.slides.networks.files import check_weights, load_forward, weights_identity
from wsikit.slides.networks.planes import make_planes
from wsikit.slides.networks.recipes import Recipe, recipe_of
from wsikit.slides.networks.tiled import Plane, tissue_probability
from wsikit.slides.regions import closed, without_holes, without_specks
from wsikit.slides.tissue_mask import Mask, register_segmenter

log = logging.getLogger(__name__)


@register_segmenter(
    "network",
    summary="learned: a segmentation network from a file (ONNX, TorchScript, .pt2; HEST, GrandQC, SHELL)",
    mpp=10.0,
    reference="the network's own; recipes: hest, grandqc, shell",
)
class Network:
    """A segmentation network on overlapping tiles, one thread, without randomness.

    Args:
        weights: Its file: .onnx (its .data beside it), TorchScript .pt or .ts, .pt2, or parameters
            (.ckpt, .pth, .safetensors) of a network that ``recipe`` names.
        recipe: "hest", "grandqc" or "shell": everything below as published.
        input_mpp: Resolution of its input, um per pixel; needed where there is no recipe.
        tile_px: Side of a tile, px.
        planes: "rgb" or "eho" (eosin, haematoxylin, density).
        mean: Subtracted from planes scaled to 0..1, three values.
        std: Then divided by, three values.
        tissue_classes: Output channels that are tissue; default: all but 0.
        threshold: Least probability of tissue.
    """

    def __init__(
        self,
        *,
        weights: str | PathLike[str],
        recipe: str | None = None,
        input_mpp: float | None = None,
        tile_px: int | None = None,
        planes: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        tissue_classes: Sequence[int] | int | None = None,
        threshold: float = 0.5,
    ) -> None:
        self._path, self._threshold = Path(weights), threshold
        check_weights(self._path)
        classes = (tissue_classes,) if isinstance(tissue_classes, int) else tissue_classes
        given = {
            "input_mpp": input_mpp, "tile_px": tile_px, "planes": planes,
            "mean": None if mean is None else tuple(mean), "std": None if std is None else tuple(std),
            "tissue_classes": None if classes is None else tuple(classes),
        }  # fmt: skip
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if recipe is None and input_mpp is None:
            raise ConfigError(
                f"segmentation network {self._path.name}: give input_mpp=, the resolution that it was trained at "
                "(um per pixel; it is never guessed), or recipe= for a published one"
            )
        self.recipe = replace(recipe_of(recipe), **changes) if recipe is not None else Recipe(**changes)
        if not 0 < threshold < 1:
            raise ConfigError(
                f"segmentation network {self._path.name}: threshold={threshold}; expected between 0 and 1"
            )

    @property
    def mpp(self) -> float:
        """Resolution of the overview it is to be given, um per pixel."""
        return self.recipe.input_mpp

    @property
    def identity(self) -> dict[str, Any]:
        """What a store records: the hash of the weights in place of their path, and every setting."""
        settings = {name: value for name, value in asdict(self.recipe).items() if name != "source"}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
        return {**weights_identity(self._path), **plain, "threshold": self._threshold}

    def segment(self, rgb: Pixels, mpp: float) -> Mask:
        """RGB (h, w, 3) uint8 at ``mpp`` um per pixel -> (h, w) bool, True = tissue."""
        glass = find_glass(rgb, mpp)
        anything = largest_density(rgb, glass, mpp) > 0.03  # (h, w)
        on_glass = without_specks(closed(anything, 40.0, mpp) & ~glass.padding, 0.02, mpp)
        probability = self.probability(make_planes(self.recipe.planes, rgb, glass, anything), on_glass, mpp)
        mask = without_holes((probability >= self._threshold) & on_glass, 0.1, mpp) & ~glass.padding
        return without_specks(mask, 0.02, mpp)

    def probability(self, planes: Pixels, look: Mask, mpp: float) -> Plane:
        """Probability of tissue (h, w), float32, at the resolution of ``planes``."""
        import cv2

        forward = load_forward(self._path, self.recipe.architecture)
        height, width = planes.shape[:2]
        factor = mpp / self.recipe.input_mpp
        if factor > 1.1:
            log.warning(
                "segmentation network %s: trained at %g um per pixel and run at %.3g, the finest of this overview",
                self._path.name, self.recipe.input_mpp, mpp,
            )  # fmt: skip
        if factor >= 0.95:
            return tissue_probability(planes, look, forward, self.recipe)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        small = np.asarray(cv2.resize(planes, size, interpolation=cv2.INTER_AREA), np.uint8)
        small_look = cv2.resize(look.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        found = tissue_probability(small, np.asarray(small_look), forward, self.recipe)
        return np.asarray(cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
