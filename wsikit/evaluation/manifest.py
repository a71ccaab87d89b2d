"""``run.json``: all that a result depends on, so that it can be repeated and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wsikit.aggregators.registry import aggregator_source
from wsikit.cohort.bags import Bags
from wsikit.cohort.endpoints import endpoint_settings
from wsikit.cohort.splits import Splits
from wsikit.cohort.table import Cohort
from wsikit.config import config_hash
from wsikit.evaluation.settings import Experiment
from wsikit.evaluation.tuning.folds import tuning_facts
from wsikit.provenance import sha256_file, versions
from wsikit.training.settings import graph_of

DISTRIBUTIONS = ("wsikit", "torch", "numpy", "scikit-learn", "lifelines", "lightning-fabric", "zarr", "scipy")


def build_manifest(experiment: Experiment, cohort: Cohort, splits: Splits, bags: Bags) -> dict[str, Any]:
    """Plain values for ``run.json``.

    ``store digest`` covers every tile and feature that was used; ``splits hash`` every role of every
    patient. Two runs with equal hashes and versions on a CPU give equal numbers.
    """
    settings = experiment.model_dump(mode="json", exclude={"out", "name", "cohort", "stores", "tune", "log"})
    if experiment.model.init is not None:  # its content is what counts, and where it lay is nobody's business
        settings["model"]["init"] = {"file": experiment.model.init.name, "sha256": sha256_file(experiment.model.init)}
    graph = graph_of(experiment.model)
    digests = {
        slide.slide_id: slide.store.digest(slide.slide_id, bags.encoder) for mine in cohort.slides for slide in mine
    }
    example = cohort.slides[0][0]
    return {
        "format": "wsikit-run",
        "version": "1",
        "name": experiment.name,
        "settings": settings,
        "tuning": tuning_facts(experiment),
        "cohort": {
            "table": experiment.cohort.name,
            "table sha256": sha256_file(experiment.cohort),
            "rows": cohort.rows,
            "patients": len(cohort),
            "slides": cohort.n_slides,
            "tiles": int(bags.sizes.sum()),
            "excluded": cohort.excluded,
        },
        "endpoint": endpoint_settings(cohort.endpoint),
        "stores": [path.name for path in experiment.stores],
        "store digest": config_hash(digests),
        "encoder": cohort.encoder,
        "graph": None if graph is None else graph.model_dump(mode="json"),
        "tiling": example.store.configuration,
        "splits hash": splits.hash,
        "splits": dict(splits.made),
        "patients of roles": {
            f"fold {i}": {role: config_hash(list(getattr(fold, role))) for role in ("train", "validation", "test")}
            for i, fold in enumerate(splits.folds)
        },
        "aggregator": aggregator_source(experiment.model.aggregator),
        "versions": versions(DISTRIBUTIONS),
    }


def bundle_facts(cohort: Cohort, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What every bundle of a run records: how its features were made, and which run it is from."""
    example = cohort.slides[0][0]
    return {
        "encoder": example.store.encoder(example.slide_id, cohort.encoder),
        "configuration": example.store.configuration,
        "configuration-hash": example.store.attributes["configuration-hash"],
        "thresholds": {},
        **{name: manifest[name] for name in ("splits hash", "store digest", "versions")},
    }
