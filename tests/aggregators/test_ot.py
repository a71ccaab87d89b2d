"""Optimal transport: the plan against a solver of linear programs and its own conditions, the embedding written out."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError
from wsikit.layers.sinkhorn import log_transport
from wsikit.testing.aggregator_contract import check_aggregator


def example(rows: int, columns: int) -> torch.Tensor:
    return torch.rand(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_plan_meets_both_margins_and_the_condition_of_the_best_one() -> None:
    """The best plan is ``exp((K + f_i + g_j) / epsilon)``: its logarithm less K / epsilon is a sum of a row's and a
    column's number, so that its mixed differences are 0."""
    similarity = example(7, 3)
    log_plan = log_transport(similarity, epsilon=0.3, iterations=300)
    plan = log_plan.exp()
    torch.testing.assert_close(plan.sum(0), torch.full((3,), 1 / 3, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(1), torch.full((7,), 1 / 7, dtype=torch.float64))
    rest = log_plan - similarity / 0.3
    torch.testing.assert_close(rest.diff(dim=0).diff(dim=1), torch.zeros(6, 2, dtype=torch.float64))


def test_with_little_entropy_it_is_the_linear_program() -> None:
    similarity = example(6, 3)
    margins = np.zeros((9, 18))
    for i in range(6):
        for j in range(3):
            margins[i, 3 * i + j] = margins[6 + j, 3 * i + j] = 1
    best = linprog(-similarity.numpy().flatten(), A_eq=margins, b_eq=[1 / 6] * 6 + [1 / 3] * 3)
    plan = log_transport(similarity, epsilon=0.002, iterations=5_000).exp()
    assert float((plan * similarity).sum()) == pytest.approx(-best.fun, abs=1e-4)


def test_a_small_epsilon_does_not_underflow_in_float32() -> None:
    log_plan = log_transport(example(50, 4).float(), epsilon=1e-3, iterations=10)
    assert log_plan.isfinite().all()
    torch.testing.assert_close(log_plan.exp().sum(0), torch.full((4,), 0.25))


def test_embedding_is_that_of_the_equations() -> None:
    options = {"embed_dim": 5, "references": 3, "epsilon": 0.2, "iterations": 4}
    model = create_aggregator("ot", in_dim=4, seed=0, **options).double().eval()
    x, offsets = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), [0, 1, 6, 9]
    output = model(x, offsets=torch.tensor(offsets))
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    references = state["references"] / np.linalg.norm(state["references"], axis=1, keepdims=True)
    for b, (start, end) in enumerate(pairwise(offsets)):
        h = np.maximum(0, x[start:end].numpy() @ state["project.weight"].T + state["project.bias"])
        h = h / np.linalg.norm(h, axis=1, keepdims=True)
        kernel = np.exp(h @ references.T / 0.2)
        v = np.ones(3)
        for _ in range(4):  # Sinkhorn as it is usually written, rows then columns
            u = 1 / len(h) / (kernel @ v)
            v = 1 / 3 / (kernel.T @ u)
        plan = u[:, None] * kernel * v
        expected = np.sqrt(3) * np.concatenate([plan[:, j] @ h for j in range(3)])
        np.testing.assert_allclose(output.embedding[b].detach().numpy(), expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(output.attention[start:end].detach().numpy(), 3 * plan, rtol=0, atol=1e-12)


def test_epsilon_must_be_above_zero() -> None:
    with pytest.raises(ConfigError, match="epsilon=0; expected above 0"):
        create_aggregator("ot", in_dim=4, epsilon=0)


@pytest.mark.parametrize("options", [{"references": 3, "epsilon": 0.01}])
def test_contract_holds_with_other_options(options: dict[str, object]) -> None:
    check_aggregator(partial(create_aggregator, "ot", in_dim=24, **options))
