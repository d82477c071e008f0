"""What a column of a table is, decided by its values.

    text, category dtype     category (K codes), binary where K = 2
    numbers, few distinct    ordinal: the whole grid low .. high where a quarter of it occurs, else the values seen
    numbers, many            real at the resolution of the decimals in use; 0 (a density) only at full precision
    dates                    real, in days or seconds since 1970

Offers `infer`, `step_of`, `spread_of` and the names of the `TYPES` that a user may ask for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pofx.kinds._columns import (
    Array,
    Column,
    decimals_of,
    is_missing,
    is_text,
    look_up,
    parse_number,
    plain,
    raw_numbers,
    to_codes,
)  # fmt: skip
from pofx.kinds.base import Variable

if TYPE_CHECKING:
    import pandas as pd

TYPES = ("real", "integer", "bounded", "ordinal", "category", "binary")
LEVELS = 1000  # of a category or of a list of values seen; beyond, a softmax learns little of each
GRID = 512  # levels of an ordinal whose range has gaps
ATOMS = 32  # distinct values of a column with decimals that still are a list rather than a measurement
DIGITS = 15  # significant decimal digits that float64 always keeps
ROUNDING = {"float16": 2.0**-10, "float32": 2.0**-23}  # of a dtype, relative; of all others float64's


@dataclass(frozen=True)
class Inferred:
    """A column, its variable (None where it is not learnt), its numbers (NaN where missing), and a note in words."""

    column: Column
    variable: Variable | None
    numbers: Array
    note: str


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
        kept = tuple(plain(c) for c in dtype.categories)
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
    if kind in ("real", "integer", "bounded") or isinstance(kind, tuple):
        return "number"
    return "number" if (marked or kind == "ordinal") and all(parse_number(v) is not None for v in seen) else "text"


def _as_codes(column: Column, values: pd.Series, missing: Array, kind: str | tuple[Any, ...] | None) -> Inferred:
    seen = [plain(v) for v in values[~missing]]
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
    least, most = float(seen.min()), float(seen.max())
    spread = spread_of(float(seen.std()), least, most, column.dtype)
    r, atom = _spike(seen, r, spread) if resolution is None and low is None and not whole else (r, "")
    support = "real" if low is None else "bounded"
    if low is None and whole and r > 0 and least >= 0:
        low, atom = 0.0, ", never negative"
    v = Variable(
        name, support, low=low, high=high, resolution=float(r), integer=whole,
        mean=float(seen.mean()), scale=spread or float(r or 1.0),
    )  # fmt: skip
    kind_word = "integer" if whole else v.support
    unit = f", {column.unit} since 1970" if column.unit else ""
    return v, f"{kind_word}{unit}, {_rounding(v.resolution)}, {least:g}..{most:g}{atom}"


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


def spread_of(deviation: float, least: float, most: float, dtype: str) -> float:
    """A spread to standardise by, of numbers of a dtype between two ends: at least their rounding; 0 of a constant.

    >>> spread_of(1e-13, -3e-13, 3e-13, "float64"), spread_of(0.0, 7.0, 7.0, "float64")
    (1e-13, 0.0)
    """
    if least == most:
        return 0.0
    # the squares of numbers below 1e-160 are lost
    return max(deviation or most - least, ROUNDING.get(dtype.lower(), 2.0**-52) * max(abs(least), abs(most)))


def _spike(seen: Array, r: float, spread: float) -> tuple[float, str]:
    spread = spread or max(float(seen.std()), 1e-12)
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
