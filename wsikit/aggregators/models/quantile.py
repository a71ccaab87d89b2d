"""Quantile proxy labels: a tile classifier from slide labels alone, Lerousseau et al. 2020."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import at_least_one
from wsikit.aggregators.registry import register_aggregator
from wsikit.errors import ConfigError
from wsikit.layers.packed import bag_sizes, segment_sum, segment_weighted_sum
from wsikit.layers.selection import segment_top_rows, segment_top_weights

CARD = AggregatorCard(
    name="quantile",
    summary="tile classifier taught with the extremes of its own scores; for tile maps",
    paper=(
        "Lerousseau et al. 2020, Weakly supervised multiple instance learning histopathological tumor segmentation, "
        "arXiv:2004.05024"
    ),
    repository="https://github.com/marvinler/tcga_segmentation",
    licence="AGPL-3.0",
)


@register_aggregator(CARD)
class Quantile(Aggregator):
    """A classifier of tiles, for a map of the slide, that is taught with slide labels.

    ``h = relu(W x + b)`` and the tile's logit ``t = w . h + b'``. :meth:`training_loss`: in a slide of class 0 ("no
    tumour") every tile is labelled 0; in one of class 1 the share alpha of tiles with the highest t is labelled 1,
    the share beta with the lowest 0, and the rest has no label. The loss is the mean binary cross-entropy of the
    labelled tiles, the mean over the slides. Alpha and beta are the least tumour, and the least normal tissue, that a
    tumour slide is taken to have.

    ``instance_logits`` are (0, t): their softmax is the tile's probability. The paper stops at the map; here the
    slide's logits are (0, mean of t over the alpha highest), so that the slide is predicted too and the task's loss
    acts on the same tiles. That also steadies the start: the labels are made of the scores, and alone they can
    confirm a bad beginning (one of six toy runs found the planted tiles with an AUC of 0.54; with the task's loss all
    were above 0.94). With more than two classes each class but 0 has a t of its own, labelled 0 in slides of other
    classes. With one output (a risk, a number) it is that mean, and there are no labels to teach with.

    A share of tiles is at least one tile for alpha, where the authors' code rounds down to none in a bag of less
    than ``1 / alpha`` (and divides by it), and none is labelled both.

    Args:
        in_dim: D.
        classes: C, outputs of the task; class 0 is the absence of the others.
        alpha: Above 0; 0.1 in the authors' code.
        beta: 0 in the authors' code; alpha + beta is at most 1.
        embed_dim: Width of h; the paper fine-tunes a network on pixels instead.

    Example:
        >>> output = Quantile(16)(torch.randn(30, 16))
        >>> output.instance_logits.shape, int((output.attention > 0).sum())
        (torch.Size([30, 2]), 3)
    """

    card = CARD

    def __init__(
        self, in_dim: int, *, classes: int = 2, alpha: float = 0.1, beta: float = 0.0, embed_dim: int = 256
    ) -> None:
        at_least_one("quantile", classes=classes, embed_dim=embed_dim)
        if not alpha > 0 or not beta >= 0 or alpha + beta > 1:
            raise ConfigError(
                f"aggregator 'quantile': alpha={alpha}, beta={beta}; expected alpha above 0, beta at least 0, "
                "and a sum of at most 1"
            )
        self.kinds = max(1, classes - 1)  # of tiles, beside the normal ones
        super().__init__(in_dim, self.kinds * embed_dim)
        self.outputs, self.alpha, self.beta = classes, alpha, beta
        self.project = nn.Sequential(nn.Linear(in_dim, embed_dim), nn.ReLU(inplace=True))
        self.classify = nn.Linear(embed_dim, self.kinds)

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Tile logits, and their mean over the alpha highest; see :class:`Aggregator`. Attention is (sum N, kinds)."""
        h = self.project(x)  # (sum N, E')
        logits = self.classify(h)  # (sum N, kinds)
        counts = [self.positive(size) for size in bag_sizes(offsets)]
        attention = segment_top_weights(logits, offsets, counts)  # (sum N, kinds)
        embedding = segment_weighted_sum(h, attention, offsets).flatten(1)  # (B, kinds, E') -> (B, E)
        of_slides = segment_sum(attention * logits, offsets)  # (B, kinds)
        pad = (1, 0) if self.outputs > 1 else (0, 0)  # the logit 0 of class 0
        return AggregatorOutput(
            embedding,
            attention.squeeze(1),
            bag_logits=nn.functional.pad(of_slides, pad),
            instance_logits=nn.functional.pad(logits, pad),
            extras={"logits": logits, "offsets": offsets},
        )

    def positive(self, size: int) -> int:
        """Tiles labelled 1 in a positive slide of this size."""
        return max(1, int(self.alpha * size))

    def training_loss(self, output: AggregatorOutput, target: Tensor) -> Tensor:
        """Binary cross-entropy with the proxy labels; 0 where there are no classes."""
        logits: Tensor = output.extras["logits"]  # (sum N, kinds)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = logits.new_zeros(())
        if self.outputs == 1:
            return loss
        offsets = output.extras["offsets"]
        sizes = bag_sizes(offsets)
        counts = [self.positive(size) for size in sizes]
        highest = segment_top_rows(logits, offsets, counts)
        left = [min(int(self.beta * size), size - count) for size, count in zip(sizes, counts, strict=True)]
        lowest = segment_top_rows(-logits, offsets, left)
        bags = zip(torch.split(logits, sizes), target.tolist(), highest, lowest, strict=True)
        for bag, label, high, low in bags:
            for kind in range(self.kinds):
                if label == kind + 1:
                    ones, zeros = logits[high[:, kind], kind], logits[low[:, kind], kind]
                else:
                    ones, zeros = bag[:0, kind], bag[:, kind]
                # -log sigmoid(t) = softplus(-t) where the label is 1, -log(1 - sigmoid(t)) = softplus(t) where it is 0
                loss = loss + nn.functional.softplus(torch.cat([-ones, zeros])).mean() / self.kinds
        return loss / len(sizes)
