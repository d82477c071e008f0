"""Table: rows of mixed columns, (N, D), one variable for each column.

Reads data frames, lists of dicts, CSV, TSV, white-space and Parquet files; NaN, None, "", "?" and "NA" are missing.
What each column is, is decided by its values, stated in a note, and can be said instead:
`types={"age": "real"}`, `resolution={"height": 0.1}`, `drop=["id"]`. Rows come back as a DataFrame with the user's
column order, dtypes and words. `_infer.py` holds the rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pofx.kinds._columns import Column, is_missing, look_up, raw_numbers, to_codes, to_grid, to_values
from pofx.kinds._frames import is_table_file, read_frame
from pofx.kinds._infer import TYPES, Inferred, infer
from pofx.kinds.base import Kind, Raw, Space, Variable, numbered

if TYPE_CHECKING:
    import pandas as pd

Types = Mapping[Any, str | tuple[Any, ...]]


class Table(Kind):
    """Rows of a table: one row is one x."""

    name = "table"
    endings = (".csv", ".parquet")

    def reads(self, source: object) -> bool:
        if isinstance(source, Path):
            return is_table_file(source)
        dicts = isinstance(source, (list, tuple)) and bool(source) and all(isinstance(r, Mapping) for r in source)
        return dicts or isinstance(source, Mapping) or _is_frame(source)

    def read(
        self,
        source: Any,
        given: tuple[str, ...] = (),
        types: Types | None = None,
        resolution: Mapping[Any, float] | None = None,
        drop: Sequence[Any] = (),
        names: Sequence[str] | None = None,
        header: bool | None = None,
        separator: str | None = None,
        encoding: str = "utf-8-sig",
    ) -> Raw:
        """Rows `(N, D)` of a frame or file, float64; categories and ordinals as codes.

        Args:
            source: a DataFrame, a list of dicts, a dict of columns, or the path of a CSV, TSV, text or Parquet file.
            given: columns that x is given; they leave x.
            types: column -> "real", "integer", "bounded" (between 0 and 1), ("bounded", low, high), "ordinal",
                "category" or "binary".
            resolution: column -> its rounding, in its own units; 0 makes it a density.
            drop: columns to leave out.
            names, header, separator, encoding: of a text file, see `read_frame`.

        Raises:
            ValueError: the file is damaged or ragged, a column is named twice or unknown, holds infinite numbers or
                too many words, or nothing is left to learn; the message names the column or the line.
        """
        frame, notes = _frame_of(source, tuple(names) if names else None, header, separator, encoding)
        if not len(frame):
            where = f"{source} has" if isinstance(source, Path) else "got"
            raise ValueError(f"{where} a table of {frame.shape[1]} columns without a row; expected at least one.")
        frame = _without(frame, drop)
        types, resolution = _overrides(frame, types, resolution)
        _known(frame, given, "given")
        parts = {key: _infer(frame[key], types.get(key), resolution.get(key)) for key in frame.columns}
        notes += [_note(part) for part in parts.values()]
        learnt = [p for key, p in parts.items() if key not in given]
        x, observed, space = _stack(learnt)
        givens = {str(key): _given(parts[key]) for key in given}
        return Raw(
            x,
            space,
            {k: v for k, (v, _) in givens.items()},
            {k: s for k, (_, s) in givens.items()},
            None if observed.all() else observed,
            tuple(notes),
        )

    def encode(self, rows: Any, space: Space) -> tuple[Tensor, Tensor]:
        frame = _to_frame(rows)
        pairs = _pairs(space)
        absent = [c.key for c, _ in pairs if c.key not in frame.columns]
        if absent:
            raise ValueError(f"the rows have no column {absent}; expected {[c.key for c, _ in pairs]}.")
        columns = [_encode_column(frame[c.key], c, v) for c, v in pairs]
        numbers = torch.from_numpy(np.stack(columns, 1)) if len(frame) else torch.zeros(0, len(pairs)).double()
        observed = ~numbers.isnan()
        return torch.where(observed, numbers, _fill(space.variables)), observed

    def restore(self, x: Tensor, space: Space) -> pd.DataFrame:
        import pandas as pd

        values = x.detach().cpu().double().reshape(-1, space.size).numpy()
        entry, series = 0, {}
        for saved in space.meta["columns"]:
            column = Column.from_json(saved)
            if column.form == "blank":
                series[column.key] = to_values(values[:, 0], column, None, len(values))
            else:
                series[column.key] = to_values(values[:, entry], column, space.variables[entry], len(values))
                entry += 1
        return pd.DataFrame(series, index=pd.RangeIndex(len(values)))

    def complete(self, rows: Any, x: Tensor, observed: Tensor, space: Space) -> Any:
        frame = _to_frame(rows)
        out, values, hole = frame.copy(), self.restore(x, space), ~observed.cpu().reshape(-1, space.size).numpy()
        for j, (column, _) in enumerate(_pairs(space)):
            if hole[:, j].any():
                out[column.key] = _filled(out[column.key], values[column.key], hole[:, j])
        return _as_given(out, rows)

    def blank(self, rows: Any, observed: Tensor, space: Space) -> Any:
        out, hole = rows.copy(), ~observed.cpu().reshape(-1, space.size).numpy()
        for j, (column, _) in enumerate(_pairs(space)):
            if hole[:, j].any():
                out[column.key] = out[column.key].mask(hole[:, j])
        return out

    def write(self, rows: Any, path: str | Path, space: Space) -> list[Path]:
        """Rows as one CSV or Parquet file."""
        (out,), frame = numbered(path, 1, self.endings), _to_frame(rows)
        frame.to_csv(out, index=False) if out.suffix.lower() == ".csv" else frame.to_parquet(out)
        return [out]

    def draw(self, axes: Any, x: Tensor, space: Space) -> None:
        """Histograms of the first six columns."""
        columns = _pairs(space)[:6]
        width, rows = min(3, len(columns)), -(-len(columns) // 3)
        axes.set_axis_off()
        for j, (column, v) in enumerate(columns):
            left, top = (j % width) / width, 1 - (j // width) / rows
            box = (left + 0.02, top - 0.82 / rows, 0.94 / width, 0.66 / rows)
            small = axes.inset_axes(box)
            _histogram(small, x[:, j].double().cpu().numpy(), v)
            small.set_title(str(column.key), fontsize=7, pad=2)


def _histogram(axes: Any, x: np.ndarray, v: Variable) -> None:
    axes.tick_params(labelsize=6, length=2)
    axes.set_yticks([])
    if not v.discrete:
        axes.hist(x, bins=30, color="0.35")
        return
    counts = np.bincount(x.astype(int), minlength=v.levels)
    axes.bar(np.arange(v.levels), counts, color="0.35", width=0.9 if v.levels <= 40 else 1.0)
    shown = range(v.levels) if v.levels <= 4 else (0, v.levels - 1)
    axes.set_xticks(list(shown), [str((v.values or range(v.levels))[k])[:10] for k in shown])


def _is_frame(source: object) -> bool:
    import sys

    pandas = sys.modules.get("pandas")  # whoever holds a frame has imported pandas
    return pandas is not None and isinstance(source, pandas.DataFrame)


def _frame_of(
    source: Any, names: tuple[str, ...] | None, header: bool | None, separator: str | None, encoding: str
) -> tuple[pd.DataFrame, list[str]]:
    if isinstance(source, (str, Path)):
        frame, notes = read_frame(Path(source), names, header, separator, encoding)
        return _sharpened(frame), notes
    frame, notes = _to_frame(source), []
    if frame.shape[0] == 0 or frame.shape[1] == 0:
        raise ValueError(f"got a frame of shape {frame.shape}; expected at least one row and one column.")
    twice = list(frame.columns[frame.columns.duplicated()])
    if twice:
        raise ValueError(f"columns {twice} occur twice; every column needs a name of its own.")
    return frame, notes


def whole_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """What a text file cannot say: whole numbers with blanks are whole."""
    for key in frame.columns:
        column, seen = frame[key], frame[key].dropna()
        if column.dtype == np.float64 and 0 < len(seen) < len(column) and bool((seen == seen.round()).all()):
            frame[key] = column.astype("Int64") if seen.abs().max() < 2**53 else column
    return frame


def _sharpened(frame: pd.DataFrame) -> pd.DataFrame:
    """What a text file cannot say: whole numbers with blanks are whole, and ISO dates are dates."""
    import pandas as pd

    frame = whole_numbers(frame)
    for key in frame.columns:
        column, seen = frame[key], frame[key].dropna()
        if len(seen) and all(isinstance(w, str) for w in seen) and seen.str.match(r"\d{4}-\d{2}-\d{2}").all():
            dates = pd.to_datetime(column, errors="coerce", format="ISO8601")
            frame[key] = dates if dates.notna().sum() == len(seen) else column
    return frame


def _to_frame(rows: Any) -> pd.DataFrame:
    import pandas as pd

    if isinstance(rows, pd.DataFrame):
        return rows
    if isinstance(rows, pd.Series):
        return rows.to_frame().T.infer_objects()
    if isinstance(rows, Mapping):
        single = not any(isinstance(v, (list, tuple, np.ndarray, pd.Series)) for v in rows.values())
        return pd.DataFrame([dict(rows)] if single else dict(rows))
    if isinstance(rows, (list, tuple)) and all(isinstance(r, Mapping) for r in rows):
        return pd.DataFrame(list(rows))
    raise ValueError(f"got {type(rows).__name__}; expected a DataFrame, a Series, a dict or a list of dicts.")


def _as_given(frame: pd.DataFrame, rows: Any) -> Any:
    import pandas as pd

    if isinstance(rows, pd.Series):
        row = frame.iloc[0]
        row.name = rows.name
        return row
    if isinstance(rows, (list, tuple)):
        return frame.to_dict("records")
    if isinstance(rows, Mapping):
        single = not any(isinstance(v, (list, tuple, np.ndarray, pd.Series)) for v in rows.values())
        return frame.to_dict("records")[0] if single else frame.to_dict("list")
    return frame


def _filled(column: pd.Series, values: pd.Series, hole: np.ndarray) -> pd.Series:
    out, fresh = column.copy(), values[hole]
    fresh.index = out.index[hole]
    if out.dtype != fresh.dtype:
        # rows may hold a whole-number column as floats, since NaN is one
        fresh = fresh.astype(out.dtype) if not _needs_object(out, fresh) else fresh.astype(object)
    out = out.astype(object) if fresh.dtype == object and out.dtype != object else out
    out.iloc[np.flatnonzero(hole)] = fresh.to_numpy() if out.dtype == object else fresh.array
    return out


def _needs_object(column: pd.Series, fresh: pd.Series) -> bool:
    try:
        fresh.astype(column.dtype)
    except (TypeError, ValueError):
        return True
    return False


def _without(frame: pd.DataFrame, drop: Sequence[Any]) -> pd.DataFrame:
    _known(frame, drop, "drop")
    return frame.drop(columns=list(drop))


def _known(frame: pd.DataFrame, keys: Sequence[Any], what: str) -> None:
    if isinstance(keys, str):
        raise ValueError(f"{what} is {keys!r}; expected a list of columns, such as [{keys!r}].")  # noqa: TRY004
    unknown = [k for k in keys if k not in frame.columns]
    if unknown:
        raise ValueError(f"{what} names {unknown}; the table has the columns {list(frame.columns)}.")


def _overrides(
    frame: pd.DataFrame, types: Types | None, resolution: Mapping[Any, float] | None
) -> tuple[Types, Mapping[Any, float]]:
    types, resolution = dict(types or {}), dict(resolution or {})
    _known(frame, list(types), "types")
    _known(frame, list(resolution), "resolution")
    for key, kind in types.items():
        word = kind[0] if isinstance(kind, (tuple, list)) and len(kind) == 3 else kind
        if word not in TYPES or (word != kind and word != "bounded"):
            raise ValueError(f"types[{key!r}] is {kind!r}; expected one of {TYPES} or ('bounded', low, high).")
        types[key] = tuple(kind) if isinstance(kind, list) else kind
    bad = {k: r for k, r in resolution.items() if not (isinstance(r, (int, float)) and 0 <= r < float("inf"))}
    if bad:
        raise ValueError(f"resolution is {bad}; expected numbers >= 0, 0 for a density.")
    return types, resolution


def _infer(column: pd.Series, kind: str | tuple[Any, ...] | None, resolution: float | None) -> Inferred:
    return infer(column, "real" if kind is None and resolution is not None else kind, resolution)


def _note(part: Inferred) -> str:
    share = float(np.isnan(part.numbers).mean())
    missing = f"; {share:.1%} missing" if part.variable is not None and share else ""
    return f"{part.column.key}: {part.note}{missing}"


def _stack(parts: list[Inferred]) -> tuple[Tensor, Tensor, Space]:
    learnt = [p for p in parts if p.variable is not None]
    if not learnt:
        raise ValueError("no column is left to learn: all are dropped, given, identifiers or never observed.")
    variables = tuple(p.variable for p in learnt if p.variable is not None)
    numbers = torch.from_numpy(np.stack([p.numbers for p in learnt], 1))
    observed = ~numbers.isnan()
    # an identifier is dropped; a column that was never observed keeps its place
    kept = [p.column.to_json() for p in parts if p.variable is not None or p.column.form == "blank"]
    space = Space((len(variables),), variables, "vector", "table", "float64", {"columns": kept})
    return torch.where(observed, numbers, _fill(variables)), observed, space


def _fill(variables: tuple[Variable, ...]) -> Tensor:
    # what stands under a missing entry is never read; the mean keeps it harmless
    fill = [0.0 if v.discrete else float(to_grid(np.array(v.mean), v.resolution)) for v in variables]
    return torch.tensor(fill, dtype=torch.float64)


def _given(part: Inferred) -> tuple[Tensor, Space]:
    key, v = part.column.key, part.variable
    if v is None or np.isnan(part.numbers).any():
        raise ValueError(f"given {key!r} has missing cells; a given must be known in every row: drop or fill those.")
    values = torch.from_numpy(part.numbers)
    space = Space((), (v,), dtype="int64" if v.discrete else "float64", meta={"columns": [part.column.to_json()]})
    return (values.long() if v.discrete else values), space


def _pairs(space: Space) -> list[tuple[Column, Variable]]:
    columns = [Column.from_json(c) for c in space.meta["columns"]]
    return list(zip([c for c in columns if c.form != "blank"], space.variables, strict=True))


def _encode_column(values: pd.Series, column: Column, v: Variable) -> np.ndarray:
    missing = is_missing(values)
    if column.form == "text":
        return look_up(values, missing, v)
    numbers = np.full(len(values), np.nan)
    numbers[~missing] = raw_numbers(values[~missing], column)
    return to_codes(numbers, v)
