"""The average of an area is the average of that area, whatever the ratio."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from wsikit.slides.resample import resample


def exact(region, rows, columns):
    """Every output pixel is the mean of the rectangle it covers, in float64, pixel by pixel."""

    def matrix(n, m):
        edges = np.arange(m + 1) * n / m
        return np.array(
            [[max(0, min(b, k + 1) - max(a, k)) * m / n for k in range(n)] for a, b in itertools.pairwise(edges)]
        )

    return np.einsum(
        "ik,kjc,lj->ilc", matrix(len(region), rows), region, matrix(region.shape[1], columns), optimize=True
    )


@pytest.mark.parametrize("size", [(506, 506), (512, 512), (257, 300), (300, 511), (1000, 777), (256, 506), (2100, 290)])
@pytest.mark.parametrize("how", ["area", "dct"])
def test_area_average(size, how):
    region = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    region[: size[0] // 2] = np.where(region[: size[0] // 2] > 128, 255, 0)  # the hardest contrasts
    out = np.empty((256, 256, 3), np.uint8)
    resample(region, out, how)
    assert np.abs(out - exact(region.astype(float), 256, 256)).max() < 0.501


def test_nothing_is_averaged_where_nothing_changes():
    region = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for how in ("none", "area", "cubic"):
        out = np.empty_like(region)
        resample(region, out, how)
        np.testing.assert_array_equal(out, region)


def test_plain_areas_stay_plain():
    for value in (0, 1, 128, 254, 255):
        out = np.empty((100, 100, 3), np.uint8)
        resample(np.full((237, 171, 3), value, np.uint8), out, "area")
        assert (out == value).all()
