"""Convolutional bodies for pictures of any size: encoder, decoder and critic.

    h <- h + K2 * silu(M_c(norm(K1 * silu(norm(h)))))

The picture is halved (rounding up) until its longer side is at most 4; the decoder walks the same sizes back with pixel
shuffles and crops, so that 28 -> 14 -> 7 -> 4 and 1 -> 1 both work. A GAN's generator is a `ConvDecoder`.

References: residual blocks (He 2016, arXiv:1603.05027); GroupNorm (Wu 2018, arXiv:1803.08494); pixel shuffle (Shi 2016,
arXiv:1609.05158); a critic without normalisation, with small initial branches (Zhang 2019, arXiv:1901.09321);
projection of the condition (Miyato 2018, arXiv:1802.05637).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .mlp import Modulation, check_condition, zero_


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with at most 8 groups of at least 4 channels, so that a 1 x 1 picture keeps its information."""
    groups = max((g for g in range(1, 9) if channels % g == 0 and channels // g >= 4), default=1)
    return nn.GroupNorm(groups, channels)


def halvings(height: int, width: int, smallest: int = 4) -> list[tuple[int, int]]:
    """The sizes from (height, width) down to the first whose longer side is at most `smallest`."""
    sizes = [(height, width)]
    while max(sizes[-1]) > smallest:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes


class ResBlock(nn.Module):
    """Residual block (B, c_in, H, W), c (B, c_dim) -> (B, c_out, H, W).

    Args:
        c_in, c_out: channels.
        c_dim: size of the condition, 0 for none.
        norm: with GroupNorm or without (a critic).
        dropout: probability before the second convolution.
        scale: factor on the initial weight of the residual branch.
    """

    def __init__(
        self, c_in: int, c_out: int, c_dim: int = 0, norm: bool = True, dropout: float = 0.0, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = (group_norm(n) if norm else nn.Identity() for n in (c_in, c_out))
        self.conv1, self.conv2 = nn.Conv2d(c_in, c_out, 3, padding=1), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.modulate, self.drop = Modulation(c_dim, c_out, axis=1), nn.Dropout(dropout)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        with torch.no_grad():
            self.conv2.weight.mul_(scale)

    def forward(self, h: Tensor, c: Tensor | None = None) -> Tensor:
        """h (B, c_in, H, W) -> (B, c_out, H, W)."""
        g = self.conv1(F.silu(self.norm1(h)))
        g = self.drop(F.silu(self.modulate(self.norm2(g), c)))
        return self.skip(h) + self.conv2(g)


class Chain(nn.ModuleList):
    """Blocks after one another, h <- block(h, c, ...)."""

    def forward(self, h: Tensor, *c: Tensor | None) -> Tensor:
        """h through every block, each of which is told the same."""
        for block in self:
            h = block(h, *c)
        return h


class _Trunk(nn.Module):
    """(B, C, H, W) -> (B, features): blocks and stride-2 convolutions down to the smallest size, flattened."""

    def __init__(self, shape: Sequence[int], width: int, c_dim: int, norm: bool, scale: float, blocks: int) -> None:
        super().__init__()
        channels, *size = shape
        sizes = halvings(*size)
        widths = _widths(width, len(sizes))
        self.inlet = nn.Conv2d(channels, width, 3, padding=1)
        self.levels = nn.ModuleList(
            Chain(ResBlock(w, w, c_dim, norm, scale=scale) for _ in range(blocks)) for w in widths
        )
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.norm = group_norm(widths[-1]) if norm else nn.Identity()
        self.features = widths[-1] * sizes[-1][0] * sizes[-1][1]

    def forward(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self.features_of(self.maps(x, c))

    def maps(self, x: Tensor, c: Tensor | None) -> list[Tensor]:
        """What comes out at each size, finest first."""
        found = [self.inlet(x)]
        for i, level in enumerate(self.levels):
            found.append(level(self.down[i - 1](found[-1]) if i else found[-1], c))
        return found[1:]

    def features_of(self, maps: list[Tensor]) -> Tensor:
        """The last of them, (B, features)."""
        return F.silu(self.norm(maps[-1])).flatten(1)


def _widths(width: int, levels: int) -> list[int]:
    return [width * min(2**i, 4) for i in range(levels)]


class ConvEncoder(nn.Module):
    """(B, C, H, W), c (B, c_dim) -> (B, d_out).

    Args:
        shape: (C, H, W) of a picture, H and W at least 1.
        d_out: numbers out.
        width: channels at full size; doubled at each halving, at most 4 times.
        c_dim: size of the condition, 0 for none.
        blocks: residual blocks at each size.
    """

    def __init__(self, shape: Sequence[int], d_out: int, width: int = 32, c_dim: int = 0, blocks: int = 1) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.trunk = _Trunk(self.shape, width, c_dim, norm=True, scale=1.0, blocks=blocks)
        self.outlet = nn.Linear(self.trunk.features, d_out)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) -> (B, d_out)."""
        return self.outlet(self.trunk(x, c))


class ConvDecoder(nn.Module):
    """(B, d_in), c (B, c_dim) -> (B, C, H, W); C may be any number of parameters per pixel.

    Args:
        d_in: numbers in.
        shape: (C, H, W) of the output.
        width: channels at full size; doubled at each halving, at most 4 times.
        c_dim: size of the condition, 0 for none.
        blocks: residual blocks at each size.
        zero: start with an output that is exactly 0.
    """

    def __init__(
        self,
        d_in: int,
        shape: Sequence[int],
        width: int = 32,
        c_dim: int = 0,
        blocks: int = 1,
        zero: bool = False,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.sizes = halvings(*self.shape[1:])[::-1]
        widths = _widths(width, len(self.sizes))[::-1]
        self.inlet = nn.Linear(d_in, widths[0] * self.sizes[0][0] * self.sizes[0][1])
        self.levels = nn.ModuleList(Chain(ResBlock(w, w, c_dim) for _ in range(blocks)) for w in widths)
        self.up = nn.ModuleList(nn.Conv2d(a, 4 * b, 3, padding=1) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.norm, self.outlet = group_norm(widths[-1]), nn.Conv2d(widths[-1], self.shape[0], 3, padding=1)
        if zero:
            zero_(self.outlet)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """z (B, d_in) -> (B, C, H, W)."""
        h = self.inlet(z).unflatten(1, (-1, *self.sizes[0]))
        for i, (level, size) in enumerate(zip(self.levels, self.sizes, strict=True)):
            h = F.pixel_shuffle(self.up[i - 1](h), 2)[:, :, : size[0], : size[1]] if i else h
            h = level(h, c)
        return self.outlet(F.silu(self.norm(h)))


class ConvCritic(nn.Module):
    """(B, C, H, W), c (B, c_dim) -> (B,): a score without normalisation, so that rows do not see each other.

    The condition enters as a projection, score = w . f(x) + (W c) . f(x) / sqrt(features).

    Args:
        shape: (C, H, W) of a picture.
        width: channels at full size.
        c_dim: size of the condition, 0 for none.
        blocks: residual blocks at each size.
    """

    def __init__(self, shape: Sequence[int], width: int = 32, c_dim: int = 0, blocks: int = 1) -> None:
        super().__init__()
        self.shape, self.c_dim = tuple(shape), c_dim
        # without normalisation a branch that starts small keeps the score of order 1 at any depth
        self.trunk = _Trunk(self.shape, width, 0, norm=False, scale=0.1, blocks=blocks)
        self.outlet = nn.Linear(self.trunk.features, 1)
        self.project = nn.Linear(c_dim, self.trunk.features) if c_dim else None

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) -> scores (B,)."""
        return self.score(self.maps(x), c)

    def maps(self, x: Tensor) -> list[Tensor]:
        """What the critic sees of x (B, C, H, W) at each size, finest first."""
        return self.trunk.maps(x, None)

    def score(self, maps: list[Tensor], c: Tensor | None = None) -> Tensor:
        """The scores (B,) of what it saw."""
        f = self.trunk.features_of(maps)
        score = self.outlet(f)[:, 0]
        if c is None:
            return score
        check_condition(c, self.c_dim)
        assert self.project is not None
        return score + (self.project(c) * f).sum(1) / self.trunk.features**0.5
