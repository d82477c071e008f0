"""Route and Answer: a task asks a model's hooks, best route first, and says how good the answer is.

A route names the hooks it needs; the first whose needs the model offers is taken. No route: `Unsupported`, which says
for each what is missing. An observed entry never travels through a network: answers are written into the user's object.
"""

from __future__ import annotations

import base64
import dataclasses
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx.data import Batch, Data
from pofx.drawing.style import png
from pofx.kinds import KINDS
from pofx.kinds.base import Space, Variable
from pofx.model import HOOKS, Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.tasks import TASKS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Route:
    """One way to answer.

    Args:
        answer: the function; its docstring's first line says how it works.
        needs: the hooks it asks.
        sources: where it comes from.
    """

    answer: Callable[..., Answer]
    needs: frozenset[str]
    sources: str = ""

    @property
    def name(self) -> str:
        """What the route is called."""
        return self.answer.__name__.removeprefix("by_").replace("_", " ")

    @property
    def words(self) -> str:
        """How it works, in one line."""
        return (self.answer.__doc__ or self.name).strip().splitlines()[0]


def route(answer: Callable[..., Answer], *needs: str, sources: str = "") -> Route:
    """A route by the hooks it needs."""
    unknown = set(needs) - set(HOOKS)
    assert not unknown, f"route {answer.__name__} needs unknown hooks {unknown}"
    return Route(answer, frozenset(needs), sources)


@dataclass(frozen=True)
class Answer:
    """What a task gives back.

    Args:
        value: the answer in the user's own type.
        unit: of the value, in words.
        quality: how far it may be from the truth, computed by the route.
        route: the route taken.
        task: the question asked.
        raw: the same as a tensor in the model's coordinates, where there is one.
        stderr: standard error of a Monte-Carlo value.
        diagnostics: what the route noticed.
        model, question: who was asked, and what the route was asked, by name; a picture needs both.
    """

    value: Any
    unit: str
    quality: Quality
    route: str = ""
    task: str = ""
    raw: Tensor | None = None
    stderr: Any = None
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    model: Model | None = field(default=None, repr=False, compare=False)
    question: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def explain(self) -> str:
        """What the number means and how far to trust it, in words."""
        lines = [f"{self.task}: {self.unit}, {self.quality.value}, by {self.route}.", MEANING[self.quality]]
        if self.stderr is not None:
            lines.append(f"Standard error about {float(torch.as_tensor(self.stderr).double().mean()):.3g} a row.")
        lines += [
            f"{name}: {value}" for name, value in self.diagnostics.items() if isinstance(value, (str, int, float))
        ]
        return "\n".join(lines)

    def figure(self) -> Figure:
        """A picture of the answer, as its task draws it (`figure` in the task's file).

        Raises:
            ValueError: there is nothing to draw: the task has no picture, or not of such rows.
        """
        where = TASKS.get(self.task, f"pofx.tasks.{self.task or 'none'}")
        draw = getattr(import_module(where), "figure", None) if find_spec(where) else None
        if draw is None or (self.model is None and self.task in TASKS):
            raise ValueError(f"{self.task}: this answer has no picture; print(answer.explain()) says it in words.")
        return draw(self)

    def _repr_html_(self) -> str:
        value = self.value
        words = f"<p><b>{self.task}</b> · {self.unit} · {self.quality.value} · {self.route}</p>"
        table = value._repr_html_() if hasattr(value, "_repr_html_") else ""
        try:
            image = base64.b64encode(png(self.figure())).decode()
            return f'{words}<img alt="{self.task}" src="data:image/png;base64,{image}">{table}'
        except (ValueError, NotImplementedError):  # Unsupported, too: the value itself is shown
            return words + (table or f"<pre>{value!r:.2000}</pre>")


MEANING = {
    Quality.EXACT: "Exact: the model's own value, up to rounding.",
    Quality.LOWER: "Lower bound: the model's true value is at least this (in expectation over the draws).",
    Quality.UPPER: "Upper bound: the model's true value is at most this (in expectation); never rank models by it.",
    Quality.ESTIMATE: "Estimate: near the model's value, on either side; more draws or steps bring it nearer.",
    Quality.UNNORMALISED: "Unnormalised: right up to a constant; only differences within this model mean something.",
}


def solve(task: str, routes: tuple[Route, ...], model: Model, wanted: str | None, **question: Any) -> Answer:
    """Answer by the first route whose hooks the model offers (or by the one that is wanted).

    Raises:
        Unsupported: no route fits; the message names what each one lacks.
    """
    offers, lacks = model.offers(), []
    for candidate in routes:
        if wanted is not None and candidate.name != wanted:
            continue
        missing = sorted(candidate.needs - offers)
        if missing:
            lacks.append(f"{candidate.name} needs {', '.join(f'{h} ({HOOKS[h]})' for h in missing)}")
            continue
        try:
            answer = candidate.answer(model, **question)
        except Unsupported as refusal:
            lacks.append(f"{candidate.name}: {str(refusal).rstrip('.')}")
            continue
        return dataclasses.replace(answer, route=candidate.name, task=task, model=model, question=question)
    if wanted is not None and not lacks:
        raise ValueError(f"{task}: no route is called {wanted!r}; there are {[r.name for r in routes]}.")
    raise Unsupported(f"{model.name} cannot answer {task!r}: " + "; ".join(lacks) + ".")


def first_route(routes: tuple[Route, ...], offers: frozenset[str]) -> Route | None:
    """The route that a model with these hooks would take."""
    return next((r for r in routes if r.needs <= offers), None)


def rows_of(model: Model, rows: Any, what: str = "rows") -> tuple[Tensor, Tensor]:
    """A user's rows as x and observed, `(N, *event)`: a tensor already is in the model's coordinates (NaN: missing).

    Raises:
        ValueError: no rows (the message calls them `what`), or rows that do not fit.
    """
    other = isinstance(rows, (str, bytes, Mapping, Tensor))  # whose length is no number of rows
    none = not other and hasattr(rows, "__len__") and not len(rows)
    x, observed = (torch.zeros(0),) * 2 if none else _encoded(model, rows)
    if not len(x):
        raise ValueError(f"got no {what}; expected at least one.")
    return x, observed


def _encoded(model: Model, rows: Any) -> tuple[Tensor, Tensor]:
    if isinstance(rows, Data):
        rows = recoded(model, rows)
    if isinstance(rows, Batch):
        return rows.x, torch.ones_like(rows.x, dtype=torch.bool) if rows.observed is None else rows.observed
    if not isinstance(rows, Tensor):
        return KINDS[model.space.kind].encode(rows, model.space)
    x = rows.unsqueeze(0) if tuple(rows.shape) == model.space.shape else rows
    if tuple(x.shape[1:]) != model.space.shape:
        raise ValueError(f"got rows of shape {tuple(x.shape)}, expected (N, {', '.join(map(str, model.space.shape))}).")
    observed = ~torch.isnan(x) if x.is_floating_point() else torch.ones_like(x, dtype=torch.bool)
    if x.is_floating_point() and torch.isinf(x).any():
        raise ValueError("got inf among the rows; expected finite numbers, or NaN where one is missing.")
    return torch.where(observed, x, torch.zeros_like(x)), observed


def recoded(model: Model, data: Data, part: str | None = None) -> Batch:
    """The rows of a part of Data (None: all) in the model's own coordinates.

    Every file is read with codes of its own, which depend on the values that it happens to hold: they are looked up by
    value. Columns are found by name.

    Raises:
        ValueError: a class, a word or a column that the model does not know, or lacks.
    """
    rows = data.rows if part is None else data.part(part)
    x, observed = _reread(rows.x, rows.observed, data.space, model.space)
    given = dict(rows.given)
    for name in given.keys() & model.given.keys() & data.given_spaces.keys():
        theirs, ours = data.given_spaces[name], model.given[name]
        v, known = theirs.variables[0], ours.variables[0]
        if ours.shape == theirs.shape == () and known.discrete:
            names = classes_of(v) if v.discrete else None
            if names == classes_of(known):
                continue
            values = given[name].tolist() if names is None else [names[k] for k in given[name].long().tolist()]
            given[name] = torch.tensor(_looked_up(name, values, known), dtype=ours.torch_dtype)
        elif ours.shape and ours.kind != "array":
            given[name] = _reread(given[name], None, theirs, ours)[0]
    return Batch(x, given, observed)


def own(model: Model, data: Data) -> Data:
    """Data in the model's own coordinates, in which what the model draws can stand beside its rows."""
    rows, spaces = recoded(model, data), dict(data.given_spaces)
    if rows.x is data.x and all(rows.given[k] is v for k, v in data.given.items()):
        return data  # coded alike
    spaces |= {k: s for k, s in model.given.items() if k in spaces}
    return dataclasses.replace(
        data, x=rows.x, space=model.space, given=rows.given, given_spaces=spaces, observed=rows.observed
    )


def _reread(x: Tensor, observed: Tensor | None, theirs: Space, ours: Space) -> tuple[Tensor, Tensor | None]:
    """x of one Space as x of another, through the user's own type; as it is where both mean the same by it."""
    if _coding(theirs) == _coding(ours) or not len(x):
        return x, observed
    kind = KINDS[theirs.kind]
    rows = kind.restore(x, theirs)
    if observed is not None and not bool(observed.all()):
        rows = kind.blank(rows, observed, theirs)
    fresh, seen = KINDS[ours.kind].encode(rows, ours)
    if len(fresh) != len(x):
        raise ValueError(f"got Data with rows of shape {theirs.shape}, expected {ours.shape} as the model was fitted.")
    return fresh, None if bool(seen.all()) else seen


def _coding(space: Space) -> tuple[Any, ...]:
    """What decides which numbers stand for a row; location, spread and bounds do not."""
    each = ((v.name, v.discrete, v.levels, v.values, v.resolution) for v in space.variables)
    return space.shape, space.kind, space.meta, *each


def classes_of(v: Variable) -> tuple[Any, ...]:
    """What the user calls the codes 0 .. K-1 of a discrete variable."""
    return tuple(v.values) if v.values else tuple(range(v.levels))


def at_least_one(task: str, **counts: int) -> None:
    """Raise ValueError where a count is below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{task}: got {name} = {count}, expected at least 1.")


def given_for(model: Model, given: Mapping[str, Any] | None, rows: int) -> dict[str, Tensor]:
    """A user's givens as tensors `(rows, *given_event)`; one value serves all rows.

    Raises:
        ValueError: an unknown name, an unseen category, or another number of rows.
    """
    flat = {}
    for name, value in (given or {}).items():
        if name not in model.given:
            known = ", ".join(sorted(model.given)) or "nothing"
            raise ValueError(f"given {name!r} is unknown; the model was fitted given {known}.")
        tensor = _code(name, value, model.given[name])
        space = model.given[name]
        if space.shape[-1:] == (1,) and tuple(tensor.shape[-len(space.shape) + 1 :]) == space.shape[:-1]:
            tensor = tensor.unsqueeze(-1)  # grey pictures without their last axis
        tensor = tensor.expand(rows, *space.shape) if tensor.ndim == len(space.shape) else tensor
        if tuple(tensor.shape) != (rows, *space.shape):
            raise ValueError(f"given {name!r}: got shape {tuple(tensor.shape)}, expected {(rows, *space.shape)}.")
        flat[name] = tensor
    return flat


def _code(name: str, value: Any, space: Space) -> Tensor:
    v = space.variables[0]
    if isinstance(value, Tensor):
        return value
    if space.shape and space.kind in KINDS and space.kind != "array":
        one = isinstance(value, str)  # a text, among texts
        coded = KINDS[space.kind].encode([value] if one else value, space)[0]
        return coded[0] if one else coded
    if not v.discrete or v.values is None:
        return torch.as_tensor(value)
    items = value if isinstance(value, (list, tuple)) or getattr(value, "ndim", None) else [value]
    found = torch.tensor(_looked_up(name, items, v))
    return found if items is value else found[0]


def _looked_up(name: str, values: Sequence[Any], v: Variable) -> list[int]:
    """The codes of values, which may be said as words or as equal numbers: "1" and 1.0 are 1."""
    words = {str(known): code for code, known in enumerate(classes_of(v))}
    equal = {float(known): code for code, known in enumerate(classes_of(v)) if isinstance(known, (int, float))}
    found = []
    for value in values:
        code = words.get(str(value))
        code = equal.get(float(value)) if code is None and isinstance(value, numbers.Real) else code
        if code is None:
            raise ValueError(f"given {name!r}: {value!r} was never seen; known are {', '.join(list(words)[:12])}.")
        found.append(code)
    return found


class Pools:
    """Samples of a model for every row, drawn once for each distinct given.

    Args:
        model: fitted.
        given: name -> `(N, *given_event)`.
        count: samples in a pool.
        rng: of the samples.
    """

    def __init__(self, model: Model, given: Mapping[str, Tensor], count: int, rng: Rng) -> None:
        self.model, self.given, self.count, self.rng = model, given, count, rng
        self.known: dict[bytes, tuple[Tensor, Tensor]] = {}

    def of(self, row: int) -> tuple[Tensor, Tensor]:
        """Samples for one row: `(count, *event)`, and the same flat in the chart."""
        c = {k: v[row] for k, v in self.given.items()}
        key = b"".join(v.cpu().numpy().tobytes() for v in c.values())
        if key not in self.known:
            x = self.model.sample(self.count, c or None, self.rng)
            self.known[key] = (x, self.model.chart.encode(x).flatten(1))
        return self.known[key]
