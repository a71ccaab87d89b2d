"""Graph models against torchmil 1.0.2 (Apache-2.0): with copied weights where it is right, and where it is not.

Its Patch-GCN is another model than the paper's: plain sums of neighbours in place of GENConv, and no residuals. Its
spectral layer has the plain Laplacian, not the normalised one, and puts its terms beside one another
by a view that mixes tiles.
"""

from __future__ import annotations

import torch

from wsikit.aggregators.models.deepgraphsurv import ChebyshevConvolution
from wsikit.aggregators.registry import create_aggregator
from wsikit.layers.message_passing import neighbours

N, DIM = 12, 6


def ring():
    """Every tile has two neighbours: edges, and the matrix of them (1, N, N)."""
    here, after = torch.arange(N), (torch.arange(N) + 1) % N
    edges = torch.stack([torch.cat([here, after]), torch.cat([after, here])])
    adjacency = torch.zeros(1, N, N, dtype=torch.float64)
    adjacency[0, edges[1], edges[0]] = 1
    return edges, adjacency


def tiles():
    return torch.randn(N, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_losses_of_gtp_are_torchmils(torchmil):
    """In a ring its convolution is ours but for a factor: a tile and two neighbours are summed there, averaged here."""
    from torchmil.models import GTP

    ours = create_aggregator("gtp", in_dim=DIM, embed_dim=DIM, nodes=4, heads=2, layers=1, seed=0).double().eval()
    theirs = GTP(in_shape=(DIM,), att_dim=8, n_clusters=4, n_heads=2).double().eval()
    theirs.gcn_conv.fc.module.weight.data = ours.weight.weight.data / 3
    theirs.gcn_conv.fc.module.bias.data = ours.bias.data
    theirs.cluster_proj.load_state_dict(ours.assign.state_dict())
    edges, adjacency = ring()
    _, losses = theirs(tiles()[None], adjacency, return_loss=True)
    torch.testing.assert_close(ours(tiles(), edges=edges).penalty[0], losses["MinCutLoss"] + losses["OrthoLoss"])


def test_the_spectral_layer_does_not_mix_tiles_as_torchmils_does(torchmil):
    """The tiles in another order are the same tiles: to ours, not to theirs."""
    from torchmil.nn.gnns.chebconv import ChebConv

    torch.manual_seed(0)
    ours, theirs = ChebyshevConvolution(DIM, 5, order=3).double(), ChebConv(DIM, 5, K=3).double()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    x, (edges, adjacency) = tiles(), ring()
    found = ours(x, neighbours(edges, N))
    again = ours(x[order], neighbours(order.argsort()[edges], N))
    torch.testing.assert_close(again, found[order])
    wrong = theirs(x[order][None], adjacency[:, order][:, :, order]) - theirs(x[None], adjacency)[:, order]
    assert wrong.abs().max() > 0.1
