"""Who is whose neighbour: against all pairs compared, and the same graph whatever the order of the tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from wsikit.cohort.faiss_search import nearest_by_faiss
from wsikit.cohort.graphs import GraphSettings, build_graph, induced
from wsikit.errors import ConfigError

KINDS = {
    "grid 4": GraphSettings(k=4),
    "grid 8": GraphSettings(),
    "knn": GraphSettings(kind="knn", k=5),
    "knn one way": GraphSettings(kind="knn", k=3, symmetric=False),
    "radius": GraphSettings(kind="radius", radius_um=230.0),
    "euclidean": GraphSettings(kind="features", k=4),
    "cosine": GraphSettings(kind="features", k=4, metric="cosine", symmetric=False),
    "faiss": GraphSettings(kind="features", k=4, search="faiss"),
    "faiss, cosine": GraphSettings(kind="features", k=4, metric="cosine", search="faiss", symmetric=False),
}


def tiles(seed, n=60, slides=2):
    """Tiles in different places of a few slides, which use the same places; steps of 100 by 101 micrometres."""
    rng = np.random.default_rng(seed)
    slide = np.sort(rng.integers(0, slides, n)).astype(np.int32)
    grid = np.empty((n, 2), np.int64)
    for s in range(slides):
        rows = np.flatnonzero(slide == s)
        place = rng.permutation(100)[: len(rows)]
        grid[rows] = np.stack([place % 10, place // 10], 1)
    return {"grid": grid, "slide": slide, "x": rng.normal(size=(n, 7)), "step_um": np.tile([100.0, 101.0], (n, 1))}


def as_set(edges):
    pairs = list(map(tuple, edges.T.tolist()))
    assert len(set(pairs)) == len(pairs)
    assert [(b, a) for a, b in pairs] == sorted((b, a) for a, b in pairs)
    return set(pairs)


def by_all_pairs(settings, grid, slide, x, step_um):
    """The definition, one tile after the other."""
    found = set()
    for i in range(len(grid)):
        others = [j for j in range(len(grid)) if j != i and slide[j] == slide[i]]
        delta = {j: np.abs(grid[j] - grid[i]) for j in others}
        if settings.kind == "grid":
            near = [j for j in others if delta[j].sum() == 1 or (settings.k == 8 and delta[j].max() == 1)]
        elif settings.kind == "radius":
            near = [j for j in others if np.hypot(*(delta[j] * step_um[i])) <= settings.radius_um]
        else:
            if settings.kind == "knn":
                far = {j: (delta[j] ** 2).sum() for j in others}
            elif settings.metric == "euclidean":
                far = {j: np.linalg.norm(x[i] - x[j]) for j in others}
            else:
                far = {j: -x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]) for j in others}
            near = sorted(others, key=lambda j: (far[j], grid[j][1], grid[j][0]))[: settings.k]
        found |= {(j, i) for j in near}
        if settings.symmetric:
            found |= {(i, j) for j in near}
        if settings.self_loops:
            found.add((i, i))
    return found


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("self_loops", [False, True])
def test_a_graph_is_that_of_all_pairs_compared(name, self_loops):
    settings = KINDS[name].model_copy(update={"self_loops": self_loops})
    given_tiles = tiles(0)
    found = as_set(build_graph(settings, **given_tiles))
    assert found == by_all_pairs(settings, **given_tiles)
    slide = given_tiles["slide"]
    assert all(slide[a] == slide[b] for a, b in found)  # slides are not joined
    assert len(found) > 60


@pytest.mark.parametrize("name", KINDS)
def test_the_same_tiles_in_another_order_give_the_same_graph(name):
    given_tiles = tiles(1)
    order = np.random.default_rng(2).permutation(60)
    first = as_set(build_graph(KINDS[name], **given_tiles))
    again = build_graph(KINDS[name], **{key: value[order] for key, value in given_tiles.items()})
    assert as_set(order[again][:, np.lexsort((order[again[0]], order[again[1]]))]) == first


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 100))
def test_nearest_places_settle_every_tie(width, k, seed):
    """A full lattice has as many ties as can be; some tiles are missing."""
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(5)), -1).reshape(-1, 2)
    grid = grid[np.random.default_rng(seed).random(len(grid)) < 0.8]
    settings = GraphSettings(kind="knn", k=k, symmetric=False)
    n = len(grid)
    expected = by_all_pairs(settings, grid, np.zeros(n), None, None)
    assert as_set(build_graph(settings, grid)) == expected


def test_duplicate_features_and_far_from_zero():
    x = np.full((30, 4), 1000.0)
    x[10:20] += np.eye(4)[np.arange(10) % 4] * 0.5  # four kinds of tiles, told apart by little
    grid = np.stack([np.arange(30), np.zeros(30, np.int64)], 1)
    edges = build_graph(GraphSettings(kind="features", k=1, symmetric=False), grid, x=x.astype(np.float32))
    assert (x[edges[0]] == x[edges[1]]).all()
    assert (edges[0] != edges[1]).all()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_of_many_tiles_faiss_finds_nearly_all_neighbours(metric):
    """Tiles of 300 looks, each with its own spread: of the true neighbours at least 95 %, and the same at each call."""
    rng, n, k = np.random.default_rng(0), 26_000, 8
    x = rng.normal(size=(300, 16))[rng.integers(0, 300, n)] + rng.normal(size=(n, 16)) * rng.uniform(0.05, 0.6, (n, 1))
    x[:20] = x[0]  # more alike than there are neighbours
    found = nearest_by_faiss(x, k, metric)
    np.testing.assert_array_equal(found, nearest_by_faiss(x, k, metric))
    assert (found[0] != found[1]).all()
    np.testing.assert_array_equal(found[1], np.repeat(np.arange(n), k))
    assert all(len(set(row)) == k for row in found[0].reshape(n, k).tolist())
    asked = np.arange(20, n, 130)  # without those that are all alike
    y = x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x
    distance = np.square(y[asked]).sum(1)[:, None] + np.square(y).sum(1) - 2 * y[asked] @ y.T
    distance[np.arange(len(asked)), asked] = np.inf
    true = np.argpartition(distance, k, axis=1)[:, :k]
    shared = [len(set(a) & set(b)) for a, b in zip(true.tolist(), found[0].reshape(n, k)[asked].tolist(), strict=True)]
    assert np.mean(shared) / k > 0.95


def test_a_radius_of_so_many_steps_holds_the_tiles_that_far():
    grid = np.stack([np.arange(9), np.zeros(9, np.int64)], 1)
    for steps in (1, 3):
        settings = GraphSettings(kind="radius", radius_um=steps * 0.1)
        edges = build_graph(settings, grid, step_um=np.full((9, 2), 0.1))
        assert np.abs(edges[0] - edges[1]).max() == steps


@pytest.mark.parametrize("name", KINDS)
def test_one_tile_and_none(name):
    one = {key: value[:1] for key, value in tiles(0).items()}
    assert build_graph(KINDS[name], **one).shape == (2, 0)
    none = {key: value[:0] for key, value in tiles(0).items()}
    assert build_graph(KINDS[name], **none).shape == (2, 0)
    looped = KINDS[name].model_copy(update={"self_loops": True})
    assert build_graph(looped, **one).tolist() == [[0], [0]]


def test_what_is_missing_is_named():
    grid = np.zeros((3, 2), np.int64)
    with pytest.raises(ConfigError, match=r"of kind 'features' of 3 tiles: expected features \(N, D\), but none"):
        build_graph(GraphSettings(kind="features"), grid)
    with pytest.raises(ConfigError, match="needs step_um"):
        build_graph(GraphSettings(kind="radius", radius_um=1.0), grid)
    with pytest.raises(ConfigError, match=r"slide of shape \(2,\); expected \(3,\)"):
        build_graph(GraphSettings(), grid, slide=np.zeros(2, np.int64))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "grid", "k": 6}, "4 or 8"),
        ({"kind": "radius"}, "radius_um goes with kind 'radius'"),
        ({"radius_um": 10.0}, "radius_um goes with kind 'radius'"),
        ({"kind": "radius", "radius_um": 10.0, "k": 4}, "would change nothing"),
        ({"metric": "cosine"}, "'cosine' is of kind 'features'"),
        ({"search": "faiss"}, "'faiss' is of kind 'features'"),
        ({"symmetric": False}, "always symmetric"),
        ({"kind": "knn", "k": 0}, "greater than or equal to 1"),
        ({"neighbours": 8}, "Extra inputs"),
    ],
)
def test_settings_that_would_do_nothing_or_harm_are_refused(values, said):
    with pytest.raises(ValidationError, match=said):
        GraphSettings(**values)


def test_the_induced_graph_has_the_edges_among_those_that_stay():
    edges = build_graph(GraphSettings(), **tiles(3))
    kept = np.flatnonzero(np.random.default_rng(0).random(60) < 0.5)
    found = {(kept[a], kept[b]) for a, b in induced(edges, kept, 60).T}
    assert found == {(a, b) for a, b in edges.T.tolist() if a in kept and b in kept}
    assert 0 < len(found) < edges.shape[1]
