"""The texture encoder: the two ways of counting agree to the last count, and the numbers mean what they say."""

import numpy as np
import pytest

from wsikit.encoders import create_encoder, texture_counts
from wsikit.encoders.families import colour, texture
from wsikit.encoders.stain_planes import STAIN_VECTORS, UNIT, stain_planes
from wsikit.errors import ConfigError


def noise(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Structure at several scales, so that every level has something to count."""
    import cv2

    rng = np.random.default_rng(seed)
    tiles = []
    for _ in range(n):
        fields = [
            cv2.resize(rng.normal(size=(max(2, height >> k), max(2, width >> k), 3)), (width, height)) for k in range(5)
        ]
        tiles.append(np.clip(170 + 25 * sum(fields), 0, 255).astype(np.uint8))
    return np.stack(tiles)


@pytest.mark.parametrize(
    ("height", "width"), [(256, 256), (224, 224), (50, 50), (33, 47), (32, 32), (16, 17), (512, 512)]
)
def test_torch_counts_what_the_cpu_counts(height: int, width: int) -> None:
    import torch

    from wsikit.encoders.texture_counts_torch import count_patterns_torch

    tiles = noise(3, height, width)
    tiles[1, : height // 2] = 255
    tiles[2] = np.random.default_rng(1).integers(0, 256, tiles[2].shape)
    np.testing.assert_array_equal(
        texture_counts.count_patterns(tiles), count_patterns_torch(tiles, torch.device("cpu"))
    )


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bits() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    tiles = noise(5, 224, 224)
    np.testing.assert_array_equal(
        create_encoder("texture", device="cuda").encode(tiles), create_encoder("texture").encode(tiles)
    )


def test_every_pixel_with_eight_neighbours_is_counted_once() -> None:
    counts = texture_counts.count_patterns(noise(2, 64, 48))
    for level in range(texture_counts.LEVELS):
        side = (64 >> level) - 2, (48 >> level) - 2
        kinds = range(texture_counts.KINDS) if level < texture_counts.PATTERN_LEVELS else [texture_counts.SPOT]
        for plane in range(texture_counts.PLANES):
            for kind in kinds:
                index = texture_counts.histogram_index(level, plane, kind)
                assert (counts[:, index].sum(-1) == max(side[0], 0) * max(side[1], 0)).all()
    for level in texture_counts.JOINT_LEVELS:
        assert (counts[:, texture_counts.joint_index(level)].sum(-1) == (64 >> level) * (48 >> level)).all()


def test_turning_and_mirroring_a_tile_leaves_its_feature_alone() -> None:
    """Tissue has no up. Sides of 2**k + 1 keep the pyramid's grid in place under a turn."""
    encoder = create_encoder("texture")
    tile = noise(1, 129, 129)
    expected = encoder.encode(tile)
    for turned in (np.rot90(tile, axes=(1, 2)), tile[:, ::-1], tile[:, :, ::-1], tile.transpose(0, 2, 1, 3)):
        np.testing.assert_array_equal(encoder.encode(turned), expected)


def test_stains_mixed_by_beer_and_lambert_are_found_again() -> None:
    amount = np.random.default_rng(0).uniform(0.05, 0.8, (2, 40, 40))  # haematoxylin, eosin
    density = np.einsum("shw,sc->hwc", amount, np.array(STAIN_VECTORS))
    rgb = np.rint(255 * 10**-density).astype(np.uint8)
    found = stain_planes(*(np.ascontiguousarray(rgb[..., channel]) for channel in range(3)))
    # Dark eosin leaves few levels of green: one level is then several hundredths of a unit.
    assert np.abs(found / UNIT - amount).mean() < 0.02
    assert np.abs(found / UNIT - amount).max() < 0.15


def test_uniform_classes_are_those_of_ojala() -> None:
    classes = texture.uniform_classes().argmax(1)
    sizes = np.bincount(classes, minlength=10)
    # 58 uniform patterns: one each of none and all, eight turns each of 1 to 7 neighbours; 198 others.
    assert sizes.tolist() == [1, 8, 8, 8, 8, 8, 8, 8, 1, 198]
    turned = (np.arange(256) << 1 | np.arange(256) >> 7) & 255
    assert (classes == classes[turned]).all()


def test_shares_sum_to_one_and_a_flat_tile_has_no_texture() -> None:
    names = np.array(texture.feature_names())
    flat, rough = create_encoder("texture").encode(
        np.concatenate([np.full((1, 96, 96, 3), 200, np.uint8), noise(1, 96, 96)])
    )
    for group in ("haematoxylin 1/1 pattern", "eosin 1/4 spot", "joint 1/4"):
        columns = np.char.startswith(names, group)
        assert columns.sum() in (10, 21, 36)
        assert np.isclose((flat[columns] ** 2).sum(), 1)
        assert np.isclose((rough[columns] ** 2).sum(), 1)
    moments = np.array([name.split()[-1] in texture.MOMENTS for name in names])
    assert (flat[moments] == 0).all()
    assert (rough[np.char.endswith(names, "energy")] > 0.5).all()


def test_dark_spots_are_told_from_pale_ones() -> None:
    """Nuclei on stroma, and holes in stroma, differ in the sign of the skewness."""
    import cv2

    names = texture.feature_names()
    tiles = []
    for colour_of_spot in ((90, 60, 140), (250, 245, 250)):
        tile = np.full((128, 128, 3), (225, 150, 195), np.uint8)
        for x, y in np.random.default_rng(0).integers(8, 120, (40, 2)).tolist():
            cv2.circle(tile, (x, y), 3, colour_of_spot, -1)
        tiles.append(tile)
    nuclei, holes = create_encoder("texture").encode(np.stack(tiles))
    column = names.index("haematoxylin 1/4 skewness")
    assert nuclei[column] < -0.2
    assert holes[column] > nuclei[column] + 0.2


@pytest.mark.parametrize("family", [texture, colour])
def test_every_column_has_its_own_name(family: object) -> None:
    names = family.feature_names()  # type: ignore[attr-defined]
    assert len(set(names)) == len(names) == family.CARD.dim  # type: ignore[attr-defined]


def test_colour_statistics_are_those_of_numpy() -> None:
    tiles = noise(2, 61, 40)
    names = colour.feature_names()
    found = create_encoder("colour").encode(tiles)
    for channel, plane in enumerate(("red", "green", "blue")):
        values = tiles[..., channel].reshape(2, -1)
        expected = {
            "mean": values.mean(1),
            "std": values.std(1),
            "q25": np.percentile(values, 25, axis=1, method="inverted_cdf"),
            "q95": np.percentile(values, 95, axis=1, method="inverted_cdf"),
        }
        for statistic, value in expected.items():
            np.testing.assert_allclose(found[:, names.index(f"{plane} {statistic}")], value / 255, rtol=1e-6)


def test_tiles_too_small_for_texture_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'texture': tiles of 20 x 12 px; at least 16 px"):
        create_encoder("texture").encode(np.zeros((1, 12, 20, 3), np.uint8))
