"""fit: a Model and Data -> a fitted Model and its history.

    fit("digits", "flow")            fit(frame, budget="2 min")            fit(data, Flow(width=128), folder="runs/a")

A fit in a folder survives a kill: `fit(..., folder=..., resume=True)` goes on from the last checkpoint and ends as the
uninterrupted one would have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pofx import files
from pofx.data import Data, open_data
from pofx.model import Model
from pofx.training.budget import CLOCKS, Asked, Budget
from pofx.training.loop import Augment
from pofx.training.pick import pick
from pofx.training.processes import fit_in_processes
from pofx.training.run import Settings, built, fabric_of, finished, run


def fit(
    source: Any,
    family: str | type[Model] | Model | None = None,
    *,
    given: Any = None,
    budget: str | int | Budget = "60s",
    seed: int = 0,
    folder: str | Path | None = None,
    resume: bool = False,
    batch: int | None = None,
    threads: int | str = "auto",
    precision: str = "auto",
    device: str = "auto",
    processes: int = 1,
    progress: bool = True,
    report: Callable[[dict[str, Any]], None] = lambda line: None,
    checkpoint_seconds: float = 15.0,
    hyper_parameters: Mapping[str, Any] | None = None,
    augment: Augment | None = None,
) -> Model:
    """Learn p(x) (or p(x | given)).

    Args:
        source: Data, or anything `open_data` reads.
        family: a name, `path.py:Class`, a Model class or instance; None picks one by validation and says why.
        given: what x is given: names, or name -> array (see `open_data`).
        budget: "60s", "5 min", "60 cpu s", "500 steps" or a number of steps.
        seed: of the weights, the order of rows and all noise.
        folder: where model, history and checkpoints go. It must not hold a run, unless `resume`.
        resume: go on from the checkpoint in `folder`, with the plan that was made then.
        batch: rows a step; None lets the family choose.
        threads, precision: "auto" measures; or a count, and "32-true" or "bf16-mixed".
        device: "auto", "cpu" or "cuda".
        processes: data-parallel processes on this machine (needs `folder`, and a main module that can be imported).
        progress, report: show a progress bar; a function that is called with each line of history.
        checkpoint_seconds: between two checkpoints. hyper_parameters: of a family that is a name or a class.
        augment: (Batch, Rng) -> Batch: changes the rows of each training step, which `batch.index` numbers.

    Returns:
        The fitted model; `model.history` is the list of history lines, `model.record` says how it was fitted.

    Raises:
        ValueError: the data, the budget or the folder will not do; the message says what would.
        Diverged: the loss is not finite (the best weights so far are saved in `folder`).
        KeyboardInterrupt: Ctrl-C, after a checkpoint was written to `folder`.
    """
    start, asked = _clocks(), Asked(Budget.parse(budget), seed, batch, threads, precision)
    data, path = open_data(source, given=given), _free(folder, resume)
    more: tuple[Any, ...] = (dict(hyper_parameters or {}), {}, augment)
    settings = Settings(asked, start, path, resume, checkpoint_seconds, device, progress, *more)
    if family is None:
        family, settings = _picked(data, settings)
    model = built(family, data, seed, settings.hyper_parameters)
    _make(path)
    if processes != 1 and not model.closed:
        return fit_in_processes(data, family, processes, path, settings)
    fabric = fabric_of(device)
    run(model, data, settings, fabric, report)
    finished(model, data, settings, fabric)
    return model


def _clocks() -> dict[str, float]:
    return {clock: now() for clock, now in CLOCKS.items()}


def _picked(data: Data, settings: Settings) -> tuple[str, Settings]:
    """The family that validates best, or that an interrupted fit had picked."""
    if settings.hyper_parameters:
        raise ValueError(f"hyper_parameters {sorted(settings.hyper_parameters)}: name the family that they are of.")
    if settings.resume and settings.folder is not None and (settings.folder / files.CHECKPOINT).exists():
        _, words = files.load_tensors(settings.folder / files.CHECKPOINT)
        known = words["identity"]["record"]
        if "picked" not in known:
            raise ValueError(f"{settings.folder} cannot be resumed: name the family that it was begun with.")
        return known["picked"]["family"], replace(settings, record=known)
    _make(settings.folder)
    found = pick(data, settings)
    asked = replace(settings.asked, budget=found.budget)
    return found.family, replace(settings, asked=asked, record={"picked": found.to_json()})


def _free(folder: str | Path | None, resume: bool) -> Path | None:
    """The folder, which may take this fit; nothing is made yet, so that a mistake leaves nothing behind."""
    if folder is None:
        if resume:
            raise ValueError("resume=True needs the folder of the run to resume.")
        return None
    path = Path(folder)
    holds = [name for name in (files.MODEL, files.CHECKPOINT, files.HISTORY) if (path / name).exists()]
    if files.MODEL in holds and files.CHECKPOINT not in holds and not resume:
        raise ValueError(f"{path} already holds a run, which is finished; load it, or give another folder.")
    if holds and not resume:
        raise ValueError(
            f"{path} already holds a run ({', '.join(holds)}); give another folder, or resume=True (--resume)."
        )
    if resume and not path.is_dir():
        raise ValueError(f"{path} cannot be resumed: there is no such folder; leave out resume to begin.")
    if resume and files.MODEL in holds and files.CHECKPOINT not in holds:
        raise ValueError(f"{path} cannot be resumed: it is finished; load it, or give another folder.")
    return path


def _make(path: Path | None) -> None:
    """Make the folder, and see that it can be written to."""
    if path is None:
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        files.sweep(path)
        files.write_atomic(path / "writable", b"")
        (path / "writable").unlink()
    except OSError as error:
        raise OSError(f"cannot write to {path}: {files.why(error)}; give a folder that can be written.") from error
