"""Contribute: which entries make x unlikely?

    by others      log p(x_i | all other entries) = log p(x) - log p(x without i)
    by steps       log p(x_i | entries before it);  they add up to log p(x)
    by denoising   - |u_i - D_i|^2 / 2 s^2 at one noise level s: where x is not what its surroundings expect
    by quadrature  log p(x) - log int p(x with x_i = v) dv, as by others: a sum over codes, a grid over numbers

Routes, best first. Low numbers are strange entries. With dependent entries the chain rule differs from the others: an
odd entry may be blamed on the one after it by `steps`, not by `others`. By quadrature log Z cancels, so an energy needs
none.

References: Graham et al. 2023 (arXiv:2211.07740) for the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pofx.drawing.entries import entries_figure
from pofx.kinds.base import Variable
from pofx.model import Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.records import Predictive
from pofx.tasks.base import Answer, at_least_one, given_for, route, rows_of, solve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "Which entries make x unlikely?"
UNIT = "nats an entry"
NOISE, LARGEST, CHUNK = 0.5, 256, 512
COARSE, FINE, SIDE = 257, 65, 8.0  # nodes over all of an entry, and near x_i; how many deviations that is
USUAL, ENOUGH = 100, 20  # draws that say what is usual, and rows that do
ASKED = 4096  # x with one entry changed, of each row


def contribute(
    model: Model,
    x: Any,
    given: Mapping[str, Any] | None = None,
    *,
    draws: int = 16,
    rng: Rng | torch.Generator | int | None = 0,
    route: str | None = None,
) -> Answer:
    """What each entry adds to log p.

    Args:
        model: fitted.
        x: rows in the user's own type, or a tensor `(N, *event)`; a gap contributes 0.
        given: name -> one value, or N values.
        draws: Monte-Carlo draws of a route that needs them.
        rng: of those draws.
        route: a route by name; None takes the best.

    Returns:
        An Answer whose value is `(N, *event)` float64.
    """
    at_least_one("contribute", draws=draws)
    rows, observed = rows_of(model, x)
    c = given_for(model, given, len(rows))
    return solve("contribute", ROUTES, model, route, x=rows, observed=observed, given=c, draws=draws, rng=Rng(rng))


def by_others(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], draws: int, rng: Rng) -> Answer:
    """log p(x) with and without each entry, by the model's exact marginals."""
    if model.space.size > LARGEST:
        raise Unsupported(f"{model.space.size} entries are too many to leave out one by one")
    with torch.no_grad():
        whole = model.log_prob(x, given or None, observed, draws, rng)
        parts, quality = [], whole.quality
        for i in range(model.space.size):
            less = observed.flatten(1).clone()
            less[:, i] = False
            rest = model.log_prob(x, given or None, less.reshape(observed.shape), draws, rng)
            parts.append(torch.where(observed.flatten(1)[:, i], whole.value - rest.value, 0.0).double())
            quality = quality + rest.quality
    if quality is not Quality.EXACT:
        raise Unsupported("its marginals are not exact, and differences of bounds mean nothing")
    return Answer(torch.stack(parts, 1).reshape(x.shape), UNIT, Quality.EXACT)


def by_steps(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], draws: int, rng: Rng) -> Answer:
    """The terms of the chain rule, entry after entry."""
    if not bool(observed.all()):
        raise Unsupported("its chain rule needs complete rows")
    flat, terms = x.flatten(1), torch.zeros(len(x), model.space.size, dtype=torch.float64)
    with torch.no_grad():
        for rows, i, ahead in walk(model, x, given):
            terms[rows, i] = ahead.log_prob(flat[rows, i : i + 1]).flatten().double()
    return Answer(terms.reshape(x.shape), UNIT, Quality.EXACT)


def walk(model: Model, x: Tensor, given: Mapping[str, Tensor]) -> Iterator[tuple[slice, int, Predictive]]:
    """The likelihood of each entry of x given those before it, `(B, 1)`: chunks of rows, entry, likelihood."""
    for start in range(0, len(x), CHUNK):
        rows = slice(start, start + CHUNK)
        flat = x[rows].flatten(1)
        cursor = model.steps(len(flat), {k: v[rows] for k, v in given.items()} or None)
        ahead: Predictive | None = cursor.start()
        for i in cursor.order:
            assert ahead is not None
            yield rows, i, ahead
            ahead = cursor.next(flat[:, i])


def by_quadrature(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], draws: int, rng: Rng) -> Answer:
    """log p(x) less the log of the sum, or integral, of p over all values of one entry."""
    if not bool(observed.all()):
        raise Unsupported("it needs complete rows")
    space = model.space
    asked = sum(space.variable(i).levels if space.variable(i).discrete else COARSE + FINE for i in range(space.size))
    if asked > ASKED:
        raise Unsupported(f"{asked} values of its entries are too many to try one by one")
    with torch.no_grad():
        whole = _even(model, x, given, draws, rng)
        parts = [whole - _log_integral(model, x, i, given, draws, rng) for i in range(space.size)]
    return Answer(torch.stack(parts, 1).reshape(x.shape), UNIT, Quality.ESTIMATE)


def _log_integral(model: Model, x: Tensor, i: int, given: dict[str, Tensor], draws: int, rng: Rng) -> Tensor:
    """log of the integral of p over entry i, `(N,)`."""
    nodes, log_width = _nodes(model.space.variable(i), x.flatten(1)[:, i])
    rows = x.flatten(1).repeat_interleave(nodes.shape[1], 0)
    rows[:, i] = nodes.flatten().to(rows.dtype)
    c = {k: v.repeat_interleave(nodes.shape[1], 0) for k, v in given.items()}
    log_p = _even(model, rows.reshape(-1, *x.shape[1:]), c, draws, rng).reshape(nodes.shape)
    return torch.logsumexp(log_p + log_width, 1)


def _nodes(v: Variable, x_i: Tensor) -> tuple[Tensor, Tensor]:
    """Values of an entry `(N, K)`, and the log of how much each stands for: codes, bins, or a piece of the line.

    At a resolution p is the mass of a bin: the nodes are centres of bins, and where bins are wider than the nodes are
    apart this is the sum over all of them; a bin that is met twice counts once.
    """
    if v.discrete:
        nodes = torch.arange(v.levels, dtype=torch.float64).expand(len(x_i), -1)
        return nodes, torch.zeros_like(nodes)
    low = v.mean - SIDE * v.scale if v.low is None else v.low
    high = v.mean + SIDE * v.scale if v.high is None else v.high
    inset, margin = (0.0, 0.0) if v.resolution else ((high - low) / (COARSE + 1), 1e-6 * (high - low))
    x_i = x_i.double()[:, None]
    inner = torch.linspace(low + inset, high - inset, COARSE, dtype=torch.float64).expand(len(x_i), -1)
    near = x_i + torch.linspace(-0.3, 0.3, FINE, dtype=torch.float64) * v.scale
    nodes = torch.cat([inner, near], 1).sort(1).values
    if v.resolution:
        nodes = x_i + v.resolution * ((nodes - x_i) / v.resolution).round()
    ends = -math.inf if v.low is None else low + margin, math.inf if v.high is None else high - margin
    nodes = nodes.clamp(*ends)
    half = v.resolution / 2
    middle = (nodes[:, 1:] + nodes[:, :-1]) / 2
    borders = torch.cat([nodes[:, :1] - half, middle, nodes[:, -1:] + half], 1)
    return nodes, (borders.diff(dim=1) / (v.resolution or 1.0)).clamp_min(1e-300).log()


def _even(model: Model, x: Tensor, given: dict[str, Tensor], draws: int, rng: Rng) -> Tensor:
    """log p up to a constant that all x share, `(N,)`."""
    parts = []
    for start in range(0, len(x), 4096):
        rows = slice(start, start + 4096)
        found = model.log_prob(x[rows], {k: v[rows] for k, v in given.items()} or None, None, draws, rng)
        if found.quality in (Quality.LOWER, Quality.UPPER):
            raise Unsupported("differences of bounds mean nothing")
        parts.append(found.value.double())
    return torch.cat(parts)


def by_denoising(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], draws: int, rng: Rng) -> Answer:
    """How badly each entry is restored from noise; no log p, but on its scale."""
    chart = model.chart
    u, mask, one = chart.encode(x), chart.mask(observed), torch.ones(len(x))
    total = torch.zeros_like(u)
    with torch.no_grad():
        for _ in range(draws):
            noisy = u + NOISE * rng.normal(tuple(u.shape))
            total -= (model.denoise(noisy, one, one * NOISE, given) - u).square() / (2 * NOISE**2 * draws)
    numbers = chart.by_entry(total * mask)
    return Answer(numbers, "squared error over noise", Quality.ESTIMATE)


def figure(answer: Answer) -> Figure:
    """What each entry of the least likely rows adds, less what is usual for it, as colours; letters in colour."""
    assert answer.model is not None
    asked, values = answer.question, answer.value.cpu().numpy()
    usual, who = _usual(answer) if answer.model.space.kind != "text" else (np.zeros(values.shape[1:]), "")
    seen = asked["observed"].cpu()
    return entries_figure(values, asked["x"].cpu(), seen, answer.model.space, answer.unit, usual, who)


def _usual(answer: Answer) -> tuple[np.ndarray[Any, Any], str]:
    """The median of each entry `(*event)`, and over what: the rows asked, the model's draws, else all entries."""
    model, asked = answer.model, answer.question
    assert model is not None
    rows, seen, who = answer.value, asked["observed"], f"usual: the median of the {len(answer.value)} rows"
    if len(rows) < ENOUGH and "sample" in model.offers() and model.space.size <= LARGEST:
        again = torch.arange(USUAL) % len(rows)  # draws given what the rows were given
        c, rng = {k: v[again] for k, v in asked["given"].items()}, Rng(0)
        x = model.sample(1, c, rng)[0] if c else model.sample(USUAL, None, rng)
        rows = contribute(model, x, c or None, draws=asked["draws"], rng=0, route=answer.route).value
        seen, who = torch.ones_like(rows, dtype=torch.bool), f"usual: the median of {USUAL} draws of the model"
    elif len(rows) < ENOUGH:
        known = rows[seen & rows.isfinite()]
        middle = float(known.median()) if len(known) else 0.0
        return np.full(tuple(rows.shape[1:]), middle), "usual: the median of all entries"
    median = torch.where(seen, rows, torch.nan).nanmedian(0).values
    return torch.nan_to_num(median, 0.0, 0.0, 0.0).cpu().numpy(), who


ROUTES = (
    route(by_others, "log_prob"),
    route(by_steps, "steps"),
    route(by_denoising, "denoise", sources="Graham et al. 2023 (arXiv:2211.07740)"),
    route(by_quadrature, "log_prob"),
)
