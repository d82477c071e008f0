"""U-Net of a grid of one, two or three axes: steps of a series, frames of a clip, cells of a solid.

    block   h <- h + K_t silu(M_c(norm(K_hw silu(norm(h)))))        K_hw: 3 x 3 in a plane, K_t: 3 from plane to plane
    net     h_0 = K fold(x), h_{l+1} = W fold(blocks(h_l)), g_l = blocks([unfold(W' g_{l+1}), h_l]), y = unfold(K' g_0)

A 3 x 3 x 3 convolution is taken apart into one in the plane and one from plane to plane: 12 weights in place of 27, and
neighbours are seen along all three axes. `fold` turns cells of 2 x 2 x 2 places (fewer along short axes) into channels;
an axis is halved while it is longer than 4. Sizes that do not divide are padded with zeros and cut back.
Offers `GridUNet`, `fold` and `unfold`.

References: 3D U-Net (Cicek 2016, arXiv:1606.06650); (2+1)D convolutions (Tran 2018, arXiv:1711.11248); a factorised
U-Net for the diffusion of videos (Ho 2022, arXiv:2204.03458).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, cat, channels_last, nn
from torch.nn import functional as F

from .convnet import Chain, group_norm
from .mlp import Modulation, zero_
from .unet import CrossAttention2d

Axes = tuple[int, int, int]
SHORTEST = 4  # an axis of at most this is not halved


def fold(h: Tensor, factors: Axes) -> Tensor:
    """Cells to channels, (B, C, a T, b H, c W) -> (B, C a b c, T, H, W)."""
    a, b, c = factors
    B, C, T, H, W = h.shape
    cells = h.reshape(B, C, T // a, a, H // b, b, W // c, c).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return cells.reshape(B, C * a * b * c, T // a, H // b, W // c)


def unfold(h: Tensor, factors: Axes) -> Tensor:
    """The way back of `fold`."""
    a, b, c = factors
    B, C, T, H, W = h.shape
    cells = h.reshape(B, C // (a * b * c), a, b, c, T, H, W).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return cells.reshape(B, C // (a * b * c), T * a, H * b, W * c)


class _Plane(nn.Module):
    """A convolution within each plane, (B, C, T, H, W) -> (B, C', T, H, W)."""

    def __init__(self, c_in: int, c_out: int, axes: Axes) -> None:
        super().__init__()
        a, b = (3 if n > 1 else 1 for n in axes[1:])
        self.conv = nn.Conv2d(c_in, c_out, (a, b), padding=(a // 2, b // 2))

    def forward(self, h: Tensor) -> Tensor:
        planes = h.transpose(1, 2).flatten(0, 1)
        return self.conv(planes).unflatten(0, (len(h), -1)).transpose(1, 2)


class _Across(nn.Module):
    """A convolution from plane to plane, (B, C, T, H, W) -> (B, C, T, H, W)."""

    def __init__(self, channels: int, axes: Axes) -> None:
        super().__init__()
        size = 3 if axes[0] > 1 else 1
        self.conv = nn.Conv2d(channels, channels, (size, 1), padding=(size // 2, 0))

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(h.flatten(3)).unflatten(3, h.shape[3:])


class _Pointwise(nn.Module):
    """A matrix at each place, (B, C, T, H, W) -> (B, C', T, H, W)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 1)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(h.flatten(3)).unflatten(3, h.shape[3:])


class _Block(nn.Module):
    """Residual block of a volume, c (B, c_dim); it may read tokens (B, L, c_dim) after that."""

    def __init__(self, c_in: int, c_out: int, axes: Axes, c_dim: int, dropout: float, tokens: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(c_in), group_norm(c_out)
        self.plane, self.across = _Plane(c_in, c_out, axes), _Across(c_out, axes)
        self.modulate, self.drop = Modulation(c_dim, c_out, axis=1), nn.Dropout(dropout)
        self.skip = _Pointwise(c_in, c_out) if c_in != c_out else nn.Identity()
        self.reading = CrossAttention2d(c_out, c_dim) if tokens else None

    def forward(self, h: Tensor, c: Tensor | None, tokens: Tensor | None = None) -> Tensor:
        g = self.plane(F.silu(self.norm1(h)))
        g = self.drop(F.silu(self.modulate(self.norm2(g), c)))
        h = self.skip(h) + self.across(g)
        if self.reading is None or tokens is None:
            return h
        return self.reading(h.flatten(3), tokens).unflatten(3, h.shape[3:])


class GridUNet(nn.Module):
    """(B, channels_in, T, H, W), c (B, c_dim) -> (B, channels_out, T, H, W); the output starts at exactly 0.

    Args:
        channels_in, channels_out: channels in and out.
        axes: (T, H, W); an axis of length 1 takes no part, so (L, 1, 1) is a series of L steps.
        width: channels at full size; doubled at each halving, at most 4 times.
        depth: number of sizes; None: until no axis is longer than 4.
        blocks: residual blocks at each size.
        c_dim: size of the condition, 0 for none.
        dropout: probability inside each block.
        patch: side of the cells of places that enter, and leave, as channels.
        tokens: attention to tokens (B, L, c_dim) at the coarsest size.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        axes: Sequence[int],
        width: int = 32,
        depth: int | None = None,
        blocks: int = 1,
        c_dim: int = 0,
        dropout: float = 0.0,
        patch: int = 1,
        tokens: bool = False,
    ) -> None:
        super().__init__()
        first = _factors(axes, patch)
        self.factors = [first, *_halvings(_smaller(axes, first), depth)]
        cells = math.prod(first)
        sizes, widths = [_smaller(axes, first)], [width]
        for f in self.factors[1:]:
            sizes.append(_smaller(sizes[-1], f))
            widths.append(min(2 * widths[-1], 4 * width))
        last = len(sizes) - 1

        def stages(c_in: int, level: int) -> Chain:
            w, made = widths[level], (sizes[level], c_dim, dropout, tokens and level == last)
            return Chain(_Block(w if i else c_in, w, *made) for i in range(blocks))

        self.inlet = nn.Sequential(_Plane(channels_in * cells, width, sizes[0]), _Across(width, sizes[0]))
        self.going = nn.ModuleList(stages(w, i) for i, w in enumerate(widths))
        steps = list(zip(widths[:-1], widths[1:], self.factors[1:], strict=True))
        self.down = nn.ModuleList(_Pointwise(a * math.prod(f), b) for a, b, f in steps)
        self.middle = _Block(widths[-1], widths[-1], sizes[-1], c_dim, dropout, tokens)
        self.up = nn.ModuleList(_Pointwise(b, a * math.prod(f)) for a, b, f in steps)
        self.coming = nn.ModuleList(stages(2 * w, i) for i, w in enumerate(widths))
        self.norm, self.outlet = group_norm(width), _Plane(width, channels_out * cells, sizes[0])
        zero_(self.outlet.conv)
        for p in self.parameters():
            if p.ndim == 4:
                p.data = p.data.contiguous(memory_format=channels_last)

    def forward(self, x: Tensor, c: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
        """x (B, channels_in, T, H, W) -> (B, channels_out, T, H, W)."""
        axes = x.shape[2:]
        whole = [math.prod(f[i] for f in self.factors) for i in range(3)]
        room = [side for n, f in zip(reversed(axes), reversed(whole), strict=True) for side in (0, -n % f)]
        h = self.inlet(fold(F.pad(x, room), self.factors[0]))
        kept = []
        for i, stages in enumerate(self.going):
            h = stages(self.down[i - 1](fold(h, self.factors[i])) if i else h, c, tokens)
            kept.append(h)
        h = self.middle(h, c, tokens)
        for i in reversed(range(len(kept))):
            h = self.coming[i](cat([h, kept[i]], 1), c, tokens)
            h = unfold(self.up[i - 1](h), self.factors[i]) if i else h
        y = unfold(self.outlet(F.silu(self.norm(h))), self.factors[0])
        return y[:, :, : axes[0], : axes[1], : axes[2]]


def _factors(axes: Sequence[int], factor: int, shortest: int = 1) -> Axes:
    """The factor along every axis that is longer than `shortest`, 1 along the others."""
    a, b, c = (factor if n > shortest else 1 for n in axes)
    return a, b, c


def _smaller(axes: Sequence[int], factors: Axes) -> Axes:
    a, b, c = (-(-n // f) for n, f in zip(axes, factors, strict=True))
    return a, b, c


def _halvings(axes: Axes, depth: int | None) -> list[Axes]:
    found: list[Axes] = []
    while (max(axes) > SHORTEST and len(found) < 3) if depth is None else len(found) < depth - 1:
        found.append(_factors(axes, 2, SHORTEST if depth is None else 1))
        axes = _smaller(axes, found[-1])
    return found
