"""Columns: what one column of a table is, and how its values become numbers and come back.

    text, category dtype     category (K codes), binary where K = 2
    numbers, few distinct    ordinal: the whole grid low .. high where a quarter of it occurs, else the values seen
    numbers, many            real at the resolution of the decimals in use; 0 (a density) only at full precision
    dates                    real, in days or seconds since 1970

Offers `Column` (JSON types only, so that it lives in `Space.meta`), `infer`, `to_numbers`, `to_values`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pofx.kinds._frames import MISSING
from pofx.kinds.base import Variable

if TYPE_CHECKING:
    import pandas as pd

TYPES = ("real", "integer", "bounded", "ordinal", "category", "binary")
LEVELS = 1000  # of a category or of a list of values seen; beyond, a softmax learns little of each
GRID = 512  # levels of an ordinal whose range has gaps
ATOMS = 32  # distinct values of a column with decimals that still are a list rather than a measurement
DIGITS = 15  # significant decimal digits that float64 always keeps
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


@dataclass(frozen=True)
class Inferred:
    """A column, its variable (None where it is not learnt), its numbers (NaN where missing), and a note in words."""

    column: Column
    variable: Variable | None
    numbers: Array
    note: str


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


def infer(values: pd.Series, kind: str | tuple[Any, ...] | None = None, resolution: float | None = None) -> Inferred:
    """Decide what a column is.

    Args:
        values: one column of the user's frame.
        kind: one of `TYPES`, or ("bounded", low, high); None decides by the values.
        resolution: of a real column; None decides by the decimals in use.

    Raises:
        ValueError: infinite numbers, values that are neither numbers, words nor dates, or too many categories.
    """
    missing = is_missing(values)
    seen = values[~missing]
    column = _column(values, seen, kind)
    if column.form == "blank":
        return Inferred(column, None, np.full(len(values), np.nan), "never observed: not learnt, comes back missing")
    if column.form == "text":
        return _as_codes(column, values, missing, kind)
    numbers = np.full(len(values), np.nan)
    numbers[~missing] = raw_numbers(seen, column)
    variable, note = _number_variable(column, numbers[~missing], kind, resolution)
    return Inferred(column, variable, to_codes(numbers, variable), note)


def _column(values: pd.Series, seen: pd.Series, kind: str | tuple[Any, ...] | None) -> Column:
    import pandas as pd

    key, dtype = values.name, values.dtype
    key = key.item() if isinstance(key, np.generic) else key
    if not isinstance(key, (str, int, float, bool)):
        raise ValueError(f"a column is named {key!r}, a {type(key).__name__}; name it by a word.")  # noqa: TRY004
    if len(seen) == 0:
        return Column(key, str(dtype), "blank")
    if isinstance(dtype, pd.CategoricalDtype):
        kept = tuple(_plain(c) for c in dtype.categories)
        return Column(key, "category", "text", categories=kept, ordered=bool(dtype.ordered))
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return Column(key, str(dtype), "date", unit=_date_unit(seen))
    if pd.api.types.is_bool_dtype(dtype):
        return Column(key, str(dtype), "text")
    if pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype):
        return Column(key, str(dtype), "text" if kind in ("category", "binary") else "number")
    if is_text(values):
        return Column(key, str(dtype), _form_of_objects(values, seen, kind))
    raise ValueError(f"column {key!r} has dtype {dtype}; expected numbers, words, booleans or dates (or drop it).")


def _form_of_objects(values: pd.Series, seen: pd.Series, kind: str | tuple[Any, ...] | None) -> str:
    types = {type(v) for v in seen}
    if kind in ("category", "binary"):
        return "text"
    if all(issubclass(t, (int, float, np.number)) and not issubclass(t, (bool, np.bool_)) for t in types):
        return "number"
    if not all(issubclass(t, (str, bool, int, float, np.generic)) for t in types):
        bad = next(t for t in types if not issubclass(t, (str, bool, int, float, np.generic)))
        raise ValueError(f"column {values.name!r} holds values of type {bad.__name__}; expected numbers or words.")
    marked = len(seen) + int(values.isna().sum()) < len(values)  # a "?" made text of a column of numbers
    asked = kind in ("real", "integer", "bounded", "ordinal") or isinstance(kind, tuple)
    return "number" if (marked or asked) and all(_number(v) is not None for v in seen) else "text"


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
        found = [_number(v) for v in seen]
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


def _as_codes(column: Column, values: pd.Series, missing: Array, kind: str | tuple[Any, ...] | None) -> Inferred:
    seen = [_plain(v) for v in values[~missing]]
    words = _levels_of(column, seen, kind)
    if words is None:
        note = f"{len(seen)} distinct words, one for each row: dropped (an identifier); types='category' keeps it"
        return Inferred(column, None, np.full(len(values), np.nan), note)
    if len(words) > LEVELS:
        raise ValueError(
            f"column {column.key!r} has {len(words)} distinct words; at most {LEVELS} can be learnt. "
            f"Leave it out with drop=[{column.key!r}], or merge the rare ones."
        )
    ordinal = column.ordered or kind == "ordinal"
    support = "ordinal" if ordinal else "binary" if len(words) == 2 else "category"
    variable = Variable(str(column.key), support, len(words), words)
    codes = look_up(values, missing, variable)
    share = np.bincount(codes[~missing].astype(int), minlength=len(words)).max() / len(seen)
    note = f"{support}, {len(words)} levels" if len(words) > 1 else f"constant ({words[0]!r}), one level"
    note += f", the commonest holds {share:.1%}" if len(words) > 1 else ""
    return Inferred(column, _centred(variable, codes[~missing]), codes, note)


def _levels_of(column: Column, seen: list[Any], kind: str | tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    distinct = set(seen)
    if column.categories is not None:
        return tuple(c for c in column.categories if column.ordered or c in distinct)
    if kind is None and len(distinct) == len(seen) > 20 and all(isinstance(v, str) for v in distinct):
        return None
    try:
        return tuple(sorted(distinct))
    except TypeError:
        return tuple(sorted(distinct, key=lambda v: (type(v).__name__, str(v))))


def _number_variable(
    column: Column, seen: Array, kind: str | tuple[Any, ...] | None, resolution: float | None
) -> tuple[Variable, str]:
    name = str(column.key)
    word = kind[0] if isinstance(kind, tuple) else kind
    digits = 6 if column.dtype.lower() == "float32" else 3 if column.dtype == "float16" else DIGITS
    step = step_of(seen, digits)
    levels = None if word in ("real", "integer", "bounded") or column.form == "date" else _levels(seen, step, word)
    if levels is not None:
        plain = Variable(name, "binary" if len(levels) == 2 else "ordinal", len(levels), levels)
        v = _centred(plain, to_codes(seen, plain))
        return v, _levels_note(v, seen)
    r = step if resolution is None else resolution
    whole = bool((seen == np.rint(seen)).all()) and (word == "integer" or "int" in column.dtype.lower() or r >= 1)
    if word == "integer" and not (seen == np.rint(seen)).all():
        raise ValueError(f"column {name!r}: types says integer, but it holds {seen[seen != np.rint(seen)][0]:g}.")
    low, high = _range(name, seen, kind, r)
    r, atom = _spike(seen, r) if resolution is None and low is None and not whole else (r, "")
    spread, size = float(seen.std()), max(1.0, abs(float(seen.mean())))
    v = Variable(
        name, "real" if low is None else "bounded", low=low, high=high, resolution=float(r), integer=whole,
        mean=float(seen.mean()), scale=spread if spread > 1e-12 * size else float(r or 1.0),
    )  # fmt: skip
    kind_word = "integer" if whole else v.support
    unit = f", {column.unit} since 1970" if column.unit else ""
    return v, f"{kind_word}{unit}, {_rounding(v.resolution)}, {seen.min():g}..{seen.max():g}{atom}"


def _rounding(r: float) -> str:
    return f"resolution {r:g}" if r else "full precision, a density"


def _levels_note(v: Variable, seen: Array) -> str:
    if v.levels == 1:
        return f"constant ({seen[0]:g}), one level"
    low, high = v.values[0], v.values[-1]  # type: ignore[index]
    if v.levels == 2:
        return f"binary, {low:g} or {high:g}"
    gaps = np.diff(np.array(v.values, dtype=np.float64))
    which = f"every {gaps[0]:g} from" if np.allclose(gaps, gaps[0]) else "the values seen,"
    return f"ordinal, {v.levels} levels: {which} {low:g} to {high:g}"


def _levels(seen: Array, step: float, word: str | None) -> tuple[Any, ...] | None:
    """The levels of an ordinal: the whole grid, or the values seen; None for a real column."""
    distinct = np.unique(seen)
    if len(distinct) <= 2:
        return _pythons(distinct)
    whole, asked = bool((distinct == np.rint(distinct)).all()), word == "ordinal"
    few = len(distinct) <= len(seen) / 20
    grid = step_of(distinct - distinct[0], DIGITS) if whole else _common_step(distinct, step)
    count = round((distinct[-1] - distinct[0]) / grid) + 1 if grid else math.inf
    dense = len(distinct) >= count / 4
    if dense and count <= GRID and (whole or few or asked):
        return _pythons(np.round(distinct[0] + grid * np.arange(count), decimals_of(step)))
    if asked and len(distinct) > LEVELS:
        raise ValueError(f"types says ordinal, but there are {len(distinct)} distinct values; at most {LEVELS}.")
    rare = few and not dense and len(distinct) <= (LEVELS if whole else ATOMS)
    return _pythons(distinct) if rare or asked else None


def _common_step(distinct: Array, step: float) -> float:
    # in whole multiples of the step, since differences of decimals are inexact
    return step * step_of(np.rint((distinct - distinct[0]) / step)) if step else 0.0


def _pythons(levels: Array) -> tuple[Any, ...]:
    whole = bool((levels == np.rint(levels)).all())
    return tuple(int(v) if whole else float(v) for v in levels)


def step_of(seen: Array, digits: int = DIGITS) -> float:
    """The largest step of which all numbers are multiples; 0 where they use their full precision.

    >>> step_of(np.array([0.25, 1.5, -2.0]))
    0.25
    """
    top = float(np.abs(seen).max()) if len(seen) else 0.0
    for decimals in range(13):
        # beyond the digits that the dtype keeps, every number is a multiple of something
        if top * 10.0**decimals >= 10.0**digits:
            return 0.0
        rounded = np.round(seen, decimals)
        if (rounded == seen).all() or (digits < DIGITS and np.allclose(rounded, seen, rtol=10.0**-digits / 4, atol=0)):
            whole = np.rint(rounded * 10.0**decimals).astype(np.int64)
            divisor = int(np.gcd.reduce(np.abs(whole))) or 1
            return float(divisor / 10**decimals)
    return 0.0


def decimals_of(step: float) -> int:
    """The decimals that a multiple of a step needs.

    >>> decimals_of(0.25), decimals_of(10.0)
    (2, 0)
    """
    return next((d for d in range(16) if abs(round(step, d) - step) <= 1e-9 * step), 16) if step else 16


def _spike(seen: Array, r: float) -> tuple[float, str]:
    spread = max(float(seen.std()), 1e-12)
    if r > 1e-6 * spread or len(seen) < 20:
        return r, ""
    values, counts = np.unique(seen, return_counts=True)
    share = counts.max() / len(seen)
    if share < 0.02 or counts.max() < 5:
        return r, ""
    r = 10.0 ** math.floor(math.log10(spread) - 2)
    return (
        r,
        f"; {values[counts.argmax()]:g} alone holds {share:.1%}, so it is learnt rounded, as a probability",
    )


def _range(name: str, seen: Array, kind: str | tuple[Any, ...] | None, r: float) -> tuple[float | None, float | None]:
    if kind != "bounded" and not isinstance(kind, tuple):
        return None, None
    low, high = (float(kind[1]), float(kind[2])) if isinstance(kind, tuple) else (0.0, 1.0)
    inside = (seen >= low) & (seen <= high) if r else (seen > low) & (seen < high)
    if not inside.all():
        raise ValueError(
            f"column {name!r}: got {seen[~inside][0]:g}, which is not between the bounds {low:g} and {high:g}; "
            f"types={{{name!r}: ('bounded', low, high)}} states others."
        )
    return low, high


def _centred(v: Variable, codes: Array) -> Variable:
    return replace(v, mean=float(codes.mean()), scale=max(float(codes.std()), 0.25))


def _date_unit(seen: pd.Series) -> str:
    return "days" if (seen == seen.dt.normalize()).all() else "seconds"


def _number(value: Any) -> float | None:
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return value.strip() if isinstance(value, str) else value


def _some(values: tuple[Any, ...] | None) -> str:
    shown = [f"{v:g}" if isinstance(v, float) else repr(v) for v in values or ()]
    return ", ".join(shown) if len(shown) <= 12 else ", ".join([*shown[:8], "...", shown[-1]])
