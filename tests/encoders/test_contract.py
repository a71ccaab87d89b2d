"""What every registered encoder promises; a new encoder is tested here without a line being added."""

import importlib.util

import numpy as np
import pytest

from wsikit.encoders import create_encoder, encoder_card, encoder_key, list_encoders
from wsikit.encoders.card import Encoder
from wsikit.errors import ConfigError

EMBEDDED = list_encoders()
NEEDS_TIMM = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
NETWORKS = [pytest.param(name, marks=NEEDS_TIMM) for name in ("timm:test_vit", "timm:test_resnet")]
SIZES = (32, 50, 224, 256, 512)


def make(name: str) -> Encoder:
    return create_encoder(name, weights="random") if ":" in name else create_encoder(name)


@pytest.fixture(scope="module", params=[*EMBEDDED, *NETWORKS])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return make(request.param)


@pytest.fixture(scope="module", params=EMBEDDED)
def embedded(request: pytest.FixtureRequest) -> Encoder:
    return make(request.param)


def tissue_like(n: int, px: int, seed: int = 0) -> np.ndarray:
    """Smooth pink and purple fields with grain: (n, px, px, 3) uint8."""
    import cv2

    rng = np.random.default_rng(seed)
    tiles = []
    for _ in range(n):
        field = rng.normal(size=(px, px, 3)).astype(np.float32)
        smooth = cv2.GaussianBlur(field, (0, 0), rng.uniform(1, px / 8))
        smooth = smooth / smooth.std() * rng.uniform(5, 40) + field * 6
        tiles.append(np.clip(smooth + rng.uniform((140, 60, 130), (240, 200, 220)), 0, 255).astype(np.uint8))
    return np.stack(tiles)


def test_features_have_the_width_and_type_of_the_card(encoder: Encoder) -> None:
    features = encoder.encode(tissue_like(3, 64))
    assert features.shape == (3, encoder.card.dim)
    assert features.dtype == np.float32
    assert encoder_card(encoder.card.name) == encoder.card


def test_no_tiles_give_no_rows(encoder: Encoder) -> None:
    assert encoder.encode(np.zeros((0, 64, 64, 3), np.uint8)).shape == (0, encoder.card.dim)


@pytest.mark.parametrize("px", SIZES)
def test_values_fit_half_precision(encoder: Encoder, px: int) -> None:
    flat = [np.full((px, px, 3), level, np.uint8) for level in (0, 128, 255)]
    noise = np.random.default_rng(1).integers(0, 256, (px, px, 3), dtype=np.uint8)
    squares = np.where(np.indices((px, px)).sum(0)[..., None] % 2, 255, 0).astype(np.uint8).repeat(3, axis=2)
    features = encoder.encode(np.stack([*flat, noise, squares, *tissue_like(2, px)]))
    assert np.isfinite(features).all()
    assert np.abs(features).max() < 1e3


def test_input_is_left_alone_and_may_be_read_only_or_strided(encoder: Encoder) -> None:
    tiles = tissue_like(4, 64)
    kept = tiles.copy()
    expected = encoder.encode(tiles)
    assert (tiles == kept).all()
    tiles.setflags(write=False)
    np.testing.assert_array_equal(encoder.encode(tiles), expected)
    larger = np.zeros((8, 64, 80, 3), np.uint8)
    larger[::2, :, 8:72] = kept
    np.testing.assert_array_equal(encoder.encode(larger[::2, :, 8:72]), expected)


def test_the_same_call_gives_the_same_bits(encoder: Encoder) -> None:
    tiles = tissue_like(5, 96)
    np.testing.assert_array_equal(encoder.encode(tiles), encoder.encode(tiles))


@pytest.mark.parametrize("px", [50, 256])
def test_a_row_depends_on_its_tile_alone_bit_for_bit(embedded: Encoder, px: int) -> None:
    tiles = tissue_like(37, px)
    together = embedded.encode(tiles)
    order = np.random.default_rng(2).permutation(len(tiles))
    np.testing.assert_array_equal(embedded.encode(tiles[order]), together[order])
    for i in (0, 17, 36):
        np.testing.assert_array_equal(embedded.encode(tiles[i : i + 1]), together[i : i + 1])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_row_of_a_network_depends_on_its_tile_up_to_rounding(name: str) -> None:
    encoder = make(name)
    tiles = tissue_like(37, 64)
    together = encoder.encode(tiles)
    for i in (0, 17, 36):
        np.testing.assert_allclose(encoder.encode(tiles[i : i + 1]), together[i : i + 1], rtol=1e-4, atol=1e-5)


def test_one_thread_or_two_give_the_same_bits(embedded: Encoder) -> None:
    import cv2
    import torch

    tiles = tissue_like(9, 224)
    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            cv2.setNumThreads(threads)
            results.append(embedded.encode(tiles))
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
    np.testing.assert_array_equal(*results)


def test_calls_from_several_threads_do_not_mix(embedded: Encoder) -> None:
    from concurrent.futures import ThreadPoolExecutor

    batches = [tissue_like(6, px, seed) for seed, px in enumerate((64, 96, 64, 96, 128, 64))]
    expected = [embedded.encode(batch) for batch in batches]
    with ThreadPoolExecutor(3) as pool:
        for found, want in zip(pool.map(embedded.encode, batches * 3), expected * 3, strict=True):
            np.testing.assert_array_equal(found, want)


def test_different_tiles_give_different_features(encoder: Encoder) -> None:
    features = encoder.encode(tissue_like(6, 64))
    assert len(np.unique(features.round(4), axis=0)) == 6


def test_the_key_is_stable_and_survives_pickling(encoder: Encoder) -> None:
    import json

    assert encoder_key(encoder) == encoder_key(make(encoder.card.name))
    assert json.loads(json.dumps(dict(encoder.identity))) == dict(encoder.identity)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((64, 64, 3), np.uint8), r"shape \(64, 64, 3\).*expected .*\(N, H, W, 3\).*tile\[None\]"),
        (np.zeros((1, 64, 64, 4), np.uint8), r"shape \(1, 64, 64, 4\).*alpha"),
        (np.zeros((1, 3, 64, 64), np.uint8), r"shape \(1, 3, 64, 64\)"),
        (np.zeros((1, 64, 64, 3), np.float32), r"dtype float32.*expected uint8"),
        ([[1]], r"got list.*NumPy array"),
    ],
)
def test_what_is_not_a_batch_of_tiles_is_refused(encoder: Encoder, pixels: np.ndarray, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encoder.encode(pixels)
