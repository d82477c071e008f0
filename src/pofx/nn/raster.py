"""Raster: what bodies for pictures share: pixels as features, and the walk from pixel to pixel.

    (B, H W C) entries  ->  features (B, C F, H, W)  ->  a net that is causal in raster order  ->  (B, H W C out)

A net gives `forward(x, c)` for a whole picture and a `Scan`, which computes one pixel at a time and keeps what earlier
pixels have left. Features are channel-major: features k F .. (k + 1) F - 1 belong to channel k, and outputs likewise;
inside a pixel, channel k sees the channels before k. A new net is a module with a scan and a subclass of `Raster`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entries import Causal, Entries, Size, Walk, features
from .masked import MaskedConv2d


class Scan(ABC):
    """Walks through the pixels of B pictures in raster order; dropout is left out."""

    @abstractmethod
    def at(self, i: int, j: int) -> Tensor:
        """The outputs (B, C out) of a pixel; may be asked again once more of the pixel is put."""

    @abstractmethod
    def put(self, i: int, j: int, told: Tensor) -> None:
        """Set the features (B, C F) of a pixel."""

    @abstractmethod
    def reorder(self, rows: Tensor) -> None:
        """Keep these rows of everything that is remembered, in this order."""


class PictureNet(nn.Module, ABC):
    """(B, C F, H, W), c (B, c_dim) -> (B, C out, H, W), causal in raster order and in the channels of a pixel.

    Args:
        shape: (H, W, C).
        told: F, numbers that describe one channel of one pixel.
        out: numbers that are wanted for one channel of one pixel.
        size: of the body.
    """

    @abstractmethod
    def __init__(self, shape: tuple[int, int, int], told: int, out: int, size: Size) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, C F, H, W) -> (B, C out, H, W)."""

    @abstractmethod
    def scan(self, rows: int, c: Tensor | None = None) -> Scan:
        """A walk through the pixels of this many pictures."""


class Raster(Causal):
    """A body for pictures, around the net that a subclass names."""

    grid = True
    net_class: type[PictureNet]

    def __init__(self, entries: Entries, size: Size) -> None:
        super().__init__(entries, size)
        height, wide, channels = entries.shape
        self.shape, self.levels, self.whole = (height, wide, channels), entries.levels[0], entries.pixel > 0
        none = torch.zeros(1, 1)
        self.told = features(none, none, self.levels).shape[-1]
        if self.whole:  # the net sees a pixel as one thing
            self.net = self.net_class((height, wide, 1), self.told * channels, entries.pixel, size)
        else:
            self.net = self.net_class(self.shape, self.told, entries.groups[0][1], size)
        for p in self.net.parameters():  # channels last: a fifth faster on a CPU, where features are few
            p.data = p.data.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p.data

    def forward(
        self, x: Tensor, z: Tensor, c: Tensor | None = None, observed: Tensor | None = None, order: Tensor | None = None
    ) -> Tensor:
        """Outputs (B, H W C out) of every entry, or (B, H W pixel)."""
        told = features(x, z, self.levels, observed).unflatten(1, self.shape)
        told = told.to(next(self.parameters()).dtype)
        grid = told.flatten(-2).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        return self.net(grid, c).permute(0, 2, 3, 1).flatten(1)

    def walk(self, rows: int, c: Tensor | None = None) -> PixelWalk:
        """A walk in raster order, channels in turn."""
        return PixelWalk(self, rows, c)


class PixelWalk(Walk):
    """The entries of a picture one by one, by the scan of a net."""

    def __init__(self, body: Raster, rows: int, c: Tensor | None) -> None:
        self.body, self.scan, self.t = body, body.net.scan(rows, c), 0
        like = next(body.parameters())
        self.pixel, self.y = like.new_zeros(rows, body.shape[2], body.told), like.new_zeros(0)

    def _at(self) -> tuple[int, int, int]:
        _, wide, channels = self.body.shape
        return self.t // (wide * channels), self.t // channels % wide, self.t % channels

    def outputs(self) -> Tensor:
        """Of the next entry, (B, out), or of its pixel."""
        i, j, k = self._at()
        if k == 0 or not self.body.whole:
            self.y = self.scan.at(i, j)
        if self.body.whole:
            return self.y
        width = self.y.shape[1] // self.body.shape[2]
        return self.y[:, k * width : (k + 1) * width]

    def put(self, x: Tensor, z: Tensor) -> None:
        """Take the next channel as x and z (B,)."""
        i, j, k = self._at()
        if k == 0:
            self.pixel = torch.zeros_like(self.pixel)
        self.pixel[:, k] = features(x, z, self.body.levels)
        if not self.body.whole or k == self.body.shape[2] - 1:
            self.scan.put(i, j, self.pixel.flatten(1))
        self.t += 1

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        self.pixel = self.pixel[rows]
        self.y = self.y[rows] if len(self.y) else self.y
        self.scan.reorder(rows)


def groups_of(shape: tuple[int, int, int], told: int, width: int, out: int) -> tuple[Tensor, Tensor, Tensor]:
    """The channel of every feature that goes in, of every hidden one (width rounded up to C) and of every output."""
    channel = torch.arange(shape[2])
    return tuple(channel.repeat_interleave(n) for n in (told, -(-width // shape[2]), out))  # type: ignore[return-value]


class Window:
    """A MaskedConv2d ("right" or "raster") that reads a memory of past pixels (B, rows, W, features).

    The rows above are convolved for a whole row at once; what is left is one product for a pixel.
    """

    def __init__(self, conv: MaskedConv2d) -> None:
        weight = conv.masked
        above = conv.padding[2]
        self.r, self.above = conv.padding[0], weight[:, :, :above] if above else None
        taps = weight[:, :, -1, : self.r + 1]
        self.taps, self.bias = taps.permute(2, 1, 0).flatten(0, 1).contiguous(), conv.bias

    def row(self, past: Tensor) -> Tensor:
        """What the rows above, (B, r, W + 2 r, features), say about a row: (B, W, features out), bias included."""
        if self.above is None:
            return self.bias.expand(len(past), past.shape[2] - 2 * self.r, -1)
        y = F.conv2d(past.permute(0, 3, 1, 2), self.above, self.bias)
        return y[:, :, 0].transpose(1, 2).contiguous()


def places(row: Tensor, r: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Of one row of memory (B, r + W + ..., features), for each of its W columns: its cell, and its window.

    The cell (B, features) is where a pixel is written; the window (B, (r + 1) features) is the pixel and the r to its
    left. All are views: slicing costs more than what is computed with a pixel.
    """
    rows, columns, width = row.shape
    windows = row.as_strided((rows, columns - r, (r + 1) * width), (row.stride(0), width, 1))
    return row[:, r:].unbind(1), windows.unbind(1)
