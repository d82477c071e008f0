"""Draws of u given a measurement of it, from a denoiser or from a score.

    y = A(u) + n e,    E[u | u_t, y] = D + V J' (n^2 I + J V J')^-1 (y - A(D)),    J = dA/du at D
    V = Cov[u | u_t] = (sigma^2 / alpha) dD/du_t

Where u is Gaussian and A linear the formula is exact; otherwise it tends to the truth as sigma -> 0. Products with V
are backward passes, those with J forward ones; the solve is by conjugate gradients.

Offers `posterior_denoiser`, a denoiser again, for any sampler, and `log_measurement` for chains.
References: PiGDM (Song 2023, ICLR); MMPS (Rozet 2024, arXiv:2405.13712).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .diffusion import Denoiser

SMALLEST_ALPHA = 1e-3  # where alpha = 0 the covariance cannot be read from the derivative


def posterior_denoiser(
    denoise: Denoiser, measure: Callable[[Tensor], Tensor], y: Tensor, *, noise: float, iterations: int = 8
) -> Denoiser:
    """The denoiser E[u | u_t, y].

    Args:
        denoise: E[u | u_t]; differentiable in u_t.
        measure: A, (B, *event) -> (B, *measured), differentiable, each row by itself.
        y: (B, *measured).
        noise: standard deviation of the measurement, in its units.
        iterations: of the conjugate gradients; as many as measured numbers make a linear solve exact.
    """

    def posterior(u: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        alpha = alpha.clamp_min(SMALLEST_ALPHA)
        factor = (sigma**2 / alpha).reshape(-1, *(1,) * (u.ndim - 1))
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            d = denoise(u, alpha, sigma)
            seen = measure(d)
        still = d.detach()

        def spread(w: Tensor) -> Tensor:
            """V J' w."""
            return factor * torch.autograd.grad(seen, u, w.to(seen.dtype), retain_graph=True)[0]

        def product(w: Tensor) -> Tensor:
            along = torch.func.jvp(measure, (still,), (spread(w).to(still.dtype),))[1]
            return noise**2 * w + along.to(w.dtype)

        weights = solve(product, (y.to(seen.dtype) - seen.detach()), iterations)
        return (d + spread(weights)).detach()

    return posterior


def solve(product: Callable[[Tensor], Tensor], y: Tensor, iterations: int) -> Tensor:
    """Conjugate gradients, each row of y (B, *event) its own system; a row stops where it is solved or not positive."""

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).reshape(len(a), -1).sum(1).reshape(-1, *(1,) * (a.ndim - 1))

    x, r, p = torch.zeros_like(y), y, y
    size = dot(r, r)
    tiny = torch.finfo(y.dtype).eps ** 2 * size + torch.finfo(y.dtype).tiny
    for _ in range(iterations):
        q = product(p)
        curve = dot(p, q)
        go = (size > tiny) & (curve > 0)
        step = torch.where(go, size / torch.where(go, curve, 1.0), 0.0)
        x, r = x + step * p, r - step * q
        after = dot(r, r)
        p = torch.where(go, r + after / torch.where(go, size, 1.0) * p, 0.0)
        size = torch.where(go, after, 0.0)
    return x


def log_measurement(measure: Callable[[Tensor], Tensor], y: Tensor, noise: float) -> Callable[[Tensor], Tensor]:
    """log p(y | u) up to a constant, (B,), as a function of u (B, *event)."""

    def log_p(u: Tensor) -> Tensor:
        return -0.5 * ((y - measure(u)) / noise).square().flatten(1).sum(1)

    return log_p
