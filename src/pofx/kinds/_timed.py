"""Timed: one series as numbers (T, C) with what its user called them, from frames, arrays and files."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.kinds._frames import read_frame
from pofx.kinds.base import Space, Variable

FEATURES = {"minute": 60, "hour": 24, "weekday": 7, "day": 31, "month": 12}  # first: 0, but of day and month 1


@dataclass(frozen=True)
class Timed:
    """One series.

    Args:
        x: (T, C) float64, NaN where missing.
        channels: what the columns are called.
        form: "flat" (T,), "array" (T, C), "list" or "frame".
        index: when, one for each step, or None.
        label: of the whole series, or None.
        user: the user's own object, to be written into a copy of.
    """

    x: np.ndarray
    channels: tuple[Any, ...]
    form: str
    index: Any = None
    label: str | None = None
    user: Any = None

    def time(self, step: int) -> Any:
        """When a step was, or None."""
        return None if self.index is None else self.index[step]

    def after(self, x: np.ndarray) -> Any:
        """Numbers (H, C) that follow, in the user's own type, with the times that follow."""
        if self.form != "frame":
            return x[:, 0] if self.form == "flat" else x
        import pandas as pd

        index: Any = pd.RangeIndex(len(self.x), len(self.x) + len(x))
        if self.index is not None:
            freq = self.index.freq or _frequency(self.index)
            step = freq or (self.index[-1] - self.index[-2] if len(self.index) > 1 else None)
            if isinstance(self.index, pd.PeriodIndex):
                index = pd.period_range(self.index[-1] + 1, periods=len(x))
            elif step is not None:
                index = pd.date_range(self.index[-1], periods=len(x) + 1, freq=step)[1:]
        frame = pd.DataFrame(x, index=index, columns=list(self.channels))
        return frame if hasattr(self.user, "columns") else frame.iloc[:, 0]

    def like(self, x: np.ndarray) -> Any:
        """Numbers (T, C) in the user's own type."""
        if self.form != "frame":
            return x[:, 0] if self.form == "flat" else x
        out = self.user.copy()
        if not hasattr(out, "columns"):
            out.iloc[:] = x[:, 0]
            return out
        for c, name in enumerate(self.channels):
            hole = out[name].isna().to_numpy()
            if hole.any():
                own = out[name].to_numpy(dtype=np.float64, na_value=np.nan).copy()
                own[hole] = x[hole, c]
                out[name] = own
        return out


def _frequency(index: Any) -> Any:
    import warnings

    import pandas as pd

    with warnings.catch_warnings():  # of what a later pandas returns, which date_range takes as well
        warnings.simplefilter("ignore")
        return pd.infer_freq(index) if len(index) >= 3 else None


def as_timed(source: Any, channels: Sequence[Any] | None, time: str | None) -> list[Timed]:
    """Every series of a source.

    Raises:
        ValueError: it is none, is empty, or holds infinite numbers or words.
    """
    if isinstance(source, Tensor):
        source = source.detach().cpu().numpy()
    if isinstance(source, np.ndarray) and source.ndim == 3:
        return [_of_array(x, "array", f"series {k}") for k, x in enumerate(source)] or _nothing(source)
    if isinstance(source, (list, tuple)):
        if all(isinstance(v, (int, float)) for v in source):
            return [_of_array(np.array(source, dtype=np.float64), "flat", "series")]
        found = [one for part in source for one in as_timed(part, channels, time)]
        as_list = [
            Timed(s.x, s.channels, "list" if s.form == "array" else s.form, s.index, s.label, s.user) for s in found
        ]
        return as_list or _nothing(source)
    if hasattr(source, "index") and hasattr(source, "iloc"):
        return [of_frame(source, channels, time)]
    if not isinstance(source, np.ndarray):
        raise ValueError(f"got {type(source).__name__}; expected an array, a frame, or a list of them.")  # noqa: TRY004
    return [_of_array(source, "flat" if source.ndim == 1 else "array", "series")]


def of_frame(frame: Any, channels: Sequence[Any] | None, time: str | None) -> Timed:
    """A frame, in the order of its time."""
    import pandas as pd

    if isinstance(frame, pd.Series):
        return _timed(frame.to_numpy(np.float64, na_value=np.nan)[:, None], (frame.name or "x",), frame.index, frame)
    index = frame.index if isinstance(frame.index, (pd.DatetimeIndex, pd.PeriodIndex)) else None
    if time is not None and time not in frame.columns:
        raise ValueError(f"time is {time!r}; the frame has the columns {list(frame.columns)}.")
    column = time if time is not None else None if index is not None else _dates(frame)
    if column is not None:
        index = pd.DatetimeIndex(pd.to_datetime(frame[column], errors="raise", format="mixed"))
    numbers = [c for c in frame.columns if c != column and pd.api.types.is_numeric_dtype(frame[c])]
    chosen = list(channels) if channels is not None else numbers
    absent = [c for c in chosen if c not in frame.columns]
    words = [c for c in chosen if c not in absent and c not in numbers]
    if absent or words or not chosen:
        raise ValueError(f"channels {absent or words or 'none'}: expected columns of numbers among {numbers}.")
    x = np.stack([frame[c].to_numpy(np.float64, na_value=np.nan) for c in chosen], 1)
    return _timed(x, tuple(chosen), index, frame)


def _timed(x: np.ndarray, channels: tuple[Any, ...], index: Any, user: Any) -> Timed:
    _finite(x, "series")
    if index is not None and hasattr(index, "is_monotonic_increasing") and not index.is_monotonic_increasing:
        raise ValueError("the time goes back somewhere; sort the rows by time first.")
    return Timed(x, channels, "frame", index, None, user)


def _dates(frame: Any) -> Any:
    """The first column that holds dates, or None."""
    import pandas as pd

    for name in frame.columns[:3]:
        if pd.api.types.is_datetime64_any_dtype(frame[name]):
            return name
        seen = frame[name].dropna()
        if len(seen) and all(isinstance(w, str) for w in seen.iloc[:20]):
            pattern = r"\d{4}-\d{2}"
            return name if seen.str.match(pattern).all() else None
    return None


def _of_array(array: np.ndarray, form: str, where: str) -> Timed:
    try:
        x = np.asarray(array, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: got what is not numbers ({error}).") from error
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{where}: got an array of shape {np.shape(array)}; expected (T,) or (T, C), none of them 0.")
    _finite(x, where)
    return Timed(x, tuple(f"x{c}" for c in range(x.shape[1])), form, user=array)


def _finite(x: np.ndarray, where: str) -> None:
    if not x.size:
        raise ValueError(f"{where}: got no steps.")
    if np.isinf(x).any():
        step, channel = np.argwhere(np.isinf(x))[0]
        raise ValueError(f"{where}: got inf at step {step}, channel {channel}; expected finite numbers, or NaN.")


def _nothing(source: Any) -> list[Timed]:
    raise ValueError(f"got no series ({type(source).__name__} of length 0).")


def from_wide(path: Path, channels: Sequence[Any] | None, time: str | None) -> Timed:
    """A CSV or Parquet file, a column for each channel."""
    frame = read_frame(path)[0]
    return of_frame(frame, channels, time)


def is_ts(path: Path) -> bool:
    """Whether a path is a .ts file, as UEA and UCR have them."""
    return path.name.removesuffix(".gz").endswith(".ts")


def from_ts(path: Path) -> list[Timed]:
    """The series of a .ts file: a line each, channels between colons, the label last.

    Raises:
        ValueError: a damaged file, no series, a word among the numbers; the message names the line.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = raw.decode("utf-8").splitlines()
    except (EOFError, zlib.error, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or not text ({error}).") from error
    head = [line.strip().lower() for line in lines if line.startswith("@")]
    if "@data" not in head:
        raise ValueError(f"{path} has no line @data; expected a .ts file.")
    labelled = any(line.startswith("@classlabel true") for line in head)
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip() and line[0] not in "#@":
            found.append(_line(line, labelled, f"{path}, line {number}"))
    if not found:
        raise ValueError(f"{path} holds no series.")
    if len({s.x.shape[1] for s in found}) > 1:
        raise ValueError(f"{path}: its series have unequal numbers of channels.")
    return found


def _line(line: str, labelled: bool, where: str) -> Timed:
    *parts, label = line.strip().split(":") if labelled else [*line.strip().split(":"), None]
    try:
        channels = [[float("nan") if w.strip() == "?" else float(w) for w in part.split(",")] for part in parts if part]  # type: ignore[union-attr]
    except ValueError as error:
        raise ValueError(f"{where}: {error}.") from error
    if not channels or len({len(c) for c in channels}) > 1:
        raise ValueError(f"{where}: got channels of {[len(c) for c in channels]} steps; expected as many in each.")
    x = np.array(channels).T
    _finite(x, where)
    return Timed(x, tuple(f"x{c}" for c in range(x.shape[1])), "list", None, label, x)


def features_of(times: list[Any], names: Sequence[str]) -> dict[str, tuple[Tensor, Space]]:
    """What the clock says at the first step of each window, as categories: name -> (codes, Space)."""
    unknown = [n for n in names if n not in FEATURES]
    if unknown:
        raise ValueError(f"given {unknown}: expected 'past', 'label' or some of {', '.join(FEATURES)}.")
    if names and (not times or times[0] is None):
        raise ValueError(
            f"given {list(names)}: these series do not say when; give a frame with a time index, or time=."
        )
    found = {}
    for name in names:
        first = int(name in ("day", "month"))
        codes = torch.tensor([int(t.weekday() if name == "weekday" else getattr(t, name)) - first for t in times])
        values = tuple(range(first, FEATURES[name] + first))
        found[name] = (codes, Space((), (Variable(name, "category", FEATURES[name], values),), dtype="int64"))
    return found
