"""Invertible layers: u -> z with the log of the Jacobian's determinant, and back in one pass.

    coupling   z_a = u_a,   z_b = f(u_b; body(u_a, c))                     log_det = sum_b log f'
    affine     f(x) = x e^s + t,   s = 2 tanh(a / 2)
    spline     f(x) on bin k = y_k + h_k [s_k r^2 + d_k r (1 - r)] / [s_k + (d_k + d_{k+1} - 2 s_k) r (1 - r)]
               r = (x - x_k) / w_k,   s_k = h_k / w_k,   f(x) = x outside [-bound, bound]
    mixing     z = P L U u over the channels                               log_det = pixels * sum log |diag U|

Every layer has `forward(u, c) -> (z, log_det)` with log_det `(B,)` and `inverse(z, c) -> u`; c `(B, c_dim)` or None.
References: NICE, RealNVP (Dinh 2016, arXiv:1605.08803); Glow (Kingma 2018, arXiv:1807.03039); rational-quadratic
splines (Durkan 2019, arXiv:1906.04032).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .convnet import ResBlock, group_norm
from .mlp import MLP

SMALLEST = 1e-3  # least width, height (as a share of all bins) and slope of a spline: keeps the inverse stable


def spline(x: Tensor, raw: Tensor, bound: float, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Monotone rational-quadratic spline with identity tails, entry by entry.

    Args:
        x: `(...,)`.
        raw: `(..., 3 K - 1)`: widths, heights and inner slopes of K bins before their links; zeros give the identity.
        bound: the spline acts on [-bound, bound].
        inverse: the inverse function instead.

    Returns:
        f(x) and log f'(x), both `(...,)`; of the inverse function where `inverse`.
    """
    K = (raw.shape[-1] + 1) // 3
    raw_share, raw_slope = raw.split([2 * K, K - 1], -1)
    # row 0 of `share` and `knots` is x, row 1 is y, both as shares of [-bound, bound]; slopes do not change by it
    share = SMALLEST + (1 - SMALLEST * K) * raw_share.unflatten(-1, (2, K)).softmax(-1)
    knots = share.cumsum(-1)
    inside = (x > -bound) & (x < bound)
    t = (x.clamp(-bound, bound) + bound) / (2 * bound)
    k = (knots[..., int(inverse), :-1].detach() <= t.unsqueeze(-1)).sum(-1, keepdim=True)
    size, end = (a.gather(-1, k.unsqueeze(-2).expand(*k.shape[:-1], 2, 1)).squeeze(-1) for a in (share, knots))
    (w, h), (x0, y0) = size.unbind(-1), (end - size).unbind(-1)
    d0, d1 = _slope(raw_slope, k - 1), _slope(raw_slope, k)
    s = h / w
    if inverse:
        r = _root(t - y0, h, s, d0, d1)
        f = x0 + w * r
    else:
        r = ((t - x0) / w).clamp(0, 1)
        f = y0 + h * r * (s * r + d0 * (1 - r)) / (s + (d0 + d1 - 2 * s) * r * (1 - r))
    log_slope = _log_slope(r, s, d0, d1)
    log_slope = -log_slope if inverse else log_slope
    return torch.where(inside, bound * (2 * f - 1), x), torch.where(inside, log_slope, torch.zeros_like(x))


def _slope(raw: Tensor, k: Tensor) -> Tensor:
    """The slope at inner knot k; 1 at both ends, so that the tails join smoothly, and 1 where raw is 0."""
    last = raw.shape[-1] - 1
    slope = SMALLEST + F.softplus(raw.gather(-1, k.clamp(0, last)) + math.log(math.expm1(1 - SMALLEST)))
    return torch.where((k >= 0) & (k <= last), slope, torch.ones_like(slope)).squeeze(-1)


def _root(y: Tensor, h: Tensor, s: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
    """The r in [0, 1] at which the bin's curve has risen by y: the root of a quadratic, without cancellation."""
    bend = d0 + d1 - 2 * s
    a, b, c = h * (s - d0) + y * bend, h * d0 - y * bend, -s * y
    disc = (b**2 - 4 * a * c).clamp_min(0)  # rounding may push it below 0
    return (2 * c / (-b - disc.sqrt()).clamp_max(-1e-30)).clamp(0, 1)


def _log_slope(r: Tensor, s: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
    q = r * (1 - r)
    top = s**2 * (d1 * r**2 + 2 * s * q + d0 * (1 - r) ** 2)
    return top.log() - 2 * (s + (d0 + d1 - 2 * s) * q).log()


def affine(x: Tensor, raw: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """x e^s + t (or its inverse) and its log slope; raw `(..., 2)`."""
    s, t = 2 * torch.tanh(raw[..., 0] / 2), raw[..., 1]
    return ((x - t) * (-s).exp(), -s) if inverse else (x * s.exp() + t, s)


class Bijection(nn.Module):
    """u -> z and back."""

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z, and log |det dz/du| `(B,)`."""
        raise NotImplementedError

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """The u that forward maps to z."""
        raise NotImplementedError


class Chain(Bijection):
    """One layer after the other."""

    def __init__(self, layers: Sequence[Bijection]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = u.new_zeros(len(u))
        for layer in self.layers:
            u, step = layer(u, c)
            log_det = log_det + step
        return u, log_det

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        for layer in reversed(_typed(self.layers)):
            z = layer.inverse(z, c)
        return z


class ActNorm(Bijection):
    """A scale and a shift for every channel (axis 1), trained; what enters is standardised, so both start neutral."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale, self.shift = (nn.Parameter(torch.zeros(channels)) for _ in range(2))

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_scale, shift = (_along(p, u) for p in (self.log_scale, self.shift))
        return u * log_scale.exp() + shift, (self.log_scale.sum() * _pixels(u)).expand(len(u))

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        log_scale, shift = (_along(p, z) for p in (self.log_scale, self.shift))
        return (z - shift) * (-log_scale).exp()


class Mixing(Bijection):
    """A linear map P L U over the channels (axis 1) that starts as a permutation.

    Args:
        channels: features, or channels of a picture (a 1 x 1 convolution).
        learned: False keeps it the fixed permutation P.
    """

    order: Tensor

    def __init__(self, channels: int, learned: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("order", torch.randperm(channels))
        self.learned = learned
        if learned:
            self.lower, self.upper = (nn.Parameter(torch.zeros(channels, channels)) for _ in range(2))
            self.log_diagonal = nn.Parameter(torch.zeros(channels))

    def _factors(self) -> tuple[Tensor, Tensor]:
        L = self.lower.tril(-1) + torch.eye(self.channels, device=self.lower.device, dtype=self.lower.dtype)
        return L, self.upper.triu(1) + torch.diag(self.log_diagonal.exp())

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = u[:, self.order]
        if not self.learned:
            return z, u.new_zeros(len(u))
        L, U = self._factors()
        z = torch.einsum("ij,bj...->bi...", L @ U, z)
        return z, (self.log_diagonal.sum() * _pixels(u)).expand(len(u))

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        if self.learned:
            L, U = self._factors()
            flat = z.transpose(0, 1).flatten(1)
            flat = torch.linalg.solve_triangular(L, flat, upper=False, unitriangular=True)
            flat = torch.linalg.solve_triangular(U, flat, upper=True)
            z = flat.reshape(self.channels, len(z), *z.shape[2:]).transpose(0, 1)
        return z[:, self.order.argsort()]


class VectorBody(nn.Module):
    """The kept entries of u `(B, d)` and c -> `(B, changed, numbers)`, by a residual MLP."""

    kept: Tensor

    def __init__(
        self, keep: Tensor, numbers: int, width: int, depth: int, c_dim: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.register_buffer("kept", keep.nonzero()[:, 0])
        self.numbers, alone = numbers, not keep.any()
        changed = keep.numel() - len(self.kept)
        # with nothing to look at, the numbers themselves are what is trained
        self.free = nn.Parameter(torch.zeros(changed * numbers)) if alone else None
        net = MLP(len(self.kept), changed * numbers, width, depth, c_dim, dropout) if c_dim or not alone else None
        self.net = net
        if net is not None:
            timid(net.outlet)

    def forward(self, u: Tensor, c: Tensor | None = None) -> Tensor:
        raw = u.new_zeros(len(u), 1) if self.net is None else self.net(u[:, self.kept], c)
        raw = raw if self.free is None else raw + self.free
        return raw.unflatten(1, (-1, self.numbers))


class PictureBody(nn.Module):
    """The kept entries of u `(B, C, H, W)` and c -> `(B, changed, numbers)`, by residual convolutions."""

    kept: Tensor
    changed: Tensor

    def __init__(
        self, keep: Tensor, numbers: int, width: int, depth: int, c_dim: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.numbers = numbers
        self.register_buffer("kept", keep.float()[None])
        self.register_buffer("changed", (~keep).flatten().nonzero()[:, 0])
        self.inlet = nn.Conv2d(2 * len(keep), width, 3, padding=1)
        self.blocks = nn.ModuleList(ResBlock(width, width, c_dim, dropout=dropout) for _ in range(depth))
        self.norm = group_norm(width)
        self.outlet = nn.Conv2d(width, len(keep) * numbers, 3, padding=1)
        timid(self.outlet)

    def forward(self, u: Tensor, c: Tensor | None = None) -> Tensor:
        kept = self.kept.expand_as(u)
        h = self.inlet(torch.cat([u * kept, kept], 1))
        for block in self.blocks:
            h = block(h, c)
        raw = self.outlet(F.silu(self.norm(h))).unflatten(1, (-1, self.numbers))
        return raw.movedim(2, -1).flatten(1, 3)[:, self.changed]


class Coupling(Bijection):
    """Entries that are kept decide how the others are changed.

    Args:
        keep: bool, of the event's shape; nothing kept makes it an unconditional map of every entry (given c).
        width, depth: of the body: an MLP for vectors, convolutions for pictures.
        bins: of the spline; 0 for an affine coupling.
        bound: where the spline's identity tails begin.
        c_dim: size of the condition, 0 for none.
        dropout: in the body.
    """

    changed: Tensor

    def __init__(
        self,
        keep: Tensor,
        width: int,
        depth: int,
        bins: int = 8,
        bound: float = 4.0,
        c_dim: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.bins, self.bound = bins, bound
        self.register_buffer("changed", (~keep).flatten().nonzero()[:, 0])
        body = PictureBody if keep.ndim == 3 else VectorBody
        self.body = body(keep, 3 * bins - 1 if bins else 2, width, depth, c_dim, dropout)

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_slope = self._map(u, c, inverse=False)
        return z, log_slope.sum(1)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self._map(z, c, inverse=True)[0]

    def _map(self, u: Tensor, c: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        raw, x = self.body(u, c), u.flatten(1)[:, self.changed]
        f, log_slope = spline(x, raw, self.bound, inverse) if self.bins else affine(x, raw, inverse)
        return u.flatten(1).index_copy(1, self.changed, f).reshape(u.shape), log_slope


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
            u = _typed(self.levels)[i].inverse(torch.cat([part, u], 1), c)
        return u


def timid(outlet: nn.Linear | nn.Conv2d) -> None:
    """Make a body start close to the identity (not at it: every weight has a gradient from the first step)."""
    with torch.no_grad():
        outlet.weight.mul_(0.1)
        if outlet.bias is not None:
            outlet.bias.zero_()


def _typed(layers: nn.ModuleList) -> list[Bijection]:
    return cast("list[Bijection]", list(layers))


def _along(p: Tensor, u: Tensor) -> Tensor:
    return p.reshape(-1, *(1,) * (u.ndim - 2))


def _pixels(u: Tensor) -> int:
    return math.prod(u.shape[2:])
