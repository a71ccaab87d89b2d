"""A study's journal: killed anywhere it goes on as if nothing had happened, and it learns."""

from __future__ import annotations

import math

import pytest

from wsikit.errors import ConfigError
from wsikit.evaluation.tuning.space import Choice, Range
from wsikit.evaluation.tuning.study import SPREAD_TRIALS, Study, best_of

pytest.importorskip("optuna")
SPACE = {"rate": Range(1e-4, 1.0, True), "kind": Choice(("a", "b", None)), "depth": Range(1, 6)}
COST = {"fits": 2, "epochs": 10, "cpu_s": 0.5}


def score(values):
    """Best at rate 0.01, kind b, depth 3."""
    return -abs(math.log10(values["rate"]) + 2) - (values["kind"] != "b") - 0.2 * abs(values["depth"] - 3)


def opened(path, seed=(0, 1), first=None):
    return Study(path, "fold-1", SPACE, seed=seed, first=first)


def run(path, trials, seed=(0, 1)):
    study = opened(path, seed)
    while len(study.trials()) < trials:
        trial = study.ask()
        study.tell(trial.number, score(trial.values), COST)
    return study


def plain(study):
    return [(t.number, dict(t.values), t.score, dict(t.cost), t.problem) for t in study.trials()]


def test_opened_again_after_every_trial_it_proposes_the_same(tmp_path):
    whole = plain(run(tmp_path / "whole.log", 16))
    for trials in range(1, 17):
        parts = run(tmp_path / "parts.log", trials)
    assert plain(parts) == whole
    assert plain(run(tmp_path / "other.log", 16, seed=(0, 2))) != whole
    assert len({str(values) for _, values, *_ in whole}) == 16


def test_a_trial_under_way_is_found_with_its_settings(tmp_path):
    study = run(tmp_path / "j.log", 10)
    asked = study.ask()
    again = opened(tmp_path / "j.log")
    last = again.trials()[-1]
    assert (last.number, last.values, last.finished, last.score) == (10, asked.values, False, None)
    again.tell(10, None, COST, "diverged")
    failed = opened(tmp_path / "j.log").trials()[-1]
    assert (failed.finished, failed.score, failed.problem) == (True, None, "diverged")


def test_a_line_that_was_cut_short_is_taken_off_wherever_it_was_cut(tmp_path):
    study = run(tmp_path / "whole.log", 4)
    whole, text = plain(study), (tmp_path / "whole.log").read_bytes()
    start = text.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(start + 1, len(text), 17):
        path = tmp_path / f"cut-{cut}.log"
        path.write_bytes(text[:cut])
        mended = opened(path)
        assert plain(mended)[:3] == whole[:3]
        assert not mended.trials()[3].finished  # its result was in the line
        mended.tell(3, score(whole[3][1]), COST)
        assert plain(opened(path)) == whole


def test_it_learns(tmp_path):
    """After the points that are spread out, proposals are better than those, for most seeds."""
    better = 0
    for seed in range(5):
        scores = [t.score for t in run(tmp_path / f"{seed}.log", 24, seed=(seed,)).trials()]
        better += sum(scores[16:]) / 8 > sum(scores[:SPREAD_TRIALS]) / SPREAD_TRIALS + 0.3
    assert better >= 4


def test_the_first_trial_is_the_settings_as_they_are(tmp_path):
    first = {"rate": 0.5, "kind": None, "depth": 6}
    study = opened(tmp_path / "j.log", first=first)
    assert study.ask().values == first
    assert study.ask().values != first


def test_the_best_is_the_first_of_equals_and_never_a_failed_one(tmp_path):
    study = opened(tmp_path / "j.log")
    for value in (None, 0.5, 0.7, 0.7, 0.9):
        study.tell(study.ask().number, value, COST, "" if value else "no")
    trials = study.trials()
    assert best_of(trials, 4).number == 2
    assert best_of(trials, 5).number == 4
    assert best_of(trials, 1) is None


def test_what_is_no_journal_is_named(tmp_path):
    (tmp_path / "j.log").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"j\.log: not a journal of Optuna's"):
        opened(tmp_path / "j.log")
