"""Anomaly: what does not belong?

    score s(x), larger = stranger;      p-value = (1 + #{calibration: s_i >= s(x)}) / (n + 1)     (Bates et al. 2023)

The p-value needs no "contamination" guess: for a row that belongs, P(p <= u) <= u. Routes: -log p; the error of
denoising x from one noise level; the error of its reconstruction; its distance to the model's own samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pofx.engines.estimators import drawn
from pofx.metrics.scores import conformal_pvalues
from pofx.model import Model, Quality
from pofx.randomness import Rng
from pofx.tasks.base import Answer, Pools, given_for, route, rows_of, solve
from pofx.tasks.density import by_log_prob as log_density

QUESTION = "What does not belong?"
UNIT = "score"
IMPOSSIBLE = 1e6  # every score is finite: what has probability 0 is stranger than anything possible
NOISE = 0.5  # the noise level, in standard deviations of the chart, at which denoising tells most about x


def anomaly(
    model: Model,
    x: Any,
    calibration: Any = None,
    given: Mapping[str, Any] | None = None,
    *,
    draws: int = 8,
    rng: Rng | torch.Generator | int | None = 0,
    route: str | None = None,
) -> Answer:
    """How strange each row is.

    Args:
        model: fitted.
        x: rows in the user's own type, or a tensor `(N, *event)`.
        calibration: rows that belong, unseen in training (Data: its validation part); they give p-values.
        given: name -> one value, or N values.
        draws: Monte-Carlo draws of the score.
        rng: of those draws.
        route: a route by name; None takes the best.

    Returns:
        An Answer with value = scores `(N,)`, and `diagnostics["p"]` = conformal p-values `(N,)` where calibrated.
    """
    rows, observed = rows_of(model, x)
    asked = given_for(model, given, len(rows))
    question = {"draws": draws, "rng": Rng(rng), "given": asked}
    found = solve("anomaly", ROUTES, model, route, x=rows, observed=observed, **question)
    if calibration is None:
        return found
    held_out = calibration.part("valid") if hasattr(calibration, "part") else calibration
    known, seen = rows_of(model, held_out)
    question |= {"rng": Rng(0), "given": _calibration_given(asked, held_out)}
    scores = solve("anomaly", ROUTES, model, found.route, x=known, observed=seen, **question).value
    p = conformal_pvalues(scores, found.value)
    return _with(found, {**found.diagnostics, "p": p, "calibration rows": len(known)})


def _calibration_given(asked: Mapping[str, Tensor], calibration: Any) -> dict[str, Tensor]:
    """The calibration rows' own values of what the question is given: only alike scores can be compared.

    Raises:
        ValueError: the calibration rows carry no such given.
    """
    has = getattr(calibration, "given", {})
    missing = sorted(set(asked) - set(has))
    if missing:
        raise ValueError(
            f"anomaly: scores are given {missing}, so the calibration rows must be too; pass them as Data."
        )
    return {name: has[name] for name in asked}


def by_log_prob(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], draws: int, rng: Rng) -> Answer:
    """-log p(x): the rarer, the stranger; a row of probability 0 scores IMPOSSIBLE nats."""
    found = log_density(model, x, observed, given, draws, rng)
    score = torch.nan_to_num(-found.value, posinf=IMPOSSIBLE, neginf=-IMPOSSIBLE)
    return Answer(score, found.unit, -found.quality, stderr=found.stderr)


def by_denoising(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], draws: int, rng: Rng) -> Answer:
    """How badly x is restored from noise."""
    u, mask = model.chart.encode(x), model.chart.mask(observed)
    one, total = torch.ones(len(u)), torch.zeros(len(u), dtype=torch.float64)
    with torch.no_grad():
        for _ in range(draws):
            noisy = u + NOISE * rng.normal(tuple(u.shape))
            total += _squared(model.denoise(noisy, one, one * NOISE, given) - u, mask)
    return Answer(total / draws, "squared error in the chart", Quality.ESTIMATE)


def by_reconstruction(
    model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], draws: int, rng: Rng
) -> Answer:
    """How unlikely x is under the reconstruction of itself."""
    with torch.no_grad():
        q = model.encode(x, given or None)
        score = torch.zeros(len(x), dtype=torch.float64)
        for _ in range(draws):
            z = drawn(q, rng)
            log_p = model.decode(z, given or None).log_prob(x)
            score -= torch.where(observed, log_p, 0.0).flatten(1).sum(1).double() / draws
    return Answer(score, "nats", Quality.ESTIMATE)


def by_distance(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], draws: int, rng: Rng) -> Answer:
    """The distance to the fifth nearest of 2000 samples."""
    pools = Pools(model, given, 2000, rng)
    u, mask = model.chart.encode(x).flatten(1), model.chart.mask(observed).flatten(1)
    squares = (((u[i] - pools.of(i)[1]) * mask[i]).square().sum(1) for i in range(len(u)))
    gaps = [square.topk(5, largest=False).values[-1] for square in squares]
    return Answer(torch.stack(gaps).sqrt().double(), "distance in the chart", Quality.ESTIMATE)


def _squared(error: Tensor, mask: Tensor) -> Tensor:
    return (error.double().square() * mask).flatten(1).sum(1)


def _with(answer: Answer, diagnostics: Mapping[str, Any]) -> Answer:
    import dataclasses

    return dataclasses.replace(answer, diagnostics=diagnostics)


ROUTES = (
    route(by_log_prob, "log_prob"),
    route(by_denoising, "denoise", sources="Graham et al. 2023 (arXiv:2211.07740)"),
    route(by_reconstruction, "encode", "decode"),
    route(by_distance, "sample", sources="Angiulli and Pizzuti 2002"),
)
