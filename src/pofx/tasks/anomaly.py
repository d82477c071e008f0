"""Anomaly: what does not belong?

    score s(x), larger = stranger;      p-value = (1 + #{calibration: s_i >= s(x)}) / (n + 1)     (Bates et al. 2023)

    log prob        -log p(x)                          ratio           -log p(x) + log p_background(x)
    typicality      |-log p(x) - its mean over the calibration rows|, for rows or batches of rows
    complexity      -log p(x) - (nats that a general compressor needs for x)
    surprise        sum_i [ -log p(x_i | x_<i) - H_i(x_<i) ],  H_i the mean of -log p(x_i | x_<i) over p(x_i | x_<i)
    denoising, reconstruction, score norm, distance (to samples): for models without a density

The mean of the surprise over the model's own draws is 0 (a martingale): it does not matter how simple x is, only
whether x cost more than the model itself expected at each entry.

The p-value needs no "contamination" guess: for a row that belongs, P(p <= u) <= u. `fdr` flags rows so that the
expected share of false alarms among them is at most that. A high density is no proof: where rows are *more* probable
than those that belong, one-sided scores are blind to them, and the answer warns. Every score is finite.

References: Bishop 1994; Ren 2019 (arXiv:1906.02845, ratio); Nalisnick 2019 (arXiv:1906.02994, typicality); Serra 2020
(arXiv:1909.11480, complexity); Bates 2023 (arXiv:2104.08279).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pofx.data import Batch, Data
from pofx.drawing.scores import scores_figure
from pofx.engines.estimators import drawn
from pofx.engines.zipped import code_nats
from pofx.kinds.base import Variable
from pofx.metrics.scores import OnlineFDR, benjamini_hochberg, conformal_pvalues, storey, typicality_pvalues
from pofx.model import Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.records import Predictive
from pofx.tasks.anomalies import USUAL, Anomalies, Asked, inverted
from pofx.tasks.base import Answer, Pools, at_least_one, given_for, recoded, route, rows_of, solve
from pofx.tasks.contribute import walk
from pofx.tasks.density import by_log_prob as log_density

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "What does not belong?"
UNIT = "score"
IMPOSSIBLE = 1e6  # every score is finite: what has probability 0 is stranger than anything possible
NOISE = 0.5  # the noise level, in standard deviations of the chart, at which denoising tells most about x
FDR = {"benjamini-hochberg": benjamini_hochberg, "storey": storey}


@dataclass(frozen=True)
class Known:
    """Rows that belong, scored once: by which route, how, and some of the rows."""

    route: str
    scores: np.ndarray[Any, Any]
    rows: Batch


def anomaly(
    model: Model,
    x: Any,
    calibration: Any = None,
    given: Mapping[str, Any] | None = None,
    *,
    background: Model | None = None,
    fdr: float | None = None,
    control: str = "benjamini-hochberg",
    batch: int = 1,
    draws: int = 8,
    rng: Rng | torch.Generator | int | None = 0,
    route: str | None = None,
) -> Anomalies:
    """How strange each row is.

    Args:
        model: fitted.
        x: rows in the user's own type, or a tensor `(N, *event)`.
        calibration: rows that belong, unseen in training (Data: its validation part); they give p-values.
        given: name -> one value, or N values.
        background: a model of what all such rows have in common; it brings the likelihood ratio. See `perturbed`.
        fdr: flag rows so that the expected share of false ones among them is at most this; needs calibration.
        control: "benjamini-hochberg" or "storey", which finds more where many rows are strange.
        batch: judge this many consecutive rows together, by their mean score; a shorter rest is left out.
        draws: Monte-Carlo draws of the score.
        rng: of those draws.
        route: a route by name; None takes the best (with a background: the ratio).

    Returns:
        An answer with value = scores `(N,)`, or one a batch. Where calibrated its diagnostics hold `p`, conformal
        p-values, and where asked for `flagged`, bool. `explain()` says why in words, `reasons()` which entries are odd.

    Raises:
        ValueError: fdr without calibration, or fewer rows than a batch. Unsupported: no route.
    """
    if fdr is not None and calibration is None:
        raise ValueError("anomaly: fdr needs p-values; pass calibration=<rows that belong, unseen in training>.")
    if control not in FDR:
        raise ValueError(f"anomaly: control is {control!r}; expected one of {', '.join(FDR)}.")
    asked = _asked(model, x, given, draws, rng, background, calibration is not None)
    found = solve("anomaly", ROUTES, model, route or ("ratio" if background else None), asked=asked)
    known = None if calibration is None else _known(model, calibration, asked, found.route)
    answer = _judged(model, asked, found, known, batch)
    if fdr is None:
        return answer
    return answer.flag(FDR[control](answer.diagnostics["p"], fdr), f"{control} at a false discovery rate of {fdr:g}")


def watch(
    model: Model,
    batches: Iterable[Any],
    calibration: Any,
    given: Mapping[str, Any] | None = None,
    *,
    background: Model | None = None,
    fdr: float = 0.1,
    control: str = "benjamini-hochberg",
    draws: int = 8,
    rng: Rng | torch.Generator | int | None = 0,
    route: str | None = None,
) -> Iterator[Anomalies]:
    """How strange each row of a stream is: one answer a batch, in constant memory.

    Args:
        model, calibration, background, draws, rng, route: as in `anomaly`; the calibration rows are scored once.
        batches: any iterable of rows, of any sizes.
        given: name -> one value for all.
        fdr: the false discovery rate.
        control: "benjamini-hochberg" or "storey": of each batch; "lord": of the whole stream at every time, row by row
            (`pofx.metrics.scores.OnlineFDR`), whose levels soon are small: it needs thousands of calibration rows.

    Yields:
        Answers with `p` and `flagged`; diagnostics also count `rows seen` and `rows flagged` so far.
    """
    if control not in (*FDR, "lord"):
        raise ValueError(f"watch: control is {control!r}; expected one of {', '.join(FDR)}, lord.")
    online, noise, known = OnlineFDR(fdr), Rng(rng), None
    seen = strange = 0
    for x in batches:
        asked = _asked(model, x, given, draws, noise, background, True)
        name = known.route if known else route or ("ratio" if background else None)
        found = solve("anomaly", ROUTES, model, name, asked=asked)
        known = known or _known(model, calibration, asked, found.route)
        answer = _judged(model, asked, found, known, 1)
        p = answer.diagnostics["p"]
        flagged = online(p) if control == "lord" else FDR[control](p, fdr)
        answer = answer.flag(flagged, f"{control} at a false discovery rate of {fdr:g}")
        seen, strange = seen + len(answer.value), strange + int(answer.diagnostics["flagged"].sum())
        yield dataclasses.replace(
            answer, diagnostics={**answer.diagnostics, "rows seen": seen, "rows flagged": strange}
        )


def _asked(
    model: Model, x: Any, given: Mapping[str, Any] | None, draws: int, rng: Any, background: Model | None, both: bool
) -> Asked:
    at_least_one("anomaly", draws=draws)
    rows, observed = rows_of(model, x)
    if background is not None and background.space.shape != model.space.shape:
        raise ValueError(
            f"anomaly: the background models x of shape {background.space.shape}, the model {model.space.shape}; "
            "expected the same."
        )
    return Asked(rows, observed, given_for(model, given, len(rows)), draws, Rng(rng), background, both)


def _known(model: Model, calibration: Any, asked: Asked, name: str) -> Known:
    """The scores of the calibration rows, by the same route."""
    held_out = recoded(model, calibration, "valid") if isinstance(calibration, Data) else calibration
    x, observed = rows_of(model, held_out, "calibration rows")
    theirs = _calibration_given(asked.given, held_out)
    again = dataclasses.replace(asked, x=x, observed=observed, given=theirs, rng=Rng(0))
    some = Batch(x[:USUAL], {k: v[:USUAL] for k, v in theirs.items()}, observed[:USUAL])
    return Known(name, solve("anomaly", ROUTES, model, name, asked=again).value.numpy(), some)


def _judged(model: Model, asked: Asked, found: Answer, known: Known | None, batch: int) -> Anomalies:
    """Scores as an answer, with p-values where rows that belong are known."""
    value = _grouped(found.value, batch, "rows")
    more = {"batch": batch} if batch > 1 else {}
    if known is None:
        return Anomalies.of(found, model, asked, value, {**found.diagnostics, **more})
    scores = _grouped(torch.from_numpy(known.scores), batch, "calibration rows").numpy()
    more |= {"calibration rows": len(known.scores)}
    if found.route == "typicality":
        p = typicality_pvalues(scores, value)
        middle = float(scores.mean())
        value, scores = (value - middle).abs(), np.abs(scores - middle)
    else:
        p = conformal_pvalues(scores, value)
        more |= inverted(scores, value.numpy()) if found.route in ONE_SIDED else {}
    answer = Anomalies.of(found, model, asked, value, {**found.diagnostics, "p": p, **more})
    return dataclasses.replace(answer, known=scores, belong=known.rows)


def _grouped(scores: Tensor, batch: int, of: str) -> Tensor:
    """Mean scores of consecutive rows."""
    if batch < 1 or len(scores) < batch:
        raise ValueError(f"anomaly: got {len(scores)} {of} and batch={batch}; expected at least one whole batch.")
    return scores if batch == 1 else scores[: len(scores) // batch * batch].reshape(-1, batch).mean(1)


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


def by_log_prob(model: Model, asked: Asked) -> Answer:
    """-log p(x): the rarer, the stranger; a row of probability 0 scores IMPOSSIBLE nats."""
    found = log_density(model, asked.x, asked.observed, asked.given, asked.draws, asked.rng)
    score = torch.nan_to_num(-found.value, posinf=IMPOSSIBLE, neginf=-IMPOSSIBLE)
    return Answer(score, found.unit, -found.quality, stderr=found.stderr)


def by_ratio(model: Model, asked: Asked) -> Answer:
    """-log p(x) + log p(x) of a background model: what both find likely or unlikely cancels."""
    if asked.background is None:
        raise Unsupported("a likelihood ratio needs background=<a model of what all such rows share>")
    found = by_log_prob(model, asked)
    shared = {name: value for name, value in asked.given.items() if name in asked.background.given}
    behind = by_log_prob(asked.background, dataclasses.replace(asked, given=shared))
    quality = found.quality + (-behind.quality)
    return Answer(found.value - behind.value, "nats", quality if quality is Quality.EXACT else Quality.ESTIMATE)


def by_typicality(model: Model, asked: Asked) -> Answer:
    """How far -log p(x) lies, on either side, from its mean over rows that belong."""
    if not asked.calibrated:
        raise Unsupported("typicality needs calibration=<rows that belong, unseen in training>")
    return by_log_prob(model, asked)  # the distance is taken by `_judged`, which knows the mean


def by_complexity(model: Model, asked: Asked) -> Answer:
    """-log p(x) less what a general compressor needs: plain rows are likely anywhere, and no less strange."""
    if not bool(asked.observed.all()):
        raise Unsupported("a compressor needs complete rows")
    if not model.space.mass:
        raise Unsupported("log p is a density, which no number of bits compares with")
    found, zipped = by_log_prob(model, asked), torch.from_numpy(code_nats(_levels(asked.x, model)))
    return dataclasses.replace(found, value=found.value - zipped, unit="nats")


def by_surprise(model: Model, asked: Asked) -> Answer:
    """-log p(x) less what the model expected to pay, entry after entry: 0 in the mean over its own draws."""
    if not bool(asked.observed.all()):
        raise Unsupported("its chain rule needs complete rows")
    flat, score = asked.x.flatten(1), torch.zeros(len(asked.x), dtype=torch.float64)
    with torch.no_grad():
        for rows, i, ahead in walk(model, asked.x, asked.given):
            paid = -ahead.log_prob(flat[rows, i : i + 1]).flatten().double()
            score[rows] += paid - _expected_nats(ahead, model.space.variable(i), asked)
    exact = Quality.EXACT if model.space.discrete else Quality.ESTIMATE
    return Answer(torch.nan_to_num(score, IMPOSSIBLE, IMPOSSIBLE, -IMPOSSIBLE), "nats", exact)


def _expected_nats(ahead: Predictive, v: Variable, asked: Asked) -> Tensor:
    """The mean of -log p of an entry, (B,): in full over codes, by draws over numbers."""
    if v.discrete:
        p = ahead.masses(v.levels).double()
        return -torch.xlogy(p, p).sum(1)
    each = [-ahead.log_prob(ahead.sample(asked.rng)).flatten().double() for _ in range(asked.draws)]
    return torch.stack(each).mean(0)


def _levels(x: Tensor, model: Model) -> np.ndarray[Any, Any]:
    """x as whole numbers, in a dtype that only the Space decides."""
    variables = [model.space.variable(i) for i in range(model.space.size)]
    if model.space.discrete:
        return x.cpu().numpy().astype(np.uint8 if max(v.levels for v in variables) <= 256 else np.int32)
    steps = torch.tensor([1.0 if v.discrete else v.resolution for v in variables], dtype=torch.float64)
    return torch.round(x.double() / steps.reshape(model.space.shape)).long().cpu().numpy()


def by_denoising(model: Model, asked: Asked) -> Answer:
    """How badly x is restored from noise."""
    u, mask = model.chart.encode(asked.x), model.chart.mask(asked.observed)
    one, total = torch.ones(len(u)), torch.zeros(len(u), dtype=torch.float64)
    with torch.no_grad():
        for _ in range(asked.draws):
            noisy = u + NOISE * asked.rng.normal(tuple(u.shape))
            total += _squared(model.denoise(noisy, one, one * NOISE, asked.given) - u, mask)
    return Answer(total / asked.draws, "squared error in the chart", Quality.ESTIMATE)


def by_reconstruction(model: Model, asked: Asked) -> Answer:
    """How unlikely x is under the reconstruction of itself."""
    c = asked.given or None
    with torch.no_grad():
        q = model.encode(asked.x, c)
        score = torch.zeros(len(asked.x), dtype=torch.float64)
        for _ in range(asked.draws):
            log_p = model.decode(drawn(q, asked.rng), c).log_prob(asked.x)
            score -= torch.where(asked.observed, log_p, 0.0).flatten(1).sum(1).double() / asked.draws
    score = torch.nan_to_num(score, posinf=IMPOSSIBLE, neginf=-IMPOSSIBLE)
    return Answer(score, "nats", Quality.ESTIMATE)


def by_distance(model: Model, asked: Asked) -> Answer:
    """The distance to the fifth nearest of 2000 samples."""
    pools = Pools(model, asked.given, 2000, asked.rng)
    u, mask = model.chart.encode(asked.x).flatten(1), model.chart.mask(asked.observed).flatten(1)
    squares = (((u[i] - pools.of(i)[1]) * mask[i]).square().sum(1) for i in range(len(u)))
    gaps = [square.topk(5, largest=False).values[-1] for square in squares]
    return Answer(torch.stack(gaps).sqrt().double(), "distance in the chart", Quality.ESTIMATE)


def by_score_norm(model: Model, asked: Asked) -> Answer:
    """The length of the gradient of log p at x: typical rows lie near modes or on plateaus."""
    if not bool(asked.observed.all()):
        raise Unsupported("a gradient needs complete rows")
    slope = model.score(model.chart.encode(asked.x), asked.given).detach()
    return Answer(slope.double().flatten(1).norm(dim=1), "nats per unit of the chart", Quality.ESTIMATE)


def _squared(error: Tensor, mask: Tensor) -> Tensor:
    return (error.double().square() * mask).flatten(1).sum(1)


def figure(answer: Anomalies) -> Figure:
    """Scores of the rows asked about, of rows that belong, and which are flagged; the strangest pictures below."""
    assert answer.model is not None
    single = answer.diagnostics.get("batch", 1) == 1
    return scores_figure(
        answer.value.numpy(), f"score by {answer.route}, {answer.unit}", answer.known,
        answer.diagnostics.get("flagged"), answer.asked.x if single else None, answer.model.space,
    )  # fmt: skip


ROUTES = (
    route(by_log_prob, "log_prob"),
    route(by_ratio, "log_prob", sources="Ren et al. 2019 (arXiv:1906.02845)"),
    route(by_typicality, "log_prob", sources="Nalisnick et al. 2019 (arXiv:1906.02994)"),
    route(by_complexity, "log_prob", sources="Serra et al. 2020 (arXiv:1909.11480)"),
    route(by_surprise, "steps"),
    route(by_denoising, "denoise", sources="Graham et al. 2023 (arXiv:2211.07740)"),
    route(by_reconstruction, "encode", "decode"),
    route(by_distance, "sample", sources="Angiulli and Pizzuti 2002"),
    route(by_score_norm, "score", sources="Mahmood et al. 2021 (arXiv:2010.13132)"),
)
ONE_SIDED = ("log prob", "reconstruction")  # scores that a high density makes small
