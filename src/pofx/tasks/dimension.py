"""Dimension: in how many directions does x really vary?

    d(s) = E | u - E[u | u + s e] |^2 / s^2,   e ~ N(0, I)       of a normal: sum_i l_i / (l_i + s^2),  l_i: eigenvalues
    d(s) = d log C / d log s,   C(s) = E exp(-|u - u'|^2 / 4 s^2)                    u, u' drawn;  of a normal: the same
    d    = N / sum_i log(r2_i / r1_i)                            r1, r2: to the nearest and second nearest of N draws

The first counts the directions in which x varies by more than s: along them noise cannot be told from x and stays,
across them a denoiser takes it away. It is a curve over the scale s, said in standard deviations of the chart, and has
a value for each row. The others are for a model that only draws: how the number of near pairs grows with the distance,
at the same scale; and, where too few draws are that near each other, their nearest neighbours (TwoNN), which have a
scale of their own and fall short of high dimensions.

References: Wu and Verdu 2011 (MMSE dimension); Stanczuk 2022 (arXiv:2212.12611, from diffusion models); Grassberger and
Procaccia 1983 (correlation dimension; Diks 1996 with a normal kernel); Facco 2017 (arXiv:1803.06992, TwoNN).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx.drawing.curves import dimension_figure
from pofx.model import Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.tasks.base import Answer, at_least_one, given_for, route, rows_of, solve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "In how many directions does x really vary?"
UNIT = "dimensions"
SCALES = (0.05, 0.1, 0.2, 0.4, 0.8)
CHUNK, ROWS, DRAWN = 512, 500, 4000
PAIRS = 200  # near pairs, below which their number says nothing


def dimension(
    model: Model,
    x: Any = None,
    given: Mapping[str, Any] | None = None,
    *,
    scale: float = 0.2,
    draws: int = 8,
    rng: Rng | torch.Generator | int | None = 0,
    route: str | None = None,
) -> Answer:
    """The intrinsic dimension at a scale, of the model near rows x.

    Args:
        model: fitted.
        x: rows in the user's own type, or a tensor `(N, *event)`, without gaps; None: 500 of the model's own draws.
        given: name -> one value, or N values.
        scale: s, in standard deviations of the chart.
        draws: of noise, for each row and scale.
        rng: of them.
        route: a route by name; None takes the best.

    Returns:
        An Answer whose value is a float; diagnostics: `rows` (N,), of each row alone, and `curve`: scale -> dimension,
        where a denoiser tells; `entries`: how many there are.

    Raises:
        ValueError: entries are missing, or the scale is not positive. Unsupported: no denoiser, and no draws.
    """
    if not scale > 0:
        raise ValueError(f"dimension: scale is {scale}; expected a number above 0.")
    at_least_one("dimension", draws=draws)
    stream, count = Rng(rng), ROWS
    if x is not None:
        rows, observed = rows_of(model, x)
        if not bool(observed.all()):
            raise ValueError("dimension: entries are missing; complete them first (impute).")
        x, count = rows, len(rows)
    c = given_for(model, given, count)
    return solve("dimension", ROUTES, model, route, x=x, given=c, scale=scale, draws=draws, rng=stream)


def by_denoising(
    model: Model, x: Tensor | None, given: dict[str, Tensor], scale: float, draws: int, rng: Rng
) -> Answer:
    """How much of a little noise the denoiser leaves in."""
    x = _own(model, given, rng) if x is None else x
    u = model.chart.encode(x).float()
    curve = {s: _left(model, u, given, s, draws, rng) for s in sorted({*SCALES, scale})}
    local = curve[scale]
    words = {"rows": local, "curve": {s: float(v.mean()) for s, v in curve.items()}, "entries": model.space.size}
    error = local.std() / len(local) ** 0.5 if len(local) > 1 else None
    return Answer(float(local.mean()), UNIT, Quality.ESTIMATE, raw=local, stderr=error, diagnostics=words)


def by_pairs(model: Model, x: Tensor | None, given: dict[str, Tensor], scale: float, draws: int, rng: Rng) -> Answer:
    """How the share of the model's draws that are near grows with what is called near."""
    u = _drawn(model, given, rng)
    rows = u[:ROWS] if x is None else model.chart.encode(x).flatten(1).double()
    curve = {s: _near(rows, u, s) for s in sorted({*SCALES, scale})}
    found, pairs = curve[scale]
    if pairs < PAIRS:
        raise Unsupported(f"only {pairs:.0f} pairs of its draws are as near as {scale:g} deviations")
    words = {"curve": {s: v for s, (v, n) in curve.items() if n >= PAIRS}, "entries": model.space.size}
    return Answer(found, UNIT, Quality.ESTIMATE, diagnostics={**words, "pairs": pairs})


def _near(rows: Tensor, u: Tensor, scale: float) -> tuple[float, float]:
    """d log C / d log s, the mean of |u - u'|^2 / 2 s^2 over pairs by their weight in C; and how many pairs that is."""
    total = torch.zeros(3, dtype=torch.float64)
    for part in rows.split(CHUNK):
        far = torch.cdist(part, u).square() / (2 * scale**2)
        weight = torch.where(far > 1e-12, (-far / 2).exp(), 0.0)  # a row is no neighbour of itself
        total += torch.stack([weight.sum(), (weight * far).sum(), weight.square().sum()])
    share, moment, square = (float(v) for v in total)
    return moment / max(share, 1e-300), share**2 / max(square, 1e-300)


def _drawn(model: Model, given: dict[str, Tensor], rng: Rng, count: int = DRAWN) -> Tensor:
    """Draws in the chart, flat float64."""
    count = count if not given else max(len(v) for v in given.values())
    x = model.sample(1, given, rng)[0] if given else model.sample(count, None, rng)
    return model.chart.encode(x).flatten(1).double()


def by_neighbours(
    model: Model, x: Tensor | None, given: dict[str, Tensor], scale: float, draws: int, rng: Rng
) -> Answer:
    """Distances between the model's own draws (TwoNN); it has no scale of its own choice."""
    u = _drawn(model, given, rng, 2000)
    return Answer(two_nearest(u), UNIT, Quality.ESTIMATE, diagnostics={"draws": len(u), "entries": model.space.size})


def two_nearest(u: Tensor) -> float:
    """TwoNN (Facco 2017) of points `(N, D)`, copies left out; maximum likelihood, less its bias of 1/N."""
    u = u.unique(dim=0)
    if len(u) < 4:
        return 0.0
    near = torch.cat([torch.cdist(part, u).topk(3, largest=False).values[:, 1:] for part in u.split(CHUNK)])
    ratio = (near[:, 1] / near[:, 0].clamp_min(1e-300)).log()
    return float((len(ratio) - 1) / ratio.sum().clamp_min(1e-300))


def _own(model: Model, given: dict[str, Tensor], rng: Rng) -> Tensor:
    return model.sample(1, given, rng)[0] if given else model.sample(ROWS, None, rng)


def _left(model: Model, u: Tensor, given: dict[str, Tensor], scale: float, draws: int, rng: Rng) -> Tensor:
    """E |u - D(u + s e)|^2 / s^2 of each row, (N,)."""
    parts = []
    with torch.no_grad():
        for start in range(0, len(u), CHUNK):
            rows = u[start : start + CHUNK]
            c = {k: v[start : start + CHUNK] for k, v in given.items()}
            one = torch.ones(len(rows), *[1] * (u.ndim - 1), dtype=u.dtype)
            total = torch.zeros(len(rows), dtype=torch.float64)
            for _ in range(draws):
                found = model.denoise(rows + scale * rng.normal(tuple(rows.shape)), one, scale * one, c or None)
                total += (rows - found).double().square().flatten(1).sum(1)
            parts.append(total / (draws * scale**2))
    return torch.cat(parts)


def figure(answer: Answer) -> Figure:
    """The dimension over scales and near each row, or the number alone where the route has no scale."""
    facts, rows = answer.diagnostics, answer.diagnostics.get("rows")
    near = None if rows is None else rows.cpu().numpy()
    return dimension_figure(answer.value, facts["entries"], facts.get("curve", {}), answer.question["scale"], near)


ROUTES = (
    route(by_denoising, "denoise", "sample", sources="Wu and Verdu 2011"),
    route(by_pairs, "sample", sources="Grassberger and Procaccia 1983"),
    route(by_neighbours, "sample", sources="Facco et al. 2017 (arXiv:1803.06992)"),
)
