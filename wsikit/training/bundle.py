"""A trained model as one file: weights, and all that has to be known to use them again.

The file is safetensors (no code in it, unlike a pickle) with one JSON text in its metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsikit.aggregators.registry import create_aggregator
from wsikit.cohort.endpoints import Endpoint, endpoint_from, endpoint_settings
from wsikit.cohort.graphs import GraphSettings
from wsikit.errors import ConfigError
from wsikit.tasks.task import Task, create_task
from wsikit.training.model import SlideModel

FORMAT = "wsikit-bundle"
VERSION = "2"
READABLE = ("1", "2")
"""Version 1 has no ``known`` arrays: such models cannot say whether a patient is like those of the training."""
_KNOWN = "known."


@dataclass(frozen=True)
class Bundle:
    """A trained model, ready to predict.

    Attributes:
        model: In evaluation mode, on the CPU.
        task: Turns its outputs into predictions.
        endpoint: What it predicts.
        facts: ``aggregator``, ``in_dim``, ``encoder`` (key, card, identity, run), ``configuration`` (how
            slides are tiled) and its hash, ``thresholds``, ``training`` (splits, fold, epoch), ``versions``; of
            those who trained it ``patients`` and ``slides`` (hashes), and ``held_out`` (whose ``known`` is).
        known: Arrays about training and held-out patients, by name: see ``wsikit.evaluation.known``.
    """

    model: SlideModel
    task: Task
    endpoint: Endpoint
    facts: Mapping[str, Any]
    known: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict, repr=False)


def save_bundle(bundle: Bundle, path: str | PathLike[str]) -> Path:
    """Write a bundle; an existing file is replaced as a whole."""
    graph = bundle.model.graph
    facts = dict(bundle.facts) | {
        "format": FORMAT,
        "version": VERSION,
        "graph": None if graph is None else graph.model_dump(mode="json"),
        "endpoint": endpoint_settings(bundle.endpoint),
        "task": dict(bundle.task.state()),
        "outputs": bundle.task.outputs,
    }
    return _write(Path(path), facts, bundle.model.state_dict() | _as_tensors(bundle.known))


def add_to_bundle(
    path: str | PathLike[str], *, facts: Mapping[str, Any], known: Mapping[str, npt.NDArray[Any]]
) -> Path:
    """Enter what is known only once other models are fitted; the model itself stays as it is, bit for bit.

    Args:
        path: A bundle.
        facts: To add, or to replace.
        known: Arrays that take the place of all earlier ones.

    Raises:
        ConfigError: As :func:`load_bundle`.
    """
    before, tensors = read_bundle(path)
    return _write(Path(path), before | dict(facts) | {"version": VERSION}, tensors | _as_tensors(known))


def _as_tensors(known: Mapping[str, npt.NDArray[Any]]) -> dict[str, Tensor]:
    return {_KNOWN + name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in known.items()}


def _write(path: Path, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    part = path.with_name(path.name + ".part")
    save_file(tensors, part, metadata={"wsikit": json.dumps(facts, allow_nan=False)})
    part.replace(path)
    return path


def load_bundle(path: str | PathLike[str]) -> Bundle:
    """Read a bundle.

    Raises:
        ConfigError: No file, not a bundle, or one of a later version.
    """
    facts, every = _read(path)
    tensors = _weights(every)
    known = {n.removeprefix(_KNOWN): v.numpy() for n, v in every.items() if n.startswith(_KNOWN)}
    aggregator = create_aggregator(
        facts["aggregator"]["name"],
        in_dim=facts["in_dim"],
        classes=facts["outputs"],
        **facts["aggregator"]["options"],
    )
    endpoint = endpoint_from(facts["endpoint"])
    task = create_task(endpoint, state=facts["task"])
    graph = None if facts.get("graph") is None else GraphSettings(**facts["graph"])
    model = SlideModel(aggregator, facts["outputs"], scale=tensors["scale"].numpy(), graph=graph, free=task.free)
    model.to(tensors["head.weight"].dtype)  # float64 where it was trained so
    model.load_state_dict(tensors)
    return Bundle(model.eval(), task, endpoint, facts, known)


def read_bundle(path: str | PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and the weights of a bundle, without building its model.

    Raises:
        ConfigError: No file, not a bundle, or one of a later version.
    """
    facts, every = _read(path)
    return facts, _weights(every)


def _weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if not name.startswith(_KNOWN)}


def _read(path: str | PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"no model {path}: expected a .safetensors bundle, as 'wsikit crossval' writes into models/")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("wsikit")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except SafetensorError as e:
        raise ConfigError(f"{path}: not a model bundle: {e}") from e
    facts = json.loads(text) if text else {}
    if facts.get("format") != FORMAT:
        raise ConfigError(f"{path}: weights without wsikit's facts; expected a bundle written by wsikit")
    if facts["version"] not in READABLE:
        raise ConfigError(
            f"{path}: bundle version {facts['version']}, this wsikit reads {' and '.join(READABLE)}; update wsikit"
        )
    return facts, tensors
