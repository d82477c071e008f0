"""What `judge` found: numbers with intervals, in words, as JSON and as a picture.

Offers `Judgement`, and `MEANING`: what each number is called, what it says, its bias in N, and where it would lie for
rows of the data's own law (elsewhere `judge` measures that, with training rows in the samples' place).
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pofx.drawing.forest import Row, forest
from pofx.drawing.style import png
from pofx.metrics import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Meaning(NamedTuple):
    """What a number is: its group and name in the picture, a line, its bias in N, where honest rows lie, its scale."""

    group: str
    title: str
    words: str
    bias: str
    honest: float | None = None
    ends: tuple[float, float] | None = None


UNBIASED, HIGH = "no bias in N", "too high at small N (compare at the same)"
POWER, BOTH = "growing with N where the sets differ (compare at the same)", "depending on both N (compare at the same)"
SHARE = (0.0, 1.0)
GROUPS = {
    "alike": "alike: can they be told apart?",
    "faithful": "faithful: are samples where data is?",
    "complete": "complete: is data where samples are?",
    "tables": "tables: columns and cells",
    "useful": "useful: what can be learnt from samples?",
    "private": "private: do they give training rows away?",
}
MEANING = {
    "c2st": Meaning(
        "alike", "classifier real / fake (C2ST)",
        "accuracy of a classifier real / fake", POWER, 0.5, SHARE,
    ),
    "Frechet": Meaning(
        "alike", "Fréchet distance",
        "distance of two Gaussians in feature space", HIGH,
    ),
    "KID": Meaning(
        "alike", "kernel distance, cubic (KID)",
        "kernel distance, unbiased", UNBIASED, 0.0,
    ),
    "MMD^2": Meaning(
        "alike", "kernel distance, Gaussian (MMD²)",
        "kernel distance, unbiased", UNBIASED, 0.0,
    ),
    "sliced Wasserstein": Meaning(
        "alike", "sliced Wasserstein distance",
        "distance along random directions", HIGH,
    ),
    "precision": Meaning(
        "faithful", "precision: samples where data is",
        "share of samples where data is", BOTH, None, SHARE,
    ),
    "density": Meaning(
        "faithful", "density: data around a sample",
        "how much data is around a sample", UNBIASED, 1.0,
    ),
    "recall": Meaning(
        "complete", "recall: data where samples are",
        "share of data where samples are", BOTH, None, SHARE,
    ),
    "coverage": Meaning(
        "complete", "coverage: data with a sample beside it",
        "share of data with a sample beside it", BOTH, None, SHARE,
    ),
    "modes": Meaning(
        "complete", "modes reached",
        "modes of the data that samples reach", "all for honest rows at every N",
    ),
    "NDB": Meaning(
        "complete", "bins of another share (NDB)",
        "share of bins whose shares of data and samples differ", POWER, 0.05, SHARE,
    ),
    "shapes": Meaning(
        "tables", "error of single columns",
        "mean error of single columns", HIGH, None, SHARE,
    ),
    "trends": Meaning(
        "tables", "error of pairs of columns",
        "mean error of pairs of columns", HIGH, None, SHARE,
    ),
    "valid": Meaning(
        "tables", "cells with a possible value",
        "share of cells with a value that the data could have", UNBIASED, 1.0, SHARE,
    ),
    "utility": Meaning(
        "useful", "trained on samples, tested on real rows",
        "score on real rows of a predictor trained on samples", "too low where samples are few", None, SHARE,
    ),
    "copies": Meaning(
        "private", "copies of training rows",
        "estimated share of samples that repeat training rows", UNBIASED, 0.0, SHARE,
    ),
    "membership": Meaning(
        "private", "membership told (AUC)",
        "AUC of telling training rows from others by the nearest sample",
        "growing with the number of samples where they copy", 0.5, SHARE,
    ),
    "closer to training": Meaning(
        "private", "closer to training than to hold-out",
        "share of samples nearer to a training than to a hold-out row", UNBIASED, 0.5, SHARE,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Judgement:
    """What was found.

    Attributes:
        metrics: name -> Metric, in reading order.
        features: what the distances are over.
        notes: what the numbers stand on.
        honest: name -> where rows of the data's own law would lie, where that is known.
    """

    metrics: Mapping[str, Metric]
    features: str
    notes: tuple[str, ...] = ()
    honest: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Metric:
        return self.metrics[name]

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        found: dict[str, Any] = {"features": self.features, "notes": list(self.notes)}
        for name, m in self.metrics.items():
            found[name] = asdict(m) | {"bias": MEANING[name].bias, "honest": self.honest.get(name)}
        return found

    def explain(self) -> str:
        """Each number, its interval, which way is better, where honest rows lie, what it is; then the biases in N."""
        width, lines, biases = max(map(len, self.metrics)), [], dict[str, list[str]]()
        intervals = {name: f"[{m.low:.4g}, {m.high:.4g}]" for name, m in self.metrics.items()}
        wide = max(map(len, intervals.values()))
        for name, m in self.metrics.items():
            honest = f"honest {self.honest[name]:.3g}" if name in self.honest else ""
            lines.append(
                f"{name:<{width}}  {m.value:9.4g}  {intervals[name]:<{wide}}  {m.better:<6}  {honest:<12}  "
                f"{MEANING[name].words}"
            )
            biases.setdefault(MEANING[name].bias, []).append(name)
        lines += [f"{bias}: {', '.join(names)}" for bias, names in biases.items()]
        return "\n".join([*lines, f"features: {self.features}", *self.notes])

    def figure(self) -> Figure:
        """A matplotlib Figure: each number with its interval on its own scale, and where honest rows would lie."""
        rows = []
        for name, m in self.metrics.items():
            group, title, _, _, _, ends = MEANING[name]
            honest = self.honest.get(name)
            if name == "modes" and honest is not None:
                title, ends = f"{title}, of {honest:.0f}", (0.0, honest)
            measured = MEANING[name].honest is None and name != "modes"
            rows.append(Row(title, m.value, m.low, m.high, m.better, honest, ends, GROUPS[group], measured))
        chance = "Of forty numbers of honest rows, one is red by chance."
        return forest(rows, "honest rows", "\n".join([f"Features: {self.features}. {chance}", *self.notes[:2]]))

    def _repr_html_(self) -> str:
        image = base64.b64encode(png(self.figure())).decode()
        words = html.escape(self.explain())
        return f'<img alt="numbers with intervals" src="data:image/png;base64,{image}"><pre>{words}</pre>'
