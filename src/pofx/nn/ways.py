"""Ways: from one side of an unpaired set to the other, and a critic of small places.

    Way           u (B, *start) -> (B, *end):  u + f(u) where both sides have one shape, else f(u);  f starts at 0
    PatchCritic   (B, C, H, W) -> (B, places): one score for each place, of the pixels around it alone

f is residual convolutions at half size where both sides are pictures of one size, and plain layers otherwise. A critic
of places judges the manner, not the contents: what is where has to come from the other side.

References: residual ways (Zhu 2017, arXiv:1703.10593); critics of patches (Isola 2017, arXiv:1611.07004).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .mlp import zero_
from .scalar import LeakyMLP

LARGE = 16  # pixels of a side from which squares of 2 x 2 enter as channels


class Local(nn.Module):
    """(B, channels_in, H, W) -> (B, channels_out, H, W): residual convolutions, without normalisation; starts at 0.

    Args:
        channels_in, channels_out: of the pictures.
        width: channels between.
        depth: residual convolutions; a pixel sees 2 depth + 5 cells of `patch` pixels a side.
        patch: side of the squares of pixels that enter, and leave, as channels.
    """

    def __init__(self, channels_in: int, channels_out: int, width: int, depth: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.inlet = nn.Conv2d(channels_in * patch**2, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.outlet = zero_(nn.Conv2d(width, channels_out * patch**2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """The same size out as in."""
        height, width = x.shape[2:]
        h = self.inlet(F.pixel_unshuffle(F.pad(x, (0, -width % self.patch, 0, -height % self.patch)), self.patch))
        for block in self.blocks:
            h = h + block(F.leaky_relu(h, 0.2))
        return F.pixel_shuffle(self.outlet(F.leaky_relu(h, 0.2)), self.patch)[:, :, :height, :width]


class Way(nn.Module):
    """u (B, *start) -> (B, *end).

    Args:
        start, end: shapes of one row on either side; pictures are (C, H, W).
        pictures: whether both are pictures of one size.
        width: channels, or features of plain layers.
        depth: residual convolutions, or plain layers after the first.
    """

    def __init__(self, start: Sequence[int], end: Sequence[int], pictures: bool, width: int, depth: int) -> None:
        super().__init__()
        self.end, self.pictures, self.alike = tuple(end), pictures, tuple(start) == tuple(end)
        if pictures:
            patch = 2 if max(end[1:]) >= LARGE else 1
            self.net: nn.Module = Local(start[0], end[0], width, depth, patch)
        else:
            plain = LeakyMLP(math.prod(start), math.prod(end), width, depth)
            plain.layers[-1] = zero_(nn.Linear(width, math.prod(end)))
            self.net = plain

    def forward(self, u: Tensor) -> Tensor:
        """Rows of the other side."""
        f = self.net(u if self.pictures else u.flatten(1)).reshape(len(u), *self.end)
        return u + f if self.alike else f


class PatchCritic(nn.Module):
    """(B, C, H, W) -> scores (B, places), without normalisation.

    Args:
        channels: of the picture.
        width: of the first layer.
        layers: that halve the picture; a score sees 3 * 2^(layers + 1) - 2 pixels a side.
    """

    def __init__(self, channels: int, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        widths = [channels, *(width * min(2**i, 4) for i in range(layers))]
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.outlet = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) -> (B, places)."""
        for layer in self.down:
            x = F.leaky_relu(layer(F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))), 0.2)
        return self.outlet(x).flatten(1)


def moved(params: Sequence[Tensor], value: Tensor, slopes: Sequence[Tensor]) -> Tensor:
    """A number equal to `value` whose slope in each parameter is the one that is already known."""
    parts = [((p - p.detach()) * slope).sum() for p, slope in zip(params, slopes, strict=True)]
    return value.detach() + torch.stack(parts).sum()
