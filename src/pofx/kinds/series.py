"""Series: windows of numbers in time, (L, C): L steps of C channels, as densities in the channels' own units.

    x = (y_{s+1}, ..., y_{s+L}),  y_t in R^C            a window; what is missing, or not there, is masked
    log p(x, T) = log p(alive_1 .. alive_L) + log p(y_1 .. y_T)      where lengths differ: alive_t = 1 while it lasts

Reads CSV and Parquet files, .ts files, frames (with a time index), arrays (T, C) of one series, (N, L, C) of many, and
lists of arrays of unequal lengths. One series is cut into windows and split in its order. Time features of a window's
first step (hour, weekday, month, ...), the label of a series, and the steps before the window (`ahead=`) are givens.
Forecasting is conditioning on the observed past (`forecast`), filling gaps is `impute`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.kinds._infer import spread_of
from pofx.kinds._timed import Timed, as_timed, features_of, from_ts, from_wide, is_ts
from pofx.kinds.base import Kind, Raw, Space, Variable, numbered

FEW = 20  # different values of a channel up to which a note warns that it hardly is a density
WINDOW = 48  # steps, where none are asked for


class Series(Kind):
    """Series: one window, or one whole series, is one x."""

    name = "series"
    layout = "sequence"
    endings = (".csv", ".parquet")
    trivial = "last"
    measures = True

    def reads(self, source: object) -> bool:
        if isinstance(source, Path):
            return is_ts(source)
        if isinstance(source, np.ndarray):
            return source.ndim == 3 and source.dtype.kind == "f"
        if isinstance(source, (list, tuple)):
            return bool(source) and all(isinstance(r, np.ndarray) and r.ndim == 2 for r in source)
        return _timed_index(source)

    def read(
        self,
        source: Any,
        given: tuple[str, ...] = (),
        length: int | None = None,
        stride: int = 1,
        ahead: int | None = None,
        channels: Sequence[Any] | None = None,
        time: str | None = None,
        resolution: float | Mapping[Any, float] = 0.0,
        shift: float = 0.0,
        seed: int = 0,
    ) -> Raw:
        """Windows `(N, L, C)`, float64.

        Args:
            source: a CSV, Parquet or .ts file, a frame, an array (T,), (T, C) or (N, L, C), or a list of
                arrays (T_i, C).
            given: "past" (with `ahead`), "label" (of a .ts file), and "hour", "weekday", "day", "month" or "minute" of
                a window's first step, where time is known.
            length: L, steps of a window; None: 48 for one series, the longest for many.
            stride: from one window to the next.
            ahead: x is only the last so many steps of a window, and the steps before are the given "past".
            channels: which columns; None: all numbers.
            time: the column that says when; None: the frame's time index, or the first column of dates.
            resolution: the rounding of the channels, or channel -> rounding; 0: densities.
            shift: each window is moved by a normal level of so many spreads, a channel at a time: then what is learnt
                does not depend on the level, as for series that drift. Densities are of the moved windows.
            seed: of the shift.

        Raises:
            ValueError: nothing there, no numbers, infinite ones, unequal channels, too short; the message says which.
        """
        many = _series_of(source, channels, time)
        x, observed, start, notes, times = _cut(many, length, stride)
        names, alive = many[0].channels, any(len(s.x) != len(many[0].x) for s in many) and len(x) == len(many)
        x = _moved(x, observed, shift, seed) if shift else x
        moments = [_moments(x[..., c], observed[..., c], str(names[c])) for c in range(len(names))]
        notes += _few(x, observed, names)
        known = _label(many, len(x)) | features_of(times, [g for g in given if g not in ("past", "label")])
        x = np.where(observed, x, np.array([m for m, _ in moments]))
        meta = {"channels": list(names), "type": many[0].form, "alive": alive, "length": x.shape[1]}
        steps = dict.fromkeys(names, resolution) if not isinstance(resolution, Mapping) else resolution
        variables = [
            _variable(str(n), m, s, float(steps.get(n, 0.0))) for n, (m, s) in zip(names, moments, strict=True)
        ]
        if ahead is not None:
            known["past"] = _past(x, observed, ahead, variables)
            x, observed = x[:, -ahead:], observed[:, -ahead:]
            meta["before"] = meta["length"] - ahead
        if alive:
            x, observed = _with_alive(x, observed, [len(s.x) for s in many])
        space = _space(x.shape[1:], variables, alive, meta)
        missing = [g for g in given if g not in known]
        if missing:
            raise ValueError(f"given {missing}: these series have {sorted(known) or 'none'}; 'past' needs ahead=.")
        mask = None if observed.all() else torch.from_numpy(observed)
        values, spaces = {k: v for k, (v, _) in known.items()}, {k: s for k, (_, s) in known.items()}
        return Raw(torch.from_numpy(x), space, values, spaces, mask, tuple(notes), start)

    def encode(self, rows: Any, space: Space) -> tuple[Tensor, Tensor]:
        x, observed = (np.concatenate(parts) for parts in zip(*[w for _, w in self._windows(rows, space)], strict=True))
        return torch.from_numpy(x), torch.from_numpy(observed)

    def past(self, rows: Any, space: Space, ahead: int | None = None) -> tuple[Tensor, Tensor]:
        """The end of each series as the beginning of a window, of which the last `ahead` steps are missing.

        With `ahead=None` half a window is. A series that is shorter has its first steps missing, too.
        """
        many, length = _known(rows, space), space.shape[0]
        ahead = length // 2 if ahead is None else ahead
        if not 1 <= ahead < length:
            raise ValueError(f"ahead is {ahead}; a window has {length} steps, so expected 1 to {length - 1}.")
        x = np.full((len(many), length, len(space.meta["channels"])), np.nan)
        for row, series in zip(x, many, strict=True):
            kept = series.x[-(length - ahead) :]
            row[length - ahead - len(kept) : length - ahead] = kept
        if space.meta["alive"]:
            raise ValueError("series of unequal lengths have no common beginning; fit windows of equal ones (length=).")
        observed = np.isfinite(x)
        return torch.from_numpy(np.where(observed, x, _means(space))), torch.from_numpy(observed)

    def before(self, rows: Any, space: Space) -> Tensor:
        """The last steps of each series as the given "past", `(N, P, C)`, for a model that was fitted `ahead`."""
        want = int(space.meta["before"])
        many = _known(rows, space)
        short = next((k for k, s in enumerate(many) if len(s.x) < want or not np.isfinite(s.x[-want:]).all()), None)
        if short is not None:
            raise ValueError(f"series {short}: expected at least {want} steps without gaps before the forecast.")
        return torch.from_numpy(np.stack([s.x[-want:] for s in many]))

    def rows(self, source: Any, space: Space) -> Any:
        """The series of a file, as frames or arrays."""
        many = _series_of(source, space.meta["channels"] if not is_ts(Path(source)) else None, None)
        return many[0].user if len(many) == 1 else [s.user for s in many]

    def restore(self, x: Tensor, space: Space) -> Any:
        values = x.detach().cpu().double().numpy()
        if space.meta["alive"]:
            steps = [int((w[:, -1] > 0.5).cumprod().sum()) for w in values]
            return [w[:n, :-1] for w, n in zip(values, steps, strict=True)]
        form = space.meta["type"]
        if form == "flat":
            return values[..., 0]
        return values if form in ("array", "list") else [_frame(w, space) for w in values]

    def future(self, x: Tensor, rows: Any, space: Space) -> Any:
        """Steps `(N, H, C)` that follow the user's series, in their own type; a frame's time goes on."""
        many, values = _known(rows, space), x.detach().cpu().double().numpy()
        return _as_given([s.after(v) for s, v in zip(many, values, strict=True)], rows, space)

    def complete(self, rows: Any, x: Tensor, observed: Tensor, space: Space) -> Any:
        channels, k, out = len(space.meta["channels"]), 0, []
        drawn = x.detach().cpu().double().numpy()[..., :channels]
        for series, (windows, _) in self._windows(rows, space):
            filled = series.x.copy()
            for w, at in enumerate(_starts(len(filled), space.shape[0])):
                part = filled[at : at + space.shape[0]]
                fresh = drawn[k + w][-len(part) :] if at == 0 and not space.meta["alive"] else drawn[k + w][: len(part)]
                part[np.isnan(part)] = fresh[np.isnan(part)]
            k += len(windows)
            out.append(series.like(filled))
        return _as_given(out, rows, space)

    def blank(self, rows: Any, observed: Tensor, space: Space) -> Any:
        if not isinstance(rows, np.ndarray) or rows.ndim != 3:
            raise ValueError("series: gaps are marked in an array (N, L, C); write NaN into frames yourself.")
        return np.where(observed.cpu().numpy(), rows, np.nan)

    def write(self, rows: Any, path: str | Path, space: Space) -> list[Path]:
        """Series as one CSV or Parquet table: a line a step, with its "series" and "step" before the channels."""
        import pandas as pd

        (out,), many = numbered(path, 1, self.endings), _known(rows, space)
        names = [str(c) for c in space.meta["channels"]]
        parts = [pd.DataFrame(s.x, columns=names) for s in many]
        for k, part in enumerate(parts):
            part.insert(0, "series", k)
            part.insert(1, "step", range(len(part)))
        table = pd.concat(parts, ignore_index=True)
        table.to_csv(out, index=False) if out.suffix.lower() == ".csv" else table.to_parquet(out)
        return [out]

    def draw(self, axes: Any, x: Tensor, space: Space) -> None:
        """The first windows of the first four channels, one strip for each."""
        values, names = x.double().cpu().numpy(), [str(c) for c in space.meta["channels"]][:4]
        axes.set_axis_off()
        for c, name in enumerate(names):
            height = 1 / len(names)
            small = axes.inset_axes((0.06, 1 - (c + 0.88) * height, 0.92, 0.72 * height))
            small.plot(values[:12, :, c].T, lw=0.8, alpha=0.7)
            small.set_title(name, fontsize=7, pad=2)
            small.tick_params(labelsize=6, length=2)

    def _windows(self, rows: Any, space: Space) -> list[tuple[Timed, tuple[np.ndarray, np.ndarray]]]:
        """Each series of the user's with its windows side by side and their masks; the last one reaches to the end."""
        length, alive, found = space.shape[0], space.meta["alive"], []
        for series in _known(rows, space):
            steps = len(series.x)
            if alive and steps > length:
                raise ValueError(f"got a series of {steps} steps; the longest that the model knows has {length}.")
            starts = _starts(steps, length)
            x = np.full((len(starts), length, series.x.shape[1]), np.nan)
            for w, at in zip(x, starts, strict=True):
                part = series.x[at : at + length]
                w[: len(part) if alive else None][-len(part) :] = part
            observed = np.isfinite(x)
            means = _means(space)[..., :-1] if alive else _means(space)
            x = np.where(observed, x, means)
            found.append((series, _with_alive(x, observed, [steps]) if alive else (x, observed)))
        return found


def _timed_index(source: object) -> bool:
    import sys

    pandas = sys.modules.get("pandas")  # whoever holds a frame has imported pandas
    if pandas is None or not isinstance(source, (pandas.DataFrame, pandas.Series)):
        return False
    return isinstance(source.index, (pandas.DatetimeIndex, pandas.PeriodIndex))


def _series_of(source: Any, channels: Sequence[Any] | None, time: str | None) -> list[Timed]:
    if isinstance(source, (str, Path)):
        path = Path(source)
        return from_ts(path) if is_ts(path) else [from_wide(path, channels, time)]
    many = as_timed(source, channels, time)
    widths = {len(s.channels) for s in many}
    if len(widths) > 1:
        raise ValueError(f"got series of {sorted(widths)} channels; expected the same channels in each.")
    return many


def _known(rows: Any, space: Space) -> list[Timed]:
    """The user's series, with the channels that the model knows.

    Raises:
        ValueError: other channels.
    """
    names = space.meta["channels"]
    if isinstance(rows, np.ndarray) and rows.ndim == 2 and space.meta["type"] == "flat":
        rows = rows[..., None]
    many = as_timed(rows, names if _named(rows) else None, None)
    for k, series in enumerate(many):
        if len(series.channels) != len(names):
            raise ValueError(f"series {k} has {len(series.channels)} channels; the model knows {len(names)}: {names}.")
    return many


def _named(rows: Any) -> bool:
    one = rows[0] if isinstance(rows, (list, tuple)) and len(rows) else rows
    return hasattr(one, "columns")


def _starts(steps: int, length: int) -> list[int]:
    """Where windows side by side begin; the last one ends at the end."""
    return [*range(0, steps - length, length), steps - length] if steps > length else [0]


def _cut(
    many: list[Timed], length: int | None, stride: int
) -> tuple[np.ndarray, np.ndarray, Tensor | None, list[str], list[Any]]:
    """Windows `(N, L, C)` with their masks, where each starts (None: each is a series of its own), notes and times."""
    if stride < 1 or (length is not None and length < 1):
        raise ValueError(f"length is {length} and stride is {stride}; expected at least 1.")
    longest = max(len(s.x) for s in many)
    if len(many) > 1 and (length is None or length >= longest):
        if length is not None and length > longest:
            raise ValueError(f"length is {length}; the longest of {len(many)} series has {longest} steps.")
        x = np.full((len(many), longest, many[0].x.shape[1]), np.nan)
        for row, s in zip(x, many, strict=True):
            row[: len(s.x)] = s.x
        return x, np.isfinite(x), None, [f"{len(many)} series of {longest} steps at most"], [s.time(0) for s in many]
    length, parts, starts, times, before, short = length or WINDOW, [], [], [], 0, 0
    for s in many:
        if len(s.x) < length:
            short, before = short + 1, before + len(s.x)
            continue
        at = np.arange(0, len(s.x) - length + 1, stride)
        parts.append(np.lib.stride_tricks.sliding_window_view(s.x, length, axis=0)[at].swapaxes(1, 2))
        starts.append(at + before)
        times += [s.time(int(k)) for k in at]
        before += len(s.x)
    if not parts:
        raise ValueError(f"the longest series has {longest} steps; a window of {length} needs as many: say length=.")
    notes = [f"{sum(map(len, parts))} windows of {length} steps, {stride} apart, split in their order"]
    notes += [f"{short} series are shorter than a window and left out"] if short else []
    x = np.ascontiguousarray(np.concatenate(parts))
    return x, np.isfinite(x), torch.from_numpy(np.concatenate(starts)), notes, times


def _moved(x: np.ndarray, observed: np.ndarray, shift: float, seed: int) -> np.ndarray:
    spread = np.nanstd(np.where(observed, x, np.nan), axis=(0, 1))
    levels = np.random.default_rng(seed).standard_normal((len(x), 1, x.shape[2]))
    return x + shift * spread * levels


def _moments(x: np.ndarray, observed: np.ndarray, name: str) -> tuple[float, float]:
    seen = x[observed]
    if not len(seen):
        raise ValueError(f"channel {name!r} is never observed; leave it out by channels=.")
    spread = spread_of(float(seen.std()), float(seen.min()), float(seen.max()), str(seen.dtype))
    return float(seen.mean()), spread or 1.0


def _few(x: np.ndarray, observed: np.ndarray, names: Sequence[Any]) -> list[str]:
    counts = {n: len(np.unique(x[..., c][observed[..., c]])) for c, n in enumerate(names)}
    few = [str(n) for n, k in counts.items() if k <= FEW]
    shares = {str(n): 1 - observed[..., c].mean() for c, n in enumerate(names)}
    notes = [f"{n}: {share:.1%} missing" for n, share in shares.items() if share]
    if not few:
        return notes
    return [*notes, f"{', '.join(few)}: at most {FEW} different values; resolution= makes masses of densities"]


def _label(many: list[Timed], rows: int) -> dict[str, tuple[Tensor, Space]]:
    labels = [s.label for s in many]
    if rows != len(many) or any(v is None for v in labels):
        return {}
    words, codes = np.unique(np.array(labels), return_inverse=True)
    v = Variable("label", "binary" if len(words) == 2 else "category", len(words), tuple(w.item() for w in words))
    return {"label": (torch.from_numpy(codes.astype(np.int64)), Space((), (v,), dtype="int64"))}


def _past(x: np.ndarray, observed: np.ndarray, ahead: int, variables: list[Variable]) -> tuple[Tensor, Space]:
    if not 1 <= ahead < x.shape[1]:
        raise ValueError(f"ahead is {ahead}; a window has {x.shape[1]} steps, so expected 1 to {x.shape[1] - 1}.")
    past = x[:, :-ahead]
    if not observed[:, :-ahead].all():
        raise ValueError("the past has gaps, and a given must be known; fit without ahead= (forecast conditions then).")
    return torch.from_numpy(past.copy()), Space(past.shape[1:], tuple(variables * past.shape[1]), "sequence")


def _variable(name: str, mean: float, scale: float, resolution: float) -> Variable:
    return Variable(name, mean=mean, scale=scale, resolution=resolution)


def _space(shape: tuple[int, ...], variables: list[Variable], alive: bool, meta: dict[str, Any]) -> Space:
    if len(variables) == 1 and not alive:
        return Space(shape, tuple(variables), "sequence", "series", "float64", meta)
    from dataclasses import replace

    more = [Variable("alive", "binary", 2)] if alive else []
    each = [replace(v, name=f"{v.name}[{t}]") for t in range(shape[0]) for v in (*variables, *more)]
    return Space(shape, tuple(each), "sequence", "series", "float64", meta)


def _with_alive(x: np.ndarray, observed: np.ndarray, lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    there = np.arange(x.shape[1])[None] < np.array(lengths)[:, None]
    x = np.concatenate([x, there[..., None].astype(float)], -1)
    return x, np.concatenate([observed, np.ones_like(there)[..., None]], -1)


def _means(space: Space) -> np.ndarray:
    means = [space.variable(i).mean for i in range(space.size)]
    return np.array(means).reshape(space.shape)


def _frame(values: np.ndarray, space: Space) -> Any:
    import pandas as pd

    return pd.DataFrame(values, columns=space.meta["channels"])


def _as_given(done: list[Any], rows: Any, space: Space) -> Any:
    if isinstance(rows, np.ndarray) and (rows.ndim == 3 or (rows.ndim == 2 and space.meta["type"] == "flat")):
        return np.stack(done)
    return type(rows)(done) if isinstance(rows, (list, tuple)) else done[0]
