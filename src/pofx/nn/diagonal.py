"""Diagonal BiLSTM: two recurrences along the diagonals of a picture, which between them see every earlier pixel.

    x_0 = K_A x + P
    left  (i, j):  [o, f, i, g] = K x_l + W (h_{i, j-1}, h_{i-1, j})             what stands above and to the left
    right (i, j):  the same from right to left, on pixel (i - 1, j)              what stands above and to the right
    x_{l+1} = x_l + K_1 h_left + K_1 h_right,          y = K_1 relu(K_1 relu(x_L))

All pixels of a diagonal are computed at once. The right one is read a row later, so that it never sees what is still to
come. It also reads the pixels themselves: the stream at (i - 1, j) does not know pixel (i - 1, j), and the last pixel
of the row above would else be seen by nobody.

References: PixelRNN (van den Oord 2016, arXiv:1601.06759, sections 3.2 and 3.4).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entries import Size
from .masked import MaskedLinear, seen
from .raster import Raster
from .recurrence import Recurrence, diagonals_of, gates
from .rows import Stem, StemScan, dropped


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.back = back
        return _rows(x, there)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return _rows(grad, ctx.back), None, None


def moved(x: Tensor, there: Tensor, back: Tensor) -> Tensor:
    """Rows of x (P, ...) at `there` (P,), none of them twice; 0 where it is P. `back` is the way back.

    So the gradient is a selection too, where that of an index adds row by row.
    """
    return _Move.apply(x, there, back)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    found = x.index_select(0, index.clamp(max=len(x) - 1))
    return found.index_fill_(0, (index == len(x)).nonzero()[:, 0], 0.0)


class DiagonalLayer(nn.Module):
    """One layer on pixels (H W, B, 2 width), diagonal by diagonal."""

    def __init__(self, outside: Tensor, inside: Tensor, pixel: int, c_dim: int, dropout: float) -> None:
        super().__init__()
        width = len(inside)
        self.left = MaskedLinear(seen(outside, inside.repeat(4)))
        self.right = nn.Linear(len(outside) + pixel, 4 * width)  # a row above: nothing of it is to come
        self.state = Recurrence(2, width, (0, -1))
        self.out_left, self.out_right = MaskedLinear(seen(inside, outside)), nn.Linear(width, len(outside))
        self.drop = nn.Dropout(dropout)
        self.condition = nn.Linear(c_dim, 8 * width) if c_dim else None
        with torch.no_grad():
            self.left.bias[width : 2 * width] = self.right.bias[width : 2 * width] = 1.0  # remember, to begin with

    def shift(self, c: Tensor | None) -> Tensor | None:
        """What c adds to the gates of both, (2, B, 4 width)."""
        if c is None or self.condition is None:
            return None
        return torch.stack(self.condition(c).chunk(2, -1))

    def forward(self, x: Tensor, c: Tensor | None, net: DiagonalNet) -> Tensor:
        """The next x, from x (H W, B, 2 width + C F), the last of which are the pixels themselves and stay."""
        extra = x.shape[-1] - self.left.in_features
        both = torch.stack([x, moved(x, net.mirror, net.mirror)])
        inlet = torch.stack([F.pad(self.left.masked.T, (0, 0, 0, extra)), self.right.weight.T])
        bias, shift = torch.stack([self.left.bias, self.right.bias])[:, None], self.shift(c)
        pre = torch.baddbmm(bias, both.flatten(1, 2), inlet).unflatten(1, x.shape[:2])
        h = self.state(pre if shift is None else pre + shift[:, None], net.lines, net.shape[0])
        h = dropped(h, self.drop)
        later = moved(h[1], net.later, net.earlier)
        W, b = torch.cat([self.out_left.masked, self.out_right.weight], 1), self.out_left.bias + self.out_right.bias
        return x + F.linear(torch.cat([h[0], later], -1), F.pad(W, (0, 0, 0, extra)), F.pad(b, (0, extra)))


class DiagonalNet(Stem):
    """`depth` layers of `width` units in each direction.

    Pixels stand in the order of the diagonals. `mirror` is where the pixel is that has the same place in the picture
    seen in a mirror; `later` is where the right one has the pixel above, H W for none, and `earlier` the way back.
    """

    order: Tensor
    rank: Tensor
    mirror: Tensor
    later: Tensor
    earlier: Tensor

    def __init__(self, shape: tuple[int, int, int], told: int, out: int, size: Size) -> None:
        super().__init__(shape, told, out, size)
        pixel, (height, wide, _) = len(self.group_in), shape
        self.layers = nn.ModuleList(
            DiagonalLayer(self.outside, self.inside, pixel, size.c_dim, self.dropout) for _ in range(self.depth)
        )
        self.lines, order = diagonals_of(height, wide)
        rank = order.argsort()
        mirrored = order + wide - 1 - 2 * (order % wide)
        above = torch.where(order < wide, height * wide, rank[(mirrored - wide).clamp_min(0)])
        below = torch.full_like(above, height * wide)
        below[above[above < height * wide]] = (above < height * wide).nonzero()[:, 0]
        places = {"order": order, "rank": rank, "mirror": rank[mirrored], "later": above, "earlier": below}
        for name, index in places.items():
            self.register_buffer(name, index, persistent=False)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, C F, H, W) -> (B, C out, H, W)."""
        h = torch.cat([self.begin(x, c), x.permute(2, 3, 0, 1)], -1).flatten(0, 1)
        h = moved(h, self.order, self.rank)
        for layer in self.layers:
            h = layer(h, c, self)
        y = moved(self.end(h[..., : len(self.outside)]), self.rank, self.order)
        return y.unflatten(0, x.shape[2:]).permute(2, 3, 0, 1)

    def scan(self, rows: int, c: Tensor | None = None) -> DiagonalScan:
        """A walk through the pixels of this many pictures."""
        return DiagonalScan(self, rows, c)


class DiagonalScan(StemScan):
    """Keeps, for each layer, both directions' h and c of the row above and the left one's of this row.

    The right ones go through a row once all of it is known, all layers side by side.
    """

    def __init__(self, net: DiagonalNet, rows: int, c: Tensor | None = None) -> None:
        super().__init__(net, rows)
        self.layers = layers = cast(list[DiagonalLayer], list(net.layers))
        wide, width, depth, new = net.shape[1], len(net.inside), len(layers), net.place.new_zeros
        self.h, self.c = (new(depth, rows, wide + 1, width) for _ in range(2))  # column 0 is outside
        self.back_h, self.back_c = (new(depth, wide + 1, rows, width) for _ in range(2))  # column W is outside
        self.stream = new(depth, wide, rows, len(net.outside))
        shifts = [layer.shift(c) for layer in layers]
        self.shift = new(depth, 2, 1, 4 * width) if shifts[0] is None else torch.stack(cast(list[Tensor], shifts))
        self.left = [(layer.left.masked.T.contiguous(), layer.left.bias) for layer in layers]
        self.out = [(layer.out_left.masked.T.contiguous(), layer.out_left.bias) for layer in layers]
        self.states = torch.stack([layer.state.weight for layer in layers], 1)  # (2, depth, 2 width, 4 width)
        self.above_h, self.later = self.h, [new(0)] * depth

    def start_row(self, i: int) -> None:
        """Take the right ones through the row above, which is known by now."""
        wide = self.net.shape[1]
        self.above_h = self.h.clone()
        if i > 0:
            r = self.first.r
            pixels = self.x[:, i + r - 1, r : r + wide].transpose(0, 1).expand(len(self.layers), -1, -1, -1)
            told = torch.cat([self.stream, pixels], -1)
            pre = torch.stack([layer.right(t) for layer, t in zip(self.layers, told, strict=True)])
            pre = pre + self.shift[:, None, 1]
            for j in reversed(range(wide)):
                past = torch.cat([self.back_h[:, j + 1], self.back_h[:, j]], -1)
                a = torch.baddbmm(pre[:, j], past, self.states[1])
                self.back_h[:, j], self.back_c[:, j] = gates(a, self.back_c[:, j + 1])
        self.later = [layer.out_right(h[:wide]) for layer, h in zip(self.layers, self.back_h, strict=True)]

    def layers_at(self, j: int, h: Tensor) -> Tensor:
        """The stream (B, 2 width) of column j through all layers."""
        for k, (W, b) in enumerate(self.left):
            self.stream[k, j] = h
            past = torch.cat([self.h[k, :, j], self.above_h[k, :, j + 1]], -1)
            a = torch.addmm(b, h, W) + self.shift[k, 0] + past @ self.states[0, k]
            self.h[k, :, j + 1], self.c[k, :, j + 1] = state, _ = gates(a, self.c[k, :, j])
            U, u = self.out[k]
            h = h + torch.addmm(u, state, U) + self.later[k][j]
        return h

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows of everything that is remembered, in this order."""
        super().reorder(rows)
        self.h, self.c, self.above_h = (t[:, rows] for t in (self.h, self.c, self.above_h))
        self.back_h, self.back_c, self.stream = (t[:, :, rows] for t in (self.back_h, self.back_c, self.stream))
        self.later = [t[:, rows] if t.ndim > 1 else t for t in self.later]
        self.shift = self.shift if self.shift.shape[2] == 1 else self.shift[:, :, rows]


class DiagonalBiLSTM(Raster):
    """PixelRNN by diagonals, in both directions."""

    net_class = DiagonalNet
