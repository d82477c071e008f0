"""Draws of u given a measurement of it, from a denoiser or from a score.

    y = A(u) + n e,    E[u | u_t, y] = D + V J' (n^2 I + J V J')^-1 (y - A(D)),    J = dA/du at D
    V = Cov[u | u_t] = (sigma^2 / alpha) dD/du_t

Where u is Gaussian and A linear the formula is exact; otherwise it tends to the truth as sigma -> 0. Products with V
are backward passes, those with J forward ones; the solve is by conjugate gradients, cut short where a network's V is no
covariance. A mean never leaves the range of the data.

Offers `posterior_denoiser`, a denoiser again, for any sampler; `wander`, the sampler that suits it; `log_measurement`
for chains.
References: PiGDM (Song 2023, ICLR); MMPS (Rozet 2024, arXiv:2405.13712); DPM-Solver++ (Lu 2022, arXiv:2211.01095: its
SDE of second order is `wander`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..randomness import Rng
from .diffusion import Denoiser, nodes, prior
from .paths import VE

TILT = 0.02  # the cosine of two residuals from which on an operator is not symmetric; .1 trusts a network's V too long
REACH = 20.0  # deviations; V of a network need be no covariance, and then a correction has no end
SMALLEST_ALPHA = 1e-3  # where alpha = 0 the covariance cannot be read from the derivative


def posterior_denoiser(
    denoise: Denoiser,
    measure: Callable[[Tensor], Tensor],
    y: Tensor,
    *,
    noise: float,
    iterations: int = 8,
    within: tuple[Tensor, Tensor] | None = None,
) -> Denoiser:
    """The denoiser E[u | u_t, y].

    Args:
        denoise: E[u | u_t]; differentiable in u_t.
        measure: A, (B, *event) -> (B, *measured), differentiable, each row by itself.
        y: (B, *measured).
        noise: standard deviation of the measurement, in its units.
        iterations: of the conjugate gradients; as many as measured numbers make a linear solve exact. Fewer are made
            where dD/du, a network's, turns out to be no covariance.
        within: the least and the greatest u there is, `(*event)`, which no mean can leave.
    """

    def posterior(u: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        alpha = alpha.clamp_min(SMALLEST_ALPHA)
        factor = (sigma**2 / alpha).reshape(-1, *(1,) * (u.ndim - 1))
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            d = denoise(u, alpha, sigma)
            seen = measure(d)
        still = d.detach()

        def product(w: Tensor) -> tuple[Tensor, Tensor]:
            """(n^2 I + J V J') w, and V J' w on the way."""
            spread = factor * torch.autograd.grad(seen, u, w.to(seen.dtype), retain_graph=True)[0]
            along = torch.func.jvp(measure, (still,), (spread.to(still.dtype),))[1]
            return noise**2 * w + along.to(w.dtype), spread

        moved = still + solve(product, y.to(seen.dtype) - seen.detach(), still, iterations)
        return moved if within is None else torch.minimum(torch.maximum(moved, within[0]), within[1])

    return posterior


def wander(denoise: Denoiser, shape: tuple[int, ...], path: VE, steps: int, rng: Rng) -> Tensor:
    """Draws (B, *event) by the reverse SDE of a VE path, second order with one evaluation a step.

    u <- (s1 / s) exp(-h) u + (1 - exp(-2 h)) [ D + (D - D_before) h / (2 h_before) ] + s1 sqrt(1 - exp(-2 h)) e

    h = log(s / s1). Fresh noise forgives what a guided denoiser got wrong at an earlier level, where an ODE keeps it.
    """
    u, before, grid = prior(path, shape, rng), None, [s for _, s in nodes(path, steps)]
    for s, s1 in zip(grid[:-2], grid[1:-1], strict=True):
        d = denoise(u, torch.ones(len(u)), torch.full((len(u),), s))
        h = math.log(s / s1)
        ahead = d if before is None else d + (d - before[0]) * (h / (2 * before[1]))
        fresh = -math.expm1(-2 * h)
        u = s1 / s * math.exp(-h) * u + fresh * ahead + s1 * math.sqrt(fresh) * rng.normal(shape, u.dtype)
        before = (d, h)
    return denoise(u, torch.ones(len(u)), torch.full((len(u),), grid[-2]))


def solve(product: Callable[[Tensor], tuple[Tensor, Tensor]], y: Tensor, like: Tensor, iterations: int) -> Tensor:
    """G w where F w = y, product(w) = (F w, G w), by conjugate gradients.

    Each row of y (B, *measured) is its own system, which stops where it is solved, not positive, or where a residual is
    not orthogonal to the last but one, as it is if F is symmetric. G w is a sum over the directions of search,
    (B, *event) as `like`, and costs no product of its own.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).reshape(len(a), -1).sum(1)

    def wide(rows: Tensor, t: Tensor) -> Tensor:
        return rows.reshape(-1, *(1,) * (t.ndim - 1))

    total, r, p, before = torch.zeros_like(like), y, y, None
    size = dot(r, r)
    tiny = torch.finfo(y.dtype).eps ** 2 * size + torch.finfo(y.dtype).tiny
    for _ in range(iterations):
        q, g = product(p)
        curve = dot(p, q)
        go = (size > tiny) & (curve > 0)
        step = torch.where(go, size / torch.where(go, curve, 1.0), 0.0)
        total, after = total + wide(step, g) * g, r - wide(step, q) * q
        if before is not None:
            go = go & (dot(after, before).abs() <= TILT * (dot(after, after) * dot(before, before)).sqrt())
        before, r, grown = r, after, dot(after, after) / torch.where(go, size, 1.0)
        p = torch.where(wide(go, r), r + wide(grown, r) * p, 0.0)
        size = torch.where(go, dot(r, r), 0.0)
        if not bool(go.any()):
            break
    return total


def log_measurement(measure: Callable[[Tensor], Tensor], y: Tensor, noise: float) -> Callable[[Tensor], Tensor]:
    """log p(y | u) up to a constant, (B,), as a function of u (B, *event)."""

    def log_p(u: Tensor) -> Tensor:
        return -0.5 * ((y - measure(u)) / noise).square().flatten(1).sum(1)

    return log_p
