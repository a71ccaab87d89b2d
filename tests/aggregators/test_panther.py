"""PANTHER's mixture against its equations in loops, against scikit-learn, and where rounding would break it."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError
from wsikit.testing.aggregator_contract import check_aggregator


def by_equations(x: np.ndarray, m: np.ndarray, v: np.ndarray, tau: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """EM in loops over instances and prototypes: the embedding, and the last shares (N, p)."""
    count, width = m.shape
    pi, mu, variance = np.full(count, 1 / count), m.copy(), v.copy()
    for _ in range(steps):
        share = np.empty((len(x), count))
        for n in range(len(x)):
            for k in range(count):
                density = np.prod(
                    np.exp(-((x[n] - mu[k]) ** 2) / (2 * variance[k])) / np.sqrt(2 * math.pi * variance[k])
                )
                share[n, k] = pi[k] * density
            share[n] /= share[n].sum()
        weight = share.sum(0) + tau
        pi, mu, variance = weight / weight.sum(), np.empty_like(m), np.empty_like(v)
        for k in range(count):
            mu[k] = (share[:, k] @ x + tau * m[k]) / weight[k]
            variance[k] = (share[:, k] @ x**2 + tau * (v[k] + m[k] ** 2)) / weight[k] - mu[k] ** 2
    assert variance.shape == (count, width)
    return np.concatenate([pi, mu.flatten(), variance.flatten()]), share


@pytest.mark.parametrize("steps", [1, 3])
def test_output_is_that_of_the_equations(steps: int) -> None:
    options = {"embed_dim": 3, "prototypes": 4, "steps": steps, "tau": 0.7, "variance": 0.5}
    model = create_aggregator("panther", in_dim=5, seed=0, **options).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.means += torch.randn(4, 3, dtype=torch.float64, generator=generator)
        model.raw_variances += torch.randn(4, 3, dtype=torch.float64, generator=generator)
    x, offsets = torch.randn(12, 5, dtype=torch.float64, generator=generator), [0, 1, 6, 12]
    output = model(x, offsets=torch.tensor(offsets))
    v = 0.5 * np.log1p(np.exp(model.raw_variances.detach().numpy()))
    projected = model.project(x).detach().numpy()
    for b, (start, end) in enumerate(pairwise(offsets)):
        expected, share = by_equations(projected[start:end], model.means.detach().numpy(), v, 0.7, steps)
        np.testing.assert_allclose(output.embedding[b].detach().numpy(), expected, rtol=1e-9, atol=1e-11)
        attention = output.attention[start:end].detach().numpy()
        np.testing.assert_allclose(attention, share / share.sum(0), rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Best performing initialization did not converge")
def test_with_next_to_no_prior_it_is_the_mixture_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    x = np.concatenate([generator.normal(centre, 1 + centre / 9, (200, 2)) for centre in (0, 3, 9)])
    start = np.array([[0.0, 1.0], [4.0, 3.0], [8.0, 9.0]])
    reference = GaussianMixture(
        3, covariance_type="diag", max_iter=25, tol=0, reg_covar=0, means_init=start,
        weights_init=[1 / 3] * 3, precisions_init=np.ones((3, 2)),
    ).fit(x)  # fmt: skip
    model = create_aggregator("panther", in_dim=2, prototypes=3, steps=25, tau=1e-12, seed=0).double()
    model.set_prototypes(torch.tensor(start))
    found = model(torch.tensor(x)).embedding[0].detach().numpy()
    expected = np.concatenate([reference.weights_, reference.means_.flatten(), reference.covariances_.flatten()])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_features_far_from_zero_keep_their_variances_in_float32() -> None:
    """Variances are differences of squares: of numbers about 1000, float32 keeps none of the digits of 0.01."""
    model = create_aggregator("panther", in_dim=3, prototypes=2, seed=0)
    x = 1000 + 0.1 * torch.randn(400, 3, generator=torch.Generator().manual_seed(1))
    model.set_prototypes(torch.full((2, 3), 1000.0))
    single = model(x).embedding[0, -6:]
    torch.testing.assert_close(single.double(), model.double()(x.double()).embedding[0, -6:], rtol=1e-3, atol=0)


def test_prototypes_that_are_set_stay_unless_learned() -> None:
    model = create_aggregator("panther", in_dim=3, prototypes=2, seed=0)
    centres = torch.arange(6.0).reshape(2, 3)
    model.set_prototypes(centres)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(model.means, torch.nn.Parameter(centres, requires_grad=False))
    model.set_prototypes(centres, learn=True)
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ConfigError, match=r"prototypes of shape \(3, 2\); expected \(2, 3\)"):
        model.set_prototypes(centres.T)


def test_weight_of_the_prior_must_be_above_zero() -> None:
    with pytest.raises(ConfigError, match="tau=0; expected above 0"):
        create_aggregator("panther", in_dim=3, tau=0)


@pytest.mark.parametrize("options", [{"embed_dim": 8, "steps": 3, "tau": 0.001}])
def test_contract_holds_with_other_options(options: dict[str, object]) -> None:
    check_aggregator(partial(create_aggregator, "panther", in_dim=24, **options))
