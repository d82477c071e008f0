"""Stream: many draws to a file, in memory that does not grow with their number.

Chunks are drawn one after the other, by one stream of random numbers, and written as they come: .csv, .parquet, .npy.
The file has its name only once it is whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pofx.files import TEMPORARY
from pofx.model import Model
from pofx.randomness import Rng
from pofx.tasks.base import Answer
from pofx.tasks.sample import sample

CHUNK = 50_000
Report = Callable[[int], None]


def sample_to(
    model: Model,
    n: int,
    path: str | Path,
    given: Mapping[str, Any] | None = None,
    *,
    known: Any = None,
    temperature: float = 1.0,
    truncation: float = 1.0,
    rng: Rng | torch.Generator | int | None = None,
    chunk: int = CHUNK,
    report: Report = lambda done: None,
) -> Path:
    """Draw n new x into a file.

    Args:
        model: fitted.
        n: how many.
        path: a name that ends in .csv, .parquet (tables) or .npy.
        given: name -> one value for all.
        known, temperature, truncation: as in `sample`.
        rng: a seed or generator; the same seed, n and chunk give the same file.
        chunk: draws that are held at a time.
        report: called with the number of rows written.

    Raises:
        ValueError: the name ends in something else, or a table is wanted and draws are none.
    """
    path, rng = Path(path), Rng(rng)
    if path.suffix.lower() not in WRITERS:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(WRITERS)}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{path.name}.{os.getpid()}")
    try:
        law = {"given": given, "known": known, "temperature": temperature, "truncation": truncation}
        draw = partial(sample, model, **law, rng=rng)
        WRITERS[path.suffix.lower()](temporary, n, _chunks(draw, n, chunk, report))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _chunks(draw: Callable[..., Answer], n: int, chunk: int, report: Report) -> Iterator[Any]:
    done = 0
    while done < n:
        rows = min(chunk, n - done)
        yield draw(n=rows).value
        done += rows
        report(done)


def _csv(path: Path, n: int, chunks: Iterator[Any]) -> None:
    with open(path, "w", newline="") as file:
        for k, rows in enumerate(chunks):
            if hasattr(rows, "to_csv"):
                rows.to_csv(file, index=False, header=k == 0)
            else:
                np.savetxt(file, np.asarray(rows).reshape(len(rows), -1), delimiter=",")


def _parquet(path: Path, n: int, chunks: Iterator[Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: Any = None
    try:
        for rows in chunks:
            if not hasattr(rows, "to_parquet"):
                raise ValueError(f"{path.suffix}: the draws are no table; write them as .npy.")  # noqa: TRY004
            table = pa.Table.from_pandas(rows, schema=writer.schema if writer else None, preserve_index=False)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _npy(path: Path, n: int, chunks: Iterator[Any]) -> None:
    out: Any = None
    done = 0
    for rows in chunks:
        array = np.asarray(rows)
        if out is None:
            out = np.lib.format.open_memmap(path, "w+", array.dtype, (n, *array.shape[1:]))
        out[done : done + len(array)] = array
        done += len(array)
    if out is not None:
        out.flush()


WRITERS: dict[str, Callable[[Path, int, Iterator[Any]], None]] = {".csv": _csv, ".parquet": _parquet, ".npy": _npy}
