"""Draw the pictures of docs/questions for sample, density, contribute and compress: each an answer's own `figure()`.

python docs/draw_questions.py [name ...]     without a name all; bundled data only, the same bytes every time
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

import pofx
from pofx.data import Data, open_data
from pofx.model import Model

OUT = Path(__file__).parent / "questions"


def digits() -> tuple[Model, Data]:
    """A mixture of the 8 x 8 digits, with 300 of them held out."""
    data = open_data("digits", test=300, valid=180, seed=0)
    return pofx.fit(data, "mixture", seed=0, threads=1, progress=False), data


def flowers() -> tuple[Model, Data]:
    """Trees of the iris table, with 25 flowers held out."""
    data = open_data("iris", test=25, valid=15, seed=0)
    return pofx.fit(data, "trees", seed=0, threads=1, progress=False), data


def sample() -> Any:
    """Digits that were never written."""
    return pofx.sample(digits()[0], 42, rng=0).figure()


def density() -> Any:
    """Held-out digits."""
    model, data = digits()
    return pofx.density(model, data.part("test").x).figure()


def contribute() -> Any:
    """Held-out flowers, of which two were written down wrongly."""
    model, data = flowers()
    rows: pd.DataFrame = data.restore(data.part("test").x[:12])
    rows.loc[3, "petal width (cm)"], rows.loc[7, "species"] = 2.3, rows["species"].iloc[0]
    return pofx.contribute(model, rows).figure()


def compress() -> Any:
    """Held-out digits as bytes."""
    model, data = digits()
    return pofx.compress(model, data.part("test").x).figure()


PICTURES: dict[str, Callable[[], Any]] = {f.__name__: f for f in (sample, density, contribute, compress)}


def main(names: list[str]) -> None:
    """Draw the named pictures, or all."""
    unknown = sorted(set(names) - set(PICTURES))
    if unknown:
        raise SystemExit(f"draw_questions: got {', '.join(unknown)}; expected some of {', '.join(PICTURES)}.")
    for name in names or PICTURES:
        PICTURES[name]().savefig(OUT / f"{name}.png", facecolor="white", dpi=110)


if __name__ == "__main__":
    main(sys.argv[1:])
