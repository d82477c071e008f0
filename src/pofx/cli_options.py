"""Options that commands share, so that a word means the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
Route = Annotated[str | None, typer.Option(help="A route by name; default the best.")]
