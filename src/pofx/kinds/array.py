"""Array: vectors of real numbers, (N, D), as densities.

Reads NumPy arrays, torch tensors, lists and npy files; NaN is missing. Whole-number columns with few values become
ordinal, since a density of a spike would win every comparison; `types="real"` keeps them real.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.kinds._arrays import is_arrays, load_arrays, main_array
from pofx.kinds._infer import spread_of
from pofx.kinds.base import Kind, Raw, Space, Variable, numbered


class Array(Kind):
    """Vectors: one row is one x."""

    name = "array"
    endings = (".npy", ".csv")

    def reads(self, source: object) -> bool:
        if isinstance(source, Path):
            return is_arrays(source)
        if isinstance(source, (list, tuple)):
            return bool(source) and not isinstance(source[0], (str, bytes))
        return isinstance(source, (np.ndarray, Tensor))

    def read(self, source: Any, given: tuple[str, ...] = (), types: str | None = None) -> Raw:
        """Rows `(N, D)` from an array or an npy file.

        Raises:
            ValueError: not two axes, no rows, text, or infinite numbers.
        """
        if types not in (None, "real"):
            raise ValueError(f"types is {types!r}; an array takes types='real' or nothing (a DataFrame takes more).")
        if isinstance(source, Path):
            source = main_array(load_arrays(source, "rows of numbers (N, D)"))
        x, dtype = _matrix(source), str(getattr(source, "dtype", "float64")).removeprefix("torch.")
        observed = torch.isfinite(x)
        variables: list[Variable] = []
        notes: list[str] = []
        for j in range(x.shape[1]):
            variables.append(_variable(f"x{j}", x[:, j][observed[:, j]], dtype, types, notes))
        codes = x.clone()
        for j, v in enumerate(variables):
            if v.discrete:
                codes[:, j] -= float(v.values[0])  # type: ignore[index]
            # what stands under a missing entry is never read; the mean keeps it harmless
            codes[~observed[:, j], j] = 0.0 if v.discrete else v.mean
        space = Space((x.shape[1],), tuple(variables), "vector", "array", "float64")
        return Raw(codes, space, observed=None if observed.all() else observed, notes=tuple(notes))

    def encode(self, rows: Any, space: Space) -> tuple[Tensor, Tensor]:
        x = _matrix(rows)
        if x.shape[1] != space.size:
            raise ValueError(f"got rows with {x.shape[1]} numbers, expected {space.size} as in the training data.")
        observed = torch.isfinite(x)
        x = x.clone()
        for j in range(space.size):
            v = space.variable(j)
            x[~observed[:, j], j] = 0.0 if v.discrete else v.mean
            if v.discrete:
                x[:, j] = _codes(x[:, j], observed[:, j], v)
        return x, observed

    def restore(self, x: Tensor, space: Space) -> np.ndarray:
        out = x.detach().cpu().double().clone()
        for j in range(space.size):
            v = space.variable(j)
            if v.discrete and v.values:
                out[..., j] += float(v.values[0])
        return out.numpy()

    def complete(self, rows: Any, x: Tensor, observed: Tensor, space: Space) -> np.ndarray:
        out = np.array(_matrix(rows).numpy(), copy=True)
        hole = ~observed.cpu().numpy()
        out[hole] = self.restore(x, space)[hole]
        return out

    def blank(self, rows: Any, observed: Tensor, space: Space) -> np.ndarray:
        return np.where(observed.cpu().numpy(), rows, np.nan)

    def write(self, rows: Any, path: str | Path, space: Space) -> list[Path]:
        """Rows as one npy or CSV file (without names, a line each)."""
        (out,), x = numbered(path, 1, self.endings), _matrix(rows).numpy()
        np.save(out, x) if out.suffix.lower() == ".npy" else np.savetxt(out, x, delimiter=",")
        return [out]

    def draw(self, axes: Any, x: Tensor, space: Space) -> None:
        values = self.restore(x, space)
        if values.shape[1] == 1:
            axes.hist(values[:, 0], bins=60, density=True)
        else:
            axes.scatter(values[:, 0], values[:, 1], s=3, alpha=0.4, linewidths=0)
            axes.set_xlabel(space.variable(0).name)
            axes.set_ylabel(space.variable(1).name)


def _matrix(source: Any) -> Tensor:
    try:
        array = np.asarray(source.detach().cpu() if isinstance(source, Tensor) else source, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"got rows that are ragged or not numbers ({error}); expected an array (N, D).") from error
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"got an array of shape {array.shape}; expected (N, D) with at least one row and one column "
            "(pictures are arrays of bytes, uint8)."
        )
    if np.isinf(array).any():
        row, column = np.argwhere(np.isinf(array))[0]
        raise ValueError(
            f"got inf at row {row}, column {column}; expected finite numbers, or NaN where one is missing."
        )
    return torch.from_numpy(array.copy())


def _variable(name: str, seen: Tensor, dtype: str, types: str | None, notes: list[str]) -> Variable:
    if not len(seen):
        raise ValueError(f"column {name} has no observed value; drop it, since nothing can be learnt of it.")
    mean, scale = float(seen.mean()), float(seen.std(unbiased=False))
    low, high = float(seen.min()), float(seen.max())
    whole = bool((seen == seen.round()).all()) and high - low < min(256, max(2, len(seen) // 10))
    if low == high:
        notes.append(f"{name}: constant ({low:g}); learnt as one level, with probability 1")
    elif types == "real" or not whole:
        return Variable(name, mean=mean, scale=spread_of(scale, low, high, dtype))
    else:
        notes.append(f"{name}: whole numbers {low:g}..{high:g}, ordinal (types='real' keeps a density)")
    levels = 1 if low == high else int(high - low) + 1
    values = (low,) if low == high else tuple(low + k for k in range(levels))
    return Variable(name, "ordinal", levels, values, mean=mean - low, scale=max(scale, 0.25))


def _codes(x: Tensor, observed: Tensor, v: Variable) -> Tensor:
    code = torch.where(observed, x - float(v.values[0]), torch.zeros_like(x))  # type: ignore[index]
    bad = observed & ((code != code.round()) | (code < 0) | (code >= v.levels))
    if bad.any():
        got = float(x[bad][0])
        raise ValueError(
            f"column {v.name}: got {got:g}, which was not among the {v.levels} levels of the training data."
        )
    return code
