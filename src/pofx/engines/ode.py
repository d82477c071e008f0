"""Ordinary differential equations: dx/dt = f(t, x).

    k_i = f(t + c_i h, x + h sum_j a_ij k_j),    x <- x + h sum_i b_i k_i
    log p_0(x(t0)) = log p_1(x(t1)) + integral_{t0}^{t1} div f(t, x(t)) dt

Offers `odeint` (explicit Runge-Kutta methods as data; fixed steps, given times, or an adaptive step) and
`log_likelihood`, which carries the divergence along, exactly or by Hutchinson's estimator with Rademacher probes that
stay the same along the whole path. Gradients flow through the steps.

References: Dormand 1980 (the pair 5(4)); neural ODE (Chen 2018, arXiv:1806.07366); FFJORD (Grathwohl 2019,
arXiv:1810.01367); Hutchinson 1990.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..randomness import Rng

Field = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method of the stated order; `b_low` are the weights of its embedded, lower one."""

    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    b_low: tuple[float, ...] | None = None


METHODS = {
    "euler": Tableau(1, (0.0,), ((),), (1.0,)),
    "heun": Tableau(2, (0.0, 1.0), ((), (1.0,)), (0.5, 0.5), (1.0, 0.0)),
    "rk4": Tableau(4, (0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    "dopri5": Tableau(
        5,
        (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
        (
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
        (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40),
    ),
}


@dataclass(frozen=True)
class Solution:
    """The state at the end, accepted steps, evaluations of f, and whether the end was reached with finite numbers."""

    x: Tensor
    steps: int
    evaluations: int
    ok: bool


@dataclass(frozen=True)
class LogLikelihood:
    """log p (B,) in nats, its Monte-Carlo standard error (B,) (0 when exact), the state z at the end, diagnostics."""

    value: Tensor
    stderr: Tensor
    z: Tensor
    evaluations: int
    ok: bool


def odeint(
    f: Field,
    x: Tensor,
    t0: float = 0.0,
    t1: float = 1.0,
    method: str = "dopri5",
    *,
    steps: int | None = None,
    times: Tensor | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 10_000,
) -> Solution:
    """Solve dx/dt = f(t, x) from x (B, *event) at t0 to t1 (which may be earlier than t0).

    Args:
        f: (t of shape (), x of shape (B, *event)) -> (B, *event).
        x: the state at t0.
        t0, t1: the ends.
        method: "euler", "heun", "rk4" or "dopri5".
        steps: that many equal steps; None for an adaptive step ("heun", "dopri5").
        times: the ends of fixed steps, instead of t0, t1 and steps.
        rtol, atol: tolerated local error of an adaptive step, for the worst row of the batch.
        max_steps: an adaptive solution gives up after that many trials, with ok=False.

    Raises:
        ValueError: unknown method, or no step size and a method without an embedded error.
    """
    if method not in METHODS:
        raise ValueError(f"method: got {method!r}, expected one of {sorted(METHODS)}.")
    tableau = METHODS[method]
    if times is not None:
        grid = times.double().cpu()
    elif steps is not None:
        grid = torch.linspace(t0, t1, steps + 1, dtype=torch.float64)
    elif tableau.b_low is None:
        raise ValueError(f"steps: got None, but {method!r} estimates no error; pass steps, or 'heun' or 'dopri5'.")
    else:
        return _adaptive(f, x, t0, t1, tableau, rtol, atol, max_steps)
    for t, s in zip(grid[:-1].tolist(), grid[1:].tolist()):
        x = _combine(x, s - t, tableau.b, _stages(f, t, s - t, x, tableau))
    n = len(grid) - 1
    return Solution(x, n, n * len(tableau.b), bool(x.isfinite().all()))


def _stages(f: Field, t: float, h: float, x: Tensor, tableau: Tableau, first: Tensor | None = None) -> list[Tensor]:
    k: list[Tensor] = []
    for c, a in zip(tableau.c, tableau.a):
        if first is not None and not k:
            k.append(first)
        else:
            k.append(f(torch.as_tensor(t + c * h, dtype=x.dtype, device=x.device), _combine(x, h, a, k)))
    return k


def _combine(x: Tensor, h: float, weights: tuple[float, ...], k: list[Tensor]) -> Tensor:
    for w, slope in zip(weights, k):
        x = x + (h * w) * slope if w else x
    return x


def _adaptive(
    f: Field, x: Tensor, t0: float, t1: float, tableau: Tableau, rtol: float, atol: float, max_steps: int
) -> Solution:
    t, h, steps, evaluations = t0, (t1 - t0) / 50, 0, 0
    first: Tensor | None = None
    assert tableau.b_low is not None
    for _ in range(max_steps):
        if abs(t1 - t) <= 1e-12 * max(1.0, abs(t1 - t0)):
            return Solution(x, steps, evaluations, bool(x.isfinite().all()))
        h = h if abs(h) < abs(t1 - t) else t1 - t
        k = _stages(f, t, h, x, tableau, first)
        evaluations += len(k) - (first is not None)
        y = _combine(x, h, tableau.b, k)
        error = _error(x, y, _combine(x, h, tableau.b_low, k), rtol, atol)
        first = k[0]  # a refused step starts from the same point
        if error <= 1:
            t, x, steps = t + h, y, steps + 1
            first = k[-1] if tableau.order == 5 else None  # the last stage of dopri5 is the first of the next step
        h *= min(5.0, max(0.2, 0.9 * max(error, 1e-10) ** (-1 / tableau.order)))
    return Solution(x, steps, evaluations, False)


def _error(x: Tensor, y: Tensor, y_low: Tensor, rtol: float, atol: float) -> float:
    """The worst row's root mean square of (error / tolerance); not a number counts as far too large."""
    with torch.no_grad():
        scaled = (y - y_low) / (atol + rtol * torch.maximum(x.abs(), y.abs()))
        error = float(scaled.reshape(len(x), -1).square().mean(1).sqrt().max())
    return error if error == error else float("inf")


def log_likelihood(
    f: Field,
    x: Tensor,
    log_prior: Callable[[Tensor], Tensor],
    t0: float = 0.0,
    t1: float = 1.0,
    *,
    divergence: str = "exact",
    probes: int = 4,
    rng: Rng | torch.Generator | int | None = None,
    method: str = "dopri5",
    steps: int | None = None,
    times: Tensor | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> LogLikelihood:
    """log p of x (B, *event) when x at t0 flows to z = x(t1) and z has density `log_prior` (B, *event) -> (B,).

    "exact" takes one backward pass per entry of the event and evaluation; "hutchinson" one per probe, unbiased up
    to the solver's error. One probe has no standard error (nan).

    Raises:
        ValueError: unknown divergence.
    """
    if divergence not in ("exact", "hutchinson"):
        raise ValueError(f"divergence: got {divergence!r}, expected 'exact' or 'hutchinson'.")
    b, event, d = len(x), x.shape[1:], x[0].numel()
    if divergence == "exact":
        v = torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, 1, *event).expand(d, b, *event)
    else:
        v = 2.0 * Rng(rng, x.device).bernoulli(0.5, (probes, b, *event)).to(x.dtype) - 1
    columns = 1 if divergence == "exact" else probes

    def g(t: Tensor, state: Tensor) -> Tensor:
        slope, parts = _slope_and_forms(f, t, state[:, :d].reshape(b, *event), v)
        parts = parts.sum(0, keepdim=True) if divergence == "exact" else parts
        return torch.cat([slope.reshape(b, d), parts.T], 1)

    start = torch.cat([x.reshape(b, d), x.new_zeros(b, columns)], 1)
    end = odeint(g, start, t0, t1, method, steps=steps, times=times, rtol=rtol, atol=atol)
    z, integrals = end.x[:, :d].reshape(b, *event), end.x[:, d:]
    stderr = torch.zeros_like(integrals[:, 0])
    if divergence == "hutchinson":
        stderr = integrals.std(1) / probes**0.5 if probes > 1 else torch.full_like(stderr, float("nan"))
    return LogLikelihood(log_prior(z) + integrals.mean(1), stderr, z, end.evaluations, end.ok)


def _slope_and_forms(f: Field, t: Tensor, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """f(t, x) and the quadratic forms v_k' (df/dx) v_k, shape (K, B)."""
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        slope = f(t, x)
        forms = []
        for probe in v:
            (row,) = torch.autograd.grad(slope, x, probe, retain_graph=True, create_graph=keep)
            forms.append((row * probe).reshape(len(x), -1).sum(1))
    parts = torch.stack(forms)
    return (slope, parts) if keep else (slope.detach(), parts.detach())
