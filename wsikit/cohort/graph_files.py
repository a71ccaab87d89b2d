"""Graphs kept in a folder, for those that take long to build: one file for each patient and kind of graph."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from wsikit.cohort.graphs import Edges, GraphSettings
from wsikit.cohort.table import CohortSlide
from wsikit.config import config_hash

VERSION = 1
"""Of the builders: another number, and all graphs are built anew."""


def kept_graph(
    folder: Path, graph: GraphSettings, slides: Sequence[CohortSlide], encoder: str, build: Callable[[], Edges]
) -> Edges:
    """The graph of a patient from its file, or built and written.

    The file's name is a hash of the settings and of what the store says of every tile and feature, so a graph
    of other features is never found. Several processes may do this at once: files appear whole.

    Args:
        folder: Made where it is missing.
        graph: What joins two tiles.
        slides: Of the patient, in the order of the bag.
        encoder: Name or key of the features.
        build: Called where there is no file.
    """
    digests = [[slide.slide_id, slide.store.digest(slide.slide_id, encoder)] for slide in slides]
    name = config_hash({"version": VERSION, "graph": graph.model_dump(mode="json"), "slides": digests})
    path = folder / f"{name}.npy"
    if path.is_file():
        return np.asarray(np.load(path), np.int64)
    edges = build()
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{name}.{os.getpid()}.part"
    with part.open("wb") as file:
        np.save(file, edges.astype(np.int32 if edges.max(initial=0) < 2**31 else np.int64))
    part.replace(path)
    return edges
