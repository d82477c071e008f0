"""Annealed importance sampling, forward and reverse: log Z between two bounds.

    log w = sum_k [ log f_{b_k} - log f_{b_{k-1}} ](x_{k-1}),    f_0 = p_0 normalised,    f_1 = p~ = Z p
    forward, x_0 ~ p_0:            E[mean w] = Z          so that E[log mean w] <= log Z
    reverse, x_K ~ p~ / Z exactly: E[mean 1 / w] = 1 / Z  so that E[-log mean 1 / w] >= log Z

`annealed` walks any path whose moves leave f_b invariant: Gibbs sweeps for discrete x. `ais` and `reverse_ais` walk the
geometric path log f_b = (1 - b) log p_0 + b log p~ with HMC (or MALA: leapfrog=1); its steps are tuned by a pilot run
of its own and then held, so that both statements stay exact. The bounds hold in expectation, not for one run.

References: AIS (Neal 2001, arXiv:physics/9803008); of RBMs (Salakhutdinov and Murray 2008); RAISE (Burda 2015,
arXiv:1412.8566); bidirectional Monte Carlo (Grosse 2015, arXiv:1511.02543); on decoders (Wu 2017, arXiv:1611.04273).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..randomness import Rng
from .mcmc import LogDensity, blend, transition

Gain = Callable[[Tensor, float, float], Tensor]
Move = Callable[[Tensor, float], tuple[Tensor, float]]


@dataclass(frozen=True)
class LogZ:
    """An estimate of log Z.

    Attributes:
        value: (rows,), nats.
        stderr: (rows,), its standard error by the delta method; too small where few weights dominate.
        bound: "lower" (forward) or "upper" (reverse), in expectation.
        log_weights: (chains, rows), the log w of the file's equation.
        accept: mean rate of acceptance.
        x: (chains * rows, *event), where the chains ended.
    """

    value: Tensor
    stderr: Tensor
    bound: str
    log_weights: Tensor
    accept: float
    x: Tensor


def annealed(
    gain: Gain, move: Move, x: Tensor, temperatures: int | Tensor = 100, *, rows: int = 1, reverse: bool = False
) -> LogZ:
    """log Z by a walk along f_b, from exact draws of its start.

    Args:
        gain: (x, a, b) -> log f_b(x) - log f_a(x), (N,).
        move: (x, b) -> x moved so that f_b is invariant, and the rate of acceptance (1 where nothing is rejected).
        x: (chains * rows, *event): exact draws of f_0, or of f_1 in reverse. Others make the bound void.
        temperatures: b_0 = 0 .. b_K = 1, or their number K (a sigmoid grid, dense at both ends).
        rows: separate problems in one batch, in the order (chain, row).
        reverse: from f_1 down to f_0, which bounds log Z from above.
    """
    grid = _grid(temperatures)
    path = (grid.flip(0) if reverse else grid).tolist()
    log_w, rates = torch.zeros(len(x), dtype=torch.float64, device=x.device), []
    for k in range(1, len(path)):
        with torch.no_grad():
            log_w += gain(x, path[k - 1], path[k])
        if k < len(path) - 1:  # a move at the last temperature would change no weight
            x, rate = move(x, path[k])
            rates.append(rate)
    log_w = log_w.reshape(-1, rows)
    value, stderr = _log_mean(log_w)
    accept = sum(rates) / max(1, len(rates))
    if reverse:  # the weights so far are 1 / w
        return LogZ(-value, stderr, "upper", -log_w, accept, x)
    return LogZ(value, stderr, "lower", log_w, accept, x)


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
        temperatures: as in `annealed`.
        rng: randomness of the transitions.
        rows: separate problems in one batch, N = chains * rows in the order (chain, row).
        leapfrog: leapfrog steps of a transition.
        step_size: first guess of the step.
        pilot: tune the step at every temperature by a run of its own.
    """
    tempered = Tempered(log_p_tilde, log_p0, _wrap(rng), leapfrog, step_size)
    if pilot:
        tempered.pilot(sample_p0(min(chains, 16) * rows), temperatures)
    return annealed(tempered.gain, tempered.move, sample_p0(chains * rows), temperatures, rows=rows)


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
    tempered = Tempered(log_p_tilde, log_p0, _wrap(rng), leapfrog, step_size)
    if pilot:
        tempered.pilot(x_model[: min(len(x_model) // rows, 16) * rows], temperatures, reverse=True)
    return annealed(tempered.gain, tempered.move, x_model, temperatures, rows=rows, reverse=True)


class Tempered:
    """The geometric path, walked by HMC with a step for each temperature.

    Args:
        log_p_tilde, log_p0: the ends, (N, *event) -> (N,).
        rng: of the moves.
        leapfrog: leapfrog steps of a transition.
        step_size: of every temperature, until it is tuned.
        rate: of acceptance that tuning aims at.
    """

    def __init__(
        self, log_p_tilde: LogDensity, log_p0: LogDensity, rng: Rng, leapfrog: int, step_size: float, rate: float = 0.7
    ) -> None:
        self.ends, self.rng, self.leapfrog, self.rate = (log_p0, log_p_tilde), rng, leapfrog, rate
        self.step, self.steps, self.tuning = step_size, dict[float, float](), False

    def gain(self, x: Tensor, a: float, b: float) -> Tensor:
        """log f_b - log f_a at x (N, *event), (N,)."""
        return (b - a) * (self.ends[1](x) - self.ends[0](x)).double()

    def move(self, x: Tensor, b: float) -> tuple[Tensor, float]:
        """One transition that leaves f_b invariant, and its mean rate of acceptance."""
        step = self.step if self.tuning else self.steps.get(b, self.step)
        x, accept = transition(blend(*self.ends, b), x, x.new_full((len(x),), step), self.leapfrog, self.rng)
        rate = float(accept.mean())
        if self.tuning:  # the step found here is the next temperature's first guess
            self.steps[b] = step
            self.step = step * math.exp(0.3 * (rate - self.rate))
        return x, rate

    def pilot(self, x: Tensor, temperatures: int | Tensor, reverse: bool = False) -> Tensor:
        """Tune the steps by a run from x; where it ended."""
        self.tuning = True
        found = annealed(self.gain, self.move, x, temperatures, reverse=reverse)
        self.tuning = False
        return found.x


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
