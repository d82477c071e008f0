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
from .raster import PictureNet, Raster, Scan, Window, groups_of

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
    """Keeps the input of every masked convolution, and what its rows above say about this one."""

    def __init__(self, net: PixelCNNNet, rows: int, c: Tensor | None = None) -> None:
        self.net, self.i = net, -1
        self.layers = cast(list[Residual], list(net.layers))
        convs = [net.inlet, *(layer.conv for layer in self.layers)]
        self.windows = [Window(conv) for conv in convs]
        height, wide, _ = net.shape
        new = net.place.new_zeros
        self.past = [
            new(rows, height + w.r, wide + 2 * w.r, conv.weight.shape[1])
            for w, conv in zip(self.windows, convs, strict=True)
        ]
        self.above: list[Tensor] = []
        self.shifts = [layer.shift(c) for layer in self.layers]
        mixers = [conv for layer in self.layers for conv in (layer.down, layer.up)] + [net.head, net.outlet]
        self.mix = [(conv.masked[:, :, 0, 0].T.contiguous(), conv.bias) for conv in mixers]

    def put(self, i: int, j: int, told: Tensor) -> None:
        """Set the features (B, C F) of a pixel."""
        r = self.windows[0].r
        self.past[0][:, i + r, j + r] = told

    def at(self, i: int, j: int) -> Tensor:
        """The outputs (B, C out) of a pixel."""
        if i != self.i:
            self._start_row(i)
        first, *rest = zip(self.windows, self.past, self.above, strict=True)
        h = self._conv(*first, i, j)
        for k, (window, past, above) in enumerate(rest):
            (A, a), (U, u) = self.mix[2 * k : 2 * k + 2]
            past[:, i + window.r, j + window.r] = torch.addmm(a, F.relu(h), A).relu_()
            h = h + torch.addmm(u, self._conv(window, past, above, i, j).relu_(), U)
        for W, b in self.mix[-2:]:
            h = torch.addmm(b, F.relu(h), W)
        return h

    def _conv(self, window: Window, past: Tensor, above: Tensor, i: int, j: int) -> Tensor:
        return window.pixel(above[:, j], past[:, i + window.r], j)

    def _start_row(self, i: int) -> None:
        self.above = [w.row(past[:, i : i + w.r]) for w, past in zip(self.windows, self.past, strict=True)]
        self.above[0] = self.above[0] + self.net.place[:, i].T
        for k, shift in enumerate(self.shifts):
            if isinstance(shift, Tensor):
                self.above[k + 1] = self.above[k + 1] + shift[:, :, 0].transpose(1, 2)
        self.i = i

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows of everything that is remembered, in this order."""
        self.past, self.above = ([t[rows] for t in held] for held in (self.past, self.above))
        self.shifts = [s[rows] if isinstance(s, Tensor) else s for s in self.shifts]


class PixelCNN(Raster):
    """PixelCNN with plain masked convolutions."""

    net_class = PixelCNNNet
