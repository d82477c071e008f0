"""Worth: does a family answer a question better than no model does, where the law is known?

    share = (s(family) - s(nothing)) / (s(law) - s(nothing))              a cell counts where share >= 1/2

s is a score of the answer, larger is better: nats, minus a root mean squared error, an accuracy, ... `law` is the model
that drew the rows, asked by the same route finder; `nothing` is what one says without a model of how entries hang
together (columns by themselves, the mean, the majority, k-means, a straight line). A family is fitted once in each
world, on 2000 rows, with what it is given there where it takes a given. A cell that does not count says why in a line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pofx.check import scores
from pofx.check.worlds import World, world
from pofx.families import FAMILIES, family
from pofx.files import write_atomic
from pofx.model import Model, Unsupported
from pofx.randomness import Rng
from pofx.tasks import TASKS

HALF = 0.5
Score = Callable[[Model, World], float]
Bound = Callable[[World], float] | None


@dataclass(frozen=True)
class Worth:
    """One family and one question: what was scored, beside what no model and what the law itself score.

    Args:
        family, task, world: which cell, and where it was measured ("": nowhere).
        score, nothing, law: of the answer (NaN: none).
        words: what the score is, or why there is none.
    """

    family: str
    task: str
    world: str
    score: float = math.nan
    nothing: float = math.nan
    law: float = math.nan
    words: str = ""

    @property
    def share(self) -> float:
        """Of the way from nothing to the law."""
        return (self.score - self.nothing) / (self.law - self.nothing)

    @property
    def counts(self) -> bool:
        """Whether the answer is worth having."""
        return self.share >= HALF

    def __str__(self) -> str:
        if math.isnan(self.score):
            return self.words
        found = f"{self.score:.3g} {self.words} in the world of {self.world} (no model {self.nothing:.3g}, the law"
        return f"{found} {self.law:.3g})"


@dataclass(frozen=True)
class Question:
    """How the answers to a task are scored in a world.

    Args:
        task: its name.
        world: where.
        words: what the score is.
        score: of a model's answer.
        nothing: the score without a model; None: that of columns by themselves, asked the same.
        best: the score of the law; None: the law is asked the same.
    """

    task: str
    world: str
    words: str
    score: Score
    nothing: Callable[[World], float] | None = None
    best: Callable[[World], float] | None = None


def _alone(w: World) -> float:
    return scores.alike(w, scores.shuffled(w.train[:1000], Rng(0)))


def _means(w: World) -> float:
    return scores.missed(w, w.train.double().mean(0))


def _unaided(w: World) -> float:
    return scores.taught(w, *scores.few(w))


def _all_entries(w: World) -> float:
    return -abs(w.law.space.size - scores.dimension_of_the_law(w))


def _of(number: float) -> Callable[[World], float]:
    return lambda w: number


BOTH = ("vectors", "pictures")
ONE, HALF_RIGHT, NONE = _of(1.0), _of(0.5), _of(0.0)
ASKED: tuple[tuple[str, tuple[str, ...], str, Score, Bound, Bound], ...] = (
    ("sample", BOTH, "distance of draws to the law's, below 0", scores.drawn, _alone, None),
    ("density", BOTH, "nats", scores.nats, None, None),
    ("contribute", BOTH, "of exchanged entries found", scores.culprit, None, None),
    ("impute", BOTH, "error of hidden entries, below 0", scores.filled, _means, None),
    ("anomaly", BOTH, "AUROC for shuffled columns", scores.strange, HALF_RIGHT, None),
    ("classify", BOTH, "of labels right", scores.named, scores.majority, None),
    ("augment", BOTH, "of labels right after augmenting 4 a class", scores.enlarged, _unaided, None),
    ("compress", ("pictures",), "bits a row, below 0", scores.bits, None, None),
    ("embed", BOTH, "of labels right by codes", scores.codes, scores.majority, scores.bayes),
    ("cluster", ("vectors",), "adjusted Rand index", scores.grouped, scores.k_means, ONE),
    ("depend", BOTH, "correlation with the true nats of pairs", scores.pairs, NONE, ONE),
    ("dimension", ("vectors",), "dimensions off, below 0", scores.dimensions, _all_entries, NONE),
    ("traverse", BOTH, "nats of rows along directions", scores.strips, scores.lines, scores.rows_of_the_law),
    ("interpolate", BOTH, "nats of rows midway", scores.midway, scores.blend, scores.rows_of_the_law),
    ("restore", ("vectors",), "error of what was mixed, below 0", scores.restored, scores.least_norm, None),
    ("translate", ("moves",), "error of what follows, below 0", scores.turned, scores.unturned, None),
    ("forecast", ("series",), "error of six steps ahead, below 0", scores.foretold, scores.by_rote, None),
    ("plan", ("moves",), "reward of what was planned", scores.earned, scores.idle, None),
)
QUESTIONS = tuple(
    Question(task, where, words, score, nothing, best)
    for task, worlds, words, score, nothing, best in ASKED
    for where in worlds
)


def worth(which: str | type[Model], budget: str = "20 cpu s", seed: int = 0) -> Iterator[Worth]:
    """Every question put to a family, in every world that it is measured in; the better world is told.

    Args:
        which: a name, `path.py:Class`, or a class.
        budget: of each fit, of which there are at most four.
        seed: of the fits.
    """
    name = which if isinstance(which, str) else which.__name__.lower()
    models: dict[str, Model | str] = {}
    for task in TASKS:
        found = [_worth(name, q, _model(which, q.world, budget, seed, models)) for q in QUESTIONS if q.task == task]
        yield max(found, key=lambda f: f.share if f.share == f.share else -math.inf, default=Worth(name, task, ""))


def _model(which: Any, where: str, budget: str, seed: int, models: dict[str, Model | str]) -> Model | str:
    """The family fitted in a world, once; or why it is not."""
    from pofx.training.fit import fit

    if where not in models:
        cls, data = family(which), world(where).data
        data = data if cls.card.given or where == "moves" else data.without_given()
        try:
            models[where] = fit(data, cls, budget=budget, seed=seed, threads=1, progress=False).eval()
        except (ValueError, Unsupported) as refusal:
            models[where] = str(refusal)
    return models[where]


def _worth(name: str, question: Question, model: Model | str) -> Worth:
    cell = Worth(name, question.task, question.world, words=question.words)
    if isinstance(model, str):
        return replace(cell, words=model)
    try:
        score = question.score(model, world(question.world))
    except (Unsupported, ValueError) as refusal:
        return replace(cell, words=str(refusal))
    except Exception as error:  # a crash loses one cell, not the others
        return replace(cell, words=f"{type(error).__name__}: {error}")
    nothing, law = bounds(question)
    return replace(cell, score=score, nothing=nothing, law=law)


_BOUNDS: dict[tuple[str, str], tuple[float, float]] = {}


def bounds(question: Question) -> tuple[float, float]:
    """The scores of no model and of the law itself."""
    key = question.task, question.world
    if key not in _BOUNDS:
        w = world(question.world)
        nothing = question.score(w.nothing, w) if question.nothing is None else question.nothing(w)
        _BOUNDS[key] = nothing, question.score(w.law, w) if question.best is None else question.best(w)
    return _BOUNDS[key]


def measured(
    names: Sequence[str], budget: str, path: Path | None = None, report: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """The worth of every cell of some families, or of all.

    Args:
        names: of the families, or path.py:Class; none: all of the library.
        budget: of each fit.
        path: a JSON file that grows by one family at a time; families that stand in it are not asked again.
        report: takes a line for each cell.
    """
    cells: list[dict[str, Any]] = json.loads(path.read_text()) if path is not None and path.exists() else []
    for name in names or FAMILIES:
        if any(c["family"] == name for c in cells):
            continue
        for cell in worth(name, budget):
            report(f"{cell.family}, {cell.task}: {'counts' if cell.counts else 'does not count'}; {cell}")
            cells.append(_plain(cell))
        if path is not None:
            write_atomic(path, (json.dumps(cells, indent=0) + "\n").encode())
    return cells


def _plain(cell: Worth) -> dict[str, Any]:
    numbers = {k: None if math.isnan(v) else round(v, 4) for k, v in asdict(cell).items() if isinstance(v, float)}
    return {**asdict(cell), **numbers, "counts": cell.counts}
