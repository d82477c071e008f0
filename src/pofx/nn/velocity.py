"""Velocity body: a point, a time and a condition to a vector at the point; U-Net for pictures, MLP for vectors.

    F(u, l, c) = body([u / n, mask, exp(-w^2 l^2 / 2) sin(w u), ... cos(w u)], clock(log l) + c),   n^2 = 1 + l^2

The waves are smoothed Fourier features: sin(w u) of a clean u shrinks by that factor under noise of level l, so finer
waves vanish rather than alias. They let the body resolve the edges of rounded data.

References: Fourier features (Tancik 2020, arXiv:2006.10739); EDM (Karras 2022, arXiv:2206.00364).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .conditioner import Condition
from .mlp import MLP
from .unet import UNet, fourier

SHORT = 16  # entries of a short vector


def octaves(finest: float | None) -> int:
    """Octaves of waves, from 2 radians: 4, or as many up to 8 as resolve levels of the width `finest`.

    >>> octaves(None), octaves(1 / 6), octaves(0.01)
    (4, 6, 8)
    """
    return 4 if finest is None else max(4, min(8, math.ceil(math.log2(2 * math.pi / finest))))


class Clock(nn.Module):
    """Noise levels (B,) and a condition c (B, width), if any, to one vector (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.net = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, level: Tensor, c: Tensor | None = None) -> Tensor:
        """The vector that a body is conditioned on."""
        h = self.net(fourier(level.log() / 4, self.width, 0.5, 60.0))
        return h if c is None else h + c


def _width_of(shape: tuple[int, ...]) -> int:
    size = math.prod(shape)
    return (16 if size <= 256 else 32) if len(shape) == 3 else 128 if size <= SHORT else 256


class Velocity(nn.Module):
    """u (B, *event), level (B,), c (B, c_dim) -> (B, *event); the output starts at exactly 0.

    Args:
        shape: the event: (C, H, W) for a picture, anything else is a vector.
        width: features, or channels at full size; None: 16 or 32 for small and other pictures, 128 or 256 for short
            and other vectors.
        depth: sizes of the U-Net or blocks of the MLP; None: by the shape.
        blocks: residual blocks at each size of the U-Net.
        dropout: probability inside each block.
        frequencies: octaves of Fourier features of each entry, from 2 radians; 0 for none.
        patch: side of the squares of pixels that enter the U-Net as channels.
        maps: channels of a given map (B, maps, H, W) that stands beside a picture.
        tokens: whether the U-Net attends to given tokens.
    """

    omega: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        width: int | None = None,
        depth: int | None = None,
        blocks: int = 1,
        dropout: float = 0.0,
        frequencies: int = 4,
        patch: int = 1,
        maps: int = 0,
        tokens: bool = False,
    ) -> None:
        super().__init__()
        self.picture, size = len(shape) == 3, math.prod(shape)
        width, c = width or _width_of(shape), self.features_of(shape, width)
        entries = 2 + 2 * frequencies
        if self.picture:
            depth = depth or max(1, min(4, round(math.log2(max(shape[1:]) / patch / 4)) + 1))
            channels = (shape[0] * entries + maps, shape[0])
            options: dict[str, Any] = {"dropout": dropout, "patch": patch, "tokens": tokens}
            self.net: nn.Module = UNet(*channels, width, depth, blocks, c, **options)
        else:
            self.net = MLP(size * entries, size, width, depth or 4, c, dropout, zero=True)
        self.clock = Clock(c)
        self.register_buffer("omega", 2.0 ** torch.arange(1, frequencies + 1), persistent=False)

    @staticmethod
    def features_of(shape: tuple[int, ...], width: int | None = None) -> int:
        """Size of the condition vector of such a body."""
        features = (width or _width_of(shape)) * (4 if len(shape) == 3 else 1)
        return features + features % 2

    def forward(
        self, scaled: Tensor, u: Tensor, level: Tensor, c: Condition | None = None, observed: Tensor | None = None
    ) -> Tensor:
        """F at u, whose unit-variance version is `scaled`; `observed` says which entries are no pure noise."""
        h = self.clock(level, None if c is None else c.vector)
        mask = torch.ones_like(scaled) if observed is None else observed.to(scaled.dtype)
        parts = [scaled[:, None], mask[:, None], *self._waves(u, level)]
        entries = torch.cat(parts, 1)
        if self.picture:
            beside = (
                entries.flatten(1, 2) if c is None or c.map is None else torch.cat([entries.flatten(1, 2), c.map], 1)
            )
            return self.net(beside, h, None if c is None else c.tokens)
        return self.net(entries.flatten(1), h).reshape(scaled.shape)

    def _waves(self, u: Tensor, level: Tensor) -> list[Tensor]:
        if not len(self.omega):
            return []
        shrink = torch.exp(-0.5 * (self.omega * level[:, None]).square())
        shrink = shrink.reshape(*shrink.shape, *[1] * (u.ndim - 1))
        angle = u[:, None] * self.omega.reshape(-1, *[1] * (u.ndim - 1))
        return [torch.nan_to_num(shrink * wave) for wave in (angle.sin(), angle.cos())]
