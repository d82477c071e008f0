"""Row LSTM: rows of a picture from top to bottom, each pixel remembering a triangle of the rows above it.

    x_0 = K_A x + P,     [o, f, i, g] = K_is * x_l + K_ss * h_{row above} + c,     x_{l+1} = x_l + K_1 h_l
    y   = K_1 relu(K_1 relu(x_L))

K_is reads this row up to the pixel itself, for the whole picture in one product; K_ss reads three places of the row
above, so that layer upon layer and row upon row a triangle of earlier pixels is seen.

References: PixelRNN (van den Oord 2016, arXiv:1601.06759, sections 3.1 and 3.4).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entries import Size
from .masked import MaskedConv2d, MaskedLinear, seen
from .mlp import check_condition
from .raster import PictureNet, Raster, Scan, Window, groups_of, places
from .recurrence import Recurrence, gates, leftward, rows_of

FIRST = 7  # the kernel of K_A


class RowLayer(nn.Module):
    """One layer on pixels (H, W, B, 2 width)."""

    def __init__(self, outside: Tensor, inside: Tensor, kernel: int, c_dim: int, dropout: float) -> None:
        super().__init__()
        width, self.taps = len(inside), kernel // 2 + 1
        here = seen(outside, inside.repeat(4))
        self.inlet = MaskedLinear(torch.cat([torch.ones_like(here).repeat(1, self.taps - 1), here], 1))
        self.state = Recurrence(1, width, tuple(range(-(kernel // 2), kernel // 2 + 1)))
        self.out = MaskedLinear(seen(inside, outside))
        self.drop = nn.Dropout(dropout)
        self.condition = nn.Linear(c_dim, 4 * width) if c_dim else None
        with torch.no_grad():
            self.inlet.bias[width : 2 * width] = 1.0  # remember, to begin with

    def shift(self, c: Tensor | None) -> Tensor | float:
        """What c adds to the gates, (B, 4 width)."""
        return 0.0 if c is None or self.condition is None else self.condition(c)

    def forward(self, x: Tensor, c: Tensor | None) -> Tensor:
        """The next x."""
        height, wide = x.shape[:2]
        pre = self.inlet(leftward(x, self.taps)) + self.shift(c)
        h = self.state(pre.flatten(0, 1).unsqueeze(0), rows_of(height, wide), wide)
        return x + self.out(dropped(h[0], self.drop)).unflatten(0, (height, wide))


def dropped(h: Tensor, drop: nn.Dropout) -> Tensor:
    """Leave out whole features of a picture: h (..., pixels, B, width)."""
    return h * drop(torch.ones_like(h[..., :1, :, :])) if drop.training and drop.p else h


class Stem(PictureNet):
    """What both recurrent nets share: the first convolution, the residual stream of 2 width features, the head."""

    def __init__(self, shape: tuple[int, int, int], told: int, out: int, size: Size) -> None:
        super().__init__(shape, told, out, size)
        self.width, self.depth, self.dropout, self.kernel = size.over(width=32, depth=2, dropout=0.05)
        group_in, self.inside, group_out = groups_of(shape, told, self.width, out)
        self.outside = outside = self.inside.repeat_interleave(2)
        self.group_in, self.c_dim, self.shape = group_in, size.c_dim, shape
        self.inlet = MaskedConv2d(group_in, outside, FIRST, "raster", strict=True)
        self.place = nn.Parameter(torch.randn(len(outside), *shape[:2]) * 0.1)
        self.head = MaskedLinear(seen(outside, outside), scale=1.4)
        self.outlet = MaskedLinear(seen(outside, group_out), scale=0.1)

    def begin(self, x: Tensor, c: Tensor | None) -> Tensor:
        """x (B, C F, H, W) as the stream (H, W, B, 2 width)."""
        if c is not None:
            check_condition(c, self.c_dim)
        return (self.inlet(x) + self.place).permute(2, 3, 0, 1).contiguous()

    def end(self, h: Tensor) -> Tensor:
        """The stream (..., 2 width) as outputs (..., C out)."""
        return self.outlet(F.relu(self.head(F.relu(h))))


class RowLSTMNet(Stem):
    """`depth` layers of `width` units."""

    def __init__(self, shape: tuple[int, int, int], told: int, out: int, size: Size) -> None:
        super().__init__(shape, told, out, size)
        self.layers = nn.ModuleList(
            RowLayer(self.outside, self.inside, self.kernel, size.c_dim, self.dropout) for _ in range(self.depth)
        )

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, C F, H, W) -> (B, C out, H, W)."""
        h = self.begin(x, c)
        for layer in self.layers:
            h = layer(h, c)
        return self.end(h).permute(2, 3, 0, 1)

    def scan(self, rows: int, c: Tensor | None = None) -> RowScan:
        """A walk through the pixels of this many pictures."""
        return RowScan(self, rows, c)


class StemScan(Scan):
    """The first convolution, one pixel at a time, and the rows of the stream that the layers still need."""

    def __init__(self, net: Stem, rows: int) -> None:
        height, wide, _ = net.shape
        self.net, self.i, self.first = net, -1, Window(net.inlet)
        r, new = self.first.r, net.place.new_zeros
        self.x = new(rows, height + r, wide + 2 * r, len(net.group_in))
        self.above = new(0)

    def put(self, i: int, j: int, told: Tensor) -> None:
        """Set the features (B, C F) of a pixel."""
        self.x[:, i + self.first.r, j + self.first.r] = told

    def at(self, i: int, j: int) -> Tensor:
        """The outputs (B, C out) of a pixel."""
        if i != self.i:
            self.above = self.first.row(self.x[:, i : i + self.first.r]) + self.net.place[:, i].T
            self.start_row(i)
            self.i = i
            self.told = places(self.x[:, i + self.first.r], self.first.r)[1]
        return self.net.end(self.layers_at(j, torch.addmm(self.above[:, j], self.told[j], self.first.taps)))

    def start_row(self, i: int) -> None:
        """Turn what is known of the last row into what this one needs."""
        raise NotImplementedError

    def layers_at(self, j: int, h: Tensor) -> Tensor:
        """The stream (B, 2 width) of column j through all layers."""
        raise NotImplementedError

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows of everything that is remembered, in this order."""
        self.x, self.above = self.x[rows], self.above[rows]
        self.told = places(self.x[:, self.i + self.first.r], self.first.r)[1]


class RowScan(StemScan):
    """Keeps, for each layer, h and c of the row above and of this one, and the pixels to the left."""

    def __init__(self, net: RowLSTMNet, rows: int, c: Tensor | None = None) -> None:
        super().__init__(net, rows)
        self.layers = cast(list[RowLayer], list(net.layers))
        wide, width, taps = net.shape[1], len(net.inside), self.layers[0].taps
        new = net.place.new_zeros
        self.h = [new(rows, wide, width) for _ in self.layers]
        self.c = [new(rows, wide, width) for _ in self.layers]
        self.before = [torch.zeros_like(c) for c in self.c]
        self.stream = [new(rows, wide + taps - 1, len(net.outside)) for _ in self.layers]
        self.pre: list[Tensor] = []
        self.shifts = [layer.shift(c) for layer in self.layers]
        self.maps = [(layer.inlet.masked.T.contiguous(), layer.out.masked.T.contiguous()) for layer in self.layers]

    def start_row(self, i: int) -> None:
        """What the row above says to each place of this one."""
        wide = self.net.shape[1]
        self.pre = []
        for layer, h, shift in zip(self.layers, self.h, self.shifts, strict=True):
            r = layer.taps - 1
            past = F.pad(h, (0, 0, r, r))
            past = torch.cat([past[:, k : k + wide] for k in range(2 * r + 1)], -1)
            extra = shift[:, None] if isinstance(shift, Tensor) else shift
            self.pre.append(past @ layer.state.weight[0] + layer.inlet.bias + extra)
        self.before = [c.clone() for c in self.c]

    def layers_at(self, j: int, h: Tensor) -> Tensor:
        """The stream (B, 2 width) of column j through all layers."""
        for k, layer in enumerate(self.layers):
            inlet, out = self.maps[k]
            self.stream[k][:, j + layer.taps - 1] = h
            a = torch.addmm(self.pre[k][:, j], self.stream[k][:, j : j + layer.taps].flatten(1), inlet)
            self.h[k][:, j], self.c[k][:, j] = state, _ = gates(a, self.before[k][:, j])
            h = h + torch.addmm(layer.out.bias, state, out)
        return h

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows of everything that is remembered, in this order."""
        super().reorder(rows)
        self.h, self.c, self.before, self.stream, self.pre = (
            [t[rows] for t in held] for held in (self.h, self.c, self.before, self.stream, self.pre)
        )
        self.shifts = [s[rows] if isinstance(s, Tensor) else s for s in self.shifts]


class RowLSTM(Raster):
    """PixelRNN by rows."""

    net_class = RowLSTMNet
