"""Augment: more rows of the classes that have few, and whether that helps whoever learns from them.

    x_new ~ p(x | class),   as many as each class lacks        gain = score(real + drawn) - score(real), paired by row

Routes, best first: the model's own draws given the class; a column of x that is the class, by the model's conditional;
draws of which the ones of the class are kept. Real rows come first and as they were; which rows are drawn is marked.
Draws hold nothing that the model did not learn from the same rows: they help a predictor only by what the model
assumes beyond it (smoothness, a shape) or by moving its threshold, which class weights do as well. So `gain` measures
it, beside rows repeated and rows repeated with noise, and says plainly when it does not help.

References: Chawla 2002 (arXiv:1106.1813, SMOTE, the usual baseline); Elor and Averbuch-Elor 2022 (arXiv:2201.08528, to
balance or not); van Breugel 2023 (arXiv:2305.09235, learning from drawn rows).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.data import Data
from pofx.kinds import KINDS
from pofx.kinds.base import Space, category
from pofx.metrics.base import Array, Metric
from pofx.metrics.gains import Predictor, balanced, paired_gain, predictor_of
from pofx.model import Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.tasks.base import Answer, at_least_one, classes_of, given_for, own, recoded, route, rows_of, solve

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
    value = _enlarged(model, data, by, answer.raw, [known.classes[k] for k in codes.tolist()], codes, mark)
    words: dict[str, Any] = {"real rows": len(known.codes), "drawn rows": len(codes), "drawn": new}
    if by is not None:
        words["labels"] = [known.classes[k] for k in every.tolist()]
        words |= {"before": _counted(known.codes, known.classes), "after": _counted(every, known.classes)}
    return dataclasses.replace(answer, value=value, diagnostics={**answer.diagnostics, **words})


def gain(
    model: Model,
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
        model: fitted on `train` alone.
        train, test: real rows with their class, as for `augment`; of Data, its training and its test part.
        by, rows, route: as for `augment`.
        predictor: "linear", "neighbours", "trees", or (z, y, seed) -> an object with `predict`.
        against: name -> (z, y, counts, rng) -> enlarged (z, y), beside "repeated" and "noise"; numbers standardised.
        repeats: draws, each with its own seed of the predictor, over which scores are averaged.
        rng: of them.

    Returns:
        An Answer whose value is the gain in balanced accuracy, a Metric with a 95 % interval paired by test row;
        diagnostics: `verdict` in words, `scores`: way -> balanced accuracy, `gains`: way -> Metric against real rows
        alone. The interval is of the test rows for this fitted model; other training rows move the gain too.
    """
    at_least_one("gain", repeats=repeats)
    known, held = labelled(model, train, by), labelled(model, test, by, "test")
    if len(held.codes.unique()) < 2:
        raise ValueError("gain: the test rows are of one class; expected two or more.")
    counts, stream = _lacking(known, rows, by), Rng(rng)
    codes = torch.arange(len(known.classes)).repeat_interleave(counts)
    columns = _columns(model.space, by)
    z, zt = (columns(r.x, r.observed) for r in (known, held))
    y, yt = known.codes.numpy(), held.codes.numpy()
    fitted, ways = predictor_of(predictor), {"repeated": repeated, "noise": noisy, **(against or {})}
    said: dict[str, list[Array]] = {name: [] for name in ("real", "drawn", *ways)}
    for _ in range(repeats):
        seed, answer = stream.seed() % 2**31, _drawn(model, by, codes, stream, route)
        assert answer.raw is not None
        fresh = columns(answer.raw, torch.ones_like(answer.raw, dtype=torch.bool))
        sets = {"real": (z, y), "drawn": (np.concatenate([z, fresh]), np.concatenate([y, codes.numpy()]))}
        sets |= {name: way(z, y, counts.numpy(), Rng(seed)) for name, way in ways.items()}
        for name, (a, b) in sets.items():
            said[name].append(np.asarray(fitted(a, b, seed).predict(zt)))
    gains = {name: paired_gain(yt, said["real"], found) for name, found in said.items() if name != "real"}
    scores = {name: balanced(yt, found) for name, found in said.items()}
    words = {"verdict": _verdict(gains), "scores": scores, "gains": gains, "drawn rows": len(codes)}
    return Answer(
        gains["drawn"], "gain in balanced accuracy", Quality.ESTIMATE, answer.route, "gain", diagnostics=words
    )


def repeated(z: Array, y: Array, counts: Array, rng: Rng) -> tuple[Array, Array]:
    """Real rows of each class again, drawn with replacement."""
    more = [np.flatnonzero(y == k)[rng.integers(int((y == k).sum()), (int(n),)).numpy()] for k, n in _each(counts)]
    rows = np.concatenate([np.arange(len(y)), *more])
    return z[rows], y[rows]


def noisy(z: Array, y: Array, counts: Array, rng: Rng) -> tuple[Array, Array]:
    """The same, with a tenth of each column's deviation in noise on what is repeated."""
    a, b = repeated(z, y, counts, rng)
    a[len(z) :] += 0.1 * z.std(0) * rng.normal((len(a) - len(z), z.shape[1])).double().numpy()
    return a, b


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


def _enlarged(
    model: Model, data: Any, by: str | None, x: Any, labels: Sequence[Any], codes: Tensor, mark: str | None
) -> Any:
    """The user's object with the drawn rows behind its own."""
    if isinstance(data, Data):
        return _longer(data, by, x, codes, mark)
    fresh = KINDS[model.space.kind].restore(x, model.space)
    if isinstance(data, tuple):
        return _joined(data[0], fresh), _joined(data[1], codes if isinstance(data[1], Tensor) else labels)
    if not hasattr(data, "columns"):
        return _joined(data, fresh)
    import pandas as pd

    if by is not None and by in model.given:
        fresh = fresh.assign(**{by: labels})
    if mark is not None and mark in data.columns:
        raise ValueError(f"augment: there is a column {mark!r}; name the mark otherwise.")
    both = [data, fresh.reindex(columns=data.columns)] if len(fresh) else [data]  # no rows would still change dtypes
    out = pd.concat(both, ignore_index=True)
    return out if mark is None else out.assign(**{mark: np.arange(len(out)) >= len(data)})


def _joined(mine: Any, fresh: Any) -> Any:
    if isinstance(mine, Tensor):
        return torch.cat([mine, torch.as_tensor(fresh).reshape(-1, *mine.shape[1:]).to(mine.dtype)])
    if isinstance(mine, list):
        return [*mine, *fresh]
    mine = np.asarray(mine)
    return np.concatenate([mine, np.asarray(fresh, dtype=mine.dtype).reshape(-1, *mine.shape[1:])])


def _longer(data: Data, by: str | None, x: Tensor, codes: Tensor, mark: str | None) -> Data:
    """Data whose training part holds the drawn rows too; the other parts stay."""
    n, more = len(data), len(x)
    if by is not None and set(data.given) - {by} and by in data.given:
        raise ValueError(f"augment: the data is given {sorted(data.given)}; expected {by!r} alone.")
    given = {k: torch.cat([v, codes.to(v.dtype)]) for k, v in data.given.items() if k == by}
    observed = None if data.observed is None else torch.cat([data.observed, torch.ones_like(x, dtype=torch.bool)])
    split = {**data.split, "train": torch.cat([data.split["train"], torch.arange(n, n + more)])}
    # what else was known about each row is not known of drawn ones
    aside = {} if mark is None else {mark: ((torch.arange(n + more) >= n).long(), category(2, mark, (False, True)))}
    whole = torch.cat([data.x, x.to(data.x.dtype)])
    return dataclasses.replace(data, x=whole, given=given, observed=observed, split=split, aside=aside)


def _columns(space: Space, by: str) -> Callable[[Tensor, Tensor], Array]:
    """x `(N, *event)` as numbers for a predictor: standardised, categories as indicators, gaps at the middle."""
    names = [] if space.shared else [space.variable(i).name for i in range(space.size)]
    kept = [i for i in range(space.size) if not names or names[i] != by]

    def numbers(x: Tensor, observed: Tensor) -> Array:
        flat, seen, parts = x.flatten(1).double(), observed.flatten(1), []
        for i in kept:
            v = space.variable(i)
            if v.support == "category":
                part = torch.nn.functional.one_hot(flat[:, i].long(), v.levels).double()
            else:
                part = ((flat[:, i] - v.mean) / (v.scale or 1.0))[:, None]
            parts.append(part * seen[:, i, None])
        return torch.cat(parts, 1).cpu().numpy()

    return numbers


def _verdict(gains: Mapping[str, Metric]) -> str:
    """In words: does it help, and does something simpler help as much?"""
    own = gains["drawn"]
    size = f"{own.value:+.3f} balanced accuracy [{own.low:+.3f}, {own.high:+.3f}]"
    if own.high < 0:
        return f"It harms: {size}. Train on the real rows alone."
    if own.low <= 0:
        return f"It does not help: {size}, and 0 is within the interval."
    simpler = max((k for k in gains if k != "drawn"), key=lambda k: gains[k].value)
    if gains[simpler].value >= own.value:
        return f"It helps: {size}; but {simpler} helps as much: {gains[simpler].value:+.3f}."
    return f"It helps: {size}; the best of the simpler ways, {simpler}: {gains[simpler].value:+.3f}."


def _counted(codes: Tensor, classes: tuple[Any, ...]) -> dict[Any, int]:
    return dict(zip(classes, torch.bincount(codes, minlength=len(classes)).tolist(), strict=True))


def _each(counts: Array) -> list[tuple[int, int]]:
    return [(k, int(n)) for k, n in enumerate(counts) if n]


ROUTES = (
    route(by_given, "sample"),
    route(by_column, "condition"),
    route(by_rejection, "sample", sources="von Neumann 1951"),
)
