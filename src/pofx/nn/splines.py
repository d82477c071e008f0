"""Monotone maps of one number: shift, affine, rational-quadratic spline; each with its inverse and its log slope.

    additive   f(x) = x + t
    affine     f(x) = x e^s + t,   s = 2 tanh(a / 2)
    spline     f(x) = y_k + h_k [s_k r^2 + d_k r (1 - r)] / [s_k + (d_k + d_{k+1} - 2 s_k) r (1 - r)]   on bin k
               r = (x - x_k) / w_k,   s_k = h_k / w_k,   f(x) = x outside [-bound, bound]

The raw numbers that steer a map come first: x has any shape S, raw is `(numbers, *S)`, so that every step of the
spline runs along contiguous memory. Its gradient is written out: of the 3 K - 1 numbers of an entry only those of one
bin matter after the softmax, and autograd would keep and fill a dozen tensors of that size. Second derivatives go
through `plain`, the same function in plain steps.

References: NICE (Dinh 2014, arXiv:1410.8516); RealNVP (Dinh 2016, arXiv:1605.08803); rational-quadratic splines
(Durkan 2019, arXiv:1906.04032).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

SMALLEST = 1e-3  # least width and height (as a share of all bins) and slope of a spline: keeps the inverse stable
STEEP = -math.log(SMALLEST)  # slopes at the knots lie between e^-STEEP and e^STEEP


@dataclass(frozen=True)
class Additive:
    """x + t; volumes do not change."""

    numbers = 1

    def __call__(self, x: Tensor, raw: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """f(x) and log f'(x), or of the inverse function; x (*S), raw (1, *S)."""
        return (x - raw[0] if inverse else x + raw[0]), torch.zeros_like(x)


@dataclass(frozen=True)
class Affine:
    """x e^s + t."""

    numbers = 2

    def __call__(self, x: Tensor, raw: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """f(x) and log f'(x), or of the inverse function; x (*S), raw (2, *S)."""
        s, t = 2 * torch.tanh(raw[0] / 2), raw[1]
        return ((x - t) * (-s).exp(), -s) if inverse else (x * s.exp() + t, s)


@dataclass(frozen=True)
class Spline:
    """The rational-quadratic spline with K = `bins` bins on [-bound, bound]."""

    bins: int = 8
    bound: float = 4.0

    @property
    def numbers(self) -> int:
        """Raw numbers that steer one entry."""
        return 3 * self.bins - 1

    def __call__(self, x: Tensor, raw: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """f(x) and log f'(x), or of the inverse function; x (*S), raw (3 K - 1, *S); raw = 0 is the identity."""
        return spline(x, raw, self.bound, inverse)


Monotone = Additive | Affine | Spline


def spline(x: Tensor, raw: Tensor, bound: float, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Monotone rational-quadratic spline with identity tails, entry by entry.

    Args:
        x: `(*S)`.
        raw: `(3 K - 1, *S)`: K widths, K heights and K - 1 inner slopes before their links; zeros give the identity.
        bound: the spline acts on [-bound, bound].
        inverse: the inverse function instead.

    Returns:
        f(x) and log f'(x), both `(*S)`; of the inverse function where `inverse`.
    """
    f, log_slope = _Spline.apply(x, raw.to(x.dtype), bound, inverse)
    return f, log_slope


class Bin(NamedTuple):
    """The bin in which each entry lies, in units of the whole interval: all tensors are of x's shape."""

    x0: Tensor
    y0: Tensor
    w: Tensor
    h: Tensor
    d0: Tensor
    d1: Tensor


def plain(x: Tensor, raw: Tensor, bound: float, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """`spline` in plain differentiable steps."""
    K = (len(raw) + 1) // 3
    share = SMALLEST + (1 - SMALLEST * K) * raw[: 2 * K].unflatten(0, (2, K)).softmax(1)
    knots = share.cumsum(1)
    inside = (x > -bound) & (x < bound)
    t = (x.clamp(-bound, bound) + bound) / (2 * bound)
    k = (knots[int(inverse), :-1].detach() <= t).sum(0, keepdim=True)
    size, end = (a.gather(1, k.expand(2, 1, *k.shape[1:]))[:, 0] for a in (share, knots))
    d0, d1 = _slope(raw[2 * K :], k - 1), _slope(raw[2 * K :], k)
    f, log_slope, _ = _curve(t, Bin(*(end - size), *size, d0, d1), inverse)
    return torch.where(inside, bound * (2 * f - 1), x), torch.where(inside, log_slope, torch.zeros_like(x))


def _slope(raw: Tensor, k: Tensor) -> Tensor:
    """The slope at inner knot k; 1 at both ends, so that the tails join smoothly, and 1 where raw is 0."""
    last = len(raw) - 1
    if last < 0:
        return torch.ones_like(k[0], dtype=raw.dtype)
    inner = raw.gather(0, k.clamp(0, last))
    slope = (inner / (1 + inner.abs() / STEEP)).exp()
    return torch.where((k >= 0) & (k <= last), slope, torch.ones_like(slope))[0]


def _curve(t: Tensor, b: Bin, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The curve of the bin at t, its log slope (of the inverse function where `inverse`), and r."""
    s = b.h / b.w
    if inverse:
        r = _root(t - b.y0, b.h, s, b.d0, b.d1)
        f = b.x0 + b.w * r
    else:
        r = ((t - b.x0) / b.w).clamp(0, 1)
        q = r * (1 - r)
        f = b.y0 + b.h * (s * r * r + b.d0 * q) / (s + (b.d0 + b.d1 - 2 * s) * q)
    log_slope = _log_slope(r, s, b.d0, b.d1)
    return f, -log_slope if inverse else log_slope, r


def _root(y: Tensor, h: Tensor, s: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
    """The r in [0, 1] at which the bin's curve has risen by y: the root of a quadratic, without cancellation."""
    bend = (d0 + d1 - 2 * s) * y
    a, b, c = h * (s - d0) + bend, h * d0 - bend, -s * y
    disc = (b * b - 4 * a * c).clamp_min(0)  # rounding may push it below 0
    return (2 * c / (-b - disc.sqrt()).clamp_max(-1e-30)).clamp(0, 1)


def _log_slope(r: Tensor, s: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
    rest, twice = 1 - r, s + s
    q = r * rest
    ratio = s / (s + (d0 + d1 - twice) * q)
    return ((d1 * r * r + twice * q + d0 * rest * rest) * (ratio * ratio)).log()


class _Spline(torch.autograd.Function):
    """`plain`, with the gradient written out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, raw: Tensor, bound: float, inverse: bool) -> tuple[Tensor, Tensor]:
        K, size = (len(raw) + 1) // 3, x.numel()
        p = raw[: 2 * K].reshape(2, K, size).softmax(1)
        c, slopes = p.cumsum(1), raw[2 * K :].reshape(K - 1, size)
        inside = ((x > -bound) & (x < bound)).reshape(size)
        t = ((x.clamp(-bound, bound) + bound) / (2 * bound)).reshape(size)
        free, line = 1 - SMALLEST * K, torch.arange(size, device=x.device)
        steps = torch.arange(1, K, device=x.device, dtype=x.dtype)[:, None] * (SMALLEST / free)
        k = (c[int(inverse), :-1] <= t / free - steps).sum(0)
        at = k * size + line
        share = torch.stack([p[0].take(at), p[1].take(at)])
        before = torch.stack([c[0].take(at), c[1].take(at)]) - share
        (x0, y0), (w, h) = free * before + SMALLEST * k.to(x.dtype), free * share + SMALLEST
        inner, start = _inner_slopes(slopes, k, line)
        f, log_slope, r = _curve(t, Bin(x0, y0, w, h, start[0], start[1]), inverse)
        f, log_slope = torch.where(inside, bound * (2 * f - 1), x.reshape(size)), log_slope * inside
        ctx.save_for_backward(x, raw, p, k, share, before, r, inner, start, inside)
        ctx.bound, ctx.inverse = bound, inverse
        return f.reshape(x.shape), log_slope.reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, grad_f: Tensor, grad_log: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, raw, p, k, share, before, r, inner, start, inside = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants to differentiate once more
            outputs = plain(x, raw, ctx.bound, ctx.inverse)
            gx, graw = torch.autograd.grad(outputs, (x, raw), (grad_f, grad_log), create_graph=True, allow_unused=True)
            return gx, graw, None, None
        K, size = (len(raw) + 1) // 3, x.numel()
        free, gf, gl = 1 - SMALLEST * K, grad_f.reshape(size), grad_log.reshape(size)
        (w, h), (d0, d1) = free * share + SMALLEST, start
        g = _gradient(Bin(w, w, w, h, d0, d1), r, gf * inside * (2 * ctx.bound), gl * inside, ctx.inverse)
        gx = torch.where(inside, g.t / (2 * ctx.bound), gf).reshape(x.shape) if ctx.needs_input_grad[0] else None
        out = torch.zeros_like(raw.reshape(3 * K - 1, size))
        _share_gradient(out[: 2 * K].view(2, K, size), p, k, share, before, free, g)
        if K > 1:
            _slope_gradient(out[2 * K :], k, inner, start, g)
        return gx, out.reshape(raw.shape), None, None


class _Gradient(NamedTuple):
    t: Tensor
    ends: Tensor  # of x0 and y0
    sizes: Tensor  # of w and h
    slopes: Tensor  # of d0 and d1


def _inner_slopes(raw: Tensor, k: Tensor, line: Tensor) -> tuple[Tensor, Tensor]:
    """Raw inner slopes on both sides of bin k (0 at an end), and the slopes themselves (1 at an end)."""
    last, size = len(raw) - 1, len(line)
    if last < 0:
        return raw.new_zeros(2, size), raw.new_ones(2, size)
    sides = torch.stack([k - 1, k])
    real = (sides >= 0) & (sides <= last)
    inner = raw.take(sides.clamp(0, last) * size + line) * real
    return inner, (inner / (1 + inner.abs() / STEEP)).exp()


def _gradient(b: Bin, r: Tensor, gf: Tensor, gl: Tensor, inverse: bool) -> _Gradient:
    """The gradient with respect to t and the bin, from those of the value and the log slope, in unit coordinates.

    An inverse x(y) has f(x(y)) = y: it is the forward map's gradient at x with gf = -(g_x + gl dL/dx) / f'.
    """
    w, h, d0, d1 = b.w, b.h, b.d0, b.d1
    s, rest, rr = h / w, 1 - r, r * r
    q, twice, bow = r * rest, s + s, rest - r
    ss, tilt = rest * rest, d0 + d1 - twice
    D, N = (s + tilt * q).reciprocal(), s * rr + d0 * q
    top = d1 * rr + twice * q + d0 * ss
    T, DD = top.reciprocal(), D * D
    slope_r = h * s * top * DD  # df/dr
    gt2 = gl * T * (-2 if inverse else 2)  # the part of 2 gl / T, and of 2 gl D
    gd2 = gl * D * (-2 if inverse else 2)
    log_r = gt2 * (d1 * r + s * bow - d0 * rest) - gd2 * tilt * bow  # gl dL/dr
    gy = gf
    if inverse:
        gy = (gf * w + log_r) / slope_r
        gf = -gy
    gr, hD, qD = gf * slope_r + log_r, gf * h * DD, q * gd2
    half = 0.5 * gt2
    flat = 1 - q - q
    gs = hD * (rr / D - N * flat) + gl * (-2 if inverse else 2) / s + gt2 * q - gd2 * flat
    gd0 = hD * q * (1 / D - N) + half * ss - qD
    gd1 = half * rr - qD - hD * N * q
    gt = gr / w
    sizes = torch.stack([-(gr * r + gs * s) / w, gf * N * D + gs / w])
    return _Gradient(gy if inverse else gt, torch.stack([-gt, gf]), sizes, torch.stack([gd0, gd1]))


def _share_gradient(
    out: Tensor, p: Tensor, k: Tensor, share: Tensor, before: Tensor, free: float, g: _Gradient
) -> None:
    """Through softmax and cumulative sum: out `(2, K, size)`."""
    mean = g.sizes * share + g.ends * before
    count = torch.arange(p.shape[1], device=p.device)[:, None]
    torch.lt(count, k, out=(earlier := torch.empty_like(p[0])))
    torch.sub(earlier * g.ends[:, None], mean[:, None], out=out)
    out.mul_(p).scatter_add_(1, k.expand(2, 1, -1), (g.sizes * share)[:, None])
    out.mul_(free)


def _slope_gradient(out: Tensor, k: Tensor, inner: Tensor, start: Tensor, g: _Gradient) -> None:
    """Through their link: out `(K - 1, size)`, zero so far."""
    sides = torch.stack([k - 1, k])
    real = (sides >= 0) & (sides < len(out))
    out.scatter_add_(0, sides.clamp(0, len(out) - 1), g.slopes * start / (1 + inner.abs() / STEEP).square() * real)
