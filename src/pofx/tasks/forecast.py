"""Forecast: what comes next?

    x_future ~ p(x_future | x_past),   many draws;      quantile q of a step: F^-1(q), calibrated:  m + s r_q

Routes, best first: a model that was fitted given the past draws its future; every other model completes a window of
which the past is observed, by the routes of `impute`. For text the draws are continuations, as long as asked, window by
window. For series they are quantiles of each step; with `calibration` rows, r_q is the q-quantile of their standardised
errors (y - m) / s at the same step, m and s being mean and deviation of the draws (split conformal prediction: where
these rows are like the question's, the intervals cover as they say, whatever the model).

References: Gneiting and Katzfuss 2014 (probabilistic forecasting); Lei 2018 (arXiv:1604.04173, locally weighted split
conformal prediction); Schefzik 2013 (arXiv:1302.7149: draws keep their ranks).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pofx.data import Data
from pofx.drawing.fans import fan_figure, frames_figure, texts_figure
from pofx.drawing.style import INK, blank
from pofx.kinds import KINDS
from pofx.kinds.base import Kind
from pofx.model import Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.tasks.base import Answer, at_least_one, given_for, recoded, route, rows_of, solve
from pofx.tasks.impute import ROUTES as COMPLETIONS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "What comes next?"
UNIT = "the data's own"
CALIBRATING = 400  # windows that calibrate, at most
CHUNK = 100_000  # draws of windows that are made together


def forecast(
    model: Model,
    past: Any,
    ahead: int | None = None,
    given: Mapping[str, Any] | None = None,
    *,
    draws: int | None = None,
    quantiles: Sequence[float] = (0.1, 0.5, 0.9),
    calibration: Data | None = None,
    rng: Rng | torch.Generator | int | None = 0,
    route: str | None = None,
) -> Answer:
    """How series, or texts, go on.

    Args:
        model: fitted to text or series.
        past: one series or several (frames, arrays), of which the last steps count; prompts (str or bytes); clips; or
            the beginnings of sounds or pieces.
        ahead: steps or symbols; None: half a window of a series, as many as the model was fitted for, or what is left
            of a text's window.
        given: name -> one value, or one for each past.
        draws: futures of each past; None: 200 of series and clips, 1 of others.
        quantiles: levels in (0, 1), for series.
        calibration: Data of the same windows, of which the validation part, unseen in training, sets the quantiles.
        rng: a seed or generator.
        route: a route by name; None takes the best.

    Returns:
        An Answer. Series: value is a list with one forecast for each quantile, in the user's own type (frames go on in
        their time); raw is the draws `(draws, N, ahead, C)`. Text: value is a list of `draws`, each the texts with what
        follows, in the container they came in. Sounds and music: the same, in the list that `sample` gives.

    Raises:
        ValueError: an unknown glyph, other channels, a past or `ahead` that does not fit. Unsupported: no route.
    """
    at_least_one("forecast", draws=1 if draws is None else draws)
    kind, rng = KINDS[model.space.kind], Rng(rng)
    _ordered(kind)
    if calibration is not None and not kind.measures:
        raise ValueError("forecast: calibration rows set the quantiles of series; continuations of others have none.")
    if model.space.kind == "text":
        return _text(model, past, ahead, given, draws or 1, rng, route)
    if not all(0 < q < 1 for q in quantiles) or not quantiles:
        raise ValueError(f"forecast: got quantiles {list(quantiles)}; expected levels between 0 and 1, such as 0.9.")
    if not kind.measures:
        if ahead is not None:
            raise ValueError(f"forecast: {kind.name} goes on until its window is full; leave ahead out.")
        return _window(model, past, given, draws or 1, rng, route)
    x, observed, known, ahead = _question(model, past, ahead, given)
    found = _drawn(model, x, observed, known, draws or 200, rng, route)
    future = found.raw[:, :, -ahead:]  # type: ignore[index]
    facts = {k: v for k, v in found.diagnostics.items() if not isinstance(v, Tensor)}
    if calibration is not None:
        future, facts["calibration rows"] = _calibrated(model, future, calibration, ahead, rng, found.route)
    levels = torch.tensor(list(quantiles), dtype=torch.float64)
    at = torch.quantile(future.flatten(1).double(), levels, 0).reshape(len(levels), *future.shape[1:])
    value = [kind.future(q, past, model.space) for q in at]  # type: ignore[attr-defined]
    facts |= {"quantiles": tuple(quantiles), "draws": len(future)}
    asked, quality = _seen(x, observed, known, ahead), found.quality + Quality.ESTIMATE  # a quantile of draws, at best
    return Answer(value, UNIT, quality, found.route, "forecast", future, None, facts, model, asked)


def log_score(model: Model, x: Any, past: int, given: Mapping[str, Any] | None = None, *, draws: int = 1) -> Answer:
    """log p(what follows | the first `past` steps or symbols) of each row, nats.

    Args:
        model: with a log density.
        x: rows in the user's own type, or a tensor `(N, *event)`.
        past: how many first steps (of all channels) are known.
        given: name -> one value, or N values.
        draws: of a bound, whose difference is an estimate.
    """
    at_least_one("log_score", draws=draws)
    rows, seen = rows_of(model, x)
    if not 0 <= past < model.space.shape[0]:
        raise ValueError(f"log_score: past is {past}; a row has {model.space.shape[0]} steps.")
    c = given_for(model, given, len(rows)) or None
    first = seen & (torch.arange(rows.shape[1]) < past).reshape(1, -1, *[1] * (rows.ndim - 2))
    with torch.no_grad():
        whole = model.log_prob(rows, c, None if bool(seen.all()) else seen, draws, 0)
        if past == 0 or not bool(first.any()):
            return Answer(whole.value, "nats", whole.quality, "log prob", "log_score")
        known = model.log_prob(rows, c, first, draws, 0)
    return Answer(whole.value - known.value, "nats", whole.quality + -known.quality, "log prob", "log_score")


def by_given(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], draws: int, rng: Rng) -> Answer:
    """The model's own sampler, given the past."""
    if "past" not in given:
        raise Unsupported("it was not fitted given the past")
    many = {k: v.repeat(draws, *[1] * (v.ndim - 1)) for k, v in given.items()}
    raw = model.sample(1, many, rng)[0].reshape(draws, *x.shape)
    return Answer(None, UNIT, model.sampler, raw=raw)


ROUTES = (route(by_given, "sample"), *COMPLETIONS)


def _ordered(kind: Kind) -> None:
    """Raise ValueError where nothing comes after a row of this kind."""
    if type(kind).past is not Kind.past:
        return
    if kind.name in ("table", "array"):  # whose files could be read as series
        what = "a table" if kind.name == "table" else "an array"
        raise ValueError(f"forecast: this model was fitted to {what}; fit it as a series (kind='series') to forecast.")
    what = "what comes next is asked of series, text, audio, music and video"
    raise ValueError(f"forecast: this model was fitted to the kind {kind.name!r}, which has no order; {what}.")


def _question(
    model: Model, past: Any, ahead: int | None, given: Mapping[str, Any] | None
) -> tuple[Tensor, Tensor, dict[str, Tensor], int]:
    """Windows of which the future is missing, their mask, what they are given, and the steps ahead."""
    kind, space = KINDS[model.space.kind], model.space
    if "past" not in model.given:
        x, observed = kind.past(past, space) if ahead is None else kind.past(past, space, ahead)  # type: ignore[call-arg]
        steps = observed.shape[1] // 2 if ahead is None else ahead
        return x, observed, given_for(model, given, len(x)), steps
    before = kind.before(past, space)  # type: ignore[attr-defined]
    if ahead is not None and ahead > space.shape[0]:
        raise ValueError(f"ahead is {ahead}; the model was fitted for {space.shape[0]} steps.")
    known = given_for(model, {**(given or {}), "past": before}, len(before))
    nothing = torch.zeros(len(before), *space.shape, dtype=torch.float64)
    return nothing, torch.zeros_like(nothing, dtype=torch.bool), known, ahead or space.shape[0]


def _seen(x: Tensor, observed: Tensor, known: dict[str, Tensor], ahead: int) -> dict[str, Tensor]:
    """What a picture wants: the past, the steps that are known, `(N, P, ...)`, NaN where one is missing."""
    past = known["past"] if "past" in known else torch.where(observed, x.double(), torch.nan)[:, :-ahead]
    return {"past": past}


def _drawn(
    model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], draws: int, rng: Rng, wanted: str | None
) -> Answer:
    """Windows with their futures, `(draws, N, *event)`, some rows at a time."""
    parts, found = [], None
    for rows in torch.arange(len(x)).split(max(1, CHUNK // draws)):
        question = {"x": x[rows], "observed": observed[rows], "given": {k: v[rows] for k, v in given.items()}}
        found = solve("forecast", ROUTES, model, wanted, **question, draws=draws, rng=rng)
        parts.append(torch.where(observed[rows], x[rows], found.raw))  # type: ignore[arg-type]
    if found is None:
        raise ValueError("forecast: got no past.")
    return Answer(None, UNIT, found.quality, found.route, "forecast", torch.cat(parts, 1), None, found.diagnostics)


def _calibrated(
    model: Model, future: Tensor, calibration: Data, ahead: int, rng: Rng, wanted: str
) -> tuple[Tensor, int]:
    """Draws `(draws, N, H, C)`, spread as the errors of the calibration rows are; and how many rows there were."""
    count = len(calibration.part("valid"))
    if calibration.space.shape != model.space.shape or count < 20:
        raise ValueError(
            f"forecast: the calibration rows are {count} windows of shape {calibration.space.shape}; expected at "
            f"least 20 of {model.space.shape}, as the model was fitted."
        )
    valid = recoded(model, calibration, "valid")
    some = valid.take(torch.linspace(0, len(valid) - 1, min(CALIBRATING, len(valid))).long())
    seen = torch.ones_like(some.x, dtype=torch.bool) if some.observed is None else some.observed
    known = seen.clone()
    known[:, -ahead:] = False
    given = {k: v for k, v in some.given.items() if k in model.given}
    drawn = _drawn(model, some.x, known, given, len(future), rng, wanted).raw[:, :, -ahead:]  # type: ignore[index]
    error = (some.x[:, -ahead:] - drawn.mean(0)) / drawn.std(0).clamp_min(1e-12)
    error = torch.where(seen[:, -ahead:], error, torch.full_like(error, torch.nan))
    rank = (future.argsort(0).argsort(0) + 0.5) / len(future)
    mean, spread = future.mean(0), future.std(0)
    out = torch.empty_like(future)
    for h, c in np.ndindex(*future.shape[2:]):
        own = error[:, h, c]
        own = own[~own.isnan()].sort().values
        if len(own) < 20:
            raise ValueError(f"forecast: step {h}, channel {c}: {len(own)} calibration rows are known; at least 20.")
        out[:, :, h, c] = mean[:, h, c] + spread[:, h, c] * _quantile(own, rank[:, :, h, c])
    return out, len(some)


def _quantile(sorted_: Tensor, level: Tensor) -> Tensor:
    """Quantiles of n sorted numbers at levels of any shape, the k-th at k / (n + 1), as conformal prediction has it."""
    n = len(sorted_)
    place = (level * (n + 1) - 1).clamp(0, n - 1)
    low = place.floor().long()
    high = (low + 1).clamp_max(n - 1)
    return sorted_[low] + (place - low) * (sorted_[high] - sorted_[low])


def _window(
    model: Model, past: Any, given: Mapping[str, Any] | None, draws: int, rng: Rng, wanted: str | None
) -> Answer:
    """Beginnings of sounds or pieces, and what fills their windows; codes have no quantiles."""
    kind = KINDS[model.space.kind]
    x, observed = kind.past(past, model.space)
    found = _drawn(model, x, observed, given_for(model, given, len(x)), draws, rng, wanted)
    assert found.raw is not None
    value, asked = [kind.restore(d, model.space) for d in found.raw], {"x": x, "observed": observed}
    return replace(found, value=value, model=model, question=asked)


def _text(
    model: Model,
    past: Any,
    ahead: int | None,
    given: Mapping[str, Any] | None,
    draws: int,
    rng: Rng,
    wanted: str | None,
) -> Answer:
    """Continuations of prompts, one after the other, for they differ in length."""
    kind, space = KINDS["text"], model.space
    single = isinstance(past, (str, bytes))
    prompts = [past] if single else list(past)
    if not prompts or (ahead is not None and ahead < 1):
        raise ValueError(f"forecast: got {len(prompts)} prompts and ahead = {ahead}; expected at least one of each.")
    known = given_for(model, given, len(prompts))
    texts, found = [], None
    for k, prompt in enumerate(prompts):
        c = {name: v[[k]].expand(draws, *v.shape[1:]) for name, v in known.items()}
        codes, found = _continued(model, prompt, ahead, c, draws, rng, wanted)
        texts.append(kind.spelt(codes, prompt, space))  # type: ignore[attr-defined]
    assert found is not None
    value = [texts[0][k] if single else [t[k] for t in texts] for k in range(draws)]
    facts, asked = found.diagnostics, {"prompts": prompts}
    return Answer(value, UNIT, found.quality, found.route, "forecast", None, None, facts, model, asked)


def _continued(
    model: Model, prompt: Any, ahead: int | None, given: dict[str, Tensor], draws: int, rng: Rng, wanted: str | None
) -> tuple[Tensor, Answer]:
    """Codes `(draws, T)` of a prompt and what follows; a stream goes on window by window."""
    d, ends = model.space.size, "end" in model.space.meta
    codes = KINDS["text"].prompt(prompt, model.space)  # type: ignore[attr-defined]
    if ends and len(codes) >= d:
        raise ValueError(f"the prompt has {len(codes)} symbols; a document has {d} at most.")
    goal = len(codes) + (max(1, d - len(codes)) if ahead is None else ahead)
    goal = min(goal, d) if ends else goal
    codes, found = codes.expand(draws, -1), None
    while codes.shape[1] < goal:
        kept = min(codes.shape[1], d - 1 if goal - codes.shape[1] == 1 else max(d // 2, d - (goal - codes.shape[1])))
        x = torch.zeros(draws, d, dtype=torch.int64)
        x[:, :kept] = codes[:, codes.shape[1] - kept :]
        mask = (torch.arange(d) < kept).expand(draws, -1)
        found = solve("forecast", COMPLETIONS, model, wanted, x=x, observed=mask, given=given, draws=1, rng=rng)
        codes = torch.cat([codes, found.raw[0, :, kept:]], 1)  # type: ignore[index]
    if found is None:
        raise ValueError("forecast: nothing is left to write.")
    return codes[:, :goal], found


def figure(answer: Answer) -> Figure:
    """Series: the past, and bands of what may follow; clips as frames, texts as lines, others as their kind draws."""
    assert answer.model is not None
    space, asked = answer.model.space, answer.question
    if "prompts" in asked:
        prompts = [_said(p) for p in asked["prompts"]]
        each = [[_said(t) for t in ([drawn] if isinstance(drawn, (str, bytes)) else drawn)] for drawn in answer.value]
        return texts_figure(prompts, each)
    assert answer.raw is not None
    if space.kind == "video":
        return frames_figure(asked["past"].cpu(), answer.raw.cpu(), space)
    if "past" in asked:
        names = [str(c) for c in space.meta["channels"]]
        return fan_figure(asked["past"].cpu().numpy(), answer.raw.cpu().numpy(), names, answer.diagnostics["quantiles"])
    shown, known = min(len(answer.raw), 3), asked["observed"][0].reshape(space.shape[0], -1).all(1)
    drawing = blank(7.0, 2.4 * shown + 0.3)
    for k, axes in enumerate(drawing.subplots(shown, 1, squeeze=False)[:, 0]):
        KINDS[space.kind].draw(axes, answer.raw[k, :4].cpu(), space)
        words = f"draw {k + 1}: the first {int(known.sum())} of {space.shape[0]} steps were known, the rest follows"
        axes.set_title(words, fontsize=9, loc="left", color=INK)
    return drawing


def _said(text: str | bytes) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
