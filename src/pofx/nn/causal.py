"""Causal convolutions without a blind spot: a picture in raster order, all at once or pixel by pixel at the same cost.

    v_0 = K_above x + P,           v_{l+1} = v_l + gate(K_down v_l)                              rows above
    h_0 = K_left x + L v_0 + P,    h_{l+1} = h_l + K_1 gate(K_right h_l + L v_{l+1} + c)         this row, to the left
    y   = K_1 silu(K_1 silu(h)),   gate(a, b) = tanh(a) sigmoid(b)

P is learnt for every place of the picture: where a pixel stands says much in small pictures. Output (i, j, k) sees the
pixels before (i, j) in raster order and the channels before k of pixel (i, j) itself, without a blind spot.

`GatedScan` keeps what every layer has already computed: v is made one row at a time, h one pixel at a time, so a whole
picture costs about one `forward`.

References: Gated PixelCNN (van den Oord 2016, arXiv:1606.05328); caches for causal convolutions (Ramachandran 2017,
arXiv:1704.06001).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entries import Size
from .masked import MaskedConv2d
from .mlp import check_condition
from .raster import PictureNet, Raster, Scan, Window, groups_of, places

SMALL = 16  # pixels a side
FIRST = 9  # the kernel of the first convolution in a picture that is larger


def gate(a: Tensor, axis: int = 1) -> Tensor:
    """tanh of the first half of the features times sigmoid of the second; (B, 2 width, ...) -> (B, width, ...)."""
    left, right = a.chunk(2, axis)
    return torch.tanh(left) * torch.sigmoid(right)


class GatedLayer(nn.Module):
    """One layer of both stacks; v and h are (B, width, H, W)."""

    def __init__(self, group: Tensor, kernel: int, c_dim: int, dropout: float) -> None:
        super().__init__()
        twice, free = torch.cat([group, group]), torch.zeros_like(group)
        self.down = MaskedConv2d(free, torch.cat([free, free]), kernel, "down")
        self.right = MaskedConv2d(group, twice, kernel, "right")
        self.link = nn.Conv2d(len(group), 2 * len(group), 1)
        self.out = MaskedConv2d(group, group, 1, "right", scale=0.3)
        self.drop = nn.Dropout2d(dropout)  # whole features: 64 numbers a row to draw, not 64 pictures
        self.condition = nn.Linear(c_dim, 4 * len(group)) if c_dim else None

    def shifts(self, c: Tensor | None) -> tuple[Tensor | float, Tensor | float]:
        """What c adds in the gates of v and of h, (B, 2 width, 1, 1) each."""
        if c is None or self.condition is None:
            return 0.0, 0.0
        above, left = self.condition(c)[:, :, None, None].chunk(2, 1)
        return above, left

    def forward(self, v: Tensor, h: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """The next v and h."""
        above, left = self.shifts(c)
        v = v + self.drop(gate(self.down(v) + above))
        return v, h + self.out(self.drop(gate(self.right(h) + self.link(v) + left)))


class GatedNet(PictureNet):
    """Two stacks of gated convolutions; each layer lets a pixel see kernel // 2 places further.

    The first convolution reads the pixels alone, which costs little, so in a large picture it is a wide one.
    """

    def __init__(self, shape: tuple[int, int, int], told: int, out: int, size: Size) -> None:
        super().__init__(shape, told, out, size)
        height, wide, _ = shape
        small = max(height, wide) <= SMALL
        width, depth, dropout, kernel = size.over(width=32, depth=4 if small else 3, dropout=0.2 if small else 0.05)
        group_in, group, group_out = groups_of(shape, told, width, out)
        self.kernel, self.c_dim, self.shape = kernel, size.c_dim, shape
        self.first = first = kernel if small else max(kernel, FIRST)
        self.above = MaskedConv2d(group_in, torch.zeros_like(group), first, "down", strict=True)
        self.left = MaskedConv2d(group_in, group, first, "right", strict=True)
        self.link = nn.Conv2d(len(group), len(group), 1)
        self.place = nn.Parameter(torch.randn(2, len(group), height, wide) * 0.1)
        self.layers = nn.ModuleList(GatedLayer(group, kernel, size.c_dim, dropout) for _ in range(depth))
        self.drop = nn.Dropout2d(dropout)
        self.head = MaskedConv2d(group, group, 1, "right")
        self.outlet = MaskedConv2d(group, group_out, 1, "right", scale=0.1)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, C F, H, W) -> (B, C out, H, W)."""
        if c is not None:
            check_condition(c, self.c_dim)
        v = self.above(x) + self.place[0]
        h = self.left(x) + self.link(v) + self.place[1]
        for layer in self.layers:
            v, h = layer(v, h, c)
        return self.outlet(self.drop(F.silu(self.head(F.silu(h)))))

    def scan(self, rows: int, c: Tensor | None = None) -> GatedScan:
        """A walk through the pixels of this many pictures."""
        return GatedScan(self, rows, c)


class GatedScan(Scan):
    """Keeps x and v of all rows and h of this row, for every layer, pixels before features."""

    def __init__(self, net: GatedNet, rows: int, c: Tensor | None = None) -> None:
        height, wide, _ = net.shape
        self.net, self.r, self.first, self.i = net, net.kernel // 2, net.first // 2, -1
        self.layers = cast(list[GatedLayer], list(net.layers))
        new, width = net.place.new_zeros, net.place.shape[1]
        self.x = new(rows, height + self.first, wide + 2 * self.first, net.above.weight.shape[1])
        self.v = [new(rows, height + self.r, wide + 2 * self.r, width) for _ in self.layers]
        self.h = [new(rows, wide + self.r, width) for _ in self.layers]
        self.shifts = [layer.shifts(c) for layer in self.layers]
        self.links: list[tuple[Tensor, ...]] = []
        self.left = Window(net.left)
        self.taps = [Window(layer.right).taps for layer in self.layers]
        mixers = [*(layer.out for layer in self.layers), net.head, net.outlet]
        self.mix = [(conv.masked[:, :, 0, 0].T.contiguous(), conv.bias) for conv in mixers]

    def put(self, i: int, j: int, told: Tensor) -> None:
        """Set the features (B, C F) of a pixel."""
        self.x[:, i + self.first, j + self.first] = told

    def at(self, i: int, j: int) -> Tensor:
        """The outputs (B, C out) of a pixel."""
        if i != self.i:
            self._start_row(i)
        h = torch.addmm(self.links[0][j], self.told[j], self.left.taps)
        for taps, (cells, windows), link, (W, b) in zip(
            self.taps, self.h_places, self.links[1:], self.mix, strict=False
        ):
            cells[j].copy_(h)
            left, right = torch.addmm(link[j], windows[j], taps).chunk(2, 1)
            h = torch.addmm(h, left.tanh().mul_(right.sigmoid()), W).add_(b)
        for W, b in self.mix[-2:]:
            h = torch.addmm(b, F.silu(h), W)
        return h

    def _start_row(self, i: int) -> None:
        """Make v of a row, and all that it and the biases add to h there."""
        net, r = self.net, self.r
        v = F.conv2d(self.x[:, i : i + self.first].permute(0, 3, 1, 2), net.above.masked, net.above.bias)
        v = v + net.place[0, :, i : i + 1]
        links = [net.link(v) + net.place[1, :, i : i + 1] + net.left.bias[:, None, None]]
        for layer, past, (above, left) in zip(self.layers, self.v, self.shifts, strict=True):
            past[:, i + r, r : r + net.shape[1]] = _lines(v)
            v = v + gate(_fitting(layer.down, past[:, i : i + r + 1].permute(0, 3, 1, 2)) + above)
            links.append(layer.link(v) + left + layer.right.bias[:, None, None])
        for past in self.h:
            past.zero_()
        self.links, self.i = [_lines(link).unbind(1) for link in links], i
        self._view()

    def _view(self) -> None:
        """Where each column of this row is, in x and in h of every layer."""
        self.told = places(self.x[:, self.i + self.first], self.first)[1]
        self.h_places = [places(past, self.r) for past in self.h]

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows of everything that is remembered, in this order."""
        self.x, self.v, self.h = self.x[rows], [v[rows] for v in self.v], [h[rows] for h in self.h]
        self.links = [tuple(place[rows] for place in link) for link in self.links]
        self.shifts = [(_rows(above, rows), _rows(left, rows)) for above, left in self.shifts]
        self._view()


class Gated(Raster):
    """Gated PixelCNN."""

    net_class = GatedNet


def _fitting(conv: MaskedConv2d, window: Tensor) -> Tensor:
    """The convolution where it fits inside the window (B, features, h, w)."""
    return F.conv2d(window, conv.masked, conv.bias)


def _lines(row: Tensor) -> Tensor:
    """One row (B, features, 1, W) as (B, W, features)."""
    return row[:, :, 0].transpose(1, 2).contiguous()


def _rows(shift: Tensor | float, rows: Tensor) -> Tensor | float:
    return shift[rows] if isinstance(shift, Tensor) else shift
