"""All that a training would lose with its process, written after every epoch and read again bit for bit.

The file is safetensors, as a bundle is: no code in it, tensors by name, and one JSON text in its metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsikit.aggregators.registry import aggregator_source
from wsikit.cohort.bags import Bags
from wsikit.cohort.endpoints import Endpoint, Target, endpoint_settings
from wsikit.cohort.several_outcomes import SeveralTarget
from wsikit.config import config_hash, differences
from wsikit.errors import ConfigError
from wsikit.provenance import sha256_file, versions
from wsikit.store.objects import write_atomic
from wsikit.training.epoch import Epoch
from wsikit.training.model import SlideModel
from wsikit.training.settings import ModelSettings, TrainingSettings
from wsikit.training.steps import rng_state, set_rng_state

FORMAT = "wsikit-checkpoint"
VERSION = "1"
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Moving:
    """What a step changes.

    Attributes:
        net: The model.
        optimizer: Its moments.
        schedule: How far the learning rate is.
        rng: Draws the order of patients and the tiles of a step.
        fabric: Whose precision may hold a loss scale.
    """

    net: SlideModel
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    rng: np.random.Generator
    fabric: Any


def identity_of(
    bags: Bags,
    endpoint: Endpoint,
    target: Target,
    *,
    train: Rows,
    validation: Rows,
    model: ModelSettings,
    training: TrainingSettings,
) -> dict[str, Any]:
    """Everything that decides the bits of a training, as plain values: equal ones give equal weights.

    Features are known by the records of their stores, outcomes by a hash.
    """

    def group(rows: Rows) -> dict[str, str]:
        digests = [bags.digest(row) for row in rows.tolist()]
        outcome = hashlib.sha256()
        for content in _contents(target.take(rows)):
            outcome.update(content)
        return {"features": config_hash(digests), "outcomes": outcome.hexdigest(), "patients": str(len(rows))}

    given = None if model.init is None else sha256_file(model.init)
    alone = {"devices"} if training.devices == 1 else set()  # what one device did before there could be several
    return {
        "model": model.model_dump(mode="json") | {"init": given},
        "code": aggregator_source(model.aggregator)["sha256"],
        "training": training.model_dump(mode="json", exclude=alone),
        "endpoint": endpoint_settings(endpoint),
        "encoder": bags.encoder,
        "train": group(train),
        "validation": group(validation),
        "versions": versions(("wsikit", "torch", "numpy")),
    }


def _contents(value: Any) -> Iterator[bytes]:
    """Every array and value of an outcome, or of several."""
    if isinstance(value, SeveralTarget):
        yield repr(value.names).encode()
        for part in value.parts:
            yield part.known.tobytes()
            yield from _contents(part.target)
        return
    for field in fields(value):
        one = getattr(value, field.name)
        yield one.tobytes() if isinstance(one, np.ndarray) else repr(one).encode()


def save_checkpoint(
    path: Path,
    moving: Moving,
    identity: Mapping[str, Any],
    *,
    history: Sequence[Epoch],
    best: int,
    kept: Mapping[str, Tensor],
) -> None:
    """Write a checkpoint; it replaces the one before as a whole, or not at all.

    Of several ranks all call this, and the first writes, with the generators of all.

    Args:
        path: The file.
        moving: As it is after the last epoch of ``history``.
        identity: From :func:`identity_of`.
        history: Every epoch so far.
        best: Number of the epoch whose weights are kept.
        kept: These weights.
    """
    from safetensors.torch import save

    generators = _generators(moving.fabric)
    if moving.fabric.global_rank:
        return
    state = moving.optimizer.state_dict()
    tensors = {f"model.{name}": value for name, value in moving.net.state_dict().items()}
    if best != len(history):
        tensors |= {f"kept.{name}": value for name, value in kept.items()}
    tensors |= {f"optimizer.{i}.{name}": v for i, mine in state["state"].items() for name, v in mine.items()}
    tensors |= generators
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "identity": identity,
        "history": [asdict(epoch) for epoch in history],
        "best": best,
        "groups": state["param_groups"],
        "schedule": moving.schedule.state_dict(),
        "rng": moving.rng.bit_generator.state,
        "precision": moving.fabric.strategy.precision.state_dict(),
    }
    whole = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    write_atomic(path, save(whole, metadata={"wsikit": json.dumps(facts)}))


def history_of(path: Path) -> tuple[Epoch, ...]:
    """Every epoch that a checkpoint has behind it; none where there is no such file."""
    return tuple(Epoch(**epoch) for epoch in _read(path)[0]["history"]) if path.is_file() else ()


def load_checkpoint(
    path: Path, moving: Moving, identity: Mapping[str, Any]
) -> tuple[list[Epoch], int, dict[str, Tensor]]:
    """Put everything back as it was after the last epoch that was written.

    Args:
        path: The file.
        moving: Freshly built with the same settings; changed here.
        identity: Of the training that is to go on.

    Returns:
        Every epoch so far, the number of that whose weights are kept, and these weights.

    Raises:
        ConfigError: Not a checkpoint, of a later version, or of another training: every difference is named.
    """
    facts, tensors = _read(path)
    other = differences(facts["identity"], json.loads(json.dumps(identity)))
    if other:
        raise ConfigError(
            f"{path} is of another training: {'; '.join(other)}; put that back to go on with it, name another folder, "
            "or remove the file to begin anew"
        )

    def part(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(name): value for key, value in tensors.items() if key.startswith(name)}

    weights = part("model.")
    moving.net.load_state_dict(weights)
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer.").items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    moving.optimizer.load_state_dict({"state": state, "param_groups": facts["groups"]})
    moving.schedule.load_state_dict(facts["schedule"])
    moving.rng.bit_generator.state = facts["rng"]
    moving.fabric.strategy.precision.load_state_dict(facts["precision"])
    of = _of_rank(moving.fabric.global_rank)
    set_rng_state((tensors[f"rng.cpu{of}"], tensors.get(f"rng.device{of}")), moving.fabric.device)
    return [Epoch(**epoch) for epoch in facts["history"]], int(facts["best"]), part("kept.") or weights


def _generators(fabric: Any) -> dict[str, Tensor]:
    """State of torch's generators in every rank, by name."""
    states = [rng_state(fabric.device)]
    if fabric.world_size > 1:
        mine = [None if one is None else one.cpu() for one in states[0]]
        every: list[Any] = [None] * fabric.world_size
        torch.distributed.all_gather_object(every, mine)
        states = every
    found: dict[str, Tensor] = {}
    for rank, (cpu, device) in enumerate(states):
        found |= {f"rng.cpu{_of_rank(rank)}": cpu}
        found |= {} if device is None else {f"rng.device{_of_rank(rank)}": device}
    return found


def _of_rank(number: int) -> str:
    return f".{number}" if number else ""


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("wsikit", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except SafetensorError as e:
        raise ConfigError(f"{path}: not a checkpoint: {e}; remove it to begin anew") from e
    if facts.get("format") != FORMAT or facts.get("version") != VERSION:
        raise ConfigError(
            f"{path}: found format {facts.get('format')!r} version {facts.get('version')!r}, expected {FORMAT!r} "
            f"version {VERSION!r}; remove it to begin anew"
        )
    return facts, tensors
