"""What flows on pictures need besides couplings: space to channels, and several scales (real pictures (B, C, H, W)).

    squeeze      (C, H, W) -> (C a b, H / a, W / b)
    multiscale   z = (first half of f_1(u), first half of f_2(second half), ...)
    raster       z_i = f(m_i(u_i); a_i(u before i in raster order)),   m_i a curve of entry i alone

The body of `Raster` reads u itself, not m(u): where most pixels are background, m spreads what is mere noise.
References: RealNVP (Dinh 2016, arXiv:1605.08803); Glow (Kingma 2018, arXiv:1807.03039); PixelCNN (van den Oord 2016,
arXiv:1601.06759).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .bijections import Bijection, typed
from .mlp import Modulation
from .splines import Monotone
from .triangular import Solver


class Squeeze(Bijection):
    """Space to channels, `(B, C, H, W)` -> `(B, C a b, H / a, W / b)`; a permutation."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        B, C, H, W = u.shape
        z = u.reshape(B, C, H // self.a, self.a, W // self.b, self.b).permute(0, 1, 3, 5, 2, 4)
        return z.reshape(B, C * self.a * self.b, H // self.a, W // self.b), u.new_zeros(B)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        B, C, H, W = z.shape
        u = z.reshape(B, C // (self.a * self.b), self.a, self.b, H, W).permute(0, 1, 4, 2, 5, 3)
        return u.reshape(B, -1, H * self.a, W * self.b)


class Multiscale(Bijection):
    """Levels of a picture: after each but the last, the first half of the channels is done; z `(B, D)` is flat.

    Args:
        levels: one bijection of pictures for each level; the next one acts on the other half of its channels.
        shapes: (C, H, W) of what each level gives.
    """

    def __init__(self, levels: Sequence[Bijection], shapes: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.levels, self.shapes = nn.ModuleList(levels), list(shapes)

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        done: list[Tensor] = []
        log_det = u.new_zeros(len(u))
        for i, level in enumerate(self.levels):
            u, step = level(u, c)
            log_det = log_det + step
            half = u.shape[1] // 2 if i < len(self.levels) - 1 else u.shape[1]
            done.append(u[:, :half].flatten(1))
            u = u[:, half:]
        return torch.cat(done, 1), log_det

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        last = len(self.levels) - 1
        sizes = [math.prod(s) if i == last else s[0] // 2 * s[1] * s[2] for i, s in enumerate(self.shapes)]
        u = z[:, :0].reshape(len(z), 0, *self.shapes[-1][1:])
        for i, part in reversed(list(enumerate(z.split(sizes, 1)))):
            part = part.reshape(len(z), -1, *self.shapes[i][1:])
            u = typed(self.levels)[i].inverse(torch.cat([part, u], 1), c)
        return u


class RasterConv(nn.Module):
    """A convolution that looks up and left: `(B, in, H, W)` -> `(B, out, H, W)`.

    Args:
        group_in, group_out: the channel of the picture that every feature belongs to, shape (features,).
        reach: rows above and columns beside the pixel that are seen.
        strict: the pixel's own channel is not seen.
    """

    mask: Tensor

    def __init__(
        self, group_in: Tensor, group_out: Tensor, reach: int, strict: bool = False, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.reach = reach
        mask = torch.ones(len(group_out), len(group_in), reach + 1, 2 * reach + 1)
        mask[:, :, reach, reach:] = 0
        here, there = group_out[:, None], group_in[None]
        mask[:, :, reach, reach] = (here > there if strict else here >= there).to(mask.dtype)
        self.register_buffer("mask", mask, persistent=False)
        fan = mask.flatten(1).sum(1).clamp_min(1)[:, None, None, None]
        self.weight = nn.Parameter(torch.randn(mask.shape) * scale / fan.sqrt())
        self.bias = nn.Parameter(torch.zeros(len(group_out)))

    def forward(self, x: Tensor) -> Tensor:
        r, weight = self.reach, self.weight * self.mask
        if r:
            return F.conv2d(F.pad(x, (r, r, r, 0)), weight, self.bias)
        # a plain product is many times faster than a 1 x 1 convolution of few channels
        return (weight[:, :, 0, 0] @ x.flatten(2)).unflatten(2, x.shape[2:]) + self.bias[:, None, None]

    def stretched(self, x: Tensor) -> Tensor:
        """The same where reach is 0, with features first: `(out, B, H W)`."""
        flat = x.flatten(2).transpose(0, 1).flatten(1)
        y = torch.addmm(self.bias[:, None], (self.weight * self.mask)[:, :, 0, 0], flat)
        return y.unflatten(1, (len(x), -1))


class RasterBody(nn.Module):
    """Entries before i in raster order (channels of a pixel in turn), and c -> what steers entry i.

    u `(B, C, H, W)` -> `(numbers, B, C H W)`.

    Args:
        channels: C.
        numbers: raw numbers for one entry.
        width: features, rounded up to a multiple of C.
        depth: residual blocks.
        c_dim: size of the condition, 0 for none.
        dropout: in the blocks.
    """

    def __init__(
        self, channels: int, numbers: int, width: int, depth: int, c_dim: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.numbers = numbers
        channel = torch.arange(channels)
        group = channel.repeat_interleave(-(-width // channels))
        self.inlet = RasterConv(channel, group, 3, strict=True)
        self.look = nn.ModuleList(RasterConv(group, group, 1) for _ in range(depth))
        self.link = nn.ModuleList(RasterConv(group, group, 0, scale=0.3) for _ in range(depth))
        self.modulations = nn.ModuleList(Modulation(c_dim, len(group), axis=1) for _ in range(depth + 1))
        self.outlet = RasterConv(group, channel.repeat(numbers), 0, scale=0.1)
        self.drop = nn.Dropout(dropout)

    def forward(self, u: Tensor, c: Tensor | None = None) -> Tensor:
        h = self.inlet(u)
        for look, link, modulate in zip(self.look, self.link, self.modulations, strict=False):
            h = h + link(self.drop(F.silu(look(F.silu(modulate(h, c))))))
        raw = self.outlet.stretched(F.silu(self.modulations[-1](h, c))).unflatten(0, (self.numbers, -1))
        return raw.transpose(1, 2).flatten(2)


class Raster(Bijection):
    """The autoregressive map of a picture in raster order; z `(B, C H W)` is flat.

    Args:
        shape: of a picture, (C, H, W).
        body: steers it, reading u.
        monotone: the map of one entry.
        marginal: the curves of the entries, before it.
        solver: finds the inverse as a fixed point.
    """

    def __init__(
        self, shape: Sequence[int], body: RasterBody, monotone: Monotone, marginal: Bijection, solver: Solver
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.body, self.monotone, self.marginal, self.solver = body, monotone, marginal, solver

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        v, log_det = self.marginal(u, c)
        z, log_slope = self.monotone(v.flatten(1), self.body(u, c))
        return z, log_det + log_slope.sum(1)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        def update(u: Tensor, rows: Tensor) -> Tensor:
            raw = self.body(u.reshape(len(u), *self.shape), None if c is None else c[rows])
            return self.marginal.inverse(self.monotone(z[rows], raw, True)[0])

        return self.solver(update, self.marginal.inverse(z), z.shape[1]).reshape(len(z), *self.shape)
