"""Masked bodies: every output is a function of earlier inputs only.

    y_j = f_j(x_{i : rank(i) < rank(j)}, c)

`MaskedMLP` gives every hidden unit a degree m in -1 .. D - 2 (it sees inputs of rank <= m, outputs of rank > m see it):
units of degree -1 see c alone, so that the first output is not a bare linear function of c. `MaskedConv2d` is one
causal convolution of a picture in raster order; the bodies for pictures are made of it.

References: MADE (Germain 2015, arXiv:1502.03509); ResMADE (Nash 2019, arXiv:1904.05626); Gated PixelCNN
(van den Oord 2016, arXiv:1606.05328).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .mlp import Modulation


class MaskedLinear(nn.Linear):
    """A linear layer whose weight is multiplied by a fixed mask of shape (out, in)."""

    mask: Tensor

    def __init__(self, mask: Tensor, scale: float = 1.0) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)
        fan = mask.sum(1, keepdim=True).clamp_min(1)  # the inputs that are really seen
        with torch.no_grad():
            self.weight.normal_().mul_(scale / fan.sqrt())
            self.bias.zero_()

    @property
    def masked(self) -> Tensor:
        """The weight (out, in), zero where nothing may be seen."""
        return self.weight * self.mask

    def forward(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """x (..., in) -> (..., out), or only the given rows of the output."""
        return F.linear(x, self.weight[rows] * self.mask[rows], self.bias[rows])

    def columns(self, x: Tensor) -> Tensor:
        """x (in, B) -> (out, B)."""
        return torch.addmm(self.bias[:, None], self.masked, x)


class MaskedBlock(nn.Module):
    """h + W_2 silu(W_1 silu(M_c(h))), where a unit sees the units of its degree and below."""

    def __init__(self, degree: Tensor, c_dim: int, dropout: float) -> None:
        super().__init__()
        mask = degree[:, None] >= degree[None, :]
        self.modulate = Modulation(c_dim, len(degree))
        self.first, self.second = MaskedLinear(mask), MaskedLinear(mask, scale=0.3)
        self.drop = nn.Dropout(dropout)

    def forward(self, h: Tensor, c: Tensor | None) -> Tensor:
        return h + self.drop(self.second(F.silu(self.first(F.silu(self.modulate(h, c))))))


class MaskedMLP(nn.Module):
    """(B, sum sizes_in), c (B, c_dim) -> (B, sum sizes_out); output group j sees input groups before j in `order`.

    Args:
        sizes_in, sizes_out: features of each group, in the groups' own (not the order's) numbering.
        width, depth: hidden units and residual blocks.
        order: the groups in the order in which they are generated, a permutation; None is 0, 1, 2, ...
        c_dim: size of the condition, 0 for none.
        dropout: probability inside each block.
    """

    degree: Tensor  # of every hidden unit, ascending

    def __init__(
        self,
        sizes_in: Sequence[int],
        sizes_out: Sequence[int],
        width: int,
        depth: int,
        order: Sequence[int] | None = None,
        c_dim: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        d = len(sizes_in)
        self.order = list(range(d)) if order is None else [int(i) for i in order]
        if len(sizes_out) != d or sorted(self.order) != list(range(d)):
            raise ValueError(f"order: got {self.order} for {d} and {len(sizes_out)} groups; expected a permutation.")
        self.sizes_in, self.sizes_out, self.c_dim = list(sizes_in), list(sizes_out), c_dim
        rank = torch.argsort(torch.tensor(self.order))
        rank_in, rank_out = (rank.repeat_interleave(torch.tensor(s)) for s in (self.sizes_in, self.sizes_out))
        degree = (torch.arange(width) * d) // width - 1
        self.register_buffer("degree", degree, persistent=False)
        self.inlet = MaskedLinear(degree[:, None] >= rank_in[None, :])
        self.blocks = nn.ModuleList(MaskedBlock(degree, c_dim, dropout) for _ in range(depth))
        self.modulate = Modulation(c_dim, width)
        self.outlet = MaskedLinear(rank_out[:, None] > degree[None, :])
        # with fewer units than groups some dependence has no path through the hidden layer: give it a direct one
        self.direct = MaskedLinear(rank_out[:, None] > rank_in[None, :], scale=0.1) if width < d else None

    def forward(self, x: Tensor, c: Tensor | None = None, group: int | None = None) -> Tensor:
        """x (B, sum sizes_in) -> (B, sum sizes_out), or (B, sizes_out[group]) of one output group."""
        h = self.inlet(x)
        for block in self.blocks:
            h = block(h, c)
        h, rows = F.silu(self.modulate(h, c)), self._rows(group)
        y = self.outlet(h, rows)
        return y if self.direct is None else y + self.direct(x, rows)

    def _rows(self, group: int | None) -> slice:
        if group is None:
            return slice(None)
        start = sum(self.sizes_out[:group])
        return slice(start, start + self.sizes_out[group])


class MaskedConv2d(nn.Module):
    """A causal convolution for raster order, computed on the taps that may be seen and no others.

    `direction="down"` reads rows i - r .. i and columns j - r .. j + r (r = kernel // 2), or rows up to i - 1 where it
    is `strict`. `direction="right"` reads columns j - r .. j of the same row; at j itself, output group g sees input
    groups <= g, or < g where it is `strict`. `direction="raster"` reads what both read: the rows above and, to the
    left, this one.

    Args:
        group_in, group_out: the channel group of every input and output feature, shape (features,).
    """

    mask: Tensor | None  # None: every tap may be seen

    def __init__(
        self, group_in: Tensor, group_out: Tensor, kernel: int, direction: str, strict: bool = False, scale: float = 1.0
    ) -> None:
        super().__init__()
        if direction not in ("down", "right", "raster") or kernel % 2 == 0:
            raise ValueError(
                f"got {direction!r}, kernel={kernel}; expected 'down', 'right' or 'raster', and an odd kernel."
            )
        r = kernel // 2
        shape = {"down": (r if strict else r + 1, kernel), "right": (1, r + 1), "raster": (r + 1, kernel)}[direction]
        self.padding = (r, 0, 0, 0) if direction == "right" else (r, r, r, 0)
        self.crop = direction == "down" and strict
        if shape[0] == 0:
            raise ValueError("kernel: got 1, expected at least 3 where rows above are to be seen.")
        mask = torch.ones(len(group_out), len(group_in), *shape)
        if direction != "down":
            mask[..., -1, r:] = 0.0
            mask[..., -1, r] = seen(group_in, group_out, strict)
        self.register_buffer("mask", None if bool(mask.all()) else mask, persistent=False)
        fan = mask.flatten(1).sum(1).clamp_min(1)[:, None, None, None]
        self.weight = nn.Parameter(torch.randn(mask.shape) * scale / fan.sqrt())
        self.bias = nn.Parameter(torch.zeros(len(group_out)))

    @property
    def masked(self) -> Tensor:
        """The weight (features_out, features_in, h, w), zero where nothing may be seen."""
        return self.weight if self.mask is None else self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        """(B, features_in, H, W) -> (B, features_out, H, W)."""
        x = F.pad(x, self.padding)
        return F.conv2d(x[:, :, :-1] if self.crop else x, self.masked, self.bias)


def seen(group_in: Tensor, group_out: Tensor, strict: bool = False) -> Tensor:
    """The mask (features_out, features_in) inside a pixel: groups up to one's own, or before it where strict."""
    see = group_out[:, None] > group_in[None, :] if strict else group_out[:, None] >= group_in[None, :]
    return see.float()
