"""Tiles of real slides destroyed in a copy: the rows that touch them are flagged, and nothing else changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

import wsikit as wk
from wsikit.errors import TruncatedSlideError
from wsikit.store.verify import verify_store

CASES = {
    "JPEG": ("helicobacterpylori_HE_L13", None, wk.TilingSpec(256, 4.03)),
    "JPEG, resampled": ("helicobacterpylori_HE_L13", None, wk.TilingSpec(96, 6.1)),
    "JPEG, overlapping": ("CMU-1-Small-Region", None, wk.TilingSpec(128, 0.499, stride_px=100)),
    "JPEG 2000": ("TCGA-CR-7395-01A-01-TS1", 0.5, wk.TilingSpec(256, 0.5)),
    "JPEG 2000, resampled": ("TCGA-CR-7395-01A-01-TS1", 0.5, wk.TilingSpec(100, 0.7)),
}
"""Slide, its resolution where the file has none, and how it is tiled."""


def destroy(slide: Path, out: Path, n: int, *, level: int = 0, seed: int = 0) -> np.ndarray:
    """Copy a slide and ruin ``n`` of the file's tiles in four ways; returns their boxes (n, 4), x y w h in px."""
    shutil.copyfile(slide, out)
    rng = np.random.default_rng(seed)
    with tifffile.TiffFile(slide) as tif:
        page = [page for page in tif.pages if page.is_tiled][level]
        offsets, counts, side = page.dataoffsets, page.databytecounts, page.tilewidth
        columns = -(-page.imagewidth // side)
        tag = page.tags["TileByteCounts"]
        assert (tag.dtype, tif.byteorder) == (4, "<")
    chosen = rng.choice(len(offsets), n, replace=False).tolist()
    with out.open("r+b") as file:
        for kind, i in enumerate(chosen):
            third = counts[i] // 3
            if kind % 4 == 0:  # garbage behind a good beginning
                file.seek(offsets[i] + third)
                file.write(rng.bytes(counts[i] - third))
            elif kind % 4 == 1:  # a copy that was interrupted: zeros from there on
                file.seek(offsets[i] + third)
                file.write(bytes(counts[i] - third))
            elif kind % 4 == 2:  # nothing of it is left
                file.seek(offsets[i])
                file.write(bytes(counts[i]))
            else:  # shorter than it should be
                file.seek(tag.valueoffset + 4 * i)
                file.write((counts[i] // 2).to_bytes(4, "little"))
    return np.array([(i % columns * side, i // columns * side, side, side) for i in chosen])


def extract(slides: Path, store: Path, mpp: float | None, spec: wk.TilingSpec, tissue: str = "saturation"):
    report = wk.extract_features(
        slides, out=store, encoder="colour", spec=spec, tissue=tissue, missing_mpp=mpp, workers=2
    )
    return wk.open_store(store), {o.slide_id: o for o in report.outcomes}


QUICK = ("JPEG", "JPEG 2000, resampled")


@pytest.mark.parametrize("case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_forty_destroyed_tiles_flag_the_rows_that_touch_them_and_none_else(slides_dir, tmp_path, case):
    name, mpp, spec = CASES[case]
    slides = tmp_path / "slides"
    slides.mkdir()
    shutil.copyfile(slides_dir / f"{name}.svs", slides / "whole.svs")
    boxes = destroy(slides_dir / f"{name}.svs", slides / "broken.svs", 40)
    store, outcomes = extract(slides, tmp_path / "a.zarr", mpp, spec)
    assert (outcomes["whole"].state, outcomes["broken"].state) == ("done", "damaged")
    assert store.slide("broken")["reader"] == store.slide("whole")["reader"] == "direct_tiff"
    coords, status = store.coords("broken"), store.status("broken", encoder="colour")
    width, height = store.slide("broken")["tile_level0_px"]
    x, y = coords[:, :1], coords[:, 1:]
    touches = (x < boxes[:, 0] + boxes[:, 2]) & (x + width > boxes[:, 0])
    touches &= (y < boxes[:, 1] + boxes[:, 3]) & (y + height > boxes[:, 1])
    np.testing.assert_array_equal(status == 1, touches.any(axis=1))
    assert 0 < (status == 1).sum() < len(status)
    assert set(status.tolist()) == {0, 1}
    assert outcomes["broken"].unreadable == (status == 1).sum()
    assert f"{(status == 1).sum()} of {len(status)} tiles have no feature" in outcomes["broken"].reason
    # All others are those of the undamaged slide, bit for bit, and none of its tiles is lost.
    whole, broken = (store.bag(slide, encoder="colour") for slide in ("whole", "broken"))
    expected = {tuple(c): x for c, x in zip(whole.coords.tolist(), whole.x, strict=True)}
    planned = {tuple(c) for c in coords.tolist()}
    found = {tuple(c): x for c, x in zip(broken.coords.tolist(), broken.x, strict=True)}
    same = expected.keys() & found.keys()
    assert all((expected[c] == found[c]).all() for c in same)
    assert len(same) > len(expected) / 4
    # Unreadable parts of the overview count as tissue: glass beside them may be planned, tissue never lost.
    assert expected.keys() <= planned
    assert verify_store(store) == []


@pytest.mark.parametrize(("case", "level"), [("JPEG, resampled", 2), ("JPEG 2000", 1)])
def test_damage_in_a_level_that_no_tile_is_read_from_costs_none(slides_dir, tmp_path, case, level):
    """The tissue is sought there: what cannot be seen counts as tissue, and level 0 is read all the same."""
    name, mpp, spec = CASES[case]
    slides = tmp_path / "slides"
    slides.mkdir()
    shutil.copyfile(slides_dir / f"{name}.svs", slides / "whole.svs")
    destroy(slides_dir / f"{name}.svs", slides / "broken.svs", 40 if level == 1 else 2, level=level)
    store, outcomes = extract(slides, tmp_path / "a.zarr", mpp, spec)
    assert {o.state for o in outcomes.values()} == {"done"}
    assert store.slide("broken")["reader"] == "direct_tiff"
    whole, broken = (store.bag(slide, encoder="colour") for slide in ("whole", "broken"))
    found = {tuple(c): x for c, x in zip(broken.coords.tolist(), broken.x, strict=True)}
    kept = [tuple(c) in found for c in whole.coords.tolist()]
    assert np.mean(kept) > 0.99  # tissue is sought at 8 um per px: at its rim a tile may be judged otherwise
    for c, x in zip(whole.coords[kept].tolist(), whole.x[kept], strict=True):
        np.testing.assert_array_equal(found[tuple(c)], x)
    if level == 1:
        assert store.slide("broken")["tissue"]["unreadable_px"] > 0
        assert len(broken) > len(whole)


@pytest.mark.parametrize("name", ["helicobacterpylori_HE_L13", "TCGA-CR-7395-01A-01-TS1"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_real_slide_that_was_cut_off_is_refused(slides_dir, tmp_path, name, share):
    data = (slides_dir / f"{name}.svs").read_bytes()
    path = tmp_path / "cut.svs"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(TruncatedSlideError, match="cut off: the file has .* copy it again"):
        wk.open_slide(path, mpp=0.5)
