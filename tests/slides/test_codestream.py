"""Damage that OpenJPEG decodes without a word is found in the codestream itself."""

from __future__ import annotations

import contextlib

import imagecodecs
import numpy as np
import pytest
import tifffile

from wsikit.slides.codestream import refuse_damaged_codestream


@pytest.fixture(scope="module")
def cells(slides_dir) -> list[bytes]:
    """Every JPEG 2000 tile of a real slide, of both levels."""
    path = slides_dir / "TCGA-CR-7395-01A-01-TS1.svs"
    data = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        pages = [page for page in tif.pages if page.is_tiled]
        return [data[o : o + n] for page in pages for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]


def test_good_codestreams_pass(cells):
    assert len(cells) == 252 + 63
    for cell in cells:
        refuse_damaged_codestream(cell)
    rng = np.random.default_rng(0)
    flat, noise = np.full((256, 256, 3), 255, np.uint8), rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    for picture in (flat, noise):
        for options in ({"reversible": True}, {"level": 30}):
            refuse_damaged_codestream(imagecodecs.jpeg2k_encode(picture, codecformat="j2k", **options))
    refuse_damaged_codestream(imagecodecs.jpeg2k_encode(flat, codecformat="jp2"))  # another container: not looked at


@pytest.mark.parametrize("kind", ["zero tail", "lost sector", "garbage", "short", "bad header"])
def test_damage_that_the_decoder_may_pass_over(cells, kind):
    rng = np.random.default_rng(1)
    silent, seen, large = 0, 0, [cell for cell in cells if len(cell) > 9000]
    for cell in large:
        half = len(cell) // 2
        broken = {
            "zero tail": cell[:half] + bytes(len(cell) - half),
            "lost sector": cell[:half] + bytes(512) + cell[half + 512 :],
            "garbage": cell[:half] + rng.bytes(4096) + cell[half + 4096 :],
            "short": cell[:half],
            "bad header": cell[:4] + bytes(4) + cell[8:],
        }[kind]
        try:
            refuse_damaged_codestream(broken)
        except ValueError as error:
            seen += "JPEG 2000" in str(error)
        with contextlib.suppress(imagecodecs.Jpeg2kError):
            silent += imagecodecs.jpeg2k_decode(broken).shape == (256, 256, 3)
    # 4096 random bytes hold one that cannot be with a probability of 0.999.
    assert seen == len(large) or (kind == "garbage" and seen >= len(large) - 2)
    assert silent > 0 or kind in ("short", "bad header")  # else this file is not needed any more
