"""PixelCNN: plain masked convolutions, with the blind spot of the original.

    h_0 = K_A x + P,      h_{l+1} = h_l + K_1 relu(K_B relu(K_1 relu(h_l)) + c),      y = K_1 relu(K_1 relu(h))

K_A is 7 x 7 and does not see its own pixel, K_B does. Pixels to the right in the rows above are lost where only a
detour through later pixels would reach them; the gated net (causal.py) has no such spot.

References: PixelCNN (van den Oord 2016, arXiv:1601.06759, figure 5 and table 1).
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

FIRST = 7  # the kernel of K_A


class Residual(nn.Module):
    """One residual block on (B, 2 width, H, W), width inside."""

    def __init__(self, outside: Tensor, inside: Tensor, kernel: int, c_dim: int, dropout: float) -> None:
        super().__init__()
        self.down = MaskedConv2d(outside, inside, 1, "right", scale=1.4)
        self.conv = MaskedConv2d(inside, inside, kernel, "raster", scale=1.4)
        self.up = MaskedConv2d(inside, outside, 1, "right", scale=0.4)
        self.drop = nn.Dropout2d(dropout)
        self.condition = nn.Linear(c_dim, len(inside)) if c_dim else None

    def shift(self, c: Tensor | None) -> Tensor | float:
        """What c adds, (B, width, 1, 1)."""
        return 0.0 if c is None or self.condition is None else self.condition(c)[:, :, None, None]

    def forward(self, h: Tensor, c: Tensor | None) -> Tensor:
        """The next h."""
        a = self.conv(F.relu(self.down(F.relu(h)))) + self.shift(c)
        return h + self.up(self.drop(F.relu(a)))


class PixelCNNNet(PictureNet):
    """The PixelCNN: `width` features inside the residual blocks, twice as many between them."""

    def __init__(self, shape: tuple[int, int, int], told: int, out: int, size: Size) -> None:
        super().__init__(shape, told, out, size)
        width, depth, dropout, kernel = size.over(width=32, depth=8, dropout=0.1)
        group_in, inside, group_out = groups_of(shape, told, width, out)
        outside = inside.repeat_interleave(2)
        self.c_dim, self.shape = size.c_dim, shape
        self.inlet = MaskedConv2d(group_in, outside, FIRST, "raster", strict=True)
        self.place = nn.Parameter(torch.randn(len(outside), *shape[:2]) * 0.1)
        self.layers = nn.ModuleList(Residual(outside, inside, kernel, size.c_dim, dropout) for _ in range(depth))
        self.head = MaskedConv2d(outside, outside, 1, "right", scale=1.4)
        self.outlet = MaskedConv2d(outside, group_out, 1, "right", scale=0.1)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, C F, H, W) -> (B, C out, H, W)."""
        if c is not None:
            check_condition(c, self.c_dim)
        h = self.inlet(x) + self.place
        for layer in self.layers:
            h = layer(h, c)
        return self.outlet(F.relu(self.head(F.relu(h))))

    def scan(self, rows: int, c: Tensor | None = None) -> PixelCNNScan:
        """A walk through the pixels of this many pictures."""
        return PixelCNNScan(self, rows, c)


class PixelCNNScan(Scan):
    """Keeps the input of every masked convolution, and what its rows above say about this one.

    A feature that is always 1 carries the bias of the last product of a block.
    """

    def __init__(self, net: PixelCNNNet, rows: int, c: Tensor | None = None) -> None:
        self.net, self.i, self.shape = net, -1, net.shape
        layers = cast(list[Residual], list(net.layers))
        convs = [net.inlet, *(layer.conv for layer in layers)]
        self.windows = [Window(conv) for conv in convs]
        (height, wide, _), new = net.shape, net.place.new_zeros
        self.past = [
            new(rows, height + w.r, wide + 2 * w.r, conv.weight.shape[1])
            for w, conv in zip(self.windows, convs, strict=True)
        ]
        self.above: list[tuple[Tensor, ...]] = []
        self.shifts = [layer.shift(c) for layer in layers]
        self.first, *taps = (w.taps for w in self.windows)
        self.maps = [
            (
                layer.down.bias,
                _square(layer.down),
                F.pad(tap, (0, 1)),
                torch.cat([_square(layer.up), layer.up.bias[None]]),
            )
            for layer, tap in zip(layers, taps, strict=True)
        ]
        self.ends = [(conv.bias, _square(conv)) for conv in (net.head, net.outlet)]

    def put(self, i: int, j: int, told: Tensor) -> None:
        """Set the features (B, C F) of a pixel."""
        r = self.windows[0].r
        self.past[0][:, i + r, j + r] = told

    def at(self, i: int, j: int) -> Tensor:
        """The outputs (B, C out) of a pixel."""
        if i != self.i:
            self._start_row(i)
        (_, told), *rest = self.places
        h = torch.addmm(self.above[0][j], told[j], self.first)
        for (a, A, taps, U), (cells, windows), above in zip(self.maps, rest, self.above[1:], strict=True):
            torch.addmm(a, h.relu(), A, out=cells[j]).relu_()
            h.addmm_(torch.addmm(above[j], windows[j], taps).relu_(), U)
        for b, W in self.ends:
            h = torch.addmm(b, h.relu_(), W)
        return h

    def _start_row(self, i: int) -> None:
        first, *above = (w.row(past[:, i : i + w.r]) for w, past in zip(self.windows, self.past, strict=True))
        for k, shift in enumerate(self.shifts):
            above[k] = above[k] if isinstance(shift, float) else above[k] + shift[:, :, 0].transpose(1, 2)
        told = [first + self.net.place[:, i].T, *(F.pad(t, (0, 1), value=1.0) for t in above)]
        self.above, self.i = [t.unbind(1) for t in told], i
        self._view()

    def _view(self) -> None:
        """Where each column of this row is, in every memory."""
        self.places = [
            places(past[:, self.i + w.r, : w.r + self.shape[1]], w.r)
            for w, past in zip(self.windows, self.past, strict=True)
        ]

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows of everything that is remembered, in this order."""
        self.past = [t[rows] for t in self.past]
        self.above = [tuple(place[rows] for place in above) for above in self.above]
        self.shifts = [s[rows] if isinstance(s, Tensor) else s for s in self.shifts]
        self._view()


def _square(conv: MaskedConv2d) -> Tensor:
    """A convolution of one place as a matrix (features in, features out)."""
    return conv.masked[:, :, 0, 0].T.contiguous()


class PixelCNN(Raster):
    """PixelCNN with plain masked convolutions."""

    net_class = PixelCNNNet
