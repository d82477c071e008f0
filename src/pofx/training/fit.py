"""fit: a Model and Data -> a fitted Model and its history.

    fit("digits", "flow")            fit(frame, budget="2 min")            fit(data, Flow(width=128), folder="runs/a")

A fit in a folder survives a kill: `fit(..., folder=..., resume=True)` goes on from the last checkpoint and ends as the
uninterrupted one would have.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from pofx import files
from pofx.data import Data, open_data
from pofx.families import family as family_class
from pofx.model import Model, Unsupported
from pofx.randomness import Rng
from pofx.training.budget import CLOCKS, Budget, Plan, plan_for
from pofx.training.loop import Diverged, Loop
from pofx.training.progress import Progress
from pofx.wrappers import adapted

Report = Callable[[dict[str, Any]], None]


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
    report: Report | None = None,
    hyper_parameters: Mapping[str, Any] | None = None,
) -> Model:
    """Learn p(x) (or p(x | given)).

    Args:
        source: Data, or anything `open_data` reads.
        family: a name, `path.py:Class`, a Model class or instance; None picks one by validation and says why.
        given: what x is given: names, or name -> array (see `open_data`).
        budget: "60s", "5 min", "60 cpu s", "500 steps" or a number of steps.
        seed: of the weights, the order of rows and all noise.
        folder: where model, history and checkpoints go. It must not hold a run, unless `resume`.
        resume: go on from the checkpoint in `folder`.
        batch: rows a step; None lets the family choose.
        threads, precision: "auto" measures; or a count, and "32-true" or "bf16-mixed".
        device: "auto", "cpu" or "cuda".
        processes: data-parallel processes on this machine (needs `folder`).
        progress: show a progress bar.
        report: called with each line of history.
        hyper_parameters: of the family, where `family` is a name or a class.

    Returns:
        The fitted model; `model.history` is the list of history lines, `model.record` says how it was fitted.

    Raises:
        ValueError: the data, the budget or the folder will not do; the message says what would.
        Diverged: the loss is not finite (the best weights so far are saved in `folder`).
    """
    started = {clock: now() for clock, now in CLOCKS.items()}
    data, budget = open_data(source, given=given), Budget.parse(budget)
    target = _folder(folder, resume)
    if family is None:
        from pofx.training.pick import pick

        family, budget = pick(data, budget, seed, progress)
    if processes > 1:
        from pofx.training.processes import fit_in_processes

        return fit_in_processes(data, family, processes, target, dict(
            budget=budget, seed=seed, batch=batch, resume=resume, hyper_parameters=dict(hyper_parameters or {})
        ))  # fmt: skip
    model = _built(family, data, seed, dict(hyper_parameters or {}))
    bar = Progress(model.name, model.loss_unit, enabled=progress)
    reports: list[Report] = [bar.line, *([report] if report else [])]

    def tell(line: dict[str, Any]) -> None:
        for each in reports:
            each(line)

    with bar, _threads():
        if model.closed:
            _fit_closed(model, data, seed, tell, started["wall"])
        else:
            fabric = _fabric(device, "32-true")
            settings = _Settings(budget, seed, batch, threads, precision, started[budget.clock])
            _fit_players(model, data, settings, fabric, target, resume, tell, bar)
    _record(model, data, started)
    if target is not None:
        model.save(target)
        (target / files.CHECKPOINT).unlink(missing_ok=True)
    return model


class _Settings:
    """What the user asked of the plan."""

    def __init__(
        self, budget: Budget, seed: int, batch: int | None, threads: int | str, precision: str, started: float
    ) -> None:
        self.budget, self.seed, self.batch, self.started = budget, seed, batch, started
        self.threads, self.precision = threads, precision


def _fit_players(
    model: Model,
    data: Data,
    settings: _Settings,
    fabric: Any,
    target: Path | None,
    resume: bool,
    tell: Report,
    bar: Progress | None,
) -> None:
    saved = _checkpoint(target) if resume else None
    plan = Plan(**saved[1]["plan"]) if saved else _plan(model, data, settings, fabric.device)
    torch.set_num_threads(plan.threads)
    if plan.precision != fabric._precision.precision:
        fabric = _fabric(fabric.device.type, plan.precision)
    loop = Loop(model, data, plan, fabric, target, tell)
    if saved:
        loop.restore(*saved)
    if bar is not None:
        bar.start(plan, loop.k)
    try:
        loop.run()
    except (KeyboardInterrupt, Diverged) as stop:
        _stopped(loop, target, stop)
        raise
    loop.finish()
    model.history, model.plan = loop.history, plan.to_json()


def _stopped(loop: Loop, target: Path | None, stop: BaseException) -> None:
    """Nothing is lost: Ctrl-C leaves a checkpoint, a diverged loss leaves the best weights."""
    if isinstance(stop, KeyboardInterrupt):
        loop.save()
        if target is not None and loop.fabric.global_rank == 0:
            print(f"\nstopped at step {loop.k}; go on with fit(..., folder={str(target)!r}, resume=True) or --resume")
        return
    loop.finish()
    loop.model.history, loop.model.plan = loop.history, loop.plan.to_json()
    if target is not None and loop.fabric.global_rank == 0:
        loop.model.save(target)


def _plan(model: Model, data: Data, settings: _Settings, device: torch.device) -> Plan:
    def make_step(copied: Any, precision: str) -> Callable[[int], None]:
        plan = Plan(10_000, rows, torch.get_num_threads(), precision, 0.0, settings.seed, "measuring")
        return Loop(copied, data, plan, _fabric(device.type, precision)).step

    rows = min(settings.batch or model.batch_size, len(data.split["train"]))
    return plan_for(
        make_step, model, settings.budget, rows, settings.seed,
        settings.threads, settings.precision, device, settings.started,
    )  # fmt: skip


def _fit_closed(model: Model, data: Data, seed: int, tell: Report, started: float) -> None:
    model.history = []

    def report(line: dict[str, float]) -> None:
        model.history.append({**line, "seconds": round(time.perf_counter() - started, 3)})
        tell(model.history[-1])

    model.fit_closed(data, Rng.derive(seed, 2), report)
    model.eval()


def _built(family: str | type[Model] | Model, data: Data, seed: int, hyper_parameters: dict[str, Any]) -> Model:
    if isinstance(family, Model):
        model = family
    else:
        try:
            model = family_class(family)(**hyper_parameters)
        except TypeError as error:
            raise ValueError(f"{family}: {error}; see the hyper-parameters in its docstring.") from error
    if not data.complete and model.card.incomplete.startswith("refuses"):
        raise Unsupported(
            f"{model.name} cannot be trained on rows with missing entries; impute them, or drop those rows."
        )
    if data.given and not model.card.given:
        raise Unsupported(f"{model.name} learns p(x) only; it cannot be given {sorted(data.given)}.")
    return adapted(model, data.space).build(data.space, data.given_spaces, seed)


def _folder(folder: str | Path | None, resume: bool) -> Path | None:
    if folder is None:
        if resume:
            raise ValueError("resume=True needs the folder of the run to resume.")
        return None
    path = Path(folder)
    holds = [name for name in (files.MODEL, files.CHECKPOINT, files.HISTORY) if (path / name).exists()]
    if holds and not resume:
        raise ValueError(f"{path} already holds a run ({', '.join(holds)}); give another folder, or resume=True.")
    if resume and not (path / files.CHECKPOINT).exists():
        why = "it is finished" if (path / files.MODEL).exists() else "there is no checkpoint"
        raise ValueError(f"{path} cannot be resumed: {why}.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        files.write_atomic(path / ".writable", b"")
        (path / ".writable").unlink()
    except OSError as error:
        raise OSError(
            f"cannot write to {path}: {error.strerror or error}; give a folder that can be written."
        ) from error
    return path


def _checkpoint(target: Path | None) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    assert target is not None
    return files.load_tensors(target / files.CHECKPOINT)


def _fabric(device: str, precision: str, **options: Any) -> Any:
    from lightning_fabric import Fabric

    return Fabric(accelerator=device, devices=options.pop("devices", 1), precision=precision, **options)


@contextlib.contextmanager
def _threads() -> Iterator[None]:
    """The plan sets the threads of this fit; afterwards the caller has theirs back."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _record(model: Model, data: Data, started: dict[str, float]) -> None:
    model.record = {
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint(),
            "rows": {k: len(v) for k, v in data.split.items()},
        },
        "seconds": {clock: round(now() - started[clock], 3) for clock, now in CLOCKS.items()},
        "plan": getattr(model, "plan", None),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
