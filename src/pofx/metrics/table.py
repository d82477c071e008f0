"""How alike two tables are, column by column and pair by pair: SDMetrics' definitions, as errors.

    shape, numerical     error = max_v |F_real(v) - F_fake(v)|                      (Kolmogorov-Smirnov)
    shape, categorical   error = 1/2 sum_v |p_real(v) - p_fake(v)|                  (total variation)
    trend, numerical     error = |rho_real - rho_fake| / 2                          (Pearson)
    trend, otherwise     error = 1/2 sum_{uv} |p_real(u, v) - p_fake(u, v)|         (numerical columns in 10 bins)

Offers `column_shapes`, `pair_trends`, `valid_values`. Nothing is fitted. Error = 1 - SDMetrics' score; the means are
unweighted, and pairs that are undefined (a constant numerical column) are left out and counted in the note. Blanks as
SDMetrics 0.32 has them: dropped in shapes, dropped by pair in correlations, a value of their own in contingency
tables. `missing="category"` counts them in categorical shapes too. SDMetrics' report bins real and fake *each by its
own* range (`edges="own"`, needed to meet published numbers); its metric, and ours, uses the real column's edges.
Numerical: numbers and dates. Categorical: everything else, booleans, and the columns named in `categorical`.

References: SDMetrics (DataCebo) ColumnShapes, ColumnPairTrends, KSComplement, TVComplement, ContingencySimilarity,
CorrelationSimilarity; used as "Shape" and "Trend" by Zhang 2024 arXiv:2310.09656.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np

from pofx.metrics.base import Array, Metric, RngSource, normal_interval, proportion
from pofx.randomness import Rng

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TableScore:
    """Mean error (or share) with its interval, and the error of each column, or of each pair named "a | b"."""

    mean: Metric
    parts: dict[str, float]

    @property
    def score(self) -> float:
        """SDMetrics' score, 1 - error."""
        return 1 - self.mean.value


@dataclass(frozen=True)
class _Column:
    """A column of both tables: numbers (NaN = blank) if numerical, and codes (0 = blank) in either case."""

    numerical: bool
    real: Array
    fake: Array


def column_shapes(
    real: pd.DataFrame,
    fake: pd.DataFrame,
    categorical: Collection[str] = (),
    missing: Literal["drop", "category"] = "drop",
    draws: int = 50,
    rng: RngSource = 0,
) -> TableScore:
    """Marginal errors of fake against real, in [0, 1]; the interval of the mean by bootstrap over rows of both tables.

    Bias in N: upwards. Under equality KS is about 0.87 sqrt(1/N + 1/M), TV about 0.4 sqrt((1/N + 1/M) K) for K even
    categories, never 0: judge against a second real table of the same size.

    Raises:
        ValueError: fake lacks a column of real, or a table is empty.
    """
    columns = _columns(real, fake, categorical)
    parts = {name: _shape(c, missing) for name, c in columns.items()}
    return _score("column shape error", parts, len(real), len(fake), draws, rng)


def pair_trends(
    real: pd.DataFrame,
    fake: pd.DataFrame,
    categorical: Collection[str] = (),
    edges: Literal["real", "own"] = "real",
    draws: int = 20,
    rng: RngSource = 0,
) -> TableScore:
    """Errors of pairwise trends of fake against real, in [0, 1]; parts are named "a | b".

    Bias in N: upwards; the contingency error grows as sqrt(cells / N), so columns with many values look worse than they
    are at small N, and correlations by about 0.4 sqrt(1/N + 1/M). Judge against a second real table of the same size.

    Raises:
        ValueError: fake lacks a column of real, a table is empty, or fewer than two columns.
    """
    columns = _columns(real, fake, categorical)
    if len(columns) < 2:
        raise ValueError(f"pair_trends: got {len(columns)} column; expected at least two.")
    binned = {name: _binned(c, edges) if c.numerical else c for name, c in columns.items()}
    parts = {}
    for a, b in combinations(columns, 2):
        both = columns[a].numerical and columns[b].numerical
        parts[f"{a} | {b}"] = _correlation(columns[a], columns[b]) if both else _contingency(binned[a], binned[b])
    return _score("pair trend error", parts, len(real), len(fake), draws, rng)


def valid_values(real: pd.DataFrame, fake: pd.DataFrame, categorical: Collection[str] = ()) -> TableScore:
    """Share of fake cells that could be real: known categories, whole numbers where real has only whole ones.

    Blanks are valid only in columns where real has blanks. `parts` holds the share of each column; mean is over all
    cells (Wilson's interval takes cells as independent).

    Bias in N: downwards while real is too small to show every category.

    Raises:
        ValueError: fake lacks a column of real, or a table is empty.
    """
    columns = _columns(real, fake, categorical)
    valid = {name: _valid(c) for name, c in columns.items()}
    hits, cells = sum(float(v.sum()) for v in valid.values()), len(fake) * len(columns)
    mean = proportion("valid values", hits, cells, "higher")
    return TableScore(mean, {name: float(v.mean()) for name, v in valid.items()})


# A part is a function of the rows: (rows of real, rows of fake) -> error, so one bootstrap serves them all.
_Part = Callable[[Array, Array], float]


def _score(name: str, parts: dict[str, _Part], n: int, m: int, draws: int, rng: RngSource) -> TableScore:
    rng = Rng(rng)
    values = {key: part(np.arange(n), np.arange(m)) for key, part in parts.items()}
    used = [key for key, value in values.items() if np.isfinite(value)]
    if not used:
        return TableScore(Metric(name, np.nan, np.nan, np.nan, m, "lower", "no part is defined"), values)
    mean = float(np.mean([values[key] for key in used]))
    resampled = [
        np.nanmean([parts[key](i, j) for key in used])
        for i, j in ((rng.integers(n, (n,)).cpu().numpy(), rng.integers(m, (m,)).cpu().numpy()) for _ in range(draws))
    ]
    error = float(np.std(resampled, ddof=1)) if draws > 1 else np.nan
    low, high = normal_interval(mean, error)
    note = f"{n} real, {m} fake rows; {len(used)} parts, {len(values) - len(used)} undefined"
    return TableScore(Metric(name, mean, max(low, 0.0), high, m, "lower", note), values)


def _columns(real: pd.DataFrame, fake: pd.DataFrame, categorical: Collection[str]) -> dict[str, _Column]:
    lacking = [c for c in real.columns if c not in fake.columns]
    if lacking or not len(real) or not len(fake):
        raise ValueError(
            f"got {len(real)} real, {len(fake)} fake rows, columns {lacking} lacking in fake; expected all of them."
        )
    return {str(c): _column(real[c], fake[c], c in categorical) for c in real.columns}


def _column(real: pd.Series, fake: pd.Series, categorical: bool) -> _Column:
    import pandas as pd

    kinds = pd.api.types
    dates = kinds.is_datetime64_any_dtype(real)
    if not categorical and (dates or (kinds.is_numeric_dtype(real) and not kinds.is_bool_dtype(real))):
        return _Column(True, _numbers(real, dates), _numbers(fake, dates))
    codes, _ = pd.factorize(pd.concat([_words(real), _words(fake)], ignore_index=True))
    return _Column(False, codes[: len(real)] + 1, codes[len(real) :] + 1)


def _numbers(column: pd.Series, dates: bool) -> Array:
    import pandas as pd

    if not dates:
        return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    stamps = pd.to_datetime(column)
    return np.where(
        stamps.isna(), np.nan, stamps.to_numpy().astype("datetime64[ns]").astype(np.int64).astype(np.float64)
    )


def _words(column: pd.Series) -> pd.Series:
    """Values as objects, numbers by value (1 and 1.0 are the same category), blanks as None."""
    values = column.astype(object)
    return values.where(column.notna(), None)


def _shape(c: _Column, missing: str) -> _Part:
    """KS and TV are both distances between counts of codes: of their running sums, or of themselves."""
    first = 0
    if c.numerical:
        grid, codes = np.unique(np.concatenate([c.real, c.fake]).round(14), return_inverse=True)
        codes = np.where(np.isnan(grid), 0, np.arange(1, len(grid) + 1))[codes.reshape(-1)]  # blanks get code 0
        a, b, first = codes[: len(c.real)], codes[len(c.real) :], 1
    else:
        a, b, first = c.real, c.fake, 1 if missing == "drop" else 0
    size = int(max(a.max(), b.max())) + 1

    def part(i: Array, j: Array) -> float:
        p, q = np.bincount(a[i], minlength=size)[first:], np.bincount(b[j], minlength=size)[first:]
        if not p.sum() or not q.sum():
            return np.nan
        gap = p / p.sum() - q / q.sum()
        return float(np.abs(np.cumsum(gap)).max() if c.numerical else np.abs(gap).sum() / 2)

    return part


def _correlation(a: _Column, b: _Column) -> _Part:
    def part(i: Array, j: Array) -> float:
        return abs(_pearson(a.real[i], b.real[i]) - _pearson(a.fake[j], b.fake[j])) / 2

    return part


def _pearson(u: Array, v: Array) -> float:
    both = np.isfinite(u) & np.isfinite(v)
    u, v = u[both], v[both]
    if len(u) < 2 or np.ptp(u) == 0 or np.ptp(v) == 0:
        return np.nan
    u, v = u - u.mean(), v - v.mean()
    return float((u @ v) / np.sqrt((u @ u) * (v @ v)))


def _binned(c: _Column, edges: str) -> _Column:
    """Ten equal bins; a blank gets np.digitize's last code (with real's open edges: a bin of its own)."""
    if not np.isfinite(c.real).any():
        return _Column(False, np.isnan(c.real).astype(int), np.isnan(c.fake).astype(int))
    of_real = np.histogram_bin_edges(c.real[np.isfinite(c.real)], bins=10)
    of_fake = of_real
    if edges == "own" and np.isfinite(c.fake).any():
        of_fake = np.histogram_bin_edges(c.fake[np.isfinite(c.fake)], bins=10)
    elif edges == "real":
        of_real[0], of_real[-1] = -np.inf, np.inf
    return _Column(False, np.digitize(c.real, of_real), np.digitize(c.fake, of_fake))


def _contingency(a: _Column, b: _Column) -> _Part:
    width = int(max(b.real.max(), b.fake.max())) + 1
    pairs = np.concatenate([a.real * width + b.real, a.fake * width + b.fake])
    cells, codes = np.unique(pairs, return_inverse=True)
    real, fake = codes.reshape(-1)[: len(a.real)], codes.reshape(-1)[len(a.real) :]

    def part(i: Array, j: Array) -> float:
        p, q = np.bincount(real[i], minlength=len(cells)), np.bincount(fake[j], minlength=len(cells))
        return float(np.abs(p / len(i) - q / len(j)).sum() / 2)

    return part


def _valid(c: _Column) -> Array:
    if not c.numerical:
        return np.isin(c.fake, c.real)  # code 0 is a blank, valid only where real has one
    blank = np.isnan(c.fake)
    known = c.real[np.isfinite(c.real)]
    whole = bool((known == np.round(known)).all())
    good = (not whole) | (c.fake == np.round(c.fake))
    return np.where(blank, np.isnan(c.real).any(), np.isfinite(c.fake) & good)
