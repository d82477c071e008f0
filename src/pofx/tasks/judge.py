"""Judge: how good are samples, whoever made them?

    alike        c2st, Frechet distance, KID, MMD^2, sliced Wasserstein           over features of the rows
    faithful     precision, density (are samples where data is?)
    complete     recall, coverage (is data where samples are?), modes, NDB
    tables       shapes of columns, trends of pairs, valid cells
    useful       a predictor trained on samples, tested on real rows              where the target is said
    private      copying, membership, closer to training than to hold-out         where the training rows are passed

Every number has its interval and says how it depends on N; none depends on how rows are batched. `real` must be rows
that the model did not see. Features are learnt without downloads from the training rows (without these from real rows
and samples alike), or come from the user, or are Inception's where its weights are at hand.

References: metrics/samples.py, metrics/modes.py, metrics/copying.py, metrics/privacy.py, metrics/table.py,
metrics/utility.py, metrics/inception.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pofx.data import open_data
from pofx.kinds import KINDS
from pofx.kinds.base import Space
from pofx.kinds.relax import Chart
from pofx.metrics import (
    Features,
    Inception,
    Metric,
    c2st,
    closest_record,
    column_shapes,
    copying,
    frechet,
    kid,
    membership,
    mmd,
    modes,
    pair_trends,
    prdc,
    sliced_wasserstein,
    utility,
    valid_values,
)
from pofx.metrics.base import subset
from pofx.metrics.modes import Modes
from pofx.randomness import Rng
from pofx.tasks.judgement import MEANING, Judgement

QUESTION = "How good are these samples?"
LIMIT, MOST = 4000, 50_000  # rows of each set, at random, that enter a statistic; training rows that may be copied
WIDE = 1000  # features from which on a draw of the Frechet distance takes seconds
Rows = np.ndarray[Any, Any]
Looks = Callable[[Rows], Rows]


def judge(
    real: Any,
    fake: Any,
    train: Any = None,
    *,
    labels: Any = None,
    target: Any = None,
    features: Looks | str | None = None,
    rng: int = 0,
) -> Judgement:
    """Judge samples against rows that the model did not see.

    Args:
        real: rows of the user's own type (a DataFrame, pictures, an array).
        fake: samples of the same type.
        train: the rows that the model saw; they show copying and what gives their presence away, and where honest rows
            would lie.
        labels: one class for each row of the reference (`train`, else `real`): features then come from a small
            classifier, and the modes are the classes.
        target: what a predictor that is trained on the samples shall tell of real rows: a column of a table; for other
            kinds a pair, (labels of `real`, labels of `fake`).
        features: (N, D) float rows -> (N, d); "inception" (pictures; "inception:FILE" says where the weights are);
            None learns them from `train`, without it from real rows and samples alike: then distances are of these
            samples alone, not to be compared with those of others.
        rng: of subsets, folds and directions.

    Raises:
        ValueError: the sets, labels or target do not fit each other, a cell of `fake` was never seen, too few rows, or
            features that these rows or this machine do not have.
        FileNotFoundError: no weights of Inception.
    """
    sets = _Sets.of(real, fake, train)
    classes = _few_labels("labels", labels, len(sets.flat["reference"]), "reference", rng)
    seen = _Seen.of(sets, classes, features, rng)
    found, honest = _alike(seen, rng)
    counted = _modes(seen, classes, rng)
    found |= {"modes": counted.reached, "NDB": counted.different}
    honest |= {"modes": float(counted.judged)} if counted.judged else {}
    few = f"at most {LIMIT} of each, at random, are used"
    notes = [f"{len(sets.flat['real'])} real rows, {len(sets.flat['fake'])} samples; {few}."]
    notes.append(f"modes: {counted.reached.note}.")
    for more, marks in (_of_tables(sets, rng), _useful(sets, seen, target, labels, rng)):
        found, honest = found | more, honest | marks
    if "utility" in found:
        notes.append(f"utility: {_utility_note(found['utility'], honest.get('utility'))}.")
    if train is None:
        notes.append("copying was not looked for: pass the training rows as `train`.")
    else:
        found |= _private(sets, rng)
    honest |= {name: at for name in found if (at := MEANING[name].honest) is not None}
    return Judgement(found, seen.words, tuple(notes), honest)


@dataclass(frozen=True)
class _Sets:
    """The rows as they came, as codes x of one Space, and as float rows: "real", "fake" and "reference"."""

    raw: Mapping[str, Any]
    space: Space
    x: Mapping[str, Tensor]
    flat: Mapping[str, Rows]
    trained: bool  # the reference are training rows, not the real ones

    @classmethod
    def of(cls, real: Any, fake: Any, train: Any) -> _Sets:
        """Each set in one chart; a gap is the column's mean."""
        raw = {"real": real, "fake": fake, "reference": real if train is None else train}
        space = open_data(_together(raw), test=0, valid=0).space
        kind, chart, codes, flat = KINDS[space.kind], Chart(space), {}, {}
        for name, rows in raw.items():
            codes[name], observed = kind.encode(rows, space)
            if len(codes[name]) < 10:
                raise ValueError(f"judge: got {len(codes[name])} {name} rows; expected at least 10.")
            u, mask = chart.encode(codes[name]), chart.mask(observed)
            flat[name] = (u * mask).flatten(1).double().numpy()
        return cls(raw, space, codes, flat, train is not None)

    @property
    def table(self) -> bool:
        """Whether they are frames."""
        return hasattr(self.raw["real"], "columns")

    def few(self, name: str, rng: int) -> Rows:
        """At most LIMIT of the float rows."""
        return subset(self.flat[name], LIMIT, Rng(rng))

    def learnable(self, rng: int) -> Rows:
        """Rows to learn features from without labels: training rows; without these as many real rows as samples.

        Features of the real rows alone are made for these rows: by them 80 honest samples are told apart.
        """
        if self.trained:
            return self.few("reference", rng)
        sets = self.few("real", rng), self.few("fake", rng)
        n = min(map(len, sets))
        return np.concatenate([subset(rows, n, Rng(rng)) for rows in sets])

    def pictures(self, name: str, rng: int) -> Rows:
        """The same rows as pictures of bytes, (N, H, W, C)."""
        if self.space.kind != "image":
            raise ValueError(
                f"judge: features='inception' takes pictures, and these rows are of the kind {self.space.kind!r}; "
                "leave features out, or pass a callable of float rows."
            )
        levels = subset(self.x[name].numpy(), LIMIT, Rng(rng)) * (255.0 / self.space.meta["white"])
        return levels.round().astype(np.uint8)


@dataclass(frozen=True)
class _Seen:
    """Features of the few rows of each set, and how much a direction counts where rows are put into cells."""

    real: Rows
    fake: Rows
    reference: Rows | None  # None: the real rows are the reference
    weight: Rows | float
    words: str
    own: bool  # learnt here, not given

    @classmethod
    def of(cls, sets: _Sets, labels: Rows | None, features: Looks | str | None, rng: int) -> _Seen:
        """Look at the few rows of each set as is asked for."""
        names = ["real", "fake", *(["reference"] if sets.trained else [])]
        weight: Rows | float = 1.0
        if features is None:
            rows = sets.learnable(rng) if labels is None else sets.few("reference", rng)
            learnt = Features.fit(rows, labels, rng=0)
            both = labels is None and not sets.trained
            words = f"{learnt.kind} of {'real rows and samples' if both else 'the reference rows'}"
            weight = 1.0 if labels is not None else learnt.spread  # whitened, noise counts as much as any mode
            found = {name: learnt(sets.few(name, rng)) for name in names}
        elif isinstance(features, str):
            found, words = _inception(sets, features, names, rng), "Inception-v3, 2048 numbers of the last pool"
        else:
            found, words = {name: np.asarray(features(sets.few(name, rng))) for name in names}, "the user's own"
        return cls(found["real"], found["fake"], found.get("reference"), weight, words, features is None)


def _inception(sets: _Sets, features: str, names: list[str], rng: int) -> dict[str, Rows]:
    """Inception's features of pictures."""
    word, _, path = features.partition(":")
    if word != "inception":
        raise ValueError(
            f"judge: got features={features!r}; expected 'inception', 'inception:FILE', a callable of float rows "
            "(N, D) -> (N, d), or None."
        )
    pictures = {name: sets.pictures(name, rng) for name in names}  # refused before weights are read
    looks = Inception.load(path or None)
    return {name: looks(rows) for name, rows in pictures.items()}


def _few_labels(name: str, labels: Any, rows: int, which: str, rng: int) -> Rows | None:
    """The labels of the rows that are used: the same seed and number of rows give the same rows."""
    if labels is None:
        return None
    if len(labels) != rows:
        raise ValueError(f"judge: {name} has {len(labels)} labels for {rows} {which} rows; expected one each.")
    return subset(np.asarray(labels), LIMIT, Rng(rng))


def _alike(seen: _Seen, rng: int) -> tuple[dict[str, Metric], dict[str, float]]:
    """Numbers of two sets, and where they lie with reference rows in the samples' place, where there are enough."""
    a, b = seen.real, seen.fake
    near = prdc(a, b, rng=rng)
    found = {
        "c2st": c2st(a, b, rng=rng).accuracy,
        "Frechet": frechet(a, b, rng=rng, draws=40 if a.shape[1] <= WIDE else 12),
        "KID": kid(a, b, rng=rng),
        "MMD^2": mmd(a, b, rng=rng),
        "sliced Wasserstein": sliced_wasserstein(a, b, rng=rng),
        **{name: getattr(near, name) for name in ("precision", "density", "recall", "coverage")},
    }
    if seen.reference is None or len(seen.reference) < len(b):
        return found, {}
    c = subset(seen.reference, len(b), Rng(rng))
    near = prdc(a, c, rng=rng, draws=2)
    honest = {name: getattr(near, name).value for name in ("precision", "recall", "coverage")}
    honest["Frechet"] = frechet(a, c, rng=rng, draws=2).value
    return found, honest | {"sliced Wasserstein": sliced_wasserstein(a, c, rng=rng).value}


def _modes(seen: _Seen, classes: Rows | None, rng: int) -> Modes:
    reference = None if seen.reference is None else seen.reference * seen.weight
    return modes(seen.real * seen.weight, seen.fake * seen.weight, reference, classes, rng=rng)


def _of_tables(sets: _Sets, rng: int) -> tuple[dict[str, Metric], dict[str, float]]:
    if not sets.table:
        return {}, {}
    reference, real, fake = (sets.raw[name] for name in ("reference", "real", "fake"))
    found = {
        "shapes": column_shapes(real, fake).mean,
        "trends": pair_trends(real, fake).mean,
        "valid": valid_values(reference, fake).mean,
    }
    if not sets.trained or len(reference) < len(fake):
        return found, {}
    rows = reference.iloc[subset(np.arange(len(reference)), len(fake), Rng(rng))]
    marks = {"shapes": column_shapes(real, rows, draws=2), "trends": pair_trends(real, rows, draws=2)}
    return found, {name: score.mean.value for name, score in marks.items()}


def _useful(sets: _Sets, seen: _Seen, target: Any, labels: Any, rng: int) -> tuple[dict[str, Metric], dict[str, float]]:
    """Train on samples, test on real rows; and the same for as many training rows, where these have the target."""
    if target is None:
        return {}, {}
    frames = _frames(sets, target) if sets.table else _labelled(sets, seen, target, labels, rng)
    name = target if sets.table else "target"
    found = {"utility": utility(frames["fake"], frames["real"], name, rng)}
    train = frames.get("reference")
    if train is None:
        return found, {}
    rows = train.iloc[subset(np.arange(len(train)), len(frames["fake"]), Rng(rng))]
    return found, {"utility": utility(rows, frames["real"], name, rng).value}


def _frames(sets: _Sets, target: Any) -> dict[str, Any]:
    """Tables as they came."""
    if not isinstance(target, str) or target not in sets.raw["real"].columns:
        raise ValueError(f"judge: got target={target!r}; expected a column, one of {list(sets.raw['real'].columns)}.")
    return {name: sets.raw[name] for name in ("real", "fake", *(["reference"] if sets.trained else []))}


def _labelled(sets: _Sets, seen: _Seen, target: Any, labels: Any, rng: int) -> dict[str, Any]:
    """Other rows as tables of features that have seen no label, with what is to be told as one more column."""
    import pandas as pd

    if isinstance(target, str) or len(target) != 2:
        raise ValueError(
            "judge: these rows have no columns; expected target=(labels of the real rows, labels of the samples)."
        )
    told = {"real": target[0], "fake": target[1]} | (
        {"reference": labels} if sets.trained and labels is not None else {}
    )
    blind = Features.fit(sets.learnable(rng)) if seen.own else None
    found = {}
    for name, values in told.items():
        codes = _few_labels("target" if name != "reference" else "labels", values, len(sets.flat[name]), name, rng)
        x = getattr(seen, name) if blind is None else blind(sets.few(name, rng))
        found[name] = pd.DataFrame(x).rename(columns=str).assign(target=codes)
    return found


def _utility_note(found: Metric, honest: float | None) -> str:
    beside = "" if honest is None else f"; as many training rows in the samples' place: {honest:.3g}"
    return f"{found.name.removeprefix('utility (').removesuffix(')')}, {found.note}{beside}"


def _private(sets: _Sets, rng: int) -> dict[str, Metric]:
    known = subset(sets.flat["reference"], MOST, Rng(rng))  # a copy of a row that is not looked at is not seen
    train, holdout, samples = (sets.few(name, rng) for name in ("reference", "real", "fake"))
    standardise = not _pictures(sets.raw["real"])
    return {
        "copies": copying(known, holdout, samples, standardise).excess,
        "membership": membership(train, holdout, samples, rng),
        "closer to training": closest_record(train, holdout, samples, rng),
    }


def _pictures(rows: Any) -> bool:
    return getattr(rows, "dtype", None) == np.uint8 and getattr(rows, "ndim", 0) >= 3


def _together(sets: Mapping[str, Any]) -> Any:
    """Real rows and reference as one set, whose Space knows the values of both."""
    real, reference = sets["real"], sets["reference"]
    if isinstance(reference, str):
        return reference
    if hasattr(real, "columns"):
        import pandas as pd

        return pd.concat([reference, real], ignore_index=True)
    return np.concatenate([np.asarray(reference), np.asarray(real)])
