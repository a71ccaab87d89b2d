"""The configuration file: what is misspelt is named with its nearest, and paths belong to the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsikit.errors import ConfigError
from wsikit.evaluation.settings import experiment_from, load_experiment, on_devices

BASIS = """
cohort: tables/cohort.csv
stores: a.zarr
endpoint: {kind: class, column: label, classes: [0, 1]}
"""


@pytest.fixture
def write(tmp_path):
    """Writes a configuration into a folder of its own."""

    def written(text):
        (tmp_path / "configs").mkdir(exist_ok=True)
        path = tmp_path / "configs" / "grade.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


def test_paths_are_relative_to_the_file_and_not_to_where_one_stands(write, tmp_path, monkeypatch):
    path = write(BASIS + "splits: {file: splits.csv}\nout: runs/one\n")
    monkeypatch.chdir(tmp_path)
    found = load_experiment(Path("configs") / "grade.yaml")
    here = Path("configs")
    assert found.cohort == here / "tables" / "cohort.csv"
    assert found.stores == (here / "a.zarr",)
    assert found.splits.file == here / "splits.csv"
    assert found.out == here / "runs" / "one"
    assert found.name == "grade"
    assert load_experiment(path, out=Path("elsewhere")).out == Path("elsewhere")  # of the command line: as it is


def test_stores_can_be_a_list_and_absolute(write):
    far = Path(os.path.abspath(os.sep)) / "far" / "b.zarr"
    path = write(BASIS.replace("a.zarr", f"[a.zarr, '{far}']"))
    assert load_experiment(path).stores == (path.parent / "a.zarr", far)


def test_what_is_not_said_has_the_defaults_and_nothing_can_be_changed_later(write):
    found = load_experiment(write(BASIS))
    assert (found.splits.folds, found.splits.inner_folds, found.encoder) == (5, 4, "texture")
    with pytest.raises(ValueError, match="frozen"):
        found.splits.folds = 3


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            "encodr: colour",
            r"grade.yaml: no setting 'encodr'; did you mean 'encoder' or .* \(there are: cohort",
        ),
        (
            "training: {epocs: 3}",
            r"no setting 'training.epocs'; did you mean 'epochs' or 'devices'\? \(there are: epochs, optimizer, learn",
        ),
        ("splits: {inner_fold: 3}", "no setting 'splits.inner_fold'; did you mean 'inner_folds'"),
        ("splits: {folds: many}", "splits.folds is 'many': Input should be a valid integer"),
        ("splits: {folds: 1}", "splits.folds is 1: Input should be greater than or equal to 2"),
        ("training: {keep: newest}", "training.keep is 'newest': Input should be 'best' or 'last'"),
        ("training: {device: [1]}", r"training.device is \[1\]"),
        ("missing_slides: skip", "missing_slides is 'skip'"),
        ("evaluation: {bootstrap: 5}\nx: 1", "evaluation.bootstrap is 5.*; no setting 'x'"),
        ("training: 3", "training is 3: "),
        (
            "model: {graph: {kin: knn}}",
            r"no setting 'model.graph.kin'; did you mean 'kind' .*\(there are: kind, k, rad",
        ),
        (
            "model: {aggregator: clam-sb, options: {classes: 3}}",
            r"model.options is \{'classes': 3\}: .*'classes' is no option .*: training fills in the outputs of the",
        ),
        ("model: {options: {in_dim: 8}}", "'in_dim' is no option of an aggregator: training fills in the width"),
        ("model: {options: {seed: 1}}", "'seed' is no option of an aggregator: it is a setting of the training"),
        ("model: {options: {name: mean}}", "'name' is no option of an aggregator: it is the setting 'aggregator'"),
        ("model: {graph: {k: 5}}", "model.graph is .*a grid has 4 or 8 neighbours, not k=5"),
    ],
)
def test_what_is_wrong_is_named(write, more, words):
    with pytest.raises(ConfigError, match=words):
        load_experiment(write(BASIS + more))


@pytest.mark.parametrize("name", ["cohort", "stores", "endpoint"])
def test_what_is_missing_is_named(write, name):
    text = "\n".join(line for line in BASIS.splitlines() if not line.startswith(name))
    with pytest.raises(ConfigError, match=f"setting '{name}' is missing"):
        load_experiment(write(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [("- a\n- b\n", "expected settings such as .*, found list"), ("a: [1", "not YAML"), ("", "found NoneType")],
)
def test_what_is_no_configuration(write, text, words):
    with pytest.raises(ConfigError, match=words):
        load_experiment(write(text))


def test_no_file_and_keys_that_are_no_words(tmp_path):
    with pytest.raises(ConfigError, match="no configuration .*absent.yaml: expected a YAML file"):
        load_experiment(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="experiment: "):
        experiment_from({1: "cohort"})


@pytest.mark.parametrize(
    "uri", ["https://me:s3cr:et@host.org/x", "postgresql://me:s3cr@et@host.org/x", "http://me:s3/s3cr@host.org/x"]
)
def test_a_password_in_an_address_is_not_repeated(uri):
    log = {"mlflow": "experiment", "mlflow_uri": uri}
    with pytest.raises(ConfigError, match=r"log.mlflow_uri is '\w+://...@host.org/x': ") as refused:
        experiment_from({"cohort": "a.csv", "stores": "a.zarr", "endpoint": {}, "log": log})
    assert "s3cr" not in str(refused.value)
    with pytest.raises(ConfigError) as refused:
        experiment_from({"cohort": "a.csv", "stores": "a.zarr", "endpoint": {}, "log": {"mlflow_uri": uri}})
    assert "s3cr" not in str(refused.value)


def test_a_table_given_for_a_configuration_is_named(tmp_path):
    (tmp_path / "cohort.csv").write_text("slide_id,patient_id,label\na,a,0\n")
    with pytest.raises(ConfigError, match=r"cohort.csv is a table; expected a configuration .*'cohort: cohort.csv'"):
        load_experiment(tmp_path / "cohort.csv")


def test_devices_of_the_command_line_take_the_place_of_those_of_the_file():
    values = {"cohort": "c.csv", "stores": "s.zarr", "endpoint": {"kind": "class"}, "training": {"device": "cuda:1"}}
    given = experiment_from(values)
    assert on_devices(given, None, None) is given
    both = on_devices(given, 2, "cpu").training
    assert (both.devices, both.device, both.epochs) == (2, "cpu", given.training.epochs)
    with pytest.raises(ConfigError, match="2 devices, and accelerator .cuda:1. is a single one; write .*cuda"):
        on_devices(given, 2, None)
    with pytest.raises(ConfigError, match="training is .*devices is 2; write device: cuda"):
        experiment_from(values | {"training": {"device": "cuda:1", "devices": 2}})
