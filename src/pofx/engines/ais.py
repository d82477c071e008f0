"""Annealed importance sampling, forward and reverse: log Z between two bounds.

    log f_b = (1 - b) log p_0 + b log p~,    log w = sum_k (b_k - b_{k-1}) (log p~ - log p_0)(x_{k-1})
    forward, x_0 ~ p_0:            E[mean w] = Z          so that E[log mean w] <= log Z
    reverse, x_K ~ p~ / Z exactly: E[mean 1 / w] = 1 / Z  so that E[-log mean 1 / w] >= log Z

The transitions are HMC (or MALA with leapfrog=1). Their steps are tuned by a pilot run of its own and then held, so
that both statements stay exact. The bounds hold in expectation, not for one run.

References: AIS (Neal 2001, arXiv:physics/9803008); RAISE (Burda 2015, arXiv:1412.8566); bidirectional Monte Carlo
(Grosse 2015, arXiv:1511.02543); on decoders (Wu 2017, arXiv:1611.04273).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..randomness import Rng
from .mcmc import LogDensity, transition


@dataclass(frozen=True)
class LogZ:
    """An estimate of log Z.

    Attributes:
        value: (rows,), nats.
        stderr: (rows,), its standard error by the delta method; too small where few weights dominate.
        bound: "lower" (forward) or "upper" (reverse), in expectation.
        log_weights: (chains, rows), the log w of the file's equation.
        accept: mean rate of acceptance.
    """

    value: Tensor
    stderr: Tensor
    bound: str
    log_weights: Tensor
    accept: float


def ais(
    log_p_tilde: LogDensity,
    log_p0: LogDensity,
    sample_p0: Callable[[int], Tensor],
    chains: int = 64,
    temperatures: int | Tensor = 100,
    rng: Rng | torch.Generator | int | None = None,
    *,
    rows: int = 1,
    leapfrog: int = 5,
    step_size: float = 0.1,
    pilot: bool = True,
) -> LogZ:
    """Forward annealing from p_0: a lower bound of log Z in expectation.

    Args:
        log_p_tilde: (N, *event) -> (N,), log of Z p.
        log_p0: the same of a normalised density.
        sample_p0: N -> exact draws (N, *event) of p_0.
        chains: weights for each row.
        temperatures: b_0 = 0 .. b_K = 1, or their number K (a sigmoid grid, dense at both ends).
        rng: randomness of the transitions.
        rows: separate problems in one batch, N = chains * rows in the order (chain, row).
        leapfrog: leapfrog steps of a transition.
        step_size: first guess of the step.
        pilot: tune the step at every temperature by a run of its own.
    """
    rng, grid = _wrap(rng), _grid(temperatures)
    steps = torch.full((len(grid),), step_size, dtype=torch.float64)
    if pilot:
        start = sample_p0(min(chains, 16) * rows)
        _, _, steps = _anneal(log_p_tilde, log_p0, start, grid, steps, leapfrog, rng, adapt=True)
    log_w, accept, _ = _anneal(log_p_tilde, log_p0, sample_p0(chains * rows), grid, steps, leapfrog, rng)
    log_w = log_w.reshape(chains, rows)
    value, stderr = _log_mean(log_w)
    return LogZ(value, stderr, "lower", log_w, accept)


def reverse_ais(
    log_p_tilde: LogDensity,
    log_p0: LogDensity,
    x_model: Tensor,
    temperatures: int | Tensor = 100,
    rng: Rng | torch.Generator | int | None = None,
    *,
    rows: int = 1,
    leapfrog: int = 5,
    step_size: float = 0.1,
    pilot: bool = True,
) -> LogZ:
    """Annealing back from exact draws x_model (chains * rows, *event) of p: an upper bound of log Z in expectation.

    The arguments are those of `ais`. Draws that are not exact make the bound void.
    """
    rng, grid = _wrap(rng), _grid(temperatures).flip(0)
    steps = torch.full((len(grid),), step_size, dtype=torch.float64)
    if pilot:
        start = x_model[: min(len(x_model) // rows, 16) * rows]
        _, _, steps = _anneal(log_p_tilde, log_p0, start, grid, steps, leapfrog, rng, adapt=True)
    minus, accept, _ = _anneal(log_p_tilde, log_p0, x_model, grid, steps, leapfrog, rng)
    minus = minus.reshape(-1, rows)  # the log of 1 / w
    value, stderr = _log_mean(minus)
    return LogZ(-value, stderr, "upper", -minus, accept)


def _anneal(
    log_p_tilde: LogDensity,
    log_p0: LogDensity,
    x: Tensor,
    grid: Tensor,
    steps: Tensor,
    leapfrog: int,
    rng: Rng,
    adapt: bool = False,
) -> tuple[Tensor, float, Tensor]:
    """Walk x along the grid: the log weights (N,), the mean acceptance, and the step at every temperature."""
    log_w, rates, steps, last = x.new_zeros(len(x)), [], steps.clone(), len(grid) - 1
    for k in range(1, last + 1):
        with torch.no_grad():
            log_w = log_w + float(grid[k] - grid[k - 1]) * (log_p_tilde(x) - log_p0(x))
        if k == last:  # a move at the last temperature would change no weight
            break
        bridge = _bridge(log_p_tilde, log_p0, float(grid[k]))
        x, accept = transition(bridge, x, x.new_full((len(x),), float(steps[k])), leapfrog, rng)
        rates.append(float(accept.mean()))
        if adapt:
            steps[k + 1] = steps[k] * math.exp(0.3 * (rates[-1] - 0.7))
    return log_w, sum(rates) / max(1, len(rates)), steps


def _bridge(log_p_tilde: LogDensity, log_p0: LogDensity, b: float) -> LogDensity:
    return lambda x: (1 - b) * log_p0(x) + b * log_p_tilde(x)


def _grid(temperatures: int | Tensor) -> Tensor:
    if isinstance(temperatures, Tensor):
        grid = temperatures.double().cpu()
        if len(grid) < 2 or grid[0] != 0 or grid[-1] != 1 or bool((grid.diff() < 0).any()):
            raise ValueError("temperatures: expected a rising grid from 0 to 1, of at least two numbers.")
        return grid
    s = torch.sigmoid(torch.linspace(-4, 4, temperatures + 1, dtype=torch.float64))
    return (s - s[0]) / (s[-1] - s[0])


def _log_mean(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """log of the mean over the first axis, and its standard error by the delta method."""
    n = len(log_w)
    value = torch.logsumexp(log_w, 0) - math.log(n)
    spread = (log_w - value).exp().std(0) if n > 1 else torch.full_like(value, float("nan"))
    return value, spread / n**0.5


def _wrap(rng: Rng | torch.Generator | int | None) -> Rng:
    return rng if isinstance(rng, Rng) else Rng(rng)
