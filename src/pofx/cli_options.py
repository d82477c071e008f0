"""Options that commands share, so that a word means the same everywhere, and numbers among them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]
Seed = Annotated[int, typer.Option(help="Of the split, the weights and the noise.")]
Given = Annotated[
    list[str] | None,
    typer.Option("--given", help="What x is given: a name; at asking name=value, or a column of the rows."),
]
Budget = Annotated[str, typer.Option(help='"60s", "5 min", "60 cpu s" or "500 steps".')]
Run = Annotated[Path, typer.Argument(help="The folder of a fitted model.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Where to write.")]
Own = Annotated[list[str] | None, typer.Option("--add", help="A family of your own, as path.py:Class.")]
Picture = Annotated[Path | None, typer.Option("--picture", help="Draw the answer into this file (.png, .svg, .pdf).")]
Route = Annotated[str | None, typer.Option(help="A route by name; default the best.")]
Kind = Annotated[
    str | None, typer.Option("--kind", help="What the data is, where a file could be read in several ways: series, ...")
]
Reading = Annotated[
    list[str] | None, typer.Option("--option", help="Of the reading, as name=value: --kind series --option length=48.")
]


def numbers(name: str, text: str, example: str) -> list[float]:
    """Numbers with commas between.

    Raises:
        ValueError: one is none, or there are none; says which option.
    """
    found = [number(name, part, f"numbers with commas between, such as {example}") for part in text.split(",")]
    return [float(one) for one in found]


def number(name: str, text: str, expected: str) -> int | float:
    """One number, whole where it is written so.

    Raises:
        ValueError: it is none; says which option, and what is expected.
    """
    try:
        found = int(text) if text.strip().isdigit() else float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{name}: got {text!r}; expected {expected}.")
    return found


def share(name: str, value: float | None) -> None:
    """Raise ValueError where a share is not from 0 to 1."""
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"{name}: got {value:g}; expected a share from 0 to 1, such as 0.05.")


def function(which: str) -> Any:
    """A function of the user's own, `path.py:name`.

    Raises:
        ValueError: there is no such file, or no such function in it.
    """
    from importlib.util import module_from_spec, spec_from_file_location

    path, _, name = which.rpartition(":")
    spec = spec_from_file_location(Path(path).stem, path) if Path(path).suffix == ".py" else None
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise ValueError(f"got {which!r}; expected file.py:function, of a file that is there.")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        raise ValueError(f"{path} holds no function named {name}.")  # noqa: TRY004 (a name)
    return getattr(module, name)
