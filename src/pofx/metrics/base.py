"""What a judgement is: a number with its interval, its number of rows and its direction.

    low, high = quantiles of fn(rows drawn with replacement)          (bootstrap, Efron 1979)
    low, high = mean +- t_{n-1} s / sqrt(n)                           (t interval)
    low, high = (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)    (Wilson 1927)

Offers `Metric`, `bootstrap`, `paired_difference`, and the small helpers that every file of this folder shares.
Nothing is fitted. An interval covers the noise of the rows that are resampled, not the bias of a finite N:
each function states that bias in its own words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import torch

from pofx.randomness import Rng

Array = np.ndarray[Any, Any]
ArrayLike = np.ndarray[Any, Any] | torch.Tensor | Sequence[Any]
RngSource = Rng | torch.Generator | int | None
Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Metric:
    """One judged number.

    Attributes: `value` with its interval `low`..`high` (95 % unless asked otherwise, NaN where none is known),
    `n` rows behind it, which direction is `better`, and a `note` on how to read it.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    better: Better
    note: str = ""

    def __str__(self) -> str:
        return (
            f"{self.name} = {self.value:.4g} [{self.low:.4g}, {self.high:.4g}] (n = {self.n}, {self.better} is better)"
        )


def bootstrap(
    fn: Callable[..., float],
    arrays: Sequence[Array],
    rng: RngSource = None,
    draws: int = 200,
    level: float = 0.95,
    centred: bool = False,
) -> tuple[float, float]:
    """Interval of `fn(*arrays)` from rows drawn with replacement (Efron 1979).

    Args:
        fn: takes arrays like `arrays`, returns a float.
        arrays: each is resampled over its first axis; arrays of paired rows belong into one array.
        centred: fn(*arrays) +- z * (standard deviation of the draws) instead of their quantiles. For distances,
            which grow when rows repeat, the quantiles alone can lie wholly above the value.

    Bias in N: too narrow by about 1/(2N) of its width; useless below some ten rows.
    """
    rng = Rng(rng)
    values = np.array([fn(*[a[_rows(len(a), rng)] for a in arrays]) for _ in range(draws)])
    if centred:
        return normal_interval(float(fn(*arrays)), float(values.std(ddof=1)), level)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(a: ArrayLike, b: ArrayLike, level: float = 0.95, name: str = "mean of a - b") -> Metric:
    """Mean of a - b over rows that both judged, with Student's t interval (a negative value: a is lower).

    Bias in N: none in the value; the interval assumes a near-normal mean, so fewer than ten rows need care.

    Raises:
        ValueError: shapes differ, or fewer than two rows.
    """
    a, b = vector(a, "a"), vector(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"paired_difference: got {len(a)} and {len(b)} rows; expected the same rows for both.")
    return mean_metric(
        name, a - b, better="lower", level=level, note="paired by row; 0 inside the interval: no difference"
    )


def mean_metric(name: str, values: Array, better: Better, level: float = 0.95, note: str = "") -> Metric:
    """Mean of per-row values with Student's t interval. Raises ValueError below two rows. Unbiased in N."""
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        raise ValueError(f"{name}: got {n} rows; expected at least 2 for an interval.")
    half = float(stdtrit(n - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(n))
    mean = float(values.mean())
    return Metric(name, mean, mean - half, mean + half, n, better, note)


def proportion(name: str, hits: float, n: float, better: Better, level: float = 0.95, note: str = "") -> Metric:
    """hits / n with Wilson's interval (1927), which does not collapse at 0 and 1. Unbiased in N."""
    if n < 1:
        raise ValueError(f"{name}: got no rows; expected at least 1.")
    p, z = hits / n, z_of(level)
    middle, half = p + z**2 / (2 * n), z * np.sqrt(max(p * (1 - p), 0.0) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return Metric(
        name, p, float(min(p, (middle - half) / scale)), float(max(p, (middle + half) / scale)), round(n), better, note
    )


def normal_interval(value: float, error: float, level: float = 0.95) -> tuple[float, float]:
    """value +- z error."""
    return value - z_of(level) * error, value + z_of(level) * error


def z_of(level: float) -> float:
    """The two-sided normal quantile, 1.96 at 0.95. Raises ValueError outside (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}; expected a number between 0 and 1, such as 0.95.")
    return NormalDist().inv_cdf((1 + level) / 2)


def matrix(x: ArrayLike, name: str = "x") -> Array:
    """x as float64 rows (N, D), events flattened. Raises ValueError on NaN, infinities or no rows."""
    a = to_numpy(x).astype(np.float64, copy=False)
    a = a.reshape(len(a), -1) if a.ndim else a.reshape(0, 0)
    if a.shape[0] == 0 or not np.isfinite(a).all():
        raise ValueError(
            f"{name}: got shape {a.shape} with NaN or no rows; expected finite rows (N, D): complete them first."
        )
    return a


def vector(x: ArrayLike, name: str = "x") -> Array:
    """x as finite float64 numbers (N,). Raises ValueError otherwise."""
    a = to_numpy(x).astype(np.float64, copy=False).reshape(-1)
    if not np.isfinite(a).all():
        raise ValueError(
            f"{name}: got {int((~np.isfinite(a)).sum())} values that are not finite; expected finite numbers."
        )
    return a


def to_numpy(x: ArrayLike) -> Array:
    """A NumPy view of an array, a list or a tensor on any device."""
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def pair(real: ArrayLike, fake: ArrayLike) -> tuple[Array, Array]:
    """Both as float64 rows with the same number of columns. Raises ValueError otherwise."""
    a, b = matrix(real, "real"), matrix(fake, "fake")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"real has {a.shape[1]} columns, fake has {b.shape[1]}; expected the same features for both.")
    return a, b


def subset(x: Array, n: int, rng: Rng) -> Array:
    """n random rows of x, or x where it has no more than n."""
    return x if len(x) <= n else x[rng.permutation(len(x)).cpu().numpy()[:n]]


def chunks(n: int, columns: int, cells: int = 4_000_000) -> list[slice]:
    """Slices of 0..n so that a slice times `columns` holds about `cells` numbers."""
    step = max(1, cells // max(columns, 1))
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]


def _rows(n: int, rng: Rng) -> Array:
    return rng.integers(n, (n,)).cpu().numpy()
