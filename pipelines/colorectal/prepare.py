"""Labelled colorectal patches -> lossless slides whose label is a rare class, each with a stain of its own.

The archive holds 224 px patches of five classes: AC adenocarcinoma, H healthy, S serrated, T tubular and V villous
adenoma. Each slide is dealt patches that no other slide has. Label 1: a few of them are of the rare class; label 0:
none. All patches of a slide are stained alike, stronger or weaker than drawn, so that colour does not tell the label.
"""

from __future__ import annotations

import argparse
import json
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import wsikit as wk
from wsikit.errors import ConfigError
from wsikit.provenance import sha256_file
from wsikit.slides.geojson import read_geojson
from wsikit.slides.tiling import read_tile

TILE_PX = 224
MPP = 0.5
"""Nominal: the archive records no resolution."""

CLASSES = ("AC", "H", "S", "T", "V")
TWINS = ("image_T_335",)
"""Shows the tissue of another patch (image_T_318) again: left out, as the two could come to lie on two slides."""

SPEC = wk.TilingSpec(tile_px=TILE_PX, target_mpp=MPP, min_tissue=1.0)
"""How the slides are to be extracted: tiles are the placed patches, exactly."""

STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density of haematoxylin, eosin and a third that stands for the rest, by red, green and blue.

Reference: Ruifrok and Johnston 2001, Quantification of histochemical staining by color deconvolution.
"""

_NAME = re.compile(r"(?:.*/)?(?P<kind>[A-Z]+)/(?P<name>[^/]+)\.jpg")

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Patch:
    """One of the archive.

    Attributes:
        name: Of its file.
        kind: One of ``CLASSES``.
        rgb: (224, 224, 3).
    """

    name: str
    kind: str
    rgb: Pixels


@dataclass(frozen=True)
class Composed:
    """A slide to be written.

    Attributes:
        slide_id: Also the patient's id: nobody knows whose the patches are.
        label: 1 = with the rare class.
        patches: In the order of their places, row by row.
        stain: Factors of haematoxylin and eosin.
    """

    slide_id: str
    label: int
    patches: tuple[Patch, ...]
    stain: tuple[float, float]


def read_patches(archive: Path) -> list[Patch]:
    """All patches but the ``TWINS``, sorted by class and name.

    Raises:
        ConfigError: A patch of another class or size, or none at all.
    """
    import imagecodecs

    found = []
    with tarfile.open(archive) as files:
        for member in files:
            if not member.isfile():
                continue
            at, opened = _NAME.fullmatch(member.name), files.extractfile(member)
            if at is None or at["kind"] not in CLASSES or opened is None:
                raise ConfigError(f"{archive}: {member.name!r}; expected CLASS/NAME.jpg of {', '.join(CLASSES)}")
            rgb = imagecodecs.jpeg_decode(opened.read())
            if rgb.shape != (TILE_PX, TILE_PX, 3):
                raise ConfigError(f"{archive}: {member.name!r} of shape {rgb.shape}; expected {TILE_PX} px RGB")
            if at["name"] not in TWINS:
                found.append(Patch(at["name"], at["kind"], rgb))
    if not found:
        raise ConfigError(f"{archive}: no patches")
    return sorted(found, key=lambda patch: (patch.kind, patch.name))


def compose(
    patches: Sequence[Patch], *, slides: int, tiles: int, share: float, jitter: float, rare: str, seed: int
) -> list[Composed]:
    """Deal the patches.

    Every slide has equally many. Of the slides of label 1, ``share`` of the patches are of the rare class, rounded, at
    least one; all others are of the other four, whichever were drawn.

    Args:
        patches: As read.
        slides: How many, an even number: half of them of label 1.
        tiles: Of each.
        share: Of the rare class on a slide of label 1, above 0, below 1.
        jitter: Each slide's haematoxylin and eosin are multiplied by factors of 1 - jitter to 1 + jitter.
        rare: The class that is the label.
        seed: Of all that is drawn.

    Raises:
        ConfigError: Numbers out of range, or more patches asked for than there are.
    """
    if slides < 2 or slides % 2 or tiles < 2 or not 0 < share < 1 or not 0 <= jitter < 1 or rare not in CLASSES:
        raise ConfigError(
            f"slides={slides}, tiles={tiles}, share={share}, jitter={jitter}, rare={rare!r}; expected an even number, "
            f"2 or more, above 0 and below 1, 0 to below 1, one of {', '.join(CLASSES)}"
        )
    rng = np.random.default_rng(seed)
    few = min(max(1, round(share * tiles)), tiles - 1)
    rares = [patches[i] for i in rng.permutation([i for i, p in enumerate(patches) if p.kind == rare])]
    others = [patches[i] for i in rng.permutation([i for i, p in enumerate(patches) if p.kind != rare])]
    asked = (few * slides // 2, tiles * slides - few * slides // 2)
    if asked[0] > len(rares) or asked[1] > len(others):
        raise ConfigError(
            f"{slides} slides of {tiles} tiles, {few} of them {rare} in half: {asked[0]} of {rare} and {asked[1]} "
            f"others, but there are {len(rares)} and {len(others)}; take fewer slides or tiles"
        )
    labels = rng.permutation(np.arange(slides) % 2)
    composed = []
    for number, label in enumerate(labels.tolist()):
        mine = [rares.pop() for _ in range(few * label)]
        mine += [others.pop() for _ in range(tiles - len(mine))]
        haematoxylin, eosin = (1 + jitter * rng.uniform(-1, 1, 2)).tolist()
        placed = tuple(mine[i] for i in rng.permutation(tiles))
        composed.append(Composed(f"s{number:03d}", label, placed, (haematoxylin, eosin)))
    return composed


def restain(rgb: Pixels, stain: tuple[float, float]) -> Pixels:
    """Haematoxylin and eosin times two factors: the optical density taken apart, scaled and put together again."""
    density = -np.log10(np.maximum(rgb.reshape(-1, 3).astype(np.float64), 1) / 255)
    amounts = density @ np.linalg.inv(STAINS) * [*stain, 1.0]  # (pixels, 3)
    back = 255 * 10 ** -(amounts @ STAINS)
    return np.clip(np.rint(back), 0, 255).astype(np.uint8).reshape(rgb.shape)


def write_slide(slide: Composed, path: Path, outline: Path) -> list[tuple[int, int]]:
    """The patches side by side in a near-square, the rest white, and their outline; returns x, y of each, px.

    Args:
        slide: What to write; equal input gives equal bytes.
        path: TIFF, 8-bit RGB in tiles of 256 px, deflate, ``MPP`` in its resolution tags.
        outline: GeoJSON, one square for each patch, level-0 px.

    Raises:
        ValueError: wsikit does not read the patches back, bit for bit.
    """
    import tifffile

    columns = int(np.ceil(np.sqrt(len(slide.patches))))
    rows = -(-len(slide.patches) // columns)
    canvas = np.full((rows * TILE_PX, columns * TILE_PX, 3), 255, np.uint8)
    places, squares = [], []
    for i, patch in enumerate(slide.patches):
        x, y = i % columns * TILE_PX, i // columns * TILE_PX
        right, bottom = x + TILE_PX, y + TILE_PX
        canvas[y:bottom, x:right] = restain(patch.rgb, slide.stain)
        places.append((x, y))
        squares.append([[[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]])  # GeoJSON closes its rings
    tifffile.imwrite(
        path, canvas, photometric="rgb", tile=(256, 256), compression="zlib", predictor=True,
        resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER", software=False, metadata=None,
    )  # fmt: skip
    outline.write_text(json.dumps({"type": "MultiPolygon", "coordinates": squares}), encoding="utf-8")
    with wk.open_slide(path) as written:
        tiles = wk.tile_slide(written, read_geojson(outline, written), SPEC)
        read = {(x, y): read_tile(written, tiles.choice, TILE_PX, (x, y)) for x, y in tiles.coords.tolist()}
    if list(read) != places or any((rgb != canvas[y:, x:][:TILE_PX, :TILE_PX]).any() for (x, y), rgb in read.items()):
        raise ValueError(f"slide {path}: its tiles are not the {len(places)} patches placed; write it again")
    return places


def prepare(
    archive: Path,
    out: Path,
    *,
    slides: int = 80,
    tiles: int = 10,
    share: float = 0.2,
    jitter: float = 0.3,
    rare: str = "AC",
    seed: int = 0,
) -> Mapping[str, Any]:
    """Write the cohort, and say what was done.

    Args:
        archive: The tar of patches.
        out: Folder for ``slides``, ``outlines``, ``cohort.csv``, ``manifest.csv``,
            ``tile_truth.csv`` and ``summary.json``.
        slides: As for :func:`compose`, like the others.

    Raises:
        ConfigError: An archive or numbers that cannot be used.
    """
    given = {"slides": slides, "tiles": tiles, "share": share, "jitter": jitter, "rare": rare, "seed": seed}
    composed = compose(read_patches(archive), **given)  # type: ignore[arg-type]
    for folder in ("slides", "outlines"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    cohort, manifest, truth = [], [], []
    for one in composed:
        path, outline = out / "slides" / f"{one.slide_id}.tif", out / "outlines" / f"{one.slide_id}.geojson"
        places = write_slide(one, path, outline)
        cohort.append((one.slide_id, one.slide_id, one.label, *(f"{factor:.4f}" for factor in one.stain)))
        manifest.append((f"slides/{path.name}", one.slide_id, f"outlines/{outline.name}"))
        truth += [(one.slide_id, x, y, p.kind, p.name) for (x, y), p in zip(places, one.patches, strict=True)]
    _write_csv(out / "cohort.csv", ("slide_id", "patient_id", "label", "haematoxylin", "eosin"), cohort)
    _write_csv(out / "manifest.csv", ("path", "slide_id", "tissue"), manifest)
    _write_csv(out / "tile_truth.csv", ("slide_id", "x", "y", "class", "patch"), truth)
    kinds = [row[3] for row in truth]
    summary = {
        "archive": archive.name, "sha256": sha256_file(archive), **given,
        "placed": {kind: kinds.count(kind) for kind in CLASSES},
    }  # fmt: skip
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    lines = [",".join(map(str, row)) for row in (columns, *rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: ``python prepare.py --tar colorectal5.tar --out colorectal/``."""
    parser = argparse.ArgumentParser(description="Labelled patches -> slides whose label is a rare class.")
    parser.add_argument("--tar", type=Path, required=True, help="the archive of patches")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--slides", type=int, default=80)
    parser.add_argument("--tiles", type=int, default=10, help="of each slide")
    parser.add_argument("--share", type=float, default=0.2, help="of the rare class on a slide that has it")
    parser.add_argument("--jitter", type=float, default=0.3, help="of the stain, from slide to slide")
    parser.add_argument("--rare", default="AC", choices=CLASSES)
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args(arguments))
    try:
        summary = prepare(given.pop("tar"), given.pop("out"), **given)
    except ConfigError as error:
        parser.error(str(error))
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
