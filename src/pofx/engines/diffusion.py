"""Noise paths, and samplers and densities that ask a denoiser only.

    u_t = alpha_t u + sigma_t eps,    D(u_t, alpha_t, sigma_t) = E[u | u_t]
    w = u_t / r,  r^2 = alpha_t^2 + sigma_t^2,  phi = atan2(sigma_t, alpha_t):   dw/dphi = cos(phi) eps^ - sin(phi) D
    eps^ = (u_t - alpha_t D) / sigma_t

In the angle phi the probability-flow ODE of every path is one bounded equation: it has no singular end where alpha = 0
(the noise end of VP and Linear) nor where sigma is large (VE). A denoiser is any callable
(u (B, *event), alpha (B,), sigma (B,)) -> (B, *event). Time t is in [0, 1], 0 = data.

Offers the samplers `heun`, `churned`, `ddim`, `ancestral`, `multistep`; the density
`ode_log_prob`.

References: DDPM (Ho 2020, arXiv:2006.11239); DDIM (Song 2021, arXiv:2010.02502); score SDE (Song 2021,
arXiv:2011.13456); EDM (Karras 2022, arXiv:2206.00364: its algorithm 1 is Heun's method on the same ODE in sigma, its
algorithm 2 adds churn); DPM-Solver++ (Lu 2022, arXiv:2211.01095); flow matching (Lipman 2023, arXiv:2210.02747).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..randomness import Rng
from .ode import log_likelihood
from .paths import PATHS, VE, VP, Linear, Path, path_of

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]

__all__ = [
    "PATHS", "SAMPLERS", "VE", "VP", "Denoiser", "Linear", "LogProb", "Path", "ancestral", "churned", "ddim", "heun",
    "heun_step", "multistep", "nodes", "ode_log_prob", "path_of", "prior", "reverse_step", "sample",
]  # fmt: skip


def prior(
    path: Path, shape: tuple[int, ...], rng: Rng, data_std: float = 1.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draws of shape (B, *event) from the path's end at t = 1, N(0, sigma^2 + alpha^2 data_std^2)."""
    return rng.normal(shape, dtype) * _end_std(path, data_std)


def _end_std(path: Path, data_std: float) -> float:
    one = torch.ones((), dtype=torch.float64)
    return float(torch.sqrt(path.sigma(one) ** 2 + (path.alpha(one) * data_std) ** 2))


def nodes(path: Path, steps: int, t_start: float = 1.0) -> list[tuple[float, float]]:
    """The pairs (alpha, sigma) that a sampler visits from t_start to the data, the last one with sigma = 0."""
    if steps < 1:
        raise ValueError(f"steps: got {steps}, expected at least 1.")
    last = float(path.sigma(torch.zeros((), dtype=torch.float64)))
    count, end = (steps + 1 if last == 0 else steps), t_start ** (1 / path.power)
    t = torch.linspace(end, 0, count, dtype=torch.float64) ** path.power
    pairs = list(zip(path.alpha(t).tolist(), path.sigma(t).tolist()))
    return pairs if last == 0 else [*pairs, (1.0, 0.0)]


def heun(denoise: Denoiser, u: Tensor, path: Path, steps: int = 32, t_start: float = 1.0) -> Tensor:
    """Second-order solution of the probability-flow ODE from u (B, *event) at t_start to the data.

    It asks the denoiser 2 * steps - 1 times; the last step, to sigma = 0, is of first order (its local error is of the
    second, as is the whole).
    """
    return along(denoise, u, nodes(path, steps, t_start))


def heun_step(denoise: Denoiser, u: Tensor, here: tuple[float, float], there: tuple[float, float]) -> Tensor:
    """One step of Heun's method between two pairs (alpha, sigma), of any path or none."""
    (a, s), (a1, s1) = here, there
    d = _ask(denoise, u, a, s)
    guess = a1 * d + s1 * (u - a * d) / s
    if s1 == 0:
        return guess
    w, h = u / math.hypot(a, s), math.atan2(s1, a1) - math.atan2(s, a)
    slope = _velocity(d, u, a, s) + _velocity(_ask(denoise, guess, a1, s1), guess, a1, s1)
    return math.hypot(a1, s1) * (w + 0.5 * h * slope)


def along(denoise: Denoiser, u: Tensor, grid: list[tuple[float, float]]) -> Tensor:
    """u (B, *event) carried by the probability-flow ODE through the pairs (alpha, sigma) of a grid, either way.

    Towards the noise the grid must begin above sigma = 0, which no slope leaves.
    """
    for here, there in zip(grid[:-1], grid[1:], strict=True):
        u = heun_step(denoise, u, here, there)
    return u


def churned(
    denoise: Denoiser,
    u: Tensor,
    path: Path,
    steps: int = 32,
    rng: Rng | None = None,
    *,
    churn: float = 40.0,
    low: float = 0.05,
    high: float = 50.0,
    t_start: float = 1.0,
) -> Tensor:
    """EDM's stochastic sampler: before each Heun step sigma grows by a share churn / steps, at most sqrt(2) - 1.

    Args:
        denoise, u, path, steps, t_start: as in `heun`.
        rng: of the noise that is added.
        churn: the sum of all shares; 0 is `heun`.
        low, high: noise is added where sigma / alpha is between them.
    """
    grid, share = nodes(path, steps, t_start), min(churn / steps, math.sqrt(2) - 1)
    for (a, s), there in zip(grid[:-1], grid[1:]):
        if low <= s / max(a, 1e-12) <= high and share > 0:
            if rng is None:
                raise ValueError("rng: got None, expected a Rng; a stochastic sampler needs one.")
            # in the frame where alpha is 1, noise simply adds
            raised = s / a * (1 + share)
            u = u / a + math.sqrt(raised**2 - (s / a) ** 2) * rng.normal(tuple(u.shape), u.dtype)
            a, s = 1.0, raised
        u = heun_step(denoise, u, (a, s), there)
    return u


def multistep(denoise: Denoiser, u: Tensor, path: Path, steps: int = 20, t_start: float = 1.0) -> Tensor:
    """DPM-Solver++(2M): second order with one evaluation a step, D extrapolated in l = log(alpha / sigma).

    u <- (s1 / s) u - a1 (exp(-h) - 1) [ D + (D - D_before) h / (2 h_before) ],   h = l1 - l

    The first step and the last, to sigma = 0, are of first order.
    """
    before: tuple[Tensor, float] | None = None
    grid = nodes(path, steps, t_start)
    for (a, s), (a1, s1) in zip(grid[:-1], grid[1:]):
        d = _ask(denoise, u, a, s)
        if s1 == 0:
            return a1 * d
        h = _log_ratio(a1, s1) - _log_ratio(a, s)
        ahead = d if before is None else d + (d - before[0]) * (h / (2 * before[1]))
        u, before = s1 / s * u - a1 * math.expm1(-h) * ahead, (d, h)
    raise AssertionError("the last node has sigma = 0")


def _log_ratio(a: float, s: float) -> float:
    return math.log(max(a, 1e-12) / s)


def ddim(
    denoise: Denoiser,
    u: Tensor,
    path: Path,
    steps: int = 64,
    rng: Rng | None = None,
    eta: float = 0.0,
    t_start: float = 1.0,
) -> Tensor:
    """First-order steps from u (B, *event) at t_start to the data; eta = 0 is the ODE, eta = 1 is DDPM's noise."""
    grid = nodes(path, steps, t_start)
    for here, there in zip(grid[:-1], grid[1:]):
        u = reverse_step(_ask(denoise, u, *here), u, here, there, rng, eta)
    return u


def ancestral(
    denoise: Denoiser, u: Tensor, path: Path, steps: int = 256, rng: Rng | None = None, t_start: float = 1.0
) -> Tensor:
    """DDPM: each step draws from q(u_s | u_t, u = D(u_t)); the draws are right in the limit of many steps."""
    return ddim(denoise, u, path, steps, rng, 1.0, t_start)


def reverse_step(
    d: Tensor, u: Tensor, here: tuple[float, float], there: tuple[float, float], rng: Rng | None, eta: float = 1.0
) -> Tensor:
    """From u at `here` = (alpha, sigma) to `there`, given the denoised d; the noise is eta times that of DDPM."""
    (a, s), (a1, s1) = here, there
    # variance of q(u_s | u_t, u): sigma_s^2 (1 - (alpha_t sigma_s / (alpha_s sigma_t))^2)
    tau = eta * s1 * math.sqrt(max(0.0, 1 - (a * s1 / (a1 * s)) ** 2)) if s1 > 0 else 0.0
    u = a1 * d + math.sqrt(max(0.0, s1**2 - tau**2)) * (u - a * d) / s
    if tau == 0:
        return u
    if rng is None:
        raise ValueError("rng: got None, expected a Rng; a stochastic sampler needs one.")
    return u + tau * rng.normal(tuple(u.shape), u.dtype)


SAMPLERS = ("heun", "churn", "ddim", "ddpm", "dpm++2m")


def sample(
    denoise: Denoiser,
    shape: tuple[int, ...],
    path: Path,
    rng: Rng | torch.Generator | int | None = None,
    *,
    method: str = "heun",
    steps: int = 32,
    data_std: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draws of shape (B, *event), from the prior by one of `SAMPLERS`."""
    if method not in SAMPLERS:
        raise ValueError(f"method: got {method!r}, expected one of {SAMPLERS}.")
    rng = rng if isinstance(rng, Rng) else Rng(rng)
    u = prior(path, shape, rng, data_std, dtype)
    if method == "heun":
        return heun(denoise, u, path, steps)
    if method == "dpm++2m":
        return multistep(denoise, u, path, steps)
    if method == "churn":
        return churned(denoise, u, path, steps, rng)
    return ddim(denoise, u, path, steps, rng, eta=float(method == "ddpm"))


@dataclass(frozen=True)
class LogProb:
    """log p (B,) in nats of the chart, its Monte-Carlo standard error (B,) (0 when exact), diagnostics."""

    value: Tensor
    stderr: Tensor
    evaluations: int
    ok: bool


def ode_log_prob(
    denoise: Denoiser,
    u: Tensor,
    path: Path,
    steps: int = 64,
    rng: Rng | torch.Generator | int | None = None,
    *,
    exact: bool = False,
    probes: int = 4,
    data_std: float = 1.0,
    t_min: float | None = None,
) -> LogProb:
    """log p(u) of u (B, *event) by the probability-flow ODE, with `steps` steps of rk4.

    The ODE ends in N(0, sigma^2 + alpha^2 data_std^2) and starts at t_min, where u stands for u_t / alpha_t: the
    density is that of the data with noise of standard deviation sigma / alpha there.

    Args:
        denoise: the denoiser.
        u: points in the chart.
        path: the noise path.
        steps: steps of the solver, 4 evaluations each.
        rng: for Hutchinson's probes.
        exact: the exact divergence (one backward pass per entry) instead of `probes` random ones.
        probes: random probes of the divergence.
        data_std: standard deviation of the data at the prior.
        t_min: where to start; None: 0 where the path keeps noise there, else 1e-3.
    """
    t_min = _first_time(path) if t_min is None else t_min
    start = torch.tensor(t_min, dtype=torch.float64)
    cos = float(torch.cos(_angle(path)(start)))
    one = torch.ones((), dtype=torch.float64)
    scale = _end_std(path, data_std) / float(torch.hypot(path.alpha(one), path.sigma(one)))
    result = log_likelihood(
        _flow(denoise, path),
        u * cos,
        lambda w: _log_normal(w, scale),
        t_min ** (1 / path.power),
        1.0,
        divergence="exact" if exact else "hutchinson",
        probes=probes,
        rng=rng,
        method="rk4",
        steps=steps,
    )
    value = result.value + u[0].numel() * math.log(cos)
    return LogProb(value, result.stderr, result.evaluations, result.ok)


def _first_time(path: Path) -> float:
    return 0.0 if float(path.sigma(torch.zeros((), dtype=torch.float64))) > 0 else 1e-3


def _angle(path: Path) -> Callable[[Tensor], Tensor]:
    return lambda t: torch.atan2(path.sigma(t), path.alpha(t))


def _flow(denoise: Denoiser, path: Path) -> Callable[[Tensor, Tensor], Tensor]:
    """dw/ds = dw/dphi dphi/ds, t = s^power, with the denoiser asked at the path's own alpha and sigma."""

    def f(s: Tensor, w: Tensor) -> Tensor:
        s = s.detach().double().requires_grad_()
        with torch.enable_grad():
            t = s**path.power
            (rate,) = torch.autograd.grad(_angle(path)(t), s)
        t = t.detach()
        alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
        u = w * math.hypot(alpha, sigma)
        return _velocity(_ask(denoise, u, alpha, sigma), u, alpha, sigma) * float(rate)

    return f


def _log_normal(w: Tensor, std: float) -> Tensor:
    w = w.reshape(len(w), -1) / std
    return -0.5 * w.square().sum(1) - w.shape[1] * (math.log(std) + 0.5 * math.log(2 * math.pi))


def _ask(denoise: Denoiser, u: Tensor, alpha: float, sigma: float) -> Tensor:
    ones = torch.ones(len(u), dtype=u.dtype, device=u.device)
    return denoise(u, alpha * ones, sigma * ones)


def _velocity(d: Tensor, u: Tensor, a: float, s: float) -> Tensor:
    return (a * (u - a * d) / s - s * d) / math.hypot(a, s)
