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

import functools
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
        raw: `(3 K - 1, *S)`: K - 1 inner slopes, K widths and K heights before their links; zeros give the identity.
        bound: the spline acts on [-bound, bound].
        inverse: the inverse function instead.

    Returns:
        f(x) and log f'(x), both `(*S)`; of the inverse function where `inverse`.
    """
    with torch.autocast(x.device.type, enabled=False):  # the ends of bins are sums that want all their digits
        f, log_slope = _Spline.apply(x, raw.to(x.dtype), bound, inverse)
    return f, log_slope


class Bin(NamedTuple):
    """The bin in which each entry lies, in any units: its corner, sizes and slopes, all of x's shape."""

    x0: Tensor
    y0: Tensor
    w: Tensor
    h: Tensor
    d0: Tensor
    d1: Tensor


class Curve(NamedTuple):
    """What a bin makes of an entry: its place r, and the parts of f = y0 + h r A / D and f' = s^2 T / D^2."""

    r: Tensor
    q: Tensor  # r (1 - r)
    s: Tensor
    A: Tensor  # d0 (1 - r) + s r
    B: Tensor  # s (1 - r) + d1 r
    T: Tensor  # A (1 - r) + B r
    tilt: Tensor  # d0 + d1 - 2 s
    D: Tensor  # s + tilt q


def plain(x: Tensor, raw: Tensor, bound: float, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """`spline` in plain differentiable steps."""
    K = (len(raw) + 1) // 3
    share = SMALLEST + (1 - SMALLEST * K) * raw[K - 1 :].unflatten(0, (2, K)).softmax(1)
    knots = share.cumsum(1)
    inside = (x > -bound) & (x < bound)
    t = (x.clamp(-bound, bound) + bound) / (2 * bound)
    k = (knots[int(inverse), :-1].detach() <= t).sum(0, keepdim=True)
    size, end = (a.gather(1, k.expand(2, 1, *k.shape[1:]))[:, 0] for a in (share, knots))
    slopes = torch.cat([torch.zeros_like(raw[:1]), raw[: K - 1], torch.zeros_like(raw[:1])])
    d0, d1 = (_slope(slopes.gather(0, i))[0] for i in (k, k + 1))
    (x0, y0), (w, h) = end - size, size
    f, log_slope, _ = curve(t, Bin(x0, y0, w, h, d0, d1), inverse)
    return torch.where(inside, bound * (2 * f - 1), x), torch.where(inside, log_slope, torch.zeros_like(x))


def _slope(raw: Tensor) -> Tensor:
    """The slope at a knot; 1 where raw is 0, as at both ends, so that the tails join smoothly."""
    return (raw / (1 + raw.abs() / STEEP)).exp()


def curve(t: Tensor, b: Bin, inverse: bool) -> tuple[Tensor, Tensor, Curve]:
    """The curve of the bin at t, its log slope (of the inverse function where `inverse`), and their parts."""
    s = b.h / b.w
    r = _root(t - b.y0, b.h, s, b.d0, b.d1) if inverse else ((t - b.x0) / b.w).clamp(0, 1)
    q = torch.addcmul(r, r, r, value=-1)
    A, B = torch.lerp(b.d0, s, r), torch.lerp(s, b.d1, r)
    T, tilt = torch.lerp(A, B, r), torch.sub(b.d0 + b.d1, s, alpha=2)
    D = torch.addcmul(s, tilt, q)
    f = torch.addcmul(b.x0, b.w, r) if inverse else torch.addcdiv(b.y0, b.h * r * A, D)
    ratio = s / D
    log_slope = (T * ratio * ratio).log()
    return f, -log_slope if inverse else log_slope, Curve(r, q, s, A, B, T, tilt, D)


def _root(y: Tensor, h: Tensor, s: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
    """The r in [0, 1] at which the bin's curve has risen by y: the root of a quadratic, without cancellation."""
    bend = torch.sub(d0 + d1, s, alpha=2) * y
    a, b, c = torch.addcmul(bend, h, s - d0), h * d0 - bend, s * y
    disc = torch.addcmul(b * b, a, c, value=4).clamp_min(0)  # rounding may push it below 0
    return (2 * c / (b + disc.sqrt()).clamp_min(1e-30)).clamp(0, 1)


class _Spline(torch.autograd.Function):
    """`plain`, with the gradient written out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, raw: Tensor, bound: float, inverse: bool) -> tuple[Tensor, Tensor]:
        K, size = (len(raw) + 1) // 3, x.numel()
        flat, x_flat, least = raw.reshape(3 * K - 1, size), x.reshape(size), 2 * bound * SMALLEST
        p = flat[K - 1 :].view(2, K, size).softmax(1)  # shares of the free width and height
        ends = torch.baddbmm(*_sums(K, bound, x.device, x.dtype), p)  # the upper end of every bin
        t = x_flat.clamp(-bound, bound)
        inside, earlier = torch.empty_like(t), torch.empty(K, size, device=x.device, dtype=x.dtype)
        torch.eq(t, x_flat, out=inside)
        # masks and counts are kept as floating-point numbers: so they multiply several times faster
        torch.le(ends[int(inverse), :-1], t, out=earlier[:-1])
        earlier[-1].zero_()
        count = earlier.sum(0)
        at = torch.add(torch.arange(size, device=x.device), count.long(), alpha=size)
        free = p.view(2, K * size).index_select(1, at).mul_(2 * bound - K * least)
        sizes = torch.add(free, least)
        corners = ends.view(2, K * size).index_select(1, at).sub_(sizes)
        # beyond both ends of the inner slopes stands a number that is not one of them, and is masked
        mask = torch.stack([count, (K - 1) - count]).clamp_(max=1)
        inner = flat.take(torch.stack([at - size, at])).mul_(mask)
        damping = torch.add(torch.ones_like(inner), inner.abs(), alpha=1 / STEEP).reciprocal_()
        d = (inner * damping).exp_()
        f, log_slope, parts = curve(t, Bin(*corners, *sizes, *d), inverse)
        ctx.save_for_backward(x, raw, p, count, at, earlier, free, corners, d, damping, sizes, inside, *parts)
        ctx.bound, ctx.inverse = bound, inverse
        return torch.addcmul(x_flat, f - x_flat, inside).view(x.shape), (log_slope * inside).view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad_f: Tensor, grad_log: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, raw, p, count, at, earlier, free, corners, d, damping, sizes, inside, *parts = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants to differentiate once more
            outputs = plain(x, raw, ctx.bound, ctx.inverse)
            wanted = [a for a in (x, raw) if a.requires_grad]
            found = iter(torch.autograd.grad(outputs, wanted, (grad_f, grad_log), create_graph=True))
            return *(next(found) if a.requires_grad else None for a in (x, raw)), None, None
        K, size, least = (len(raw) + 1) // 3, x.numel(), 2 * ctx.bound * SMALLEST
        gf, gl = grad_f.reshape(size), grad_log.reshape(size) * inside
        if ctx.inverse:
            gl = -gl
        g = _gradient(sizes[0], sizes[1], d[0], Curve(*parts), gf * inside, gl, ctx.inverse)
        gx = torch.addcmul(gf, g.t - gf, inside).view(x.shape) if ctx.needs_input_grad[0] else None
        out = torch.empty(3 * K, size, device=x.device, dtype=x.dtype)
        out[:K].zero_()
        # row 0, and the first of the shares, which is written next, take the slopes at both ends
        knots, slopes = torch.stack([at, at + size]), g.slopes * d * damping * damping
        out.view(-1).scatter_(0, knots.view(-1), slopes.view(-1))
        before = torch.add(corners, torch.add(count * -least, ctx.bound))  # the free shares of the bins before, summed
        shares = out[K:].view(2, K, size)
        _share_gradient(shares, p, at, earlier, free, before, 2 * ctx.bound - K * least, g)
        return gx, out[1:].view(raw.shape), None, None


@functools.lru_cache(maxsize=64)
def _sums(K: int, bound: float, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """b (1, K, 1) and A (2, K, K): bins with shares p (2, K, S) of what is free end at b + A p."""
    least = 2 * bound * SMALLEST
    sums = torch.ones(2, K, K, device=device, dtype=dtype).tril() * (2 * bound - K * least)
    return (torch.arange(1, K + 1, device=device, dtype=dtype) * least - bound)[None, :, None], sums


class _Gradient(NamedTuple):
    t: Tensor
    ends: Tensor  # of x0 and y0
    sizes: Tensor  # of w and h
    slopes: Tensor  # of d0 and d1


def _gradient(w: Tensor, h: Tensor, d0: Tensor, c: Curve, gf: Tensor, gl: Tensor, inverse: bool) -> _Gradient:
    """The gradient with respect to t and the bin, from gf of the value and gl of the (forward) log slope.

    Backwards through N = r A, D, T and r; m, n, b are what N, -D and T receive. An inverse x(y) has f(x(y)) = y: it is
    the forward map's gradient at x with gf = -(g_x + gl dL/dx) / f'.
    """
    r, q, s, A, B, T, tilt, D = c
    rest, rr = 1 - r, r * r
    b, both = gl / T, gl / D
    N_r, D_r = torch.addcmul(A, r, s - d0), (rest - r) * tilt
    E = r * A / D
    log_r = torch.addcmul(b * (B - A), both, D_r, value=-1)
    log_r = log_r + log_r
    gy = gf
    if inverse:
        gy = (gf * w + log_r) * D / (h * torch.addcmul(N_r, E, D_r, value=-1))
        gf = -gy
    m = gf * h / D
    gr = torch.addcmul(log_r, m, torch.addcmul(N_r, E, D_r, value=-1))
    n = torch.add(m * E, both, alpha=2)
    gs = torch.addcmul(m * rr - n, torch.add(n, b), q, value=2)
    gs = torch.addcdiv(gs, gl, s, value=2)
    gd0 = torch.addcmul((m - n) * q, b, rest * rest)
    gd1 = torch.addcmul(b * rr, n, q, value=-1)
    gt = gr / w
    sizes = torch.stack([-torch.addcmul(gt * r, gs / w, s), torch.addcdiv(gf * E, gs, w)])
    return _Gradient(gy if inverse else gt, torch.stack([-gt, gf]), sizes, torch.stack([gd0, gd1]))


def _share_gradient(
    out: Tensor, p: Tensor, at: Tensor, earlier: Tensor, own: Tensor, before: Tensor, scale: float, g: _Gradient
) -> None:
    """Through sums and softmax: out `(2, K, size)`; own and before are the lengths of bin k and of those before it.

    A share's gradient is p_j (scale [j < k] g_end + scale [j = k] g_size - mean); earlier `(K, size)` is [j < k].
    """
    own = g.sizes * own
    mean = torch.addcmul(own, g.ends, before)
    torch.addcmul(-mean[:, None], earlier, (g.ends * scale)[:, None], out=out).mul_(p)
    out.view(2, -1).index_add_(1, at, own)
