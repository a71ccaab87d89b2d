"""Published tissue and compartment networks: what each wants to be shown, and what its classes mean.

Facts only; the weights are the user's to fetch, under their own licences.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wsikit.errors import ConfigError, UnknownNameError
from wsikit.registry import nearest

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Recipe:
    """How a network is fed and read.

    Args:
        input_mpp: Micrometres per pixel of its input.
        tile_px: Side of the tiles it is run on, px; a multiple of 32.
        planes: What its three channels are: "rgb", or "eho" (eosin, haematoxylin, optical density).
        mean: Subtracted from planes scaled to 0..1.
        std: Then divided by.
        tissue_classes: Indices of the output channels that are tissue; empty: all but 0.
        architecture: Builder of the network where the file has parameters only ("hest", "grandqc").
        source: Where the weights are, and their licence.
    """

    input_mpp: float
    tile_px: int = 512
    planes: str = "rgb"
    mean: tuple[float, float, float] = PLAIN[0]
    std: tuple[float, float, float] = PLAIN[1]
    tissue_classes: tuple[int, ...] = field(default=())
    architecture: str | None = None
    source: str = "given by the user"

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("input_mpp", 0.1 <= self.input_mpp <= 40, "0.1 to 40 um per pixel"),
            ("tile_px", 64 <= self.tile_px <= 8192 and self.tile_px % 32 == 0, "a multiple of 32 from 64 to 8192"),
            ("planes", self.planes in ("rgb", "eho"), "'rgb' or 'eho'"),
            ("mean", len(self.mean) == 3, "three values, of planes scaled to 0..1"),
            ("std", len(self.std) == 3 and all(s > 0 for s in self.std), "three positive values"),
            ("tissue_classes", all(c >= 0 for c in self.tissue_classes), "indices of output channels"),
        ):
            if not good:
                raise ConfigError(f"segmentation network: {name}={getattr(self, name)!r}; expected {expected}")


RECIPES = {
    "hest": Recipe(
        1.0,
        mean=IMAGENET[0],
        std=IMAGENET[1],
        tissue_classes=(1,),
        architecture="hest",
        source="hf.co/MahmoodLab/hest-tissue-seg, CC BY-NC-SA 4.0; Jaume et al., HEST-1k, NeurIPS 2024",
    ),
    "grandqc": Recipe(
        10.0,
        mean=IMAGENET[0],
        std=IMAGENET[1],
        tissue_classes=(0,),
        architecture="grandqc",
        source="zenodo.org/records/14507273, CC BY-NC-SA 4.0; Weng et al., GrandQC, Nat Commun 2024;15:10685",
    ),
    "shell": Recipe(
        4.0,  # published for 1; on whole slides 4 finds the same tissue in a sixteenth of the time
        tile_px=320,
        planes="eho",
        tissue_classes=(1, 2),
        source="github.com/laviolette-lab/shell, MIT; classes are background, epithelium, stroma",
    ),
}


def recipe_of(name: str) -> Recipe:
    """A published network's recipe.

    Raises:
        UnknownNameError: No such recipe.
    """
    if name not in RECIPES:
        raise UnknownNameError(
            f"no recipe for a segmentation network named {name!r}{nearest(name, RECIPES)} "
            f"(known: {', '.join(RECIPES)}); other networks need no recipe: "
            "give input_mpp, and mean, std, tissue_classes as they were trained"
        )
    return RECIPES[name]
