"""Overlay pictures: a slide's thumbnail with its tissue and tiles, and a caption that says what they are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

Picture = npt.NDArray[np.uint8]
"""RGB (h, w, 3) uint8."""

TISSUE = (0, 116, 71)
TILE = (31, 90, 190)
BAD = (179, 38, 30)
INK = (34, 34, 34)
PAPER = (255, 255, 255)

LEAST_WIDTH_PX = 640
"""A narrower thumbnail is set on paper of this width, so that its caption can be read."""

LEAST_SIDE_PX = 480
"""A smaller thumbnail is enlarged to this."""


def draw_overlay(
    rgb: Picture,
    mask: npt.NDArray[np.bool_] | None = None,
    tiles_xywh: npt.NDArray[np.floating[Any]] | None = None,
    *,
    title: str = "",
    lines: Sequence[str] = (),
    um_per_px: float | None = None,
    ok: bool = True,
) -> Picture:
    """A thumbnail with tissue outlined, glass dimmed, tiles boxed, and a caption below.

    Args:
        rgb: The thumbnail, (h, w, 3) uint8.
        mask: Tissue over the whole thumbnail at any resolution, (h', w') bool, True = tissue.
        tiles_xywh: (N, 4): left, top, width, height of each tile, px of the thumbnail.
        title: First line of the caption, bold.
        lines: Further lines; long ones are wrapped.
        um_per_px: Micrometres per pixel of the thumbnail; gives a scale bar.
        ok: False colours the caption as a refusal.

    Returns:
        The picture, RGB uint8.
    """
    import cv2

    factor = max(1.0, LEAST_SIDE_PX / max(rgb.shape[:2]))
    size = (round(rgb.shape[1] * factor), round(rgb.shape[0] * factor))
    picture = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC), np.uint8) if factor > 1 else rgb.copy()
    if mask is not None:
        picture = _outline(picture, mask)
    if tiles_xywh is not None and len(tiles_xywh):
        picture = _boxes(picture, np.asarray(tiles_xywh, np.float64) * factor)
    if um_per_px is not None:
        picture = draw_scale_bar(picture, um_per_px / factor)
    return _captioned(picture, title, lines, ok=ok)


def draw_placard(title: str, lines: Sequence[str]) -> Picture:
    """A picture in place of a slide that cannot be opened: its name, and why."""
    paper = np.full((96, LEAST_WIDTH_PX, 3), 236, np.uint8)
    return _captioned(text_at(paper, (24, 34), "no picture: the file cannot be read", 22, BAD), title, lines, ok=False)


def _outline(picture: Picture, mask: npt.NDArray[np.bool_]) -> Picture:
    import cv2

    height, width = picture.shape[:2]
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    inside = (share >= 0.5).astype(np.uint8)
    grey = picture.mean(axis=2, keepdims=True)
    dimmed = np.where(inside[..., None] > 0, picture, 0.35 * picture + 0.30 * grey + 0.35 * 225)
    picture = np.rint(dimmed).astype(np.uint8)
    contours, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(picture, contours, -1, TISSUE, 2, cv2.LINE_AA), np.uint8)


def _boxes(picture: Picture, tiles_xywh: npt.NDArray[np.float64]) -> Picture:
    import cv2

    drawn = picture.copy()
    fine = float(np.median(tiles_xywh[:, 2:])) < 6  # boxes would run into one another: tint their area instead
    for x, y, w, h in tiles_xywh.tolist():
        corners = (round(x), round(y)), (round(x + w) - fine, round(y + h) - fine)
        cv2.rectangle(drawn, *corners, TILE, cv2.FILLED if fine else 1)
    weight = 0.22 if fine else 0.6
    return np.asarray(cv2.addWeighted(drawn, weight, picture, 1 - weight, 0), np.uint8)


def draw_scale_bar(picture: Picture, um_per_px: float, *, text_px: int = 15) -> Picture:
    """A copy with a bar of a round length at its lower left; ``um_per_px`` is that of the picture."""
    import cv2

    height, width = picture.shape[:2]
    fit_um = 0.3 * width * um_per_px
    steps = [m * 10.0**e for e in range(6) for m in (1, 2, 5)]
    length_um = max((s for s in steps if s <= fit_um), default=steps[0])
    length = max(2, round(length_um / um_per_px))
    text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    left, bottom = 14, height - 14
    picture = picture.copy()
    label_width = round(font_of(text_px).getlength(text))
    box = (left - 6, bottom - 15 - text_px), (left + max(length, label_width) + 6, bottom + 6)
    cv2.rectangle(picture, *box, PAPER, cv2.FILLED)
    cv2.rectangle(picture, (left, bottom - 4), (left + length, bottom), INK, cv2.FILLED)
    return text_at(picture, (left, bottom - 11 - text_px), text, text_px, INK)


def _captioned(picture: Picture, title: str, lines: Sequence[str], *, ok: bool) -> Picture:
    width = max(picture.shape[1], LEAST_WIDTH_PX)
    paper = np.full((picture.shape[0], width, 3), 255, np.uint8)
    left = (width - picture.shape[1]) // 2
    paper[:, left : left + picture.shape[1]] = picture
    rows = [(part, 19, True) for part in _wrap(title, 19, width - 40, bold=True)]
    rows += [(part, 15, False) for line in lines for part in _wrap(line, 15, width - 40)]
    strip = np.full((sum(size + 8 for _, size, _ in rows) + 22, width, 3), 255, np.uint8)
    strip[:, :8] = TISSUE if ok else BAD
    top = 10
    for text, size, bold in rows:
        strip = text_at(strip, (20, top), text, size, INK if ok or bold else BAD, bold=bold)
        top += size + 8
    return np.concatenate([paper, strip])


def _wrap(text: str, size: int, width_px: int, *, bold: bool = False) -> list[str]:
    """Lines no wider than ``width_px``; words longer than a line are broken."""
    font, lines = font_of(size, bold=bold), [""]
    for paragraph in text.splitlines() or [""]:
        for word in paragraph.split(" "):
            trial = f"{lines[-1]} {word}" if lines[-1] else word
            if font.getlength(trial) <= width_px:
                lines[-1] = trial
                continue
            lines.append("")
            for letter in word:
                if font.getlength(lines[-1] + letter) > width_px:
                    lines.append("")
                lines[-1] += letter
        lines.append("")
    return [line for line in lines if line]


def text_at(
    picture: Picture, xy: tuple[int, int], text: str, size: int, colour: tuple[int, int, int], *, bold: bool = False
) -> Picture:
    """A copy with a line of text whose top left corner is ``xy``; ``size`` in px."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text(xy, text, font=font_of(size, bold=bold), fill=colour)
    return np.asarray(image, np.uint8)


@lru_cache
def font_of(size: int, *, bold: bool = False) -> FreeTypeFont:
    """DejaVu Sans as it comes with matplotlib: no font of the system is needed."""
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
