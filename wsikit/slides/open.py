"""Open a slide file with the first reader that can, and settle its resolution."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from wsikit.errors import MissingMppError, SceneError, SlideOpenError, UnequalMppError, WsikitError
from wsikit.geometry import MPP_TOLERANCE, Mpp, unequal
from wsikit.slides.base import READERS, Reader, plausible_mpp
from wsikit.slides.slide import Slide
from wsikit.slides.truncation import refuse_truncated

log = logging.getLogger(__name__)


def open_slide(
    path: str | PathLike[str],
    *,
    mpp: float | tuple[float, float] | None = None,
    scene: str | int | None = None,
    reader: str | None = None,
    allow_unequal_mpp: bool = False,
) -> Slide:
    """Open a whole-slide image.

    Readers are tried in the order of their priority and the first that opens the file is kept.
    The resolution is never guessed: not from the magnification, not from a screen's dpi.

    Args:
        path: The slide file.
        mpp: Micrometres per level-0 pixel, (x, y) or one value for both, where the file has none
            or a wrong one.
        scene: Which scene or focal plane, for files that hold several: its name, or its number from 0.
        reader: Use this reader only.
        allow_unequal_mpp: Accept pixels that are not square (beyond 1 %).

    Raises:
        SlideOpenError: No reader opens it; the message has each one's reason.
        TruncatedSlideError: The file ends before its contents do.
        MissingMppError: No usable resolution in the file, and none given.
        UnequalMppError: x and y differ by more than 1 %.
        SceneError: Several scenes and none chosen.
        NotBrightfieldError: Fluorescence or single-channel pixels.

    Example:
        >>> with wk.open_slide("a.svs") as slide:      # doctest: +SKIP
        ...     tile = slide.read_region((0, 0), (256, 256))
    """
    path = Path(path)
    if not path.exists():
        raise SlideOpenError(f"slide {path}: no such file")
    if path.is_dir():
        raise SlideOpenError(f"slide {path}: this is a folder; name the file in it that the scanner wrote")
    refuse_truncated(path)
    handle, name, refused = _first_reader(path, scene=scene, only=reader)
    try:
        chosen, source = _settle_mpp(path, handle, mpp, allow_unequal_mpp)
    except WsikitError:
        handle.close()
        raise
    return Slide(path, handle, reader=name, mpp=chosen, mpp_source=source, scene=scene, refused=refused)


def _first_reader(path: Path, *, scene: str | int | None, only: str | None) -> tuple[Reader, str, dict[str, str]]:
    names: Sequence[str] = [c.name for c in sorted(READERS.cards(), key=lambda c: (c.priority, c.name))]
    if only is not None:
        names = [READERS[only].card.name]
    refused: dict[str, str] = {}
    telling: list[WsikitError] = []  # reasons that say more than "not my format"
    for name in names:
        try:
            return READERS[name].build(path, scene=scene), name, refused
        except SceneError as error:
            if scene is None or name == "ome_scenes":  # the file does hold several: no other reader may show the first
                raise
            refused[name] = str(error)
        except WsikitError as error:
            telling.append(error)
            refused[name] = str(error)
        except Exception as error:  # every library has its own kinds for "not my format"
            refused[name] = f"{type(error).__name__}: {error}".rstrip(": ")
    if telling:
        raise telling[0]
    size = path.stat().st_size
    reasons = "".join(f"\n  {name}: {reason}" for name, reason in refused.items())
    raise SlideOpenError(
        f"slide {path} ({size:,} bytes): none of {len(refused)} readers opens it:{reasons}\n"
        "If the scanner's own viewer opens the file, its format is not supported; else it is damaged: copy it again."
    )


def _settle_mpp(
    path: Path, handle: Reader, given: float | tuple[float, float] | None, allow_unequal: bool
) -> tuple[Mpp, str]:
    found = handle.recorded_mpp
    if given is not None:
        x, y = given if isinstance(given, tuple) else (given, given)
        mpp = plausible_mpp(x, y)
        if mpp is None:
            raise MissingMppError(f"slide {path}: mpp={given} cannot be a scan's; expected 0.02 to 40 um per pixel")
        source = "given"
        if found is not None and abs(mpp.mean / found.mean - 1) > MPP_TOLERANCE:
            log.warning(
                "slide %s: the given mpp %s replaces the file's own %s (%s)", path, mpp, found, handle.mpp_source
            )
    elif found is None:
        raise MissingMppError(
            f"slide {path}: the file records no usable micrometres per pixel; look it up (scanner, study protocol) "
            "and give it as mpp=, --mpp, or in the manifest's column 'mpp'; it is never guessed from the magnification"
        )
    else:
        mpp, source = found, handle.mpp_source
    if unequal(mpp) and not allow_unequal:
        raise UnequalMppError(
            f"slide {path}: pixels are not square: mpp x {mpp.x:.6g}, y {mpp.y:.6g} ({source}), more than 1 % apart; "
            "give the right value as mpp=, or accept both with allow_unequal_mpp=True / --allow-unequal-mpp"
        )
    return mpp, source
