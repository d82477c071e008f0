"""Augment: more rows of the classes that have few, and whether that helps whoever learns from them.

    x_new ~ p(x | class),   as many as each class lacks        gain = score(real + drawn) - score(real), paired by row

Routes, best first: the model's own draws given the class; a column of x that is the class, by the model's conditional;
draws of which the ones of the class are kept. Real rows come first and as they were; which rows are drawn is marked.
Draws hold nothing that the model did not learn from the same rows: they help a predictor only by what the model
assumes beyond it (smoothness, a shape) or by moving its threshold, which class weights do as well. So `gain` measures
it over seeds, beside rows repeated, rows with noise, SMOTE and pictures shifted, and says plainly when it does not
help, or no more than they do.

References: Chawla 2002 (arXiv:1106.1813, SMOTE, the usual baseline); Elor and Averbuch-Elor 2022 (arXiv:2201.08528, to
balance or not); van Breugel 2023 (arXiv:2305.09235, learning from drawn rows).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pofx.data import Data
from pofx.drawing.enlarged import Grown, enlarged_figure, gains_figure
from pofx.engines.oversample import noisy, repeated, shifted, smote
from pofx.kinds.base import Space
from pofx.metrics.base import Array
from pofx.metrics.gains import WORDS, Predictor, balanced, over_seeds, paired_gain, predictor_of, verdict
from pofx.model import Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.tasks.base import Answer, at_least_one, classes_of, given_for, own, recoded, route, rows_of, solve
from pofx.tasks.enlarge import Columns, enlarged

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "What would more rows of the rare classes look like, and do they help?"
UNIT = "the data's own"
CHUNK, TRIES = 4096, 200  # rows drawn at once; draws for each row wanted, before a class counts as too rare
Wanted = int | float | Mapping[Any, int] | None
Enlarge = Callable[[Array, Array, Array, Rng], tuple[Array, Array]]


@dataclass(frozen=True)
class Labelled:
    """Rows as a model sees them: x and observed `(N, *event)`, codes `(N,)` of the class, what the codes mean."""

    x: Tensor
    observed: Tensor
    codes: Tensor
    classes: tuple[Any, ...]


def augment(
    model: Model,
    data: Any,
    by: str | None = None,
    rows: Wanted = None,
    *,
    mark: str | None = "drawn",
    rng: Rng | torch.Generator | int | None = None,
    route: str | None = None,
) -> Answer:
    """Real rows and drawn ones after them, so that each class has as many as are asked for.

    Args:
        model: fitted on these rows (and on no row that will judge the result).
        data: Data (its training part grows), a frame with the column `by`, a pair (rows, labels; a Tensor of them holds
            codes), or rows.
        by: the class: a given of the model, or a column of x. None: draw without one.
        rows: how many there are in the end, real and drawn together. A number: each class is brought to it, and one
            that has more stays as it is; class -> number; a share such as 2.0 of what each has; None: as many as the
            largest class. Without `by`: the number of all rows, or a share; None doubles them.
        mark: the name of a column of a frame (of an `aside` of Data) that says which rows are drawn; None: none.
        rng: of the draws.
        route: a route by name; None takes the best.

    Returns:
        An Answer whose value has the type of `data`; `raw` are the drawn x alone; diagnostics: `drawn` (N,) bool,
        `labels` (N,) as the user wrote them, `before` and `after`: class -> rows.

    Raises:
        ValueError: no rows, the class is unknown, some labels are missing, or fewer rows are asked for than there are.
        Unsupported: the model cannot draw given the class.
    """
    data = own(model, data) if isinstance(data, Data) else data
    known = labelled(model, data, by)
    counts = _lacking(known, rows, by)
    codes = torch.arange(len(known.classes)).repeat_interleave(counts)
    answer = _drawn(model, by, codes, Rng(rng), route)
    every, new = torch.cat([known.codes, codes]), torch.arange(len(known.codes) + len(codes)) >= len(known.codes)
    value = enlarged(model, data, by, answer.raw, [known.classes[k] for k in codes.tolist()], codes, mark)
    words: dict[str, Any] = {"real rows": len(known.codes), "drawn rows": len(codes), "drawn": new}
    if by is not None:
        words["labels"] = [known.classes[k] for k in every.tolist()]
        words |= {"before": _counted(known.codes, known.classes), "after": _counted(every, known.classes)}
    question = {**answer.question, "real": known}  # of which a picture shows some
    return dataclasses.replace(answer, value=value, diagnostics={**answer.diagnostics, **words}, question=question)


def gain(
    model: Model | Sequence[Model],
    train: Any,
    test: Any,
    by: str,
    rows: Wanted = None,
    *,
    predictor: str | Predictor = "linear",
    against: Mapping[str, Enlarge] | None = None,
    repeats: int = 5,
    rng: Rng | torch.Generator | int | None = 0,
    route: str | None = None,
) -> Answer:
    """What a predictor of the class gains (or loses) on real rows by training on drawn rows as well.

    Args:
        model: fitted on `train` alone; or several, such as fits with different seeds, for a fit is luck, too.
        train, test: real rows with their class, as for `augment`; of Data, its training and its test part.
        by, rows, route: as for `augment`.
        predictor: "linear", "neighbours", "trees", or (z, y, seed) -> an object with `predict`.
        against: name -> (z, y, counts, rng) -> enlarged (z, y) of standardised numbers, beside "repeated", "noise",
            "smote" and, for pictures, "shifted" (`pofx.engines.oversample`).
        repeats: how often rows are drawn (and each other way is taken) and the predictor is fitted, with a seed of
            their own each time; of several models each takes its turn, as often as the others.
        rng: of them.

    Returns:
        An Answer whose value is the gain in balanced accuracy, a Metric with a 95 % interval paired by test row;
        diagnostics: `verdict` in words, `scores`: way -> balanced accuracy, `gains`: way -> Metric against real rows
        alone, `beyond`: way -> Metric of drawn rows against that way, `seeds`: way -> the gain of each repeat. The
        interval is of the test rows for these fits, averaged over the repeats; other training rows move the gain too.

    Raises:
        ValueError: test rows of one class, rows wanted of a class that has none, or models of other rows.
    """
    models = _alike(model)
    at_least_one("gain", repeats=repeats)
    model, turns = models[0], -(-repeats // len(models))
    known, held = labelled(model, train, by), labelled(model, test, by, "test")
    if len(held.codes.unique()) < 2:
        raise ValueError("gain: the test rows are of one class; expected two or more.")
    counts, stream, columns = _lacking(known, rows, by), Rng(rng), Columns(model.space, by)
    codes = torch.arange(len(known.classes)).repeat_interleave(counts)
    (z, zt), y = (columns(r.x, r.observed) for r in (known, held)), known.codes.numpy()
    fitted, ways = predictor_of(predictor), {**_simple(model.space, columns), **(against or {})}
    said: dict[str, list[Array]] = {name: [] for name in ("real", "drawn", *ways)}
    for one in models * turns:
        seed, answer = stream.seed() % 2**31, _drawn(one, by, codes, stream, route)
        assert answer.raw is not None
        fresh = columns(answer.raw, torch.ones_like(answer.raw, dtype=torch.bool))
        sets = {"real": (z, y), "drawn": (np.concatenate([z, fresh]), np.concatenate([y, codes.numpy()]))}
        sets |= {name: way(z, y, counts.numpy(), Rng(seed)) for name, way in ways.items()}
        for name, (a, b) in sets.items():
            said[name].append(np.asarray(fitted(a, b, seed).predict(zt)))
    fits = "one fitted model" if len(models) == 1 else f"{len(models)} fitted models in turn"
    over = f"{len(models) * turns} repeats (fresh rows, fresh seed of the predictor) of {fits}"
    words = _compared(held.codes.numpy(), said) | {"over": over, "drawn rows": len(codes)}
    found = words["gains"]["drawn"], "gain in balanced accuracy", Quality.ESTIMATE
    return Answer(*found, answer.route, "augment", diagnostics=words, model=model)


def _alike(model: Model | Sequence[Model]) -> list[Model]:
    """One or several models, of the same rows."""
    models = list(model) if isinstance(model, Sequence) else [model]
    if not models or any(m.space != models[0].space or m.given != models[0].given for m in models):
        raise ValueError(f"gain: got {len(models)} models; expected one, or several that were fitted to the same rows.")
    return models


def _simple(space: Space, columns: Columns) -> dict[str, Enlarge]:
    """The ways without a model that fit such rows."""
    ways: dict[str, Enlarge] = {"repeated": repeated, "noise": partial(noisy, nominal=columns.nominal)}
    ways["smote"] = partial(smote, nominal=columns.nominal)
    if space.picture and space.shared:
        ways["shifted"] = partial(shifted, shape=(space.shape[0], space.shape[1]))
    return ways


def _compared(y: Array, said: Mapping[str, list[Array]]) -> dict[str, Any]:
    """Scores and gains of every way, and what they come to."""
    gains = {name: paired_gain(y, said["real"], found) for name, found in said.items() if name != "real"}
    beyond = {name: paired_gain(y, said[name], said["drawn"]) for name in gains if name != "drawn"}
    scores = {name: balanced(y, found) for name, found in said.items()}
    seeds = {name: over_seeds(y, said["real"], said[name]) for name in gains}
    words = verdict(gains, beyond)
    return {"verdict": words, "scores": scores, "gains": gains, "beyond": beyond, "seeds": seeds}


def labelled(model: Model, data: Any, by: str | None, part: str = "train") -> Labelled:
    """Rows and the codes of their class, whichever way the user holds them."""
    given = by is not None and by in model.given
    if isinstance(data, Data):
        batch = recoded(model, data, part)
        x, observed = rows_of(model, batch)
        labels = batch.given.get(by or "") if given else None
        if given and labels is None:
            raise ValueError(f"augment: the data is not given {by!r}; open it with given={by!r}.")
    elif isinstance(data, tuple):
        (x, observed), labels = rows_of(model, data[0]), data[1] if isinstance(data[1], Tensor) else list(data[1])
    elif not given:
        (x, observed), labels = rows_of(model, data), None
    else:
        labels = list(_frame(data, by)[by])
        x, observed = rows_of(model, data.drop(columns=by))
    if by is None:
        return Labelled(x, observed, torch.zeros(len(x), dtype=torch.long), ("",))
    if given:
        space = model.given[by]
        if space.shape != () or not space.discrete:
            raise ValueError(f"augment: {by!r} is no category.")
        codes = given_for(model, {by: labels}, len(x))[by].long()
        return Labelled(x, observed, codes, classes_of(space.variables[0]))
    entry = _entry(model.space, by)
    if not bool(observed.flatten(1)[:, entry].all()):
        raise ValueError(f"augment: {by!r} is missing in some rows; impute it, or drop those rows.")
    return Labelled(x, observed, x.flatten(1)[:, entry].long(), classes_of(model.space.variable(entry)))


def _frame(data: Any, by: str | None) -> Any:
    """A frame that has the column."""
    if not hasattr(data, "columns"):
        raise ValueError(f"augment: got {type(data).__name__}; expected Data, a frame or a pair (rows, labels).")
    if by not in data.columns:
        raise ValueError(f"augment: the rows have no column {by!r}; they have {list(data.columns)}.")
    return data


def by_given(model: Model, by: str | None, codes: Tensor, rng: Rng) -> Answer:
    """The model's own draws, given the class."""
    if by is not None and by not in model.given:
        raise Unsupported(f"{by!r} is no given of it")
    if by is None and model.given:
        raise Unsupported(f"it was fitted given {sorted(model.given)}; say which is the class")
    parts: list[Tensor] = []
    for c in _chunks(codes):
        parts.append(model.sample(len(c), None, rng) if by is None else model.sample(1, {by: c}, rng)[0])
    return Answer(None, UNIT, model.sampler, raw=_stacked(model, parts))


def by_column(model: Model, by: str | None, codes: Tensor, rng: Rng) -> Answer:
    """The other columns, given the column that is the class."""
    entry = _entry(model.space, by)
    parts, quality = list[Tensor](), Quality.EXACT
    with torch.no_grad():
        for c in _chunks(codes):
            flat = torch.zeros(len(c), model.space.size, dtype=model.space.torch_dtype)
            flat[:, entry] = c.to(flat.dtype)
            seen = torch.zeros_like(flat, dtype=torch.bool)
            seen[:, entry] = True
            shape = (-1, *model.space.shape)
            rest = model.condition(flat.reshape(shape), seen.reshape(shape))
            parts.append(rest.sample(1, rng)[0])
            quality = quality + rest.quality
    return Answer(None, UNIT, quality, raw=_stacked(model, parts))


def by_rejection(model: Model, by: str | None, codes: Tensor, rng: Rng) -> Answer:
    """Draws, of which those of the class are kept."""
    entry = _entry(model.space, by)
    out = torch.zeros(len(codes), *model.space.shape, dtype=model.space.torch_dtype)
    open_, spent = torch.ones(len(codes), dtype=torch.bool), 0
    while bool(open_.any()):
        if spent > TRIES * max(len(codes), 50):
            rare = codes[open_].unique().tolist()
            raise Unsupported(f"of {spent} draws too few are of the classes {rare}")
        x = model.sample(CHUNK, None, rng).cpu()
        found, spent = x.flatten(1)[:, entry].long(), spent + CHUNK
        for code in codes[open_].unique():
            rows, place = x[found == code], (open_ & (codes == code)).nonzero().squeeze(1)
            used = min(len(rows), len(place))
            out[place[:used]], open_[place[:used]] = rows[:used], False
    return Answer(None, UNIT, model.sampler, raw=out, diagnostics={"draws made": spent})


def _chunks(codes: Tensor) -> tuple[Tensor, ...]:
    """Some codes at a time; none where nothing lacks, for an empty tensor splits into one chunk without codes."""
    return codes.split(CHUNK) if len(codes) else ()


def _stacked(model: Model, parts: list[Tensor]) -> Tensor:
    if not parts:
        return torch.zeros(0, *model.space.shape, dtype=model.space.torch_dtype)
    return torch.cat([p.cpu() for p in parts])


def _drawn(model: Model, by: str | None, codes: Tensor, rng: Rng, wanted: str | None) -> Answer:
    return solve("augment", ROUTES, model, wanted, by=by, codes=codes, rng=rng)


def _entry(space: Space, by: str | None) -> int:
    """The entry of x that is the class."""
    names = [space.variable(i).name for i in range(space.size)] if not space.shared else []
    if by not in names:
        raise Unsupported(f"{by!r} is no column of its rows")
    v = space.variable(names.index(by))
    if not v.discrete:
        raise ValueError(f"augment: the column {by!r} is a number; expected a category.")
    return names.index(by)


def _lacking(known: Labelled, rows: Wanted, by: str | None) -> Tensor:
    """How many rows each class lacks, (K,)."""
    have = torch.bincount(known.codes, minlength=len(known.classes))
    if rows is not None and not isinstance(rows, Mapping) and not 0 < rows < math.inf:
        raise ValueError(
            f"augment: got rows = {rows}; expected how many there are to be in the end, a number from 1 on, or a share "
            "of what there are, such as 2.0."
        )
    if isinstance(rows, Mapping):
        unknown = [c for c in rows if c not in known.classes]
        if unknown:
            raise ValueError(f"augment: rows names the classes {unknown}; expected some of {list(known.classes)}.")
        want = torch.tensor([int(rows.get(c, int(n))) for c, n in zip(known.classes, have, strict=True)])
    elif rows is None:
        want = have.max().expand_as(have) if by is not None else 2 * have
    elif isinstance(rows, float):
        want = (have * rows).round().long()
    else:
        want = torch.full_like(have, rows).maximum(have) if by is not None else torch.full_like(have, rows)
    if bool((want < have).any()):
        raise ValueError(
            f"augment: asked for {want.tolist()} rows where there are {have.tolist()}; it takes none away."
        )
    return want - have


def _counted(codes: Tensor, classes: tuple[Any, ...]) -> dict[Any, int]:
    return dict(zip(classes, torch.bincount(codes, minlength=len(classes)).tolist(), strict=True))


def figure(answer: Answer) -> Figure:
    """Rows of each class before and after, and some drawn ones beside real ones; of `gain`, the gain of every way."""
    if "gains" in answer.diagnostics:
        gains = {WORDS.get(k, k): (m.value, m.low, m.high) for k, m in answer.diagnostics["gains"].items()}
        return gains_figure(gains, {WORDS.get(k, k): found for k, found in answer.diagnostics["seeds"].items()})
    known, codes, x = answer.question["real"], answer.question["codes"], answer.raw
    assert answer.model is not None and x is not None
    names = [str(c) or "all rows" for c in known.classes]
    grown = [Grown(name, known.x[known.codes == k], x[codes == k]) for k, name in enumerate(names)]
    return enlarged_figure(grown, answer.model.space)


ROUTES = (
    route(by_given, "sample"),
    route(by_column, "condition"),
    route(by_rejection, "sample", sources="von Neumann 1951"),
)
