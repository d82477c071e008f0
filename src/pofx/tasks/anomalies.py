"""Anomalies: the answer to "what does not belong?", which gives reasons in words.

    excess of entry i = (its usual log p given the others) - (its log p given the others in this row), nats

Offers `Anomalies` (scores, p-values, flags, `reasons`, `explain`), `Reason`, and `perturbed`, which makes the
rows that a background model learns from.
"""

from __future__ import annotations

import dataclasses
import html
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.data import Batch, Data
from pofx.kinds.base import Variable
from pofx.model import Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.tasks.base import Answer
from pofx.tasks.contribute import contribute

USUAL = 100  # rows that say what an entry's log p usually is, and draws of what was expected
LARGEST = 256  # entries that are left out one by one
CLEAR = 4.0  # standard errors beyond which a share of too probable rows is no accident
LOW = 0.05  # the lower tail that is watched
SHOWN = 5  # rows and entries explained unasked
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Asked:
    """What the routes of `anomaly` are asked: rows, what they are given, and what may be compared with.

    Args:
        x, observed: `(N, *event)`.
        given: name -> `(N, *given_event)`.
        draws, rng: of Monte-Carlo scores.
        background: a model of what all such rows share, or None.
        calibrated: whether rows that belong are known.
    """

    x: Tensor
    observed: Tensor
    given: dict[str, Tensor]
    draws: int
    rng: Rng
    background: Model | None = None
    calibrated: bool = False


@dataclass(frozen=True)
class Reason:
    """Why a row is strange: an entry, its value, by how many nats it is less likely than usual, what was expected."""

    row: int
    entry: str
    value: Any
    excess: float
    expected: str = ""

    def __str__(self) -> str:
        expected = f"; the other entries let expect {self.expected}" if self.expected else ""
        return f"{self.entry} = {_short(self.value)}, {self.excess:.1f} nats less likely than usual{expected}"


@dataclass(frozen=True)
class Anomalies(Answer):
    """Scores of rows, with what is needed to explain them.

    Args:
        known: scores of the calibration rows, or None.
        belong: some of these rows.
    """

    known: Array | None = None
    belong: Batch | None = None
    _usual: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, found: Answer, model: Model, asked: Asked, value: Tensor, words: Mapping[str, Any]) -> Anomalies:
        """The answer of a route with its words; warns where rows are too probable."""
        if "warning" in words:
            warnings.warn(str(words["warning"]), stacklevel=4)
        stderr = found.stderr if len(value) == len(found.value) else None
        return cls(
            value, found.unit, found.quality, found.route, found.task, stderr=stderr, diagnostics=words,
            model=model, question={"asked": asked},
        )  # fmt: skip

    @property
    def asked(self) -> Asked:
        """What the routes were asked."""
        return self.question["asked"]

    def flag(self, which: Array, by: str) -> Anomalies:
        """The same answer with rows flagged."""
        words = {**self.diagnostics, "flagged": which, "flagged by": by}
        if self.known is not None and not which.any():
            words["smallest p possible"] = f"{1 / (len(self.known) + 1):.2g}; more calibration rows make it smaller"
        return dataclasses.replace(self, diagnostics=words)

    @property
    def strangest(self) -> list[int]:
        """The flagged rows, or without flags all rows, the strangest first."""
        order, flagged = np.argsort(-self.value.numpy(), kind="stable"), self.diagnostics.get("flagged")
        return [int(i) for i in order if flagged is None or flagged[i]]

    def reasons(self, rows: Sequence[int] | None = None, top: int = 3) -> dict[int, list[Reason]]:
        """For each row (None: the strangest few) the entries that make it strange, the worst first.

        Raises:
            Unsupported: the model cannot say what single entries contribute, or rows were judged in batches.
        """
        assert self.model is not None
        if self.diagnostics.get("batch", 1) > 1:
            raise Unsupported("anomaly: reasons are of single rows; ask again with batch=1.")
        chosen = list(self.strangest[:SHOWN] if rows is None else rows)
        if not chosen:
            return {}
        index = torch.tensor(chosen)
        given = {k: v[index] for k, v in self.asked.given.items()}
        batch = Batch(self.asked.x[index], given, self.asked.observed[index])
        excess = (self._usually() - contributions(self.model, batch, self.asked.draws)).flatten(1)
        excess = torch.where(batch.observed.flatten(1), excess, -torch.inf)  # type: ignore[union-attr]
        return {row: _reasons(self.model, batch, k, row, excess[k], top) for k, row in enumerate(chosen)}

    def _usually(self) -> Tensor:
        """The median contribution of each entry over rows that belong (else the model's draws), `(*event)`."""
        assert self.model is not None
        if "median" not in self._usual:
            belong = self.belong
            if belong is None and "sample" in self.model.offers() and not self.model.given:
                belong = Batch(self.model.sample(USUAL, None, Rng(0)))
            usual = torch.zeros(self.model.space.shape, dtype=torch.float64)
            if belong is not None:
                usual = contributions(self.model, belong, self.asked.draws).median(0).values
            self._usual["median"] = usual
        return self._usual["median"]

    def explain(self) -> str:
        """What the scores mean, which rows are strange, and why, in words."""
        words, lines = self.diagnostics, [super().explain()]
        flagged, p = words.get("flagged"), words.get("p")
        if flagged is not None:
            lines.append(f"{int(flagged.sum())} of {len(flagged)} rows flagged by {words['flagged by']}.")
        elif p is None:
            lines.append("No p-values: pass calibration=<rows that belong, unseen in training>.")
        try:
            for row, reasons in self.reasons().items():
                chance = "" if p is None else f", p = {p[row]:.3g}"
                lines.append(f"row {row}: score {float(self.value[row]):.4g}{chance}")
                lines += [f"    {reason}" for reason in reasons]
        except Unsupported as refusal:
            lines.append(f"No reasons by entries: {refusal}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"{super()._repr_html_()}<pre>{html.escape(self.explain())}</pre>"


def contributions(model: Model, rows: Batch, draws: int) -> Tensor:
    """log p of each entry given the others, `(N, *event)`; of an unnormalised model up to a constant for each entry.

    Raises:
        Unsupported: the model cannot say what single entries contribute.
    """
    try:
        return contribute(model, rows, rows.given, draws=draws, rng=0).value
    except Unsupported as refusal:
        if "log_prob" not in model.offers() or model.space.size > LARGEST:
            raise
        lacks = refusal
    seen = torch.ones_like(rows.x, dtype=torch.bool) if rows.observed is None else rows.observed
    whole = model.log_prob(rows.x, rows.given or None, seen, draws, Rng(0))
    if whole.quality is not Quality.UNNORMALISED:
        raise lacks  # differences of bounds mean nothing
    parts = []
    for i in range(model.space.size):
        less = seen.flatten(1).clone()
        less[:, i] = False
        rest = model.log_prob(rows.x, rows.given or None, less.reshape(seen.shape), draws, Rng(0)).value
        parts.append(torch.where(seen.flatten(1)[:, i], (whole.value - rest).double(), 0.0))
    return torch.stack(parts, 1).reshape(rows.x.shape)


def inverted(calibration: Array, scores: Array) -> dict[str, Any]:
    """Whether too many rows score lower than rows that belong do, which a one-sided score cannot see.

    Args:
        calibration: scores of rows that belong `(n,)`.
        scores: of the rows asked about `(N,)`.

    Returns:
        `too probable`: the share of rows below the calibration's 5 % quantile (5 % are expected), and a `warning`
        where that is beyond chance.
    """
    n, rows = len(calibration), len(scores)
    share = float((scores < np.quantile(calibration, LOW)).mean())
    error = float(np.sqrt(LOW * (1 - LOW) * (1 / n + 1 / rows)))
    if min(n, rows) < 20 or share < 2 * LOW or share < LOW + CLEAR * error:
        return {"too probable": share}
    text = (
        f"{share:.0%} of the rows are more probable than 95% of the rows that belong (5% are expected). They may be "
        "simpler, not more typical: a high density is no proof, and this score cannot flag them. Ask again with "
        "route='typicality', route='complexity', or background=<a model of what all such rows share>."
    )
    return {"too probable": share, "warning": text}


def perturbed(data: Data, share: float = 0.2, rng: Rng | torch.Generator | int | None = 0) -> Data:
    """The same rows with a share of their entries replaced, for a background model to learn from (Ren et al. 2019).

    Args:
        data: rows.
        share: of the entries; what the model knows beyond single entries fades as it grows.
        rng: which entries, and what stands there: a level at random, or the number of another row.
    """
    if not 0 < share <= 1:
        raise ValueError(f"perturbed: got share={share}; expected a number above 0 and at most 1.")
    rng, flat = Rng(rng), data.x.flatten(1)
    other = flat.gather(0, rng.integers(len(flat), tuple(flat.shape)).to(flat.device))
    for i in range(data.space.size):
        v = data.space.variable(i)
        if v.discrete:
            other[:, i] = rng.integers(v.levels, (len(flat),)).to(flat.dtype)
    mixed = torch.where(rng.uniform(tuple(flat.shape)) < share, other, flat)
    return dataclasses.replace(data, x=mixed.reshape(data.x.shape), name=f"{data.name}, perturbed")


def _reasons(model: Model, batch: Batch, k: int, row: int, excess: Tensor, top: int) -> list[Reason]:
    worst = [i for i in excess.argsort(descending=True)[:top].tolist() if excess[i] > 0]
    found = []
    for i in worst:
        v = model.space.variable(i)
        name = v.name if not model.space.shared else f"{v.name} {list(np.unravel_index(i, model.space.shape))}"
        value = _word(v, batch.x[k].flatten()[i])
        found.append(Reason(row, name.replace("np.int64", ""), value, float(excess[i]), _expected(model, batch, k, i)))
    return found


def _expected(model: Model, batch: Batch, k: int, i: int) -> str:
    """What the model draws for an entry, given the others: the likeliest code, or a range of numbers."""
    v, observed = model.space.variable(i), batch.observed
    if "condition" not in model.offers() or observed is None:
        return ""
    mask = observed[k : k + 1].clone()
    mask.flatten()[i] = False
    given = {name: c[k : k + 1] for name, c in batch.given.items()}
    try:
        drawn = model.condition(batch.x[k : k + 1], mask, given or None).sample(USUAL, Rng(0)).flatten(1)[:, i].double()
    except Unsupported:
        return ""
    if v.support in ("category", "binary"):
        return _short(_word(v, drawn.mode().values))
    low, high = (_short(_word(v, drawn.quantile(q, interpolation="nearest"))) for q in (0.05, 0.95))
    return low if low == high else f"{low} to {high}"


def _word(v: Variable, number: Tensor) -> Any:
    """A number of x as the user wrote it."""
    return v.values[int(number)] if v.values and v.discrete else float(number)


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
