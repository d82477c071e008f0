"""Classify: which class is it, how sure, and is it any of them?

    by Bayes' rule    p(c | x) = p(c) p(x | c) / sum_c' p(c') p(x | c')         a model of x given its class
    directly          p(c | x)                                                  a model of the class given x

Two refusals that are not the same: *ambiguous* (two classes explain x alike: the largest p(c | x) is small) and *of no
class* (none explains x: log p(x) is lower than that of rows that belong, by a conformal p-value). The second needs
p(x): a model of p(c | x) must name a class even for a picture of a shoe. Calibration rows also set a temperature T,
softmax(log p(x, c) / T), since densities of many entries are over-confident about classes.

References: Ng and Jordan 2001; Chow 1970 (rejection); Guo 2017 (arXiv:1706.04599); Bates 2023 (arXiv:2104.08279).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pofx.data import Batch, Data
from pofx.drawing.boundary import Classes, Judged, boundary_figure, doubts_figure
from pofx.metrics.classes import aurc, calibration_error, calibration_floor, reliability, risk_coverage, temperature_of
from pofx.metrics.scores import conformal_pvalues
from pofx.model import Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.tasks.base import Answer, at_least_one, classes_of, recoded, route, rows_of, solve
from pofx.wrappers import Joint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "Which class is it, and is it any of them?"
UNIT = "class"
CHUNK = 256
LEVEL, UNSURE = 0.05, 0.1  # of a picture: of no class at this p-value, ambiguous at this doubt
SIDE, WIDER, MOST = 140, 0.3, 0.005  # of a picture of two columns: its grid, its air, rows that may lie beyond its end
CANCELS = (Quality.EXACT, Quality.UNNORMALISED)  # a constant that all classes share is gone from p(c | x)


def classify(
    model: Model,
    x: Any,
    *,
    name: str | None = None,
    prior: Mapping[Any, float] | Tensor | None = None,
    calibration: Data | None = None,
    draws: int = 16,
    rng: Rng | torch.Generator | int | None = 0,
    route: str | None = None,
) -> Answer:
    """The likeliest class of each row, with p(class | x).

    Args:
        model: of x given a category, or of a category given x.
        x: rows in the user's own type, or a tensor `(N, *event)`; NaN is missing.
        name: which given is the class; None: the only category.
        prior: class -> its share, or `(K,)`; None: all alike, or the calibration rows' shares.
        calibration: Data with the class as a given, of which the validation part is used: sets the temperature, and the
            p-values of "of no class". Its classes are found by name; it may lack some.
        draws: Monte-Carlo draws of a bound.
        rng: of those draws.
        route: a route by name; None takes the best.

    Returns:
        An Answer whose value is a list of N classes as the user wrote them; diagnostics: `p` (N, K), `classes`,
        `ambiguity` (N,) = 1 - max p, by Bayes' rule `log_p` (N,) and `prior` (K,), and where calibrated `temperature`,
        `belongs` (N,) p-values, and `known` (M,), the log p of the calibration rows.

    Raises:
        Unsupported: the model knows no class, or its density is unnormalised.
        ValueError: no rows, or a class in the calibration rows that the model was not fitted to.
    """
    at_least_one("classify", draws=draws)
    asked = {"name": name, "prior": prior, "calibration": calibration, "draws": draws, "rng": Rng(rng)}
    return solve("classify", ROUTES, model, route, x=x, **asked)


def by_bayes(
    model: Model, x: Any, name: str | None, prior: Any, calibration: Data | None, draws: int, rng: Rng
) -> Answer:
    """Bayes' rule over p(x | class), for every class."""
    cause = _cause(model, name)
    classes = classes_of(model.given[cause].variables[0])
    valid = None if calibration is None else _valid(model, calibration, cause)
    shares = _shares(prior, classes, None if valid is None else valid.given[cause])
    joint, seed = Joint(model, cause, shares.log()), rng.seed()
    rows, observed = rows_of(model, x)
    log_joint, quality = _log_joint(joint, rows, observed, draws, seed)
    found: dict[str, Any] = {"prior": shares}
    log_p = torch.logsumexp(log_joint, 1)
    if valid is not None:
        known, seen = rows_of(model, valid, "calibration rows")
        theirs, _ = _log_joint(joint, known, seen, draws, seed)
        found["temperature"] = temperature_of(theirs, valid.given[cause])
        found["belongs"] = conformal_pvalues(-_finite(torch.logsumexp(theirs, 1)), -_finite(log_p))
        found["known"] = torch.logsumexp(theirs, 1)
    p = (log_joint / found.get("temperature", 1.0)).softmax(1)
    return _answer(p, classes, quality, {"log_p": log_p, **found})


def by_label(
    model: Model, x: Any, name: str | None, prior: Any, calibration: Data | None, draws: int, rng: Rng
) -> Answer:
    """The model's own p(class | x); it cannot tell that x belongs to no class."""
    v = model.space.variables[0]
    if model.space.size != 1 or not v.discrete or len(model.given) != 1:
        raise Unsupported("its event is no class given one x")
    if prior is not None:
        raise Unsupported("p(class | x) was learnt with its own prior")
    (cause,) = model.given
    rows = torch.as_tensor(x if not isinstance(x, (Batch, Data)) else x.x)
    at_least_one("classify", rows=len(rows))
    parts, exact, seed = [], True, rng.seed()
    with torch.no_grad():
        for start in range(0, len(rows), CHUNK):
            c = {cause: rows[start : start + CHUNK]}
            codes = torch.arange(v.levels).reshape(-1, 1, *[1] * len(model.space.shape))
            every = codes.expand(-1, len(c[cause]), *model.space.shape).to(model.space.torch_dtype)
            told = [model.log_prob(one, c, draws=draws, rng=Rng(seed)) for one in every]  # noise that classes share
            parts.append(torch.stack([one.value for one in told], 1))
            exact = exact and all(one.stderr is None and one.quality in CANCELS for one in told)
    quality = Quality.EXACT if exact else Quality.ESTIMATE
    return _answer(torch.cat(parts).double().softmax(1), classes_of(v), quality, {})


def _answer(p: Tensor, classes: tuple[Any, ...], quality: Quality, found: Mapping[str, Any]) -> Answer:
    value = [classes[k] for k in p.argmax(1).tolist()]
    words = {"classes": classes, "p": p, "ambiguity": 1 - p.max(1).values, **found}
    return Answer(value, UNIT, quality if quality is Quality.EXACT else Quality.ESTIMATE, raw=p, diagnostics=words)


def _log_joint(joint: Joint, x: Tensor, observed: Tensor, draws: int, seed: int) -> tuple[Tensor, Quality]:
    """log p(x, c) of all rows and codes, (N, K)."""
    parts, quality = [], Quality.EXACT
    with torch.no_grad():
        for start in range(0, len(x), CHUNK):
            rows = slice(start, start + CHUNK)
            mask = None if bool(observed[rows].all()) else observed[rows]
            value = joint.log_joint(x[rows], draws, seed, None, mask)
            parts.append(value.value.double())
            quality = quality + value.quality
    return torch.cat(parts), quality


def _cause(model: Model, name: str | None) -> str:
    """Which given is the class."""
    known = [k for k, s in model.given.items() if s.shape == () and s.discrete]
    if name is None and len(known) == 1:
        return known[0]
    if name is not None and known and name not in known:
        raise ValueError(f"classify: no class is called {name!r}; the model was fitted given the classes {known}.")
    if name not in known:
        raise Unsupported(
            f"it was fitted given {sorted(model.given) or 'nothing'}, of which {known or 'none'} are classes; fit it "
            "with given=<the class>, and say which by name"
        )
    return name


def _valid(model: Model, calibration: Data, cause: str) -> Batch:
    """The calibration rows and their classes, by the model's own codes: theirs depend on which classes they hold."""
    if cause not in calibration.given:
        has = sorted(calibration.given) or "nothing"
        raise ValueError(f"classify: the calibration rows are given {has}; expected Data given {cause!r}.")
    valid = recoded(model, calibration, "valid")
    if len(valid) < 2:
        raise ValueError(f"classify: got {len(valid)} calibration rows (the validation part); expected at least 2.")
    return valid


def _shares(prior: Any, classes: tuple[Any, ...], labels: Tensor | None) -> Tensor:
    """p(c), (K,), float64: as asked, as the calibration rows have it (add-one smoothed), or all alike."""
    if prior is None:
        counts = (
            torch.ones(len(classes)) if labels is None else torch.bincount(labels.long(), minlength=len(classes)) + 1
        )
        return counts.double() / counts.sum()
    if isinstance(prior, Mapping):
        missing = [c for c in classes if c not in prior]
        if missing:
            raise ValueError(f"classify: prior lacks {missing}; expected a share for each of {list(classes)}.")
        prior = torch.tensor([float(prior[c]) for c in classes])
    shares = torch.as_tensor(prior).double()
    if shares.shape != (len(classes),) or bool((shares < 0).any()) or float(shares.sum()) <= 0:
        raise ValueError(f"classify: got prior {shares.tolist()}; expected {len(classes)} shares, none negative.")
    return shares / shares.sum()


def _finite(log_p: Tensor) -> Tensor:
    return torch.nan_to_num(log_p, neginf=-1e9, posinf=1e9)


def figure(answer: Answer) -> Figure:
    """Two columns of numbers: boundaries, densities and what is refused; other rows: doubt against log p.

    Where the rows were Data that holds their classes, also how far the probabilities may be trusted.
    """
    model, asked, found = answer.model, answer.question, answer.diagnostics
    assert model is not None
    log_p, belongs = found.get("log_p"), found.get("belongs")
    truth = _truth(model, asked["x"], asked["name"]) if "prior" in found else None
    codes = np.asarray(found["p"].argmax(1)) if truth is None else truth
    density = None if log_p is None else _finite(log_p).numpy()
    strange = None if belongs is None else np.asarray(belongs) <= LEVEL
    edge = _threshold(_finite(found["known"]).numpy()) if "known" in found else None
    words = [str(c) for c in found["classes"]]
    rows = Classes(words, codes, np.asarray(found["ambiguity"]), density, strange, edge, UNSURE, truth is not None)
    space = model.space
    if density is not None and space.size == 2 and not any(space.variable(i).discrete for i in (0, 1)):
        x, observed = rows_of(model, asked["x"])
        if bool(observed.all()):
            return _boundary(answer, x.flatten(1).double().numpy(), rows)
    return doubts_figure(rows, None if truth is None else _judged(found["p"], truth))


def _boundary(answer: Answer, x: np.ndarray[Any, Any], rows: Classes) -> Figure:
    """The model asked on a grid around the rows `(N, 2)`."""
    model, found = answer.model, answer.diagnostics
    assert model is not None
    across, up = (_side(x[:, i], model.space.variable(i).resolution) for i in (0, 1))
    grid = torch.from_numpy(np.stack(np.meshgrid(across, up), -1).reshape(-1, *model.space.shape))
    joint = Joint(model, _cause(model, answer.question["name"]), found["prior"].log())
    seen = torch.ones_like(grid, dtype=torch.bool)
    log_joint, _ = _log_joint(joint, grid.to(model.space.torch_dtype), seen, answer.question["draws"], 0)
    shares = (log_joint / found.get("temperature", 1.0)).softmax(1).reshape(len(up), len(across), -1).numpy()
    log_p = _finite(torch.logsumexp(log_joint, 1)).reshape(len(up), len(across)).numpy()
    names = tuple(str(model.space.variable(i).name) for i in (0, 1))
    return boundary_figure(x, rows, (across, up), shares, log_p, (names[0], names[1]))


def _side(column: np.ndarray[Any, Any], resolution: float) -> np.ndarray[Any, Any]:
    """The grid of one column (N,): around nearly all its rows, on rounded values where there are few of them."""
    low, high = np.quantile(column, [MOST, 1 - MOST])
    if np.ptp(column) <= 3 * (high - low):  # no row is so far off that it would press the others together
        low, high = column.min(), column.max()
    reach = WIDER * (high - low or 1.0)
    low, high = low - reach, high + reach
    if resolution and (high - low) / resolution <= SIDE:  # log p is of a bin: between its middles it would have steps
        return resolution * np.arange(np.floor(low / resolution), np.ceil(high / resolution) + 1)
    return np.linspace(low, high, SIDE)


def _truth(model: Model, x: Any, name: str | None) -> np.ndarray[Any, Any] | None:
    """The true classes, by the model's codes, where the rows came with them."""
    cause = _cause(model, name)
    if not isinstance(x, (Batch, Data)) or cause not in x.given:
        return None
    return (recoded(model, x) if isinstance(x, Data) else x).given[cause].long().numpy()


def _threshold(known: np.ndarray[Any, Any]) -> float | None:
    """The log p below which the p-value is at most LEVEL: so many of the M calibration rows, (M,), may lie lower."""
    least = math.floor(LEVEL * (len(known) + 1) + 1e-9) - 1
    return None if least < 0 else float(np.sort(known)[least])


def _judged(p: Tensor, truth: np.ndarray[Any, Any]) -> Judged:
    """What the true classes `(N,)` say of p `(N, K)`."""
    sure, wrong = p.max(1).values, p.argmax(1).numpy() != truth
    bins = max(2, min(10, len(truth) // 20))
    confidence, right, _ = reliability(p, truth, bins)
    error, floor = calibration_error(p, truth, bins).value, calibration_floor(p, bins)
    return Judged(confidence, right, *risk_coverage(sure, wrong), error, floor, aurc(sure, wrong).value)


ROUTES = (route(by_bayes, "log_prob"), route(by_label, "log_prob"))
