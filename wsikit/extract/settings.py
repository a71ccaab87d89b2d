"""What one extraction run is asked to do: sent to every worker once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wsikit.encoders.registry import encoder_card
from wsikit.errors import ConfigError
from wsikit.extract.stage import StageSettings
from wsikit.slides.stain_norm import STAIN_METHODS, stain_identity
from wsikit.slides.tiling import TilingSpec
from wsikit.slides.tissue_mask import DEFAULT_METHOD, recorded_parameters
from wsikit.store.places import StorePath


@dataclass(frozen=True)
class EncoderSettings:
    """Which encoder, and how it is run.

    Args:
        name: As for :func:`wsikit.create_encoder`.
        weights: Path, "hub" or "random", for encoders that have weights.
        precision: "float32", "bfloat16" or "float16".
        device: "cpu", "cuda", or "auto": CUDA where there is one.
        batch_size: Tiles per call. It is part of what makes two runs equal to the bit.
        threads: Threads of the encoder on a CPU, per worker; likewise.
        stain: Stain normalisation of the tiles ("macenko", "reinhard", "vahadane"), fitted to each slide, or
            None. Features with another normalisation are other features, under another key.

    Raises:
        ConfigError: A number below 1.
        UnknownNameError: No such stain normalisation.
    """

    name: str = "texture"
    weights: str | None = None
    precision: str = "float32"
    device: str = "auto"
    batch_size: int = 64
    threads: int = 1
    stain: str | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.threads < 1:
            raise ConfigError(
                f"encoder {self.name!r}: batch_size={self.batch_size}, threads={self.threads}; both are at least 1"
            )
        if self.stain is not None:
            STAIN_METHODS[self.stain]  # an unknown name ends here, before any work

    def device_where(self, there: str) -> str:
        """The device where a machine has ``there`` ("cuda:0"); "auto" is the CPU for an encoder that knows no other."""
        if self.device == "auto" and ":" not in self.name:  # members of a family run on both
            return there if there.partition(":")[0] in encoder_card(self.name).devices else "cpu"
        return there

    @property
    def stain_identity(self) -> dict[str, Any] | None:
        """Method and version of the stain normalisation: part of the features' key; None for none."""
        return None if self.stain is None else stain_identity(self.stain)


@dataclass(frozen=True)
class RunSettings:
    """Everything a worker needs to know, apart from which slide and which shard.

    Args:
        store: The feature store: its folder, or its prefix in a bucket.
        report: Folder for pictures and tables, or None for none.
        spec: How slides are tiled.
        tissue: Name of the tissue segmenter.
        tissue_options: Its options.
        encoders: The encoders and how they are run; tiles are read once for all of them.
        reader_threads: Threads that decode tiles, for each shard that a worker is at.
        missing_mpp: Micrometres per pixel for slides whose file records none.
        allow_unequal_mpp: Accept pixels that are not square.
        quality: Measure the quality of tiles.
        annotation_classes: Keep only tiles on annotations of these classes; empty for all tiles.
        pseudonyms: Identity of the key that slide ids and fingerprints are hidden with, or None.
        stage: Where slides are copied to before they are read, or None.
        mixed_devices: Whether features of one key may be made by several kinds of device.
    """

    store: StorePath
    report: Path | None = None
    spec: TilingSpec = field(default_factory=TilingSpec)
    tissue: str = DEFAULT_METHOD
    tissue_options: Mapping[str, Any] = field(default_factory=dict)
    encoders: tuple[EncoderSettings, ...] = (EncoderSettings(),)
    reader_threads: int = 1
    missing_mpp: float | None = None
    allow_unequal_mpp: bool = False
    quality: bool = True
    annotation_classes: tuple[str, ...] = ()
    pseudonyms: str | None = None
    stage: StageSettings | None = None
    mixed_devices: bool = False

    def configuration(self) -> dict[str, Any]:
        """What must be equal for all slides of a store, as plain JSON values. No path, no slide list."""
        drawn = {"annotation_classes": sorted(self.annotation_classes)} if self.annotation_classes else {}
        hidden = {} if self.pseudonyms is None else {"pseudonyms": {"key": self.pseudonyms}}
        tiling = {**asdict(self.spec), "stride_px": self.spec.effective_stride_px}
        coarser = tiling.pop("resampler")
        return {
            **drawn,
            **hidden,
            "tiling": tiling,
            "tissue": {"method": self.tissue, "parameters": recorded_parameters(self.tissue, self.tissue_options)},
            "resampling": {"coarser": coarser, "finer": "cubic"},
        }
