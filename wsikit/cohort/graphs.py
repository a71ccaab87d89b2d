"""Graphs of tiles: which tiles of a slide are neighbours, by place on the grid, distance, or look.

Each slide is a graph of its own: slides of one patient are never joined. Tiles are taken in the order of
their places (slide, row, column) while a graph is built, and ties of distance are broken in that order: the
same tiles in another order give the same graph.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from wsikit.cohort.faiss_search import nearest_by_faiss
from wsikit.errors import ConfigError

Edges = npt.NDArray[np.int64]
Places = npt.NDArray[np.int64]

BLOCK_SCORES = 1 << 25
"""Similarities held at once while features are compared: 128 MiB of float32."""


class GraphSettings(BaseModel):
    """How the tiles of a slide are joined.

    Attributes:
        kind: ``grid`` (touching tiles), ``knn`` (nearest by place), ``radius`` (all within a distance) or
            ``features`` (nearest by feature).
        k: Neighbours of a tile: 4 or 8 for ``grid`` (without or with the diagonals), any number for ``knn``
            and ``features``.
        radius_um: Largest distance of the origins of joined tiles in micrometres, for ``radius``.
        metric: Of ``features``: ``euclidean`` or ``cosine``.
        search: Of ``features``: ``exact`` compares all pairs; ``faiss``, from 25,000 tiles on, a few in a hundred of
            them, and misses some neighbours (:func:`wsikit.cohort.faiss_search.nearest_by_faiss`, on the CPU).
        symmetric: Whether a tile that is among another's nearest also has it as a neighbour (``knn``,
            ``features``; the other kinds always are).
        self_loops: Whether each tile is its own neighbour, too. Models that need that add it themselves.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["grid", "knn", "radius", "features"] = "grid"
    k: Annotated[int, Field(ge=1)] = 8
    radius_um: Annotated[float, Field(gt=0)] | None = None
    metric: Literal["euclidean", "cosine"] = "euclidean"
    search: Literal["exact", "faiss"] = "exact"
    symmetric: bool = True
    self_loops: bool = False

    @model_validator(mode="after")
    def _fits_its_kind(self) -> GraphSettings:
        if self.kind == "grid" and self.k not in (4, 8):
            raise ValueError(f"a grid has 4 or 8 neighbours, not k={self.k}; use kind 'knn' for another number")
        if (self.kind == "radius") != (self.radius_um is not None):
            raise ValueError("radius_um goes with kind 'radius', and only with it")
        if self.kind == "radius" and self.k != 8:
            raise ValueError(f"kind 'radius' takes all tiles within radius_um; k={self.k} would change nothing")
        if self.kind != "features" and self.metric != "euclidean":
            raise ValueError(f"metric {self.metric!r} is of kind 'features', not {self.kind!r}")
        if self.kind != "features" and self.search != "exact":
            raise ValueError(f"search {self.search!r} is of kind 'features', not {self.kind!r}")
        if self.kind in ("grid", "radius") and not self.symmetric:
            raise ValueError(f"kind {self.kind!r} is always symmetric")
        return self


def build_graph(
    settings: GraphSettings,
    grid: Places,
    *,
    slide: npt.NDArray[np.integer[Any]] | None = None,
    x: npt.NDArray[np.floating[Any]] | None = None,
    step_um: npt.NDArray[np.floating[Any]] | None = None,
    device: str = "cpu",
) -> Edges:
    """The edges between the tiles of a patient.

    Args:
        settings: What joins two tiles.
        grid: (N, 2) place of each tile, x then y, in steps of its slide's grid.
        slide: (N,) which slide each is of; default: all of one.
        x: (N, D) features, for kind ``features``.
        step_um: (N, 2) width and height of a step of the grid in micrometres, for kind ``radius``.
        device: Where features are compared, as torch names it.

    Returns:
        (2, M) int64: from and to row; no edge twice, sorted by to, then by from. Tile ``edges[1]`` has the
        neighbour ``edges[0]``: with ``symmetric=False`` every tile is ``to`` of its own k nearest.

    Raises:
        ConfigError: Shapes that do not fit, or ``x`` or ``step_um`` missing where the kind needs them.

    Example:
        >>> row_of_three = np.array([[0, 0], [1, 0], [2, 0]])
        >>> build_graph(GraphSettings(), row_of_three).tolist()
        [[1, 0, 2, 1], [0, 1, 1, 2]]
    """
    n = len(grid)
    for name, given, shape in (("grid", grid, (n, 2)), ("slide", slide, (n,)), ("step_um", step_um, (n, 2))):
        if given is not None and given.shape != shape:
            raise ConfigError(f"graph of {n} tiles: {name} of shape {given.shape}; expected {shape}")
    if settings.kind == "features" and (x is None or x.ndim != 2 or len(x) != n):
        found = "none were given" if x is None else f"x is of shape {x.shape}"
        raise ConfigError(f"graph of kind 'features' of {n} tiles: expected features (N, D), but {found}")
    if settings.kind == "radius" and step_um is None:
        raise ConfigError("graph of kind 'radius' needs step_um, the micrometres of a step of the grid")
    slide = np.zeros(n, np.int64) if slide is None else slide
    order = np.lexsort((grid[:, 0], grid[:, 1], slide))  # by slide, row, column
    starts = np.flatnonzero(np.diff(slide[order], prepend=-1, append=-1)) if n else np.zeros(1, np.int64)
    found_edges = [np.zeros((2, 0), np.int64)]
    for start, stop in pairwise(starts.tolist()):
        rows = order[start:stop]
        if settings.kind == "grid":
            edges = _within(grid[rows].astype(np.float64), 1.0, p=1.0 if settings.k == 4 else np.inf)
        elif settings.kind == "radius":
            assert step_um is not None
            assert settings.radius_um is not None
            # the hair's breadth more is for a radius of so many steps, which is not exact in floating point
            edges = _within((grid[rows] * step_um[rows]).astype(np.float64), settings.radius_um * (1 + 1e-9), p=2.0)
        elif settings.kind == "knn":
            edges = _nearest_places(grid[rows], settings.k)
        else:
            assert x is not None
            if settings.search == "faiss":
                edges = nearest_by_faiss(x[rows], settings.k, settings.metric)
            else:
                edges = _nearest_features(x[rows], settings.k, settings.metric, device)
        found_edges.append(rows[edges])
    edges = np.concatenate(found_edges, axis=1)
    if settings.symmetric:
        edges = np.concatenate([edges, edges[::-1]], axis=1)
    if settings.self_loops:
        edges = np.concatenate([edges, np.tile(np.arange(n), (2, 1))], axis=1)
    code = np.unique(edges[1] * n + edges[0])  # sorted by to, then from
    return np.stack([code % n, code // n]) if n else edges


def induced(edges: Edges, kept: npt.NDArray[np.int64], nodes: int) -> Edges:
    """The edges among some of the nodes, numbered as these are.

    Args:
        edges: (2, M).
        kept: (n,) rows that stay, rising.
        nodes: How many there are.

    Returns:
        (2, M'), in the order in which they were.

    Example:
        >>> induced(np.array([[0, 1, 2], [1, 2, 0]]), np.array([0, 2]), 3).tolist()
        [[1], [0]]
    """
    number = np.full(nodes, -1, np.int64)
    number[kept] = np.arange(len(kept))
    renumbered = number[edges]
    return np.ascontiguousarray(renumbered[:, (renumbered >= 0).all(0)])


def _within(places: npt.NDArray[np.float64], radius: float, *, p: float) -> Edges:
    """Every pair of places at most ``radius`` apart in the p-norm, once."""
    from scipy.spatial import cKDTree

    return np.asarray(cKDTree(places).query_pairs(radius, p=p, output_type="ndarray").T, np.int64)


def _nearest_places(grid: Places, k: int) -> Edges:
    """The k nearest other tiles of each, those of equal distance in order of their rows: from and to."""
    from scipy.spatial import cKDTree

    n = len(grid)
    k = min(k, n - 1)
    tree = cKDTree(grid.astype(np.float64))
    pending, wanted = np.arange(n), 2 * k + 2
    parts = [np.zeros((2, 0), np.int64)]
    while len(pending) and k:
        wanted = min(wanted, n)
        found = tree.query(grid[pending], wanted)[1].reshape(len(pending), wanted)
        # exact, so that equal distances are equal; the tile itself goes last
        distance = np.square(grid[found] - grid[pending][:, None]).sum(2)
        distance[found == pending[:, None]] = np.iinfo(np.int64).max
        best = np.lexsort((found, distance), axis=1)
        distance, found = np.take_along_axis(distance, best, 1), np.take_along_axis(found, best, 1)
        # what was not asked for is as far as the furthest or further: a tie with it is not settled yet
        settled = distance[:, k - 1] < distance[:, -2] if wanted < n else np.ones(len(pending), np.bool_)
        near = found[settled, :k]
        parts.append(np.stack([near.ravel(), np.repeat(pending[settled], k)]))
        pending, wanted = pending[~settled], 2 * wanted
    return np.concatenate(parts, axis=1)


def _nearest_features(x: npt.NDArray[np.floating[Any]], k: int, metric: str, device: str) -> Edges:
    """The k nearest other tiles of each by feature, in blocks of a matrix product: from and to."""
    import torch

    n = len(x)
    k = min(k, n - 1)
    if k < 1:
        return np.zeros((2, 0), np.int64)
    with torch.inference_mode():
        features = torch.as_tensor(np.ascontiguousarray(x)).to(device).float()
        if metric == "cosine":
            features = torch.nn.functional.normalize(features, dim=1)
        else:
            # distances do not change when all are moved; far from 0 their differences drown in rounding
            features = features - features.mean(0)
        half = features.square().sum(1) / 2  # |x - y|^2 / 2 = |x|^2 / 2 - (x . y - |y|^2 / 2)
        near = []
        step = max(1, BLOCK_SCORES // n)
        for start in range(0, n, step):
            block = features[start : start + step]
            scores = torch.addmm(-half, block, features.T)  # (block, n)
            rows = torch.arange(len(block), device=scores.device)
            scores[rows, rows + start] = -torch.inf
            near.append(scores.topk(k, dim=1).indices)
        found = torch.cat(near).cpu().numpy()
    return np.stack([found.ravel(), np.repeat(np.arange(n), k)])
