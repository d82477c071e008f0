"""Numbers: what each column of a leaderboard is called and means, and how its values are written and compared.

    rank(family) = 1 + #{families that are strictly better at a column}      (baselines and flagged copies stand aside)

Offers `Column`, `COLUMNS`, `shown`, `ranks`, `level_with`. The terminal and the page share it, so they cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pofx.tasks.compare import BETTER, GUARANTEED, Comparison, wins
from pofx.tasks.seeds import LIKELIHOODS, interval_key

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of the leaderboard.

    Args:
        field: the row's key.
        title: above the column. question: what it answers, in two or three words.
        unit: of its values.
        meaning: for the glossary.
        digits: after the point.
    """

    field: str
    title: str
    question: str
    unit: str
    meaning: str
    digits: int = 3

    @property
    def better(self) -> str:
        """In words, which direction is better."""
        return "nearer to 0.5" if self.field == "c2st" else BETTER[self.field]


COLUMNS = (
    Column(
        "bits_per_dim", "bits/dim", "likely", "bits an entry",
        "The code length of held-out rows: -log2 p(x) a row, divided by the number of entries. What a lossless "
        "compressor built on the model would need for one entry. One bit less an entry means that the held-out "
        "rows are "
        "twice as likely in every entry.",
    ),
    Column(
        "nats", "nats", "likely", "nats a row",
        "The mean log density of held-out rows, in the data's own units and with every Jacobian included. A "
        "density, not a "
        "probability: it changes with the units, so only differences between models on the same data mean something.",
    ),
    Column(
        "c2st", "c2st", "real", "accuracy",
        "Classifier two-sample test: the accuracy of a classifier that was trained to tell samples from held-out rows. "
        "0.5 means that it cannot; 1.0 that every sample gives itself away.",
    ),
    Column(
        "precision", "precision", "faithful", "share of samples",
        "Samples that lie within the neighbourhood of some real row: are the samples realistic? A model that "
        "draws one good "
        "x for ever has precision 1.",
    ),
    Column(
        "recall", "recall", "varied", "share of real rows",
        "Real rows that lie within the neighbourhood of some sample: does the model draw everything there is? "
        "Mode collapse "
        "shows here.",
    ),
    Column(
        "density", "density", "dense", "1 is ideal",
        "Precision that counts neighbours: how many real neighbourhoods hold each sample, over the number expected. "
        "Robust to a single outlier, and may pass 1 where samples crowd the likely "
        "places.",
    ),
    Column(
        "coverage", "coverage", "complete", "share of real rows",
        "Real rows with at least one sample in their own neighbourhood: recall that an outlying sample cannot inflate.",
    ),
    Column(
        "shape_error", "shapes", "columns", "distance",
        "Tables: the mean distance between the distribution of each column in the samples and in the held-out rows; "
        "0 is equal.",
    ),
    Column(
        "trend_error", "trends", "pairs", "distance",
        "Tables: the same for pairs of columns, whether columns move together as they do in the data; 0 is equal.",
    ),
    Column(
        "impute_rmse", "impute", "fill gaps", "standard deviations",
        "Part of each held-out row is hidden (the lower half of a picture, 30 % of the cells of a table) and "
        "filled in by "
        "five draws from p(missing given observed). Root mean square error of their mean, in units of each variable's "
        "standard deviation; 1 is what guessing the mean would give.",
    ),
    Column(
        "anomaly_auroc", "anomaly", "odd ones", "AUROC",
        "Chimeras (half of one held-out row joined to half of another) against intact held-out rows: the "
        "probability that "
        "the model calls the chimera stranger. Every half is real, so only dependence gives them away. 0.5 is chance.",
    ),
    Column("fit_seconds", "fit s", "quick fit", "CPU seconds", "CPU seconds of one thread spent on fitting.", 1),
    Column("sample_ms", "draw ms", "quick draw", "ms a sample", "CPU milliseconds for one sample, in bulk.", 2),
    Column("parameters", "weights", "small", "numbers", "Numbers that were learnt (or stored, in a closed form).", 0),
    Column("peak_mb", "MB", "memory", "MB", "Peak memory of the family's process, the library itself included.", 0),
)  # fmt: skip
BY_FIELD = {c.field: c for c in COLUMNS}
QUESTIONS = {
    "bits_per_dim": "gives held-out rows the most probability",
    "nats": "gives held-out rows the highest density",
    "c2st": "draws the samples that a classifier finds hardest to tell from real rows",
    "precision": "draws the most realistic samples",
    "recall": "draws the most varied samples",
    "coverage": "leaves the fewest real rows without a sample beside them",
    "shape_error": "keeps single columns most alike",
    "trend_error": "keeps pairs of columns most alike",
    "impute_rmse": "fills gaps with the least error",
    "anomaly_auroc": "is best at telling what does not belong",
    "fit_seconds": "fits fastest",
    "sample_ms": "draws fastest",
}


def likelihood_field(found: Comparison) -> str:
    """Bits per dimension where log p is a probability, nats where it is a density."""
    return "bits_per_dim" if found.data.space.mass else "nats"


def columns_of(found: Comparison) -> list[Column]:
    """The columns that some row has."""
    skip = "nats" if likelihood_field(found) == "bits_per_dim" else "bits_per_dim"
    return [c for c in COLUMNS if c.field != skip and any(r.get(c.field) is not None for r in found.rows)]


def shown(value: float | None, digits: int = 3) -> str:
    """A number as people write it: thousands by k and M, tiny ones to two figures, nothing as a dash.

    >>> shown(1014656, 0), shown(0.00365, 2), shown(2.92619), shown(None)
    ('1.01M', '0.0037', '2.926', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    if 1e-9 < size < 0.5 * 10.0**-digits:
        return f"{value:.0e}" if size < 1e-4 else f"{value:.2g}"
    return f"{value:.{min(digits, 3 - len(str(int(size))) + 1) if digits > 1 else digits}f}"


def half_width(row: Row, column: Column) -> float | None:
    """Half of the 95 % interval of a value, where one is known."""
    interval = row.get(interval_key(column.field))
    if not interval and column.field in LIKELIHOODS:  # of a single fit
        return None if row.get("stderr") is None else 1.96 * row["stderr"]
    if not interval or None in interval:
        return None
    return (interval[1] - interval[0]) / 2


def badness(row: Row, field: str) -> float | None:
    """A value turned so that less is better; None where the row has none that may be ranked."""
    value = row.get(field)
    if value is None or (field in LIKELIHOODS and row.get("quality") not in GUARANTEED):
        return None
    if field == "c2st":
        return abs(value - 0.5)
    return value if BETTER[field] == "lower" else -value


def ranks(rows: Sequence[Row], field: str) -> dict[str, int]:
    """Family -> rank among those that may win, 1 the best; equal values share a rank."""
    bad = {r["family"]: badness(r, field) for r in rows if wins(r)}
    return {f: 1 + sum(o is not None and o < b for o in bad.values()) for f, b in bad.items() if b is not None}


def level_with(found: Comparison, field: str) -> list[str]:
    """Families that cannot be told from the best: paired for log p, otherwise by overlapping intervals."""
    best = found.best(field)
    if best is None:
        return []
    top = next(r for r in found.rows if r["family"] == best)
    bad = {r["family"]: b for r in found.rows if wins(r) and (b := badness(r, field)) is not None}
    rivals = [r for r in found.rows if r is not top and r["family"] in bad]
    if field in LIKELIHOODS:
        return [r["family"] for r in rivals if r.get("behind") and r["behind"]["low"] <= 0]
    column = BY_FIELD[field]
    reach = half_width(top, column)
    if reach is None:
        return []
    near = {r["family"]: reach + (half_width(r, column) or 0.0) for r in rivals}
    return [name for name, width in near.items() if bad[name] - bad[best] <= width]


def beaten_by_nothing(found: Comparison, row: Row, field: str) -> bool:
    """Whether a value is no better than the baseline that treats every entry by itself."""
    base = next((r for r in found.rows if r["family"] == "independent" and r.get("baseline")), None)
    mine, its = badness(row, field), badness(base, field) if base else None
    costs = ("fit_seconds", "sample_ms", "parameters", "peak_mb")
    return not row.get("baseline") and mine is not None and its is not None and field not in costs and mine >= its


def blocks(found: Comparison) -> tuple[list[Row], list[Row]]:
    """Rows with a guaranteed log p, best first; and all others, failures last."""
    sure = [
        r for r in found.rows if r.get("quality") in GUARANTEED and r.get("nats") is not None and not r.get("error")
    ]
    return sure, sorted((r for r in found.rows if r not in sure), key=lambda r: bool(r.get("error")))
