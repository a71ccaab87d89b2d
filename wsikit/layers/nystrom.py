"""Self-attention of a long sequence through a few landmarks: the Nystrom method of Xiong et al. 2021."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def landmark_means(x: Tensor, landmarks: int) -> Tensor:
    """Means over consecutive segments of nearly equal length: (..., N, d) -> (..., landmarks, d), N >= landmarks.

    Where ``landmarks`` does not divide N, the first segments are one row longer.

    Example:
        >>> landmark_means(torch.tensor([[0.0], [2.0], [3.0]]), 2).flatten()
        tensor([1., 3.])
    """
    size, longer = divmod(x.shape[-2], landmarks)
    split = longer * (size + 1)
    first, rest = torch.split(x, [split, x.shape[-2] - split], dim=-2)  # one gradient for both, unlike two slices
    first = torch.unflatten(first, -2, (longer, size + 1)).mean(-2)
    rest = torch.unflatten(rest, -2, (landmarks - longer, size)).mean(-2)
    return torch.cat([first, rest], dim=-2)


def pseudo_inverse(a: Tensor, *, iterations: int = 6, shared_scale: bool = False) -> Tensor:
    """The Moore-Penrose inverse of non-negative matrices by matrix products alone (Xiong et al. 2021).

    ``Z_0 = A^T / (|A|_1 |A|_inf)``, then ``Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4``.

    Args:
        a: (M, m, m), such as softmaxes.
        iterations: 6 in the paper. Each one raises the residual ``I - A Z`` to its third power and more, so
            small singular values need more of them than large ones.
        shared_scale: One scale for all M, from the largest norms among them, as the authors' code does.

    Returns:
        (M, m, m).

    Example:
        >>> a = torch.eye(2)[None] * 0.5 + 0.25
        >>> (pseudo_inverse(a) @ a).round(decimals=4)[0]
        tensor([[1., 0.],
                [0., 1.]])
    """
    largest = a.sum(-2).amax(-1), a.sum(-1).amax(-1)  # |A|_1 and |A|_inf, each (M,)
    scale = largest[0].amax() * largest[1].amax() if shared_scale else (largest[0] * largest[1])[:, None, None]
    z = a.mT / scale
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    for _ in range(iterations):
        minus_az = -a @ z
        inner = torch.baddbmm(3.75 * eye, minus_az, 1.75 * eye + 0.25 * minus_az)
        z = z @ torch.baddbmm(3.25 * eye, minus_az, inner)
    return z


class NystromAttention(nn.Module):
    """Multi-head self-attention of one sequence in time and memory proportional to its length.

    With Q' and K' the means of Q and K over m segments (the landmarks), for each head of width d:

    ``out = softmax(Q K'^T / sqrt d) pinv(softmax(Q' K'^T / sqrt d)) softmax(Q' K^T / sqrt d) V + conv(V)``

    where ``conv`` is a convolution along the sequence with one kernel per head. The product is taken from the
    right: both long softmaxes are then plain attention (of the landmarks to the sequence, and of the
    sequence to the landmarks), and no matrix of N x m is kept for the backward pass.

    A sequence shorter than m has a landmark for every row, and is attended to exactly (up to the iterations).

    Args:
        dim: E, the width in and out.
        heads: H; d = E / H.
        landmarks: m.
        iterations: Of :func:`pseudo_inverse`.
        kernel: Width of the convolution, odd.
        dropout: In training, on the output.
        zero_padding: As the code that TransMIL was published with: rows of zeros are put before the
            sequence until m divides its length, zeros are attended to like any row, and the
            pseudo-inverse is scaled alike in all heads. False: segments differ in length by one row.

    Example:
        >>> NystromAttention(16, heads=2, landmarks=4)(torch.zeros(10, 16)).shape
        torch.Size([10, 16])

    Reference:
        Xiong et al. 2021, Nystromformer: A Nystrom-based Algorithm for Approximating Self-Attention,
        arXiv:2102.03902, section 3; compared with https://github.com/lucidrains/nystrom-attention (MIT).
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 8,
        landmarks: int = 256,
        iterations: int = 6,
        kernel: int = 33,
        dropout: float = 0.1,
        zero_padding: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.landmarks, self.iterations, self.zero_padding = heads, landmarks, iterations, zero_padding
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.convolution = nn.Conv2d(heads, heads, (kernel, 1), groups=heads, bias=False)
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor, *, first: int | None = None) -> Tensor:
        """(N, E) -> (N, E), or its ``first`` rows alone, (first, E), for less than half of the work."""
        x, begin, end = self._rows(x, first)
        key, value = (self._heads(part) for part in self.key_value(x).chunk(2, dim=1))  # (H, N, d)
        attended = self._attend(x, key, value, begin, end) + self._convolve(value, begin, end)  # (H, rows out, d)
        out: Tensor = self.out(attended.transpose(0, 1).flatten(1))
        return out

    def carry(self, marks: Tensor, x: Tensor, *, first: int | None = None) -> Tensor:
        """One number per row, (N,), in the place of the values: mean over the heads, (N,) or (first,).

        The product of the three matrices is what the layer computes with, so it is what is carried: its rows sum to 1
        (up to the iterations), and hold negative numbers where the approximation does. The convolution is no attention.
        """
        x, begin, end = self._rows(x, first)
        key = self._heads(F.linear(x, self.key_value.weight[: x.shape[1]]))  # (H, N, d)
        marks = F.pad(marks, (begin, 0)).to(key.dtype)[None, :, None].expand(self.heads, -1, 1)
        # As wide as a query, for torch's fused attention.
        return self._attend(x, key, F.pad(marks, (0, key.shape[2] - 1)), begin, end)[:, :, 0].mean(0)

    def _rows(self, x: Tensor, first: int | None) -> tuple[Tensor, int, int]:
        """The sequence as it is attended to, and which of its rows are asked for."""
        begin = -len(x) % self.landmarks if self.zero_padding else 0
        end = begin + (len(x) if first is None else first)
        return F.pad(x, (0, 0, begin, 0)) if begin else x, begin, end

    def _attend(self, x: Tensor, key: Tensor, value: Tensor, begin: int, end: int) -> Tensor:
        """The three matrices times the values: (N, E) and (H, N, d) -> (H, rows out, d)."""
        landmarks = min(self.landmarks, len(x))
        means = landmark_means(x, landmarks)  # (m, E); the mean of W x is W times the mean
        query = self._heads(self.query(x if end - begin == len(x) else x[begin:end]))  # (H, rows out, d)
        query_means = self._heads(self.query(means))  # (H, m, d)
        key_means = landmark_means(key, landmarks)
        inverse = self._inverse(query_means, key_means)  # (H, m, m)
        seen = F.scaled_dot_product_attention(query_means[None], key[None], value[None])[0]  # (H, m, d)
        return F.scaled_dot_product_attention(query[None], key_means[None], (inverse @ seen.to(inverse))[None])[0]

    def _heads(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, 1, (self.heads, -1)).transpose(0, 1)  # (rows, E) -> (H, rows, d)

    def _inverse(self, query: Tensor, key: Tensor) -> Tensor:
        # In float32 under autocast: the iteration squares its own rounding errors.
        with torch.autocast(query.device.type, enabled=False):
            query, key = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (query, key))
            scores = query @ key.mT / query.shape[-1] ** 0.5
            return pseudo_inverse(scores.softmax(-1), iterations=self.iterations, shared_scale=self.zero_padding)

    def _convolve(self, value: Tensor, begin: int, end: int) -> Tensor:
        reach = self.convolution.kernel_size[0] // 2
        low, high = max(begin - reach, 0), min(end + reach, value.shape[1])
        window = value if high - low == value.shape[1] else value[:, low:high]
        weight = self.convolution.weight
        convolved = F.conv2d(window[None], weight, padding=(reach, 0), groups=self.heads)[0]  # (H, high - low, d)
        return convolved if end - begin == high - low else convolved[:, begin - low : end - low]
