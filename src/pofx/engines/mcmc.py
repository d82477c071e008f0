"""Markov chains for a log density: Langevin, MALA, Hamiltonian Monte Carlo.

    Langevin:  x <- x + (e^2 / 2) grad log p(x) + e eps
    HMC:       (x, v) by leapfrog of length e, taken with probability min(1, exp(H - H')),  H = -log p(x) + v^2 / 2
    MALA = HMC with one leapfrog step

A batch of chains is a batch of rows; rows know nothing of each other, each has its own step e, which warm-up moves
until the rate of acceptance is the target. Entries where `fixed` is True never move. The unadjusted Langevin chain has
a bias of order e^2; the others leave p exactly invariant after warm-up.

References: Hamiltonian Monte Carlo (Neal 2011, arXiv:1206.1901); MALA (Roberts 1996); Robbins-Monro adaptation (Andrieu
2008); effective sample size by initial positive pairs (Geyer 1992); split R-hat (Vehtari 2021, arXiv:1903.08008).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..randomness import Rng

LogDensity = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Sloped:
    """A log density that knows its own slope, so that chains need no graph of it.

    Args:
        both: x (B, *event) -> (log p (B,), its gradient (B, *event)), without a graph.
        value: x -> log p (B,), as of any other log density.
        slope: the gradient alone, where that is cheaper.
    """

    both: Callable[[Tensor], tuple[Tensor, Tensor]]
    value: LogDensity
    slope: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return self.value(x)


def blend(log_p: LogDensity, log_q: LogDensity, b: float) -> LogDensity:
    """(1 - b) log p + b log q, which knows its slope where both do."""

    def value(x: Tensor) -> Tensor:
        return (1 - b) * log_p(x) + b * log_q(x)

    if not (isinstance(log_p, Sloped) and isinstance(log_q, Sloped)):
        return value
    p_both, q_both, first, second = log_p.both, log_q.both, log_p, log_q

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        (p, p_slope), (q, q_slope) = p_both(x), q_both(x)
        return (1 - b) * p + b * q, (1 - b) * p_slope + b * q_slope

    def slope(x: Tensor) -> Tensor:
        return (1 - b) * slope_of(first, x) + b * slope_of(second, x)

    return Sloped(both, value, slope)


@dataclass(frozen=True)
class Chain:
    """The last states, and how the chains went.

    Attributes:
        x: (B, *event), the last states.
        accept: (B,), mean rate of acceptance after warm-up (1 for the unadjusted Langevin chain).
        step_size: (B,), the step after warm-up.
        trace: (kept, B, *event), states after warm-up, or None.
    """

    x: Tensor
    accept: Tensor
    step_size: Tensor
    trace: Tensor | None = None


def langevin(
    log_prob: LogDensity,
    x: Tensor,
    steps: int,
    rng: Rng | torch.Generator | int | None = None,
    *,
    step_size: float = 0.1,
    noise: float = 1.0,
    fixed: Tensor | None = None,
    keep: int = 0,
) -> Chain:
    """The unadjusted Langevin chain from x (B, *event).

    Args:
        log_prob: (B, *event) -> (B,), up to a constant.
        x: start.
        steps: transitions.
        rng: randomness.
        step_size: e.
        noise: factor of the noise; below 1 the chain is colder than p, at 0 it is gradient ascent.
        fixed: bool, (B, *event): entries that never move.
        keep: every keep-th state goes to the trace; 0 for none.
    """
    rng, trace = _wrap(rng, x), []
    for i in range(steps):
        slope = slope_of(log_prob, x)
        move = rng.normal(tuple(x.shape), x.dtype).mul_(step_size * noise).add_(slope, alpha=0.5 * step_size**2)
        x = x + (move if fixed is None else torch.where(fixed, 0.0, move))
        if keep and (i + 1) % keep == 0:
            trace.append(x)
    ones = torch.ones(len(x), dtype=x.dtype, device=x.device)
    return Chain(x, ones, step_size * ones, torch.stack(trace) if trace else None)


def hmc(
    log_prob: LogDensity,
    x: Tensor,
    steps: int,
    rng: Rng | torch.Generator | int | None = None,
    *,
    step_size: float | Tensor = 0.1,
    leapfrog: int = 10,
    warmup: int = 0,
    target: float = 0.8,
    fixed: Tensor | None = None,
    keep: int = 0,
) -> Chain:
    """Hamiltonian Monte Carlo from x (B, *event): `warmup` transitions that adapt the step, then `steps` that do not.

    Args:
        log_prob: (B, *event) -> (B,), up to a constant; not finite means probability 0.
        x: start, with finite log_prob.
        steps, warmup: transitions.
        rng: randomness.
        step_size: e, or e of each row (B,).
        leapfrog: leapfrog steps of one transition.
        target: rate of acceptance that warm-up aims at.
        fixed: bool, (B, *event): entries that never move.
        keep: every keep-th state after warm-up goes to the trace; 0 for none.

    Raises:
        ValueError: log_prob is not finite at the start.
    """
    rng, trace = _wrap(rng, x), []
    log_step = torch.as_tensor(step_size, dtype=x.dtype, device=x.device).log().expand(len(x)).clone()
    if not bool(torch.isfinite(value_and_slope(log_prob, x)[0]).all()):
        raise ValueError("x: log_prob is not finite at the start of some chain; start inside the support.")
    total, mean, count = torch.zeros_like(log_step), torch.zeros_like(log_step), 0
    for i in range(warmup + steps):
        x, accept = transition(log_prob, x, log_step.exp(), leapfrog, rng, fixed)
        if i < warmup:
            log_step = log_step + (i + 1.0) ** -0.6 * 2 * (accept - target)
            if i >= warmup // 2:  # the second half is averaged: its last value alone is noisy
                mean, count = mean + log_step, count + 1
            log_step = mean / count if i == warmup - 1 else log_step
            continue
        total = total + accept
        if keep and (i - warmup + 1) % keep == 0:
            trace.append(x)
    return Chain(x, total / max(1, steps), log_step.exp(), torch.stack(trace) if trace else None)


def mala(
    log_prob: LogDensity,
    x: Tensor,
    steps: int,
    rng: Rng | torch.Generator | int | None = None,
    *,
    step_size: float | Tensor = 0.1,
    warmup: int = 0,
    target: float = 0.574,
    fixed: Tensor | None = None,
    keep: int = 0,
) -> Chain:
    """The Metropolis-adjusted Langevin chain: `hmc` with one leapfrog step."""
    return hmc(
        log_prob,
        x,
        steps,
        rng,
        step_size=step_size,
        leapfrog=1,
        warmup=warmup,
        target=target,
        fixed=fixed,
        keep=keep,
    )


def transition(
    log_prob: LogDensity, x: Tensor, step_size: Tensor, leapfrog: int, rng: Rng, fixed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One HMC transition of x (B, *event) with steps (B,): the new states and the probabilities of acceptance (B,)."""
    b, tail = len(x), (1,) * (x.ndim - 1)
    free = 1.0 if fixed is None else (~fixed).to(x.dtype)
    # the step is jittered by a tenth: an orbit whose length is a period would never leave its start
    e = (step_size * (0.9 + 0.2 * rng.uniform((b,), x.dtype))).reshape(b, *tail)
    v = rng.normal(tuple(x.shape), x.dtype) * free
    value, slope = value_and_slope(log_prob, x)
    y, u = x, v + 0.5 * e * slope * free
    for _ in range(leapfrog - 1):
        y = y + e * u
        u = u + e * slope_of(log_prob, y) * free
    y = y + e * u
    new, slope = value_and_slope(log_prob, y)
    u = u + 0.5 * e * slope * free
    gain = new - value + 0.5 * (v**2 - u**2).reshape(b, -1).sum(1)
    accept = torch.nan_to_num(gain, nan=-torch.inf, posinf=-torch.inf).clamp_max(0).exp()
    taken = (rng.uniform((b,), x.dtype) < accept).reshape(b, *tail)
    return torch.where(taken, y, x), accept


def effective_size(trace: Tensor) -> Tensor:
    """Effective number of independent draws in a trace (n, B, *event), summed over the chains; shape (*event)."""
    n, b = trace.shape[:2]
    x = trace - trace.mean((0, 1))
    variance, tau = x.square().mean((0, 1)), torch.ones_like(x[0, 0])
    alive = torch.ones_like(tau, dtype=torch.bool)
    for lag in range(1, n - 1, 2):
        pair = sum((x[k:] * x[:-k]).sum((0, 1)) / (n * b * variance) for k in (lag, lag + 1))
        alive = alive & (pair > 0)
        if not bool(alive.any()):
            break
        tau = tau + torch.where(alive, 2 * pair, 0.0)
    return n * b / tau


def autocorrelation(trace: Tensor, lags: int) -> Tensor:
    """The correlation of a trace (n, B, *event) with itself `lag` states later, over all chains: (lags + 1, *event).

    Entries that never change have NaN. The mean is that of all chains together, so chains that do not meet are
    correlated at every lag.
    """
    n, b = trace.shape[:2]
    x = (trace - trace.mean((0, 1))).double()
    variance = x.square().mean((0, 1))
    rows = [(x[lag:] * x[: n - lag]).sum((0, 1)) / ((n - lag) * b * variance) for lag in range(min(lags, n - 1) + 1)]
    return torch.stack(rows)


def shrink_factor(trace: Tensor) -> Tensor:
    """Split R-hat of a trace (n, B, *event), n >= 4: near 1 where the halves of all chains agree; shape (*event)."""
    half = len(trace) // 2
    parts = torch.cat([trace[:half], trace[half : 2 * half]], 1).double()
    within = parts.var(0).mean(0)
    between = parts.mean(0).var(0)
    return ((half - 1) / half + between / within).sqrt()


def diagnostics(trace: Tensor, accept: Tensor | float | None = None) -> dict[str, float]:
    """How well chains mixed, in numbers that a history line or an Answer can hold.

    Args:
        trace: (n, B, *event), n >= 4 states of B chains, any dtype; entries that never change are left out.
        accept: rates of acceptance, averaged; None for a chain that has none.

    Returns:
        kept: n; chains: B; effective_size: independent draws that the worst entry is worth, at most n B;
        correlation_time: n B / effective_size, in kept states; lag_1: the largest autocorrelation of neighbours;
        r_hat: the largest split R-hat, near 1 where chains agree; accept: where it was said. All NaN but the counts
        where no entry changes.

    Raises:
        ValueError: fewer than 4 states or no chain axis.

    References: Geyer 1992; Gelman and Rubin 1992, split as in Vehtari et al. 2021 (arXiv:1903.08008).
    """
    if trace.ndim < 2 or len(trace) < 4:
        raise ValueError(f"trace: got shape {tuple(trace.shape)}; expected (n, chains, *event) with n >= 4 states.")
    n, b = trace.shape[:2]
    x = trace.reshape(n, b, -1).double()
    x = x[..., (x != x[0, 0]).flatten(0, 1).any(0)]
    said = {} if accept is None else {"accept": float(torch.as_tensor(accept, dtype=torch.float64).mean())}
    nan = float("nan")
    if not x.shape[-1]:
        return {"kept": n, "chains": b} | dict.fromkeys(("effective_size", "correlation_time", "lag_1", "r_hat"), nan)
    size = float(effective_size(x).clamp_max(n * b).min())
    lag_1, r_hat = float(autocorrelation(x, 1)[1].max()), float(shrink_factor(x).max())
    found = {"effective_size": size, "correlation_time": n * b / size, "lag_1": lag_1, "r_hat": r_hat}
    return {"kept": n, "chains": b, **found, **said}


def _wrap(rng: Rng | torch.Generator | int | None, x: Tensor) -> Rng:
    return rng if isinstance(rng, Rng) else Rng(rng, x.device)


def slope_of(log_prob: LogDensity, x: Tensor) -> Tensor:
    """The gradient of log p at x (B, *event), without a graph."""
    if isinstance(log_prob, Sloped) and log_prob.slope is not None:
        with torch.no_grad():
            return log_prob.slope(x.detach())
    return value_and_slope(log_prob, x)[1]


def value_and_slope(log_prob: LogDensity, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p of x (B, *event), (B,), and its gradient, without a graph."""
    if isinstance(log_prob, Sloped):
        with torch.no_grad():
            return log_prob.both(x.detach())
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = log_prob(x)
        (slope,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), slope
