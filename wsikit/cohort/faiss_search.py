"""Nearest neighbours by feature through faiss: of very large slides a few in a hundred are compared, not all pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError

FEW_TILES = 25_000
"""Up to so many, all pairs are compared: there is little to gain, and too few to find cells by."""
_PROBED = 32


def nearest_by_faiss(x: npt.NDArray[np.floating[Any]], k: int, metric: str) -> npt.NDArray[np.int64]:
    """The k nearest other tiles of each by feature, as far as they are found.

    Features are parted into 4 sqrt(N) cells by k-means (faiss's ``IndexIVFFlat``, always from the same seed), and a
    tile is compared with those of the 32 cells whose centres are nearest. Equal arguments give equal neighbours; tiles
    of equal distance come in no promised order.

    Args:
        x: (N, D).
        k: Neighbours of each, at most N - 1.
        metric: ``euclidean`` or ``cosine``.

    Returns:
        (2, N k) from and to row.

    Raises:
        ConfigError: faiss is not installed.

    Reference:
        Douze et al., 2024, The Faiss library, arXiv:2401.08281; inverted files: Jegou et al., 2011, IEEE TPAMI
        33(1):117-128, doi:10.1109/TPAMI.2010.57.
    """
    try:
        import faiss
    except ImportError as error:
        raise ConfigError("a graph with search 'faiss' needs faiss: pip install 'wsikit[search]'") from error
    n, dim = x.shape
    k = min(k, n - 1)
    if k < 1:
        return np.zeros((2, 0), np.int64)
    features = np.ascontiguousarray(x, np.float32)
    if metric == "cosine":
        features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    else:
        features = features - features.mean(0)  # far from 0 the differences of distances drown in rounding
    kind = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
    index: Any = faiss.IndexFlat(dim, kind)
    if n > FEW_TILES:
        cells = int(4 * n**0.5)
        index = faiss.IndexIVFFlat(index, dim, cells, kind)
        index.nprobe = _PROBED
        index.train(features)
    index.add(features)
    found = index.search(features, k + 1)[1]  # the tile itself is among them, unless others are the same
    short = np.flatnonzero((found < 0).any(1))
    if len(short):  # its cells held less than k others
        index.nprobe = index.nlist
        found[short] = index.search(features[short], k + 1)[1]
    mine = found == np.arange(n)[:, None]
    mine[~mine.any(1), -1] = True
    return np.stack([found[~mine], np.repeat(np.arange(n), k)]).astype(np.int64)
