"""What the commands of cli_look read and write beside rows: labels, pairs of rows, measurements, codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pofx import cli_io as io


def with_label(model: Any, data: str, name: str) -> tuple[Any, Any]:
    """Rows to ask about, and one label each: a column of the table, or the label that other data brings.

    Raises:
        ValueError: there is no such column or label.
    """
    if model.space.kind == "table":
        frame = io.frame(data)
        if name not in frame:
            raise ValueError(f"--label {name}: {data} has the columns {list(frame)}; expected one of them.")
        own = {model.space.variable(i).name for i in range(model.space.size)}
        return (frame if name in own else frame.drop(columns=name)), frame[name].astype(str).to_numpy()
    from pofx.data import open_data

    found = open_data(data, given=[name], test=0, valid=0)
    return found.without_given(), found.given[name].numpy()


def pairs_of(model: Any, start: str, end: str | None, pairs: str) -> tuple[Any, Any]:
    """Rows to set out from, and as many to arrive at: of two files, or of one by number."""
    from pofx.tasks.base import rows_of

    x, observed = rows_of(model, io.rows(model, start))
    if not bool(observed.all()):
        raise ValueError(f"{start}: entries are missing; complete them first (pofx impute).")
    if end is not None:
        return x, rows_of(model, io.rows(model, end))[0]
    try:
        found = [tuple(int(k) for k in pair.split(":")) for pair in pairs.split(",")]
        one, other = zip(*found, strict=True)
    except ValueError:
        raise ValueError(f"--pairs: got {pairs!r}; expected numbers of rows, such as 0:1 or 0:7,3:9.") from None
    if not all(0 <= k < len(x) for k in (*one, *other)):
        raise ValueError(f"--pairs: got {pairs!r}; {start} has the rows 0 to {len(x) - 1}.")
    return x[list(one)], x[list(other)]


def simulated(model: Any, data: str, measure: Any, noise: float, seed: int) -> Any:
    """Whole rows, measured with noise: to see what a measurement takes away."""
    import torch

    from pofx.randomness import Rng
    from pofx.tasks.base import rows_of

    x, observed = rows_of(model, io.rows(model, data))
    if not bool(observed.all()):
        raise ValueError(f"--simulate: {data} has gaps; expected whole rows.")
    with torch.no_grad():
        y = measure(x.double())
    return y + noise * Rng(seed).normal(tuple(y.shape)).double()


def measured(data: str, measure: Any, space: Any) -> Any:
    """What was measured, `(N, *measured)`: an array, numbers of a CSV, or pictures.

    Rows with the shape of x itself are read through a mask: what it hides is not looked at.
    """
    import torch

    from pofx.data import find
    from pofx.engines.operators import Mask
    from pofx.kinds import KINDS
    from pofx.kinds._arrays import is_arrays, load_arrays, main_array

    path = find(data)
    if is_arrays(path):
        y = torch.from_numpy(main_array(load_arrays(path))).double()
    elif path.suffix.lower() == ".csv":
        y = torch.from_numpy(_numbers(path))
    else:
        y = KINDS["image"].read(path).x.double()
    whole = tuple(y.shape[1:]) == space.shape or tuple(y.shape[1:]) == space.shape[:-1] and space.shape[-1] == 1
    return measure(y.reshape(-1, *space.shape)) if isinstance(measure, Mask) and whole else y


def _numbers(path: Path) -> Any:
    import pandas as pd

    frame = pd.read_csv(path)
    words = [c for c in frame if not pd.api.types.is_numeric_dtype(frame[c])]
    if words or frame.isna().any().any():
        raise ValueError(f"{path}: expected numbers alone, a row for each measurement; see {words or 'its gaps'}.")
    return frame.to_numpy(dtype="float64")


def mask(source: str, shape: tuple[int, ...]) -> Any:
    """Which entries are known, `(*event)` bool: of a .npy file, or the white of a picture."""
    import numpy as np
    import torch

    from pofx.data import find
    from pofx.kinds import KINDS
    from pofx.kinds._arrays import is_arrays, load_arrays, main_array

    path = find(source)
    if is_arrays(path):
        found = torch.from_numpy(np.asarray(main_array(load_arrays(path))) != 0)
    else:
        found = KINDS["image"].read(path).x[0].double().mean(-1) > 127
    found = found[..., None] if tuple(found.shape) == shape[:-1] else found
    try:
        return found.expand(shape)
    except RuntimeError:
        raise ValueError(f"mask {source}: got shape {tuple(found.shape)}; expected {shape}, as one row.") from None


def table(out: Path | None, values: Any, names: list[str], spread: Any = None) -> None:
    """Write numbers (N, K) as CSV, their spread beside them."""
    if out is None:
        return
    named = {name: values[:, k] for k, name in enumerate(names)}
    if spread is not None:
        named |= {f"sd {name}": spread[:, k] for k, name in enumerate(names)}
    io.columns(out, named)
