"""The pseudo-inverse against torch.linalg, landmarks of unequal segments, and attention that must come out exact."""

import pytest
import torch

from wsikit.layers.nystrom import NystromAttention, landmark_means, pseudo_inverse


def test_pseudo_inverse_converges_to_that_of_linear_algebra() -> None:
    scores = torch.randn(3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = (2 * scores).softmax(-1)
    a[2, 5] = a[2, 4]  # singular
    errors = [
        float((pseudo_inverse(a, iterations=n) - torch.linalg.pinv(a)).abs().max() / torch.linalg.pinv(a).abs().max())
        for n in (6, 20)
    ]
    assert errors[1] < 1e-9 < errors[0] < 1


def test_scale_is_that_of_each_matrix_unless_shared() -> None:
    a = torch.randn(2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).softmax(-1)
    both = pseudo_inverse(a, iterations=3)
    torch.testing.assert_close(both[:1], pseudo_inverse(a[:1], iterations=3))
    shared = pseudo_inverse(a, iterations=3, shared_scale=True)
    assert (shared - both).abs().max() > 1e-3


@pytest.mark.parametrize("rows", [4, 7, 8, 11])
def test_landmarks_are_means_of_segments_that_differ_by_one_row_at_most(rows: int) -> None:
    x = torch.randn(2, rows, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(rows))
    expected = torch.stack([part.mean(1) for part in torch.tensor_split(x, 4, dim=1)], dim=1)
    torch.testing.assert_close(landmark_means(x, 4), expected)


def test_with_a_landmark_for_every_row_it_is_plain_attention() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = NystromAttention(8, heads=2, landmarks=64, iterations=40, dropout=0.0).double().eval()
        x = 3 * torch.randn(9, 8, dtype=torch.float64)
    with torch.no_grad():
        layer.convolution.weight.zero_()
        layer.out[0].weight.copy_(torch.eye(8))
        layer.out[0].bias.zero_()
        query, (key, value) = layer.query(x), layer.key_value(x).chunk(2, dim=1)
        for head in range(2):
            columns = slice(4 * head, 4 * head + 4)
            weights = (query[:, columns] @ key[:, columns].T / 2).softmax(-1)
            torch.testing.assert_close(layer(x)[:, columns], weights @ value[:, columns], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("zero_padding", [False, True])
@pytest.mark.parametrize("first", [1, 3])
def test_first_rows_alone_are_those_of_all_rows(first: int, zero_padding: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = NystromAttention(8, heads=2, landmarks=6, zero_padding=zero_padding).double().eval()
        x = torch.randn(40, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x, first=first), layer(x)[:first], rtol=1e-12, atol=1e-12)
