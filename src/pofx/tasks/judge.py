"""Judge: how good are samples, whoever made them?

    alike        c2st, Frechet distance, KID, MMD^2, sliced Wasserstein           over features of the reference rows
    faithful     precision, density (are samples where data is?)
    complete     recall, coverage (is data where samples are?)
    tables       shapes of columns, trends of pairs, valid cells
    private      copying, membership, closer to training than to hold-out         where the training rows are passed

Every number has its interval and says how it depends on N; none depends on how rows are batched. `real` must be rows
that the model did not see. Features are learnt from the reference rows without downloads, or come from the user.

References: metrics/samples.py, metrics/copying.py, metrics/privacy.py, metrics/table.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pofx.data import open_data
from pofx.kinds import KINDS
from pofx.kinds.relax import Chart
from pofx.metrics import (
    Features,
    Metric,
    c2st,
    closest_record,
    column_shapes,
    copying,
    frechet,
    kid,
    membership,
    mmd,
    pair_trends,
    prdc,
    sliced_wasserstein,
    valid_values,
)
from pofx.metrics.base import subset
from pofx.randomness import Rng

QUESTION = "How good are these samples?"
LIMIT, MOST = 4000, 50_000  # rows of each set, at random, that enter a statistic; training rows that may be copied
Rows = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Judgement:
    """What was found: name -> Metric, in reading order, and what the numbers stand on."""

    metrics: Mapping[str, Metric]
    features: str
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Metric:
        return self.metrics[name]

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"features": self.features, "notes": list(self.notes)} | {k: asdict(m) for k, m in self.metrics.items()}

    def explain(self) -> str:
        """A table in plain text: each number, its interval, which direction is better, what it is."""
        width = max(map(len, self.metrics))
        lines = [
            f"{name:<{width}}  {m.value:9.4g}  [{m.low:.4g}, {m.high:.4g}]  {m.better:<6}  {MEANING.get(name, m.note)}"
            for name, m in self.metrics.items()
        ]
        return "\n".join([*lines, f"features: {self.features}", *self.notes])

    def _repr_html_(self) -> str:
        return f"<pre>{self.explain()}</pre>"


MEANING = {
    "c2st": "accuracy of a classifier real / fake; 0.5: it cannot tell",
    "Frechet": "distance of two Gaussians in feature space; grows as N falls",
    "KID": "kernel distance, unbiased: 0 where the two agree",
    "MMD^2": "kernel distance, unbiased: 0 where the two agree",
    "sliced Wasserstein": "distance along random directions; never 0 at finite N",
    "precision": "share of samples where data is",
    "density": "how much data is around a sample, 1 where the two agree",
    "recall": "share of data where samples are",
    "coverage": "share of data with a sample beside it",
    "shapes": "mean error of single columns",
    "trends": "mean error of pairs of columns",
    "valid": "share of cells with a value that the data could have",
    "copies": "estimated share of samples that repeat training rows",
    "membership": "AUC of telling training rows from others by the nearest sample; 0.5: it cannot",
    "closer to training": "share of samples nearer to a training than to a hold-out row; 0.5 is honest",
}


def judge(
    real: Any,
    fake: Any,
    train: Any = None,
    *,
    labels: Any = None,
    features: Callable[[Rows], Rows] | None = None,
    rng: int = 0,
) -> Judgement:
    """Judge samples against rows that the model did not see.

    Args:
        real: rows of the user's own type (a DataFrame, pictures, an array).
        fake: samples of the same type.
        train: the rows that the model saw; they show copying and what gives their presence away.
        labels: one class for each row of the reference (`train`, else `real`): features then come from a small
            classifier.
        features: (N, D) float rows -> (N, d); None learns them from the reference rows.
        rng: of subsets, folds and directions.

    Raises:
        ValueError: the sets or labels do not fit each other, a cell of `fake` was never seen, or too few rows.
    """
    reference = real if train is None else train
    flat = _vectors(reference, {"real": real, "fake": fake, "reference": reference})
    few = {k: subset(v, LIMIT, Rng(rng)) for k, v in flat.items()}
    if features is None:
        learnt = Features.fit(few["reference"], _labels(labels, len(flat["reference"]), rng), rng=0)
        a, b, words = learnt(few["real"]), learnt(few["fake"]), f"{learnt.kind} of the reference rows"
    else:
        a, b, words = np.asarray(features(few["real"])), np.asarray(features(few["fake"])), "the user's own"
    found = _alike(a, b, rng) | (_of_tables(reference, real, fake) if hasattr(real, "columns") else {})
    notes = [
        f"{len(flat['real'])} real rows, {len(flat['fake'])} samples; at most {LIMIT} of each, at random, are used."
    ]
    if train is None:
        notes.append("copying was not looked for: pass the training rows as `train`.")
    else:
        known = subset(flat["reference"], MOST, Rng(rng))  # a copy of a row that is not looked at is not seen
        found |= _private(few, known, rng, standardise=not _pictures(real))
    return Judgement(found, words, tuple(notes))


def _labels(labels: Any, rows: int, rng: int) -> Rows | None:
    """The labels of the reference rows that are used: the same seed and number of rows give the same rows."""
    if labels is None:
        return None
    if len(labels) != rows:
        raise ValueError(f"judge: got {len(labels)} labels for {rows} reference rows; expected one each.")
    return subset(np.asarray(labels), LIMIT, Rng(rng))


def _alike(a: Rows, b: Rows, rng: int) -> dict[str, Metric]:
    near = prdc(a, b, rng=rng)
    return {
        "c2st": c2st(a, b, rng=rng).accuracy,
        "Frechet": frechet(a, b, rng=rng),
        "KID": kid(a, b, rng=rng),
        "MMD^2": mmd(a, b, rng=rng),
        "sliced Wasserstein": sliced_wasserstein(a, b, rng=rng),
        **{name: getattr(near, name) for name in ("precision", "density", "recall", "coverage")},
    }


def _of_tables(reference: Any, real: Any, fake: Any) -> dict[str, Metric]:
    return {
        "shapes": column_shapes(real, fake).mean,
        "trends": pair_trends(real, fake).mean,
        "valid": valid_values(reference, fake).mean,
    }


def _private(few: Mapping[str, Rows], known: Rows, rng: int, standardise: bool) -> dict[str, Metric]:
    train, holdout, samples = few["reference"], few["real"], few["fake"]
    return {
        "copies": copying(known, holdout, samples, standardise).excess,
        "membership": membership(train, holdout, samples, rng),
        "closer to training": closest_record(train, holdout, samples, rng),
    }


def _pictures(rows: Any) -> bool:
    return getattr(rows, "dtype", None) == np.uint8 and getattr(rows, "ndim", 0) >= 3


def _vectors(reference: Any, sets: Mapping[str, Any]) -> dict[str, Rows]:
    """Each set as float rows in one chart; a gap is the column's mean."""
    space = open_data(reference if isinstance(reference, str) else _together(sets), test=0, valid=0).space
    kind, chart, found = KINDS[space.kind], Chart(space), {}
    for name, rows in sets.items():
        x, observed = kind.encode(rows, space)
        if len(x) < 10:
            raise ValueError(f"judge: got {len(x)} {name} rows; expected at least 10.")
        u, mask = chart.encode(x), chart.mask(observed)
        found[name] = _numbers(u * mask)
    return found


def _together(sets: Mapping[str, Any]) -> Any:
    """Real rows and reference as one set, whose Space knows the values of both."""
    real, reference = sets["real"], sets["reference"]
    if hasattr(real, "columns"):
        import pandas as pd

        return pd.concat([reference, real], ignore_index=True)
    return np.concatenate([np.asarray(reference), np.asarray(real)])


def _numbers(u: Tensor) -> Rows:
    return u.flatten(1).double().numpy()
