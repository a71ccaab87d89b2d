"""Top-k pooling against its definition, with sorted lists."""

from itertools import pairwise

import pytest
import torch

from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError

OFFSETS = [0, 1, 6, 18]


@pytest.mark.parametrize(
    ("options", "counts"), [({"k": 1}, [1, 1, 1]), ({"k": 3}, [1, 3, 3]), ({"share": 0.7}, [1, 5, 9])]
)
def test_output_is_that_of_the_definition(options: dict[str, float], counts: list[int]) -> None:
    options = {"k": 1, "embed_dim": 5, "classes": 3} | options
    if "share" in options:
        counts = [max(1, -int(-options["share"] * size // 1)) for size in (1, 5, 12)]  # rounded up
    model = create_aggregator("topk", in_dim=4, seed=0, **options).double().eval()
    x = torch.randn(18, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    output = model(x, offsets=torch.tensor(OFFSETS))
    weight, bias = model.classify.weight, model.classify.bias
    h = (x @ model.project[0].weight.T + model.project[0].bias).clamp(min=0)
    for b, (start, end) in enumerate(pairwise(OFFSETS)):
        for c in range(3):
            logits = {row: (h[row] @ weight[c] + bias[c]).item() for row in range(start, end)}
            best = sorted(logits, key=logits.__getitem__, reverse=True)[: counts[b]]
            assert output.bag_logits[b, c].item() == pytest.approx(sum(logits[row] for row in best) / len(best))
            mean = sum(h[row] for row in best) / len(best)
            torch.testing.assert_close(output.embedding[b, c], mean)
            assert {row + start for row in output.attention[start:end, c].nonzero().flatten().tolist()} == set(best)
            assert output.instance_logits[start:end, c].tolist() == pytest.approx(list(logits.values()))


def test_only_the_chosen_learn() -> None:
    model = create_aggregator("topk", in_dim=4, seed=0, k=2, classes=1)
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    output = model(x)
    output.bag_logits.sum().backward()
    assert torch.equal(x.grad.any(dim=1), output.attention[:, 0] > 0)
    assert (output.attention > 0).sum() == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "'topk': k=0; expected at least 1"),
        ({"share": 1.0}, "'topk': share=1.0; expected at least 0 and below 1"),
        ({"classes": 0}, "'topk': classes=0; expected at least 1"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_aggregator("topk", in_dim=4, **options)
