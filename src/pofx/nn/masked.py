"""Masked bodies: every output is a function of earlier inputs only.

    y_j = f_j(x_{i : rank(i) < rank(j)}, c)

`MaskedMLP` gives every hidden unit a degree m in -1 .. D - 2 (it sees inputs of rank <= m, outputs of rank > m see it):
units of degree -1 see c alone, so that the first output is not a bare linear function of c. `MaskedConvNet` is the same
for pictures in raster order: a vertical stack reads the rows above, a horizontal stack the row to the left and the
vertical stack, so that there is no blind spot. Inside one pixel, channel k sees the channels before k.

References: MADE (Germain 2015, arXiv:1502.03509); ResMADE (Nash 2019, arXiv:1904.05626); Gated PixelCNN
(van den Oord 2016, arXiv:1606.05328).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .mlp import Modulation, check_condition


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

    def forward(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """x (..., in) -> (..., out), or only the given rows of the output."""
        return F.linear(x, self.weight[rows] * self.mask[rows], self.bias[rows])


class _MaskedBlock(nn.Module):
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
        self.inlet = MaskedLinear(degree[:, None] >= rank_in[None, :])
        self.blocks = nn.ModuleList(_MaskedBlock(degree, c_dim, dropout) for _ in range(depth))
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
    groups <= g, or < g where it is `strict`.

    Args:
        group_in, group_out: the channel group of every input and output feature, shape (features,).
    """

    mask: Tensor | None  # None: every tap may be seen

    def __init__(
        self, group_in: Tensor, group_out: Tensor, kernel: int, direction: str, strict: bool = False, scale: float = 1.0
    ) -> None:
        super().__init__()
        if direction not in ("down", "right") or kernel % 2 == 0:
            raise ValueError(
                f"got direction={direction!r}, kernel={kernel}; expected 'down' or 'right' and an odd kernel."
            )
        r = kernel // 2
        down = direction == "down"
        shape = (r if strict else r + 1, kernel) if down else (1, r + 1)
        self.padding = (r, r, r, 0) if down else (r, 0, 0, 0)
        self.crop = down and strict
        if shape[0] == 0:
            raise ValueError("kernel: got 1, expected at least 3 where rows above are to be seen.")
        mask = torch.ones(len(group_out), len(group_in), *shape)
        if not down:
            see = group_out[:, None] > group_in[None, :] if strict else group_out[:, None] >= group_in[None, :]
            mask[..., 0, -1] = see.to(mask.dtype)
        self.register_buffer("mask", None if bool(mask.all()) else mask, persistent=False)
        fan = mask.flatten(1).sum(1).clamp_min(1)[:, None, None, None]
        self.weight = nn.Parameter(torch.randn(mask.shape) * scale / fan.sqrt())
        self.bias = nn.Parameter(torch.zeros(len(group_out)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, features_in, H, W) -> (B, features_out, H, W)."""
        x = F.pad(x, self.padding)
        return F.conv2d(
            x[:, :, :-1] if self.crop else x, self.weight if self.mask is None else self.weight * self.mask, self.bias
        )


class _GatedLayer(nn.Module):
    """One layer of both stacks: h and v of shape (B, width, H, W)."""

    def __init__(self, group: Tensor, kernel: int, c_dim: int, dropout: float) -> None:
        super().__init__()
        twice, free = torch.cat([group, group]), torch.zeros_like(group)
        self.down = MaskedConv2d(free, torch.cat([free, free]), kernel, "down")
        self.right = MaskedConv2d(group, twice, kernel, "right")
        self.link = nn.Conv2d(2 * len(group), 2 * len(group), 1)  # v holds rows above only: no mask is needed
        self.out = MaskedConv2d(group, group, 1, "right", scale=0.3)
        self.drop = nn.Dropout(dropout)
        self.condition = nn.Linear(c_dim, 4 * len(group)) if c_dim else None

    def forward(self, v: Tensor, h: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        a = self.down(v)
        b = self.right(h) + self.link(a)
        if c is not None and self.condition is not None:
            shift_v, shift_h = self.condition(c)[:, :, None, None].chunk(2, 1)
            a, b = a + shift_v, b + shift_h
        return v + self.drop(_gate(a)), h + self.out(self.drop(_gate(b)))


def _gate(a: Tensor) -> Tensor:
    left, right = a.chunk(2, 1)
    return torch.tanh(left) * torch.sigmoid(right)


class MaskedConvNet(nn.Module):
    """(B, C F, H, W), c (B, c_dim) -> (B, C out, H, W), causal in raster order and in the channels of a pixel.

    Features are channel-major: features k F .. (k + 1) F - 1 belong to channel k, and outputs likewise.

    Args:
        channels_in: C, the channels of a pixel, generated in order.
        features_per_channel: F, features that describe one channel of one pixel (for example its scaled value).
        out_per_channel: numbers that are wanted for one channel of one pixel.
        width: hidden features of each stack, rounded up to a multiple of C.
        depth: gated layers; the receptive field grows by kernel // 2 each.
        kernel: odd, at least 3.
        c_dim: size of the condition, 0 for none.
        dropout: probability inside each layer.
    """

    def __init__(
        self,
        channels_in: int,
        features_per_channel: int,
        out_per_channel: int,
        width: int,
        depth: int,
        kernel: int = 5,
        c_dim: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        per = -(-width // channels_in)
        channel = torch.arange(channels_in)
        group, group_in = channel.repeat_interleave(per), channel.repeat_interleave(features_per_channel)
        self.c_dim = c_dim
        self.down = MaskedConv2d(group_in, torch.zeros_like(group), kernel, "down", strict=True)
        self.right = MaskedConv2d(group_in, group, kernel, "right", strict=True)
        self.link = nn.Conv2d(len(group), len(group), 1)
        self.layers = nn.ModuleList(_GatedLayer(group, kernel, c_dim, dropout) for _ in range(depth))
        self.head = MaskedConv2d(group, group, 1, "right")
        self.outlet = MaskedConv2d(group, channel.repeat_interleave(out_per_channel), 1, "right")

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, C F, H, W) -> (B, C out, H, W)."""
        if c is not None:
            check_condition(c, self.c_dim)
        v = self.down(x)
        h = self.right(x) + self.link(v)
        for layer in self.layers:
            v, h = layer(v, h, c)
        return self.outlet(F.silu(self.head(F.silu(h))))
