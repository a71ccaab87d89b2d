"""ILRA-MIL against its equations written out with torch's own multi-head attention, weights copied, in float64."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from wsikit.aggregators.models.ilra import GatedAttention
from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError
from wsikit.testing.aggregator_contract import check_aggregator


def by_torch(block: GatedAttention, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The authors' form: projections, then nn.MultiheadAttention, then a residual, a layer and a gate."""
    width = block.project.out_features
    attention = nn.MultiheadAttention(width, block.heads, dtype=x.dtype)
    with torch.no_grad():
        eye = torch.eye(width, dtype=x.dtype)  # keys and values are projected once, before it
        attention.in_proj_weight.copy_(torch.cat([block.query.weight, eye, eye]))
        attention.in_proj_bias.copy_(torch.cat([block.query.bias, torch.zeros(2 * width)]))
        attention.out_proj.load_state_dict(block.out.state_dict())
        projected = block.project(x)
        attended, weights = attention(projected, y @ block.key.weight.T, block.value(y))
        h = block.norm1(projected + attended)
        h = block.norm2(h + torch.relu(block.feed_forward(h)))
        if block.gate is not None:
            gate = block.gate(x)
            h = h * gate * torch.sigmoid(gate)
    return h, weights


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("rank", [1, 3])
def test_output_is_that_of_the_equations(rank: int, layer_norm: bool) -> None:
    options = {"embed_dim": 8, "heads": 2, "rank": rank, "layers": 2, "layer_norm": layer_norm}
    model = create_aggregator("ilra", in_dim=4, seed=0, **options).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x, offsets = 2 * torch.randn(9, 4, dtype=torch.float64, generator=generator), [0, 1, 6, 9]
    output = model(x, offsets=torch.tensor(offsets))
    for b, (start, end) in enumerate(pairwise(offsets)):
        h = x[start:end]
        for low_rank in model.blocks:
            latent, _ = by_torch(low_rank.down, low_rank.latent, h)
            h, _ = by_torch(low_rank.up, h, latent)
        z, weights = by_torch(model.pooling, model.global_query, h)
        torch.testing.assert_close(output.embedding[b], z[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(output.attention[start:end], weights[0], rtol=0, atol=1e-12)


def test_width_must_be_a_multiple_of_the_heads() -> None:
    with pytest.raises(ConfigError, match="embed_dim=30; expected a multiple of heads=8"):
        create_aggregator("ilra", in_dim=4, embed_dim=30)


@pytest.mark.parametrize("options", [{"rank": 3, "layers": 1, "layer_norm": False}])
def test_contract_holds_with_other_options(options: dict[str, object]) -> None:
    check_aggregator(partial(create_aggregator, "ilra", in_dim=24, **options))
