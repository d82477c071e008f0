"""Columns: how one column of a user's table becomes numbers, and how numbers become that column again.

Offers `Column` (JSON types only, so that it lives in `Space.meta`), `is_missing`, `raw_numbers`, `to_codes`, `look_up`
and `to_values`. What a column is, is decided in `_infer.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pofx.kinds._frames import MISSING
from pofx.kinds.base import Variable

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Column:
    """How a column comes back: its key and dtype in the user's frame, and what its numbers mean.

    Args:
        key: the column's label in the frame.
        dtype: the pandas dtype, as a word.
        form: "number", "date", "text" (values are looked up as they are) or "blank" (never observed, not learnt).
        unit: "days" or "seconds" of a date.
        categories: all categories of a category dtype.
        ordered: whether those are ordered.
    """

    key: Any
    dtype: str
    form: str
    unit: str = ""
    categories: tuple[Any, ...] | None = None
    ordered: bool = False

    def to_json(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self) | {"categories": None if self.categories is None else list(self.categories)}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Column:
        """The column of a saved JSON object."""
        categories = saved["categories"]
        return cls(**{**saved, "categories": None if categories is None else tuple(categories)})


def is_missing(values: pd.Series) -> Array:
    """Which cells are missing: NaN, None, NaT, and the words that stand for them."""
    missing = values.isna().to_numpy(dtype=bool)
    if not is_text(values):
        return missing
    return missing | np.array([isinstance(v, str) and v.strip() in MISSING for v in values], dtype=bool)


def is_text(values: pd.Series) -> bool:
    """Whether a column may hold words."""
    import pandas as pd

    return not isinstance(values.dtype, pd.CategoricalDtype) and (
        values.dtype == object or pd.api.types.is_string_dtype(values.dtype)
    )


def raw_numbers(seen: pd.Series, column: Column) -> Array:
    """The observed cells of a numeric or date column as float64, in the units of its variable."""
    import pandas as pd

    if column.form == "date":
        stamps = pd.to_datetime(seen, utc=True, errors="coerce")
        if stamps.isna().any():
            raise ValueError(f"column {column.key!r}: got {seen[stamps.isna()].iloc[0]!r} where a date should be.")
        nanoseconds = stamps.dt.as_unit("ns").astype("int64").to_numpy()
        return nanoseconds / (86400e9 if column.unit == "days" else 1e9)
    if is_text(seen):
        found = [parse_number(v) for v in seen]
        bad = next((v for v, f in zip(seen, found, strict=True) if f is None), None)
        if bad is not None:
            raise ValueError(f"column {column.key!r}: got {bad!r} where a number should be.")
        numbers = np.array(found, dtype=np.float64)
    elif not pd.api.types.is_numeric_dtype(seen.dtype):
        raise ValueError(f"column {column.key!r}: got values of dtype {seen.dtype} where numbers should be.")
    else:
        numbers = seen.to_numpy(dtype=np.float64)
    if np.isinf(numbers).any():
        row = seen.index[np.isinf(numbers)][0]
        raise ValueError(f"column {column.key!r}, row {row!r}: got inf; expected finite numbers, or NaN for missing.")
    return numbers


def to_codes(numbers: Array, v: Variable) -> Array:
    """Numbers (NaN where missing) as x: the code of the level, or the multiple of the resolution."""
    if not v.discrete:
        return to_grid(numbers, v.resolution)
    levels = np.array(v.values, dtype=np.float64)
    right = np.searchsorted(levels, numbers).clip(1, max(len(levels) - 1, 1))
    left = right - 1
    code = (
        np.where(numbers - levels[left] <= levels[right % len(levels)] - numbers, left, right)
        if len(levels) > 1
        else left
    )
    gap = np.diff(levels).min() if len(levels) > 1 else max(1.0, abs(levels[0]))
    seen = ~np.isnan(numbers)
    bad = seen & (np.abs(numbers - levels[code]) > 1e-4 * gap)
    if bad.any():
        raise ValueError(
            f"column {v.name!r}: got {numbers[bad][0]:g}, which is not among its {len(levels)} levels "
            f"({_some(v.values)}); types={{{v.name!r}: 'real'}} learns a column that may take new values."
        )
    return np.where(seen, code.astype(np.float64), np.nan)


def look_up(values: pd.Series, missing: Array, v: Variable) -> Array:
    """Words as codes, NaN where missing; ValueError for a word that was not in the training data."""
    code = {value: float(k) for k, value in enumerate(v.values or ())}
    numbers = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        if missing[i]:
            continue
        word = value.strip() if isinstance(value, str) and value not in code else value
        if word not in code:
            raise ValueError(f"column {v.name!r}: got {word!r}, which is unknown; it takes {_some(v.values)}.")
        numbers[i] = code[word]
    return numbers


def to_values(x: Array, column: Column, v: Variable | None, length: int) -> pd.Series:
    """x `(N,)` of one column as the user's own values and dtype."""
    import pandas as pd

    if v is None:
        return _cast(pd.Series([None] * length, dtype=object), column)
    if column.form == "text":
        code = np.rint(x).astype(int).clip(0, v.levels - 1)
        return _cast(pd.Series([v.values[k] for k in code], dtype=object), column)  # type: ignore[index]
    if v.discrete:
        numbers = np.array(v.values, dtype=np.float64)[np.rint(x).astype(int).clip(0, v.levels - 1)]
    else:
        numbers = to_grid(x, v.resolution)
    if column.form == "date":
        return _dates(numbers, column)
    return _cast(pd.Series(numbers), column)


def _cast(values: pd.Series, column: Column) -> pd.Series:
    import pandas as pd

    if column.dtype == "category":
        return values.astype(pd.CategoricalDtype(list(column.categories or ()), ordered=column.ordered))
    dtype = pd.api.types.pandas_dtype(column.dtype)
    if values.isna().all() and pd.api.types.is_float_dtype(dtype):
        return pd.Series(np.nan, index=values.index, dtype=dtype)
    if pd.api.types.is_integer_dtype(dtype) and values.dtype != object:
        bounds = np.iinfo(getattr(dtype, "numpy_dtype", dtype))
        # the largest float64 below 2^63 is 1024 less
        return values.round().clip(float(bounds.min), np.nextafter(float(bounds.max), 0)).astype("int64").astype(dtype)
    if column.form == "number" and isinstance(dtype, pd.StringDtype):
        return values.map(lambda n: f"{n:g}").astype(dtype)  # numbers that came as words
    return values.astype(dtype)


def _dates(numbers: Array, column: Column) -> pd.Series:
    import pandas as pd

    scale = 86400e9 if column.unit == "days" else 1e9
    stamps = pd.Series(pd.to_datetime(np.rint(numbers * scale).clip(-9.2e18, 9.2e18).astype("int64"), unit="ns"))
    dtype = pd.api.types.pandas_dtype(column.dtype)
    zone = getattr(dtype, "tz", None)
    return stamps.astype(dtype) if zone is None else stamps.dt.tz_localize("UTC").astype(dtype)


def to_grid(numbers: Array, step: float) -> Array:
    """The nearest multiples of a step, as one would write them (k * 0.1 is 0.30000000000000004); 0 leaves all.

    >>> float(to_grid(np.array(0.3000001), 0.1))
    0.3
    """
    return numbers if step == 0 else np.round(np.rint(numbers / step) * step, decimals_of(step))


def decimals_of(step: float) -> int:
    """The decimals that a multiple of a step needs.

    >>> decimals_of(0.25), decimals_of(10.0)
    (2, 0)
    """
    return next((d for d in range(16) if abs(round(step, d) - step) <= 1e-9 * step), 16) if step else 16


def parse_number(value: Any) -> float | None:
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return value.strip() if isinstance(value, str) else value


def _some(values: tuple[Any, ...] | None) -> str:
    shown = [f"{v:g}" if isinstance(v, float) else repr(v) for v in values or ()]
    return ", ".join(shown) if len(shown) <= 12 else ", ".join([*shown[:8], "...", shown[-1]])
