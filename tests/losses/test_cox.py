"""Cox's partial likelihood against lifelines' fits and against the formula written out."""

from __future__ import annotations

import subprocess
import sys

import lifelines
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lifelines.datasets import load_gbsg2, load_rossi

from wsikit.errors import ConfigError
from wsikit.losses import cox_partial_likelihood


def rossi():
    return load_rossi().astype(float), "week", "arrest"


def gbsg2():
    return pd.get_dummies(load_gbsg2(), drop_first=True).astype(float), "time", "cens"


@pytest.fixture(scope="module", params=[rossi, gbsg2], ids=["rossi", "gbsg2"])
def fit(request):
    """(name, log risk at lifelines' fit, time, event, lifelines' own log-likelihood)."""
    table, time, event = request.param()
    cox = lifelines.CoxPHFitter().fit(table, time, event)
    log_risk = torch.tensor(cox.predict_log_partial_hazard(table).to_numpy())
    return request.param.__name__, log_risk, torch.tensor(table[time]), torch.tensor(table[event]), cox.log_likelihood_


# lifelines 0.30.3. Breslow at the same coefficients, by its formula summed up in NumPy float64.
EFRON = {"rossi": 658.747659446, "gbsg2": 1735.732104259}
BRESLOW = {"rossi": 659.120739218, "gbsg2": 1735.818421910}


def test_efron_is_lifelines_likelihood(fit):
    name, log_risk, time, event, expected = fit
    found = cox_partial_likelihood(log_risk, time, event).item()
    assert found == pytest.approx(-expected, rel=1e-10)  # lifelines reports it before its last, tiny step
    assert found == pytest.approx(EFRON[name], abs=1e-6)
    mean = cox_partial_likelihood(log_risk, time, event, reduction="mean").item()
    assert mean == pytest.approx(found / event.sum().item(), rel=1e-12)


def test_breslow_is_its_formula(fit):
    name, log_risk, time, event, _ = fit
    found = cox_partial_likelihood(log_risk, time, event, ties="breslow").item()
    eta, time = log_risk.numpy(), time.numpy()
    terms = [np.log(np.exp(eta[time >= time[i]]).sum()) - eta[i] for i in np.flatnonzero(event)]
    assert found == pytest.approx(sum(terms), rel=1e-12)
    assert found == pytest.approx(BRESLOW[name], abs=1e-6)


def test_the_gradient_is_zero_at_the_fit():
    table, time, event = rossi()
    fitted = lifelines.CoxPHFitter().fit(table, time, event).params_
    weights = torch.tensor(fitted.to_numpy(), requires_grad=True)
    x = torch.tensor(table[fitted.index].to_numpy())
    cox_partial_likelihood(x @ weights, torch.tensor(table[time]), torch.tensor(table[event])).backward()
    assert weights.grad.abs().max() < 1e-3
    assert x.abs().sum(0).max() > 1e3  # so a thousandth is small


def slow_efron(log_risk, time, event):
    """The formula, one patient at a time."""
    total = 0.0
    for moment in sorted({t for t, e in zip(time, event, strict=True) if e}):
        dying = [r for r, t, e in zip(log_risk, time, event, strict=True) if e and t == moment]
        at_risk = sum(np.exp(r) for r, t in zip(log_risk, time, strict=True) if t >= moment)
        total += sum(dying)
        for number in range(len(dying)):
            total -= np.log(at_risk - number / len(dying) * sum(np.exp(r) for r in dying))
    return -total


patients = st.lists(st.tuples(st.floats(-8, 8), st.integers(1, 4), st.booleans()), min_size=1, max_size=25).filter(
    lambda rows: any(event for _, _, event in rows)
)


@given(rows=patients, seed=st.integers(0, 99))
def test_equals_the_formula_whatever_the_order_and_the_shift(rows, seed):
    log_risk, time, event = zip(*rows, strict=True)
    columns = torch.tensor(log_risk, dtype=torch.float64), torch.tensor(time), torch.tensor(event)
    found = cox_partial_likelihood(*columns).item()
    assert found == pytest.approx(slow_efron(log_risk, time, event), rel=1e-9, abs=1e-9)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    assert cox_partial_likelihood(*(c[order] for c in columns)).item() == pytest.approx(found, rel=1e-12, abs=1e-12)
    shifted = cox_partial_likelihood(columns[0] + 1000, *columns[1:]).item()
    assert shifted == pytest.approx(found, rel=1e-9, abs=1e-9)
    breslow = cox_partial_likelihood(*columns, ties="breslow").item()
    if len({t for _, t, e in rows if e}) == sum(event):
        assert breslow == pytest.approx(found, rel=1e-12, abs=1e-12)
    else:
        assert breslow > found


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_gradients_are_those_of_the_formula(ties):
    draw = torch.Generator().manual_seed(0)
    log_risk = torch.randn(14, dtype=torch.float64, generator=draw).requires_grad_()
    time = torch.randint(1, 5, (14,), generator=draw)
    event = torch.rand(14, generator=draw) < 0.7
    event[time == 4] = True  # everyone at risk dies at once: the tied part is the whole
    assert torch.autograd.gradcheck(lambda r: cox_partial_likelihood(r, time, event, ties=ties), (log_risk,))


@pytest.mark.parametrize("scores", [[1e4, 0.0, 0.0, 0.0], [120.0, 0.0, 0.0, 0.0], [-1e4, 1e4, 0.0, 5.0]])
@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_extreme_scores_keep_their_likelihood_and_gradient(scores, ties):
    log_risk = torch.tensor(scores, requires_grad=True)
    time, event = torch.tensor([1.0, 2.0, 2.0, 3.0]), torch.tensor([True, True, True, False])
    loss = cox_partial_likelihood(log_risk, time, event, ties=ties)
    loss.backward()
    assert loss.isfinite()
    assert log_risk.grad.isfinite().all()
    assert abs(log_risk.grad.sum().item()) < 1e-5  # only differences of log risks count
    if scores[0] > 100:  # the first is certain to be the first; the rest are as if alone
        rest = 2 * np.log(3) if ties == "breslow" else np.log(3) + np.log(2)
        assert loss.item() == pytest.approx(rest, abs=1e-5)
        alone = torch.zeros(3, requires_grad=True)
        cox_partial_likelihood(alone, time[1:], event[1:], ties=ties).backward()
        torch.testing.assert_close(log_risk.grad[1:], alone.grad)


def test_autocast_does_not_reach_it():
    draw = torch.Generator().manual_seed(1)
    log_risk = torch.randn(500, generator=draw)
    time, event = torch.rand(500, generator=draw) + 0.1, torch.rand(500, generator=draw) < 0.5
    plain = cox_partial_likelihood(log_risk, time, event)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = cox_partial_likelihood(log_risk, time, event)
    assert inside.dtype == torch.float32
    assert inside == plain
    half = cox_partial_likelihood(log_risk.bfloat16(), time, event)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(plain.item(), rel=1e-3)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"event": torch.zeros(3)}, "needs at least one event; found none among 3 patients"),
        ({"event": torch.tensor([0.0, 1.0, 2.0])}, "event of row 2 is 2.0; it must be 0 or 1"),
        ({"event": torch.tensor([0.0, torch.nan, 1.0])}, "event of row 1 is nan"),
        ({"time": torch.tensor([1.0, 0.0, 2.0])}, "time of row 1 is 0.0; it must be above 0"),
        ({"time": torch.tensor([1.0, 1.0, torch.nan])}, "time of row 2 is nan"),
        ({"time": torch.ones(4)}, r"must all be of shape \(P,\); found \(3,\), \(4,\), \(3,\)"),
        ({"log_risk": torch.zeros(3, 1)}, r"found \(3, 1\), \(3,\), \(3,\)"),
        ({"log_risk": torch.tensor([0.0, torch.inf, 0.0])}, "log_risk of row 1 is inf.*diverged"),
        ({"log_risk": torch.zeros(3, dtype=torch.int64)}, "floating-point tensor; found torch.int64"),
        ({"ties": "effron"}, "no ties 'effron'; did you mean 'efron'"),
        ({"reduction": "none"}, "no reduction 'none'"),
    ],
)
def test_what_is_refused(change, match):
    arguments = {"log_risk": torch.zeros(3), "time": torch.ones(3), "event": torch.ones(3)} | change
    with pytest.raises(ConfigError, match=match):
        cox_partial_likelihood(**arguments)


def test_importing_the_losses_does_not_load_torch():
    code = "import sys, wsikit.losses as l; assert 'torch' not in sys.modules; print(l.cox_partial_likelihood.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "cox_partial_likelihood\n", done.stderr
