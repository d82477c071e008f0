"""Seeds: one row of a leaderboard from several fits of one family, and what its interval then holds.

A fit of seed s (of S) gives y_is to the held-out row i (of n), such as log p. The rows are the same for all seeds, so
more seeds do not thin out the noise of the rows: a crossed design, not n S independent numbers.

    y_is = mu + b_i + a_s + e_is,             Var(mean y) = var(b)/n + var(a)/S + var(e)/(nS)
    V_rows  = s^2(mean over s of y_is) / n     estimates  var(b)/n + var(e)/(nS)       (n - 1 degrees of freedom)
    V_seeds = s^2(mean over i of y_is) / S     estimates  var(a)/S + var(e)/(nS)       (S - 1)
    half^2  = t_{n-1}^2 V_rows + t_{S-1}^2 V_seeds        t: the quantile of Student's law, 0.975 (Banerjee 1960)

Each part has a quantile of its own. So the interval holds mu in at least 95 %, however the parts compare (for normal
parts); one quantile at Welch and Satterthwaite's degrees of freedom holds it in as little as 87 % at S = 2, for where
two seeds happen to be alike it takes their spread for known. var(e) is counted twice, which is on the safe side. A
number without values by row (c2st, recall, ...) has h_s instead, half of the interval that its own seed gave:

    half^2 = mean over s of h_s^2  +  t_{S-1}^2 s^2 / S                                  (each side by itself)
    behind: d_i = mean over s of log p_best,is - mean over s of log p_is
    half^2 = t_{n-1}^2 s^2(d) / n  +  t_{S-1}^2 V_seeds of both families                 (each by its own S)

The mean is of one fit's score, not the score of an average of fits. What stays fixed is not covered: the split. With
few seeds an interval may reach beyond what its number can be (a share above 1); it is not cut, for its half is shown.
References: Banerjee 1960 (Sankhya 22:357); Bouckaert and Frank 2004 (replicability); Agarwal 2021 (arXiv:2108.13264);
Bouthillier 2021 (arXiv:2103.03098, how much of a benchmark's variance seeds are).
"""

from __future__ import annotations

import csv
import functools
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pofx.data import Batch
from pofx.kinds.base import Space
from pofx.metrics import paired_difference
from pofx.metrics.base import Array
from pofx.model import Quality
from pofx.tasks.density import bits_per_dim

Row = dict[str, Any]
LEVEL, OVER = 0.95, ("done", "failed")  # stages after which a fit has none
LIKELIHOODS = ("nats", "bits_per_dim")
INTERVALS = {"impute_rmse": "impute_interval", "anomaly_auroc": "anomaly_interval"}  # others by the field's own name
COSTS = ("fit_seconds", "fit_wall_seconds", "sample_ms", "parameters", "peak_mb")


def interval_key(field: str) -> str:
    """Where a row holds the interval of a field."""
    return INTERVALS.get(field, f"{field}_interval")


def reach(values: Array, level: float = LEVEL) -> float:
    """t_{n-1} s / sqrt(n) of n values: half of Student's interval of their mean; 0 of a single one.

    >>> round(reach(np.array([1.0, 3.0])), 3), reach(np.array([1.0]))
    (12.706, 0.0)
    """
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        return 0.0
    return float(stdtrit(n - 1, (1 + level) / 2) * values.std(ddof=1) / math.sqrt(n))


def crossed(values: Array, level: float = LEVEL) -> tuple[float, float, float]:
    """(mean, half of its interval, standard error) of values `(S, n)`, a line a seed, whose rows are shared by all."""
    rows, seeds = values.mean(0), values.mean(1)
    variance = rows.var(ddof=1) / len(rows) if len(rows) > 1 else 0.0
    variance += seeds.var(ddof=1) / len(seeds) if len(seeds) > 1 else 0.0
    return float(values.mean()), math.hypot(reach(rows, level), reach(seeds, level)), math.sqrt(variance)


def seeds_of(settings: dict[str, Any]) -> tuple[int, ...]:
    """The seeds of the fits of a family."""
    first = settings.get("seed", 0)
    return tuple(range(first, first + settings.get("seeds", 1)))


def finite(row: Row, log_p: Sequence[Array | None]) -> list[Array]:
    """log p `(n,)` of each fit of a row that worked."""
    fits = row.get("fits") or [row]
    return [v for v, fit in zip(log_p, fits, strict=True) if v is not None and not fit["error"]]


def progress(stages: Sequence[Row]) -> Row:
    """One stage of a family from those of its fits: of the one that runs, else of the next, else how many worked."""
    if len(stages) == 1:
        return stages[0]
    running = (k for k, s in enumerate(stages) if s["stage"] not in (*OVER, "waiting"))
    left = (k for k, s in enumerate(stages) if s["stage"] not in OVER)
    k = next(running, next(left, None))
    if k is not None:
        return {**stages[k], "fit": k + 1, "fits": len(stages)}
    fine = sum(s["stage"] == "done" for s in stages)
    return {"stage": "done" if fine else "failed", "worked": fine, "fits": len(stages)}


def behind(best: Array, other: Array) -> dict[str, float]:
    """Mean of log p by the best family less that by another, nats a row, with its interval: paired by row.

    Args:
        best: `(S, n)`, a line a seed, finite.
        other: `(S', n)` of the same rows.
    """
    gap = paired_difference(best.mean(0), other.mean(0), LEVEL)
    spread = math.hypot(reach(best.mean(1)), reach(other.mean(1)))
    if not spread:
        return {"nats": gap.value, "low": gap.low, "high": gap.high}
    half = math.hypot(gap.high - gap.value, spread)
    return {"nats": gap.value, "low": gap.value - half, "high": gap.value + half}


def pooled(rows: Sequence[Row], fits: Sequence[Row], log_p: Sequence[Array | None], test: Batch, space: Space) -> Row:
    """The row of a family from those of its fits, as the top of this file says.

    Args:
        rows: of each fit, as `measure` wrote them; one that failed has an "error".
        fits: of each, its "seed" and "folder", which the row keeps.
        log_p: of each, log p of the held-out rows `(n,)`, if it has one.
        test: the held-out rows.
        space: of x.

    Returns:
        Means of the fits that worked, None where one of them has no answer; "seeds": field -> the value of each seed
        (None where it failed); "fits": seed, folder and error of each; intervals by `interval_key`.
    """
    told = [{**fit, "error": row.get("error")} for fit, row in zip(fits, rows, strict=True)]
    fine = [k for k, row in enumerate(rows) if not row.get("error")]
    if not fine:
        return {**rows[0], "error": f"each of {len(rows)} seeds failed; the first: {rows[0]['error']}", "fits": told}
    ours = [rows[k] for k in fine]
    row: Row = {**ours[0], **_words(ours)}
    names = [key for key in dict.fromkeys(k for r in ours for k in r) if any(_number(r.get(key)) for r in ours)]
    row |= {key: _mean([r.get(key) for r in ours]) for key in names}
    row |= {interval_key(key): _interval(ours, key) for key in names if _has_interval(ours, key)}
    if row.get("nats") is not None:
        row |= _likelihoods(np.stack([v for v in (log_p[k] for k in fine) if v is not None]), test, space)
    done = set(fine)
    row["seeds"] = {key: [rows[k].get(key) if k in done else None for k in range(len(rows))] for key in names}
    return {**row, "fits": told}


def _likelihoods(log_p: Array, test: Batch, space: Space) -> Row:
    """Intervals of nats and bits an entry; the standard error is of the latter where there are bits."""
    mean, half, error = crossed(log_p)
    found: Row = {"nats_interval": [mean - half, mean + half], "stderr": error}
    if space.mass:
        observed = torch.ones_like(test.x, dtype=torch.bool) if test.observed is None else test.observed
        bits = np.stack([bits_per_dim(torch.from_numpy(one), space, observed).numpy() for one in log_p])
        mean, half, error = crossed(bits[:, ~np.isnan(bits[0])])  # a row of gaps alone has no bits
        found |= {"bits_per_dim_interval": [mean - half, mean + half], "stderr": error}
    return found


def _has_interval(rows: Sequence[Row], field: str) -> bool:
    return field in COSTS or (field not in LIKELIHOODS and any(row.get(interval_key(field)) for row in rows))


def _interval(rows: Sequence[Row], field: str) -> list[float] | None:
    """Of a number without values by row: what each seed's own interval holds, and their spread; None: not known."""
    values, own = [row.get(field) for row in rows], [row.get(interval_key(field)) for row in rows]
    if None in values or (len(rows) == 1 and field in COSTS):
        return None
    if field in COSTS:
        own = [[v, v] for v in values]
    if any(o is None or None in o for o in own):
        return None
    y, ends = np.array(values, float), np.array(own, float)
    sides = np.sqrt(np.square(ends - y[:, None]).mean(0))
    low, high = (math.hypot(side, reach(y)) for side in sides)
    return [float(y.mean()) - low, float(y.mean()) + high]


def _words(rows: Sequence[Row]) -> Row:
    """What is no number: the weakest quality, a copy if any fit copies, every refusal."""
    found: Row = {}
    qualities = [Quality(row["quality"]) for row in rows if row.get("quality")]
    if qualities:
        found["quality"] = functools.reduce(Quality.__add__, qualities).value
    copies = [row for row in rows if row.get("copying")]
    if copies:
        found |= {"copying": True, "copying_why": copies[0].get("copying_why")}
    refused = {name: why for row in reversed(rows) for name, why in (row.get("why") or {}).items()}
    return found | ({"why": refused} if refused else {})


def _mean(values: Sequence[Any]) -> float | None:
    """The mean; a number that all share as it is; None where one has none."""
    if any(value is None for value in values):
        return None
    return values[0] if len(set(values)) == 1 else float(np.mean(values))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def sheet(rows: Sequence[Row], fields: Sequence[str], seeds: Sequence[int]) -> str:
    """A leaderboard as CSV: a line a family; of each number its value, the ends of its interval and that of each seed.

    Args:
        rows: of the leaderboard.
        fields: of numbers; those that no row has are left out.
        seeds: of the fits; with a single one there are no columns by seed.
    """
    had = [f for f in fields if any(row.get(f) is not None for row in rows)]
    told = [f for f in had if any(interval_of(row, f) for row in rows)]
    behind_keys = ("nats", "low", "high", "of")
    head = ["family", "baseline", "copying", "error", "quality", *(["fits"] if len(seeds) > 1 else [])]
    head += [c for f in had for c in (f, *((f"{f}_low", f"{f}_high") if f in told else ()))]
    head += [f"behind_{k}" for k in behind_keys]
    head += [f"{f}_seed_{s}" for f in had for s in seeds] if len(seeds) > 1 else []
    text = io.StringIO()
    writer = csv.DictWriter(text, head, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        line = {k: row.get(k) for k in head if k in row and k != "fits"}
        line |= {f"{f}_{end}": v for f in told for end, v in zip(("low", "high"), interval_of(row, f) or ())}
        line |= {f"behind_{k}": row["behind"][k] for k in behind_keys if row.get("behind")}
        line |= {f"{f}_seed_{s}": v for f in had for s, v in zip(seeds, row.get("seeds", {}).get(f, ()))}
        line |= {"fits": worked(row)[0]} if len(seeds) > 1 else {}
        writer.writerow(line)
    return text.getvalue()


def interval_of(row: Row, field: str) -> tuple[float, float] | None:
    """The 95 % interval of a number of a row, None where none is known."""
    ends, value = row.get(interval_key(field)), row.get(field)
    if value is None:
        return None
    if ends and None not in ends:
        return ends[0], ends[1]
    told = "bits_per_dim" if row.get("bits_per_dim") is not None else "nats"  # whose standard error a row states
    if field != told or row.get("stderr") is None:
        return None
    return value - 1.96 * row["stderr"], value + 1.96 * row["stderr"]


def worked(row: Row) -> tuple[int, int]:
    """How many fits of a row worked, and how many there were."""
    fits = row.get("fits")
    if fits is None:
        return (0 if row.get("error") else 1), 1
    return sum(not fit["error"] for fit in fits), len(fits)
