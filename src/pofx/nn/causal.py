"""Causal convolutions with a memory: a picture in raster order, all at once or pixel by pixel at the same cost.

    v_0 = K_above x + P,           v_{l+1} = v_l + gate(K_down v_l)                              rows above
    h_0 = K_left x + L v_0 + P,    h_{l+1} = h_l + K_1 gate(K_right h_l + L v_{l+1} + c)         this row, to the left
    y   = K_1 silu(K_1 silu(h)),   gate(a, b) = tanh(a) sigmoid(b)

P is learnt for every place of the picture: where a pixel stands says much in small pictures. Output (i, j, k) sees the
pixels before (i, j) in raster order and the channels before k of pixel (i, j) itself, without a blind spot.

`CausalConvNet` computes all places at once; `Scan` walks through them, and keeps what every layer has already computed:
v is made one row at a time, h one pixel at a time, so a whole picture costs about one `forward`.

References: Gated PixelCNN (van den Oord 2016, arXiv:1606.05328); caches for causal convolutions (Ramachandran 2017,
arXiv:1704.06001).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .masked import MaskedConv2d
from .mlp import check_condition


def gate(a: Tensor) -> Tensor:
    """tanh of the first half of the features times sigmoid of the second; (B, 2 width, ...) -> (B, width, ...)."""
    left, right = a.chunk(2, 1)
    return torch.tanh(left) * torch.sigmoid(right)


def without_padding(conv: MaskedConv2d, window: Tensor) -> Tensor:
    """The convolution where it fits inside the window (B, features, h, w)."""
    weight = conv.weight if conv.mask is None else conv.weight * conv.mask
    return F.conv2d(window, weight, conv.bias)


class CausalLayer(nn.Module):
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


class CausalConvNet(nn.Module):
    """(B, C F, H, W), c (B, c_dim) -> (B, C out, H, W), causal in raster order and in the channels of a pixel.

    Features are channel-major: features k F .. (k + 1) F - 1 belong to channel k, and outputs likewise.

    Args:
        shape: (H, W, C).
        features: F, numbers that describe one channel of one pixel.
        out: numbers that are wanted for one channel of one pixel.
        width: features of each stack, rounded up to a multiple of C.
        depth: layers; each lets a pixel see kernel // 2 places further.
        kernel: odd, at least 3.
        c_dim: size of the condition, 0 for none.
        dropout: probability inside each layer.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        features: int,
        out: int,
        width: int,
        depth: int,
        kernel: int = 3,
        c_dim: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        height, wide, channels = shape
        channel = torch.arange(channels)
        group, group_in = channel.repeat_interleave(-(-width // channels)), channel.repeat_interleave(features)
        self.kernel, self.c_dim, self.shape = kernel, c_dim, shape
        self.above = MaskedConv2d(group_in, torch.zeros_like(group), kernel, "down", strict=True)
        self.left = MaskedConv2d(group_in, group, kernel, "right", strict=True)
        self.link = nn.Conv2d(len(group), len(group), 1)
        self.place = nn.Parameter(torch.randn(2, len(group), height, wide) * 0.1)
        self.layers = nn.ModuleList(CausalLayer(group, kernel, c_dim, dropout) for _ in range(depth))
        self.drop = nn.Dropout2d(dropout)
        self.head = MaskedConv2d(group, group, 1, "right")
        self.outlet = MaskedConv2d(group, channel.repeat_interleave(out), 1, "right", scale=0.1)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, C F, H, W) -> (B, C out, H, W)."""
        if c is not None:
            check_condition(c, self.c_dim)
        v = self.above(x) + self.place[0]
        h = self.left(x) + self.link(v) + self.place[1]
        for layer in self.layers:
            v, h = layer(v, h, c)
        return self.outlet(self.drop(F.silu(self.head(F.silu(h)))))


class Scan:
    """Walks through the pixels of `rows` pictures in raster order, keeping what each layer of the net has computed.

    Call `at(i, j)` for the outputs of a pixel and `put(i, j, features)` with what is known of it, channel by channel;
    pixels must come in raster order. Dropout is left out.

    Args:
        net: the body.
        rows: B, the number of pictures.
        c: the condition (B, c_dim) or None.
    """

    def __init__(self, net: CausalConvNet, rows: int, c: Tensor | None = None) -> None:
        height, wide, _ = net.shape
        self.net, self.r, self.row = net, net.kernel // 2, -1
        self.layers = cast(list[CausalLayer], list(net.layers))
        new, width = net.place.new_zeros, net.place.shape[1]
        padded = (height + self.r, wide + 2 * self.r)
        self.x = new(rows, net.above.weight.shape[1], *padded)
        self.v = [new(rows, width, *padded) for _ in self.layers]
        self.h = [new(rows, width, 1, wide + self.r) for _ in self.layers]
        self.shifts = [layer.shifts(c) for layer in self.layers]
        self.links: list[Tensor] = []

    def put(self, i: int, j: int, features: Tensor) -> None:
        """Set the features (B, C F) of a pixel."""
        self.x[:, :, i + self.r, j + self.r] = features

    def at(self, i: int, j: int) -> Tensor:
        """The outputs (B, C out) of a pixel."""
        if i != self.row:
            self._start_row(i)
        net, r = self.net, self.r
        h = without_padding(net.left, self.x[:, :, i + r : i + r + 1, j : j + r + 1]) + self.links[0][..., j : j + 1]
        for layer, past, link in zip(self.layers, self.h, self.links[1:], strict=True):
            past[..., j + r] = h[..., 0]
            h = h + layer.out(gate(without_padding(layer.right, past[..., j : j + r + 1]) + link[..., j : j + 1]))
        return net.outlet(F.silu(net.head(F.silu(h))))[:, :, 0, 0]

    def _start_row(self, i: int) -> None:
        net, r = self.net, self.r
        here = slice(r, r + net.shape[1])
        v = without_padding(net.above, self.x[:, :, i : i + r]) + net.place[0, :, i : i + 1]
        self.links = [net.link(v) + net.place[1, :, i : i + 1]]
        for layer, past, (above, left) in zip(self.layers, self.v, self.shifts, strict=True):
            past[:, :, i + r, here] = v[:, :, 0]
            v = v + gate(without_padding(layer.down, past[:, :, i : i + r + 1]) + above)
            self.links.append(layer.link(v) + left)
        for past in self.h:
            past.zero_()
        self.row = i

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows of everything that is remembered, in this order."""
        self.x, self.v, self.h = self.x[rows], [v[rows] for v in self.v], [h[rows] for h in self.h]
        self.links = [link[rows] for link in self.links]
        self.shifts = [(_rows(above, rows), _rows(left, rows)) for above, left in self.shifts]


def _rows(shift: Tensor | float, rows: Tensor) -> Tensor | float:
    return shift[rows] if isinstance(shift, Tensor) else shift
