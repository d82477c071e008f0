"""Measure: fit one family in a process of its own and ask it everything that a leaderboard shows.

    python -m pofx.tasks.measure SPEC.json

A fresh process gives the true peak memory, and a crash loses one row. `run_all` starts such processes; they end with
the one that started them, however it ends. Each writes into its own folder: the model,
row.json (the row of the leaderboard), rows.safetensors (log p of every held-out row, samples, completions) and, on the
way, stage.json, which the parent shows.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.baselines import BASELINES
from pofx.data import Batch, Data
from pofx.files import save_tensors, write_atomic
from pofx.metrics import Features, auroc, c2st, column_shapes, copying, pair_trends, prdc, valid_values
from pofx.metrics.base import subset
from pofx.model import Model, Unsupported
from pofx.randomness import Rng
from pofx.tasks.anomaly import anomaly
from pofx.tasks.base import rows_of
from pofx.tasks.density import bits_per_dim, density
from pofx.tasks.impute import impute
from pofx.tasks.sample import sample
from pofx.tasks.seeds import OVER
from pofx.training.fit import fit

Spec = dict[str, Any]  # what one fit needs to know: family, folders, budget, seed, draws, samples
QUESTIONS = ("density", "sample", "impute", "anomaly")
HOLES, DRAWS_IMPUTE, ANOMALIES = 60, 5, 150
LIMIT = 4000  # rows of each set that a statistic sees


def run(spec: Spec) -> dict[str, Any]:
    """Fit and ask; returns the row of the leaderboard and writes everything into the spec's folder."""
    folder = Path(spec["folder"])
    data = Data.load(spec["data"])
    torch.set_num_threads(spec["threads"])
    row: dict[str, Any] = {"family": spec["name"], "baseline": spec["family"] in BASELINES, "error": None}
    tensors: dict[str, Tensor] = {}
    try:
        model = _fitted(spec, data, folder)
        row |= _costs(model, spec)
        for name in QUESTIONS:
            _stage(folder, name)
            row |= _asked(name, model, data, spec, tensors)
        row["why"] = _reasons(row)
    except Exception as error:  # a crash must lose one row, not the comparison
        row["error"] = f"{type(error).__name__}: {error}"
        (folder / "error.txt").write_text(traceback.format_exc())
    row["peak_mb"] = _peak_mb()
    save_tensors(folder / "rows.safetensors", tensors, {"family": spec["name"]})
    write_atomic(folder / "row.json", json.dumps(_plain(row), indent=1).encode())
    _stage(folder, "done" if row["error"] is None else "failed")
    return row


def _fitted(spec: Spec, data: Data, folder: Path) -> Model:
    _stage(folder, "fit")
    family = BASELINES[spec["family"]]() if spec["family"] in BASELINES else spec["family"]

    def report(line: dict[str, Any]) -> None:
        _stage(folder, "fit", **{k: line[k] for k in ("step", "loss", "valid") if k in line})

    return fit(
        data, family, budget=spec["budget"], seed=spec["seed"], folder=folder / "model", threads=spec["threads"],
        progress=False, report=report, hyper_parameters=spec.get("hyper_parameters"),
    )  # fmt: skip


def _costs(model: Model, spec: Spec) -> dict[str, Any]:
    seconds = model.record["seconds"]
    plan = model.record["plan"] or {}
    stored = sum(b.numel() for b in model.buffers()) if model.closed else 0
    return {
        "fit_seconds": seconds["cpu"],
        "fit_wall_seconds": seconds["wall"],
        "steps": plan.get("steps"),
        "parameters": model.record["parameters"] or stored,
    }


def _asked(name: str, model: Model, data: Data, spec: Spec, tensors: dict[str, Tensor]) -> dict[str, Any]:
    ask = {"density": _density, "sample": _samples, "impute": _impute, "anomaly": _anomaly}[name]
    start = time.process_time()
    try:
        found = ask(model, data, spec, tensors)
    except Unsupported as refusal:
        found = {f"no_{name}": str(refusal)}
    return {**found, f"{name}_seconds": round(time.process_time() - start, 3)}


def _density(model: Model, data: Data, spec: Spec, tensors: dict[str, Tensor]) -> dict[str, Any]:
    test = data.part("test")
    answer = density(model, test, _given(test), draws=spec["draws"], rng=_noise(spec))
    tensors["log_p"] = answer.value
    bits = bits_per_dim(answer.value, data.space, rows_of(model, test)[1]) if data.space.mass else None
    told = answer.value if bits is None else bits[~bits.isnan()]  # a row of gaps alone has no bits
    return {
        "nats": float(answer.value.mean()),
        "bits_per_dim": None if bits is None else float(told.mean()),
        "stderr": float(told.std() / math.sqrt(len(told))),
        "quality": answer.quality.value,
        "density_route": answer.route,
        "unit": answer.unit,
        "diagnostics": {k: v for k, v in answer.diagnostics.items() if isinstance(v, (int, float, str, list, tuple))},
    }


def _samples(model: Model, data: Data, spec: Spec, tensors: dict[str, Tensor]) -> dict[str, Any]:
    test, n = data.part("test"), spec["samples"]
    given = _given(test)
    given = {k: v[torch.arange(n) % len(v)] for k, v in given.items()} if given else None
    sample(
        model, 2, {k: v[:2] for k, v in given.items()} if given else None, rng=1
    )  # warm up, so that the timing is fair
    start = time.process_time()
    answer = sample(model, n, given, rng=_noise(spec))
    seconds = time.process_time() - start
    x: Tensor = answer.raw  # type: ignore[assignment]
    tensors["samples"] = x
    return {"sample_ms": 1000 * seconds / n, **_judged(model, data, x)}


def _judged(model: Model, data: Data, x: Tensor) -> dict[str, Any]:
    train, test = data.part("train"), data.part("test")
    vector = {k: _vector(data, t) for k, t in {"train": train.x, "test": test.x, "fake": x}.items()}
    label = next((v for v, s in data.aside.values() if s.shape == () and s.discrete), None)
    label = None if label is None else _some(label[data.split["train"]].numpy(), LIMIT)
    features = Features.fit(_some(vector["train"], LIMIT), label, rng=0)
    real, fake = (features(_some(vector[k], LIMIT)) for k in ("test", "fake"))
    scores = prdc(real, fake, rng=0)
    two = c2st(real, fake, rng=0)
    pictures = data.space.layout == "grid"
    few = {k: _some(vector[k], n) for k, n in (("train", 8000), ("test", 2000), ("fake", 2000))}
    copied = copying(few["train"], few["test"], few["fake"], standardise=not pictures)
    found = {
        "c2st": two.accuracy.value,
        "c2st_interval": [two.accuracy.low, two.accuracy.high],
        "copying": bool(copied.flagged),
        "copying_why": copied.why,
    }
    for name in ("precision", "recall", "density", "coverage"):
        metric = getattr(scores, name)
        found |= {name: metric.value, f"{name}_interval": [metric.low, metric.high]}
    return found | (_table(data, x) if data.space.kind == "table" else {})


def _some(rows: np.ndarray, n: int) -> np.ndarray:
    """At most n rows, at random, for the data may be sorted; the same ones of any arrays of as many rows."""
    return subset(rows, n, Rng(0))


def _table(data: Data, x: Tensor) -> dict[str, Any]:
    every = data.restore(data.x)
    every = every if data.observed is None else every.where(data.observed.numpy())
    real, fake = every.iloc[data.split["test"].numpy()], data.restore(x)
    shapes, trends, valid = column_shapes(real, fake), pair_trends(real, fake), valid_values(every, fake)
    found: dict[str, Any] = {"valid": valid.mean.value}
    for name, score in (("shape_error", shapes), ("trend_error", trends)):
        found |= {name: score.mean.value, f"{name}_interval": [score.mean.low, score.mean.high]}
    return found


def _impute(model: Model, data: Data, spec: Spec, tensors: dict[str, Tensor]) -> dict[str, Any]:
    test = data.part("test").take(torch.arange(min(HOLES, len(data.part("test")))))
    seen = _holes(data, test)
    hidden = (~seen if test.observed is None else ~seen & test.observed).flatten(1)
    if not bool(hidden.any()):
        raise Unsupported("no cell of the held-out rows is hidden")
    given = _given(test)
    answer = impute(model, test.x, given, observed=seen, draws=DRAWS_IMPUTE, rng=_noise(spec))
    raw: Tensor = answer.raw  # type: ignore[assignment]
    tensors |= {"imputed": raw, "holes": ~seen}
    error = torch.stack([_unit(data, r) for r in raw]).mean(0) - _unit(data, test.x)
    rmse, half = _rmse_by_cell(error, hidden)
    return {
        "impute_rmse": rmse,
        "impute_interval": [rmse - half, rmse + half],
        "impute_route": answer.route,
        "impute_quality": answer.quality.value,
    }


def _rmse_by_cell(error: Tensor, hidden: Tensor) -> tuple[float, float]:
    """Root mean square over hidden cells, errors `(N, D)`, and half its 95 % interval, for rows are independent.

    The mean square is a ratio of two sums over rows, sum s_n / sum m_n; its variance is that of s_n - ratio m_n.
    """
    squares, cells = torch.where(hidden, error, 0.0).square().sum(1), hidden.sum(1)
    mean = squares.sum() / cells.sum()
    stderr = (squares - mean * cells).std() * math.sqrt(len(cells)) / cells.sum()
    rmse = float(mean.sqrt())
    return rmse, 1.96 * float(stderr) / (2 * rmse + 1e-12)


def _holes(data: Data, batch: Batch) -> Tensor:
    """What is seen: the upper half of a picture, the first of a sequence, 70 % of a table's cells; the same for all."""
    if data.space.layout in ("grid", "sequence"):
        seen = torch.ones_like(batch.x, dtype=torch.bool)
        seen[:, data.space.shape[0] // 2 :] = False
    else:
        seen = torch.from_numpy(np.random.default_rng(0).random(tuple(batch.x.shape)) > 0.3)
        seen.view(len(batch), -1)[:, 0] |= ~seen.reshape(len(batch), -1).any(1)
    return seen if batch.observed is None else seen & batch.observed


def _anomaly(model: Model, data: Data, spec: Spec, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Chimeras: half of one held-out x joined to half of another; each half is right, their joint is not."""
    test = data.part("test").take(torch.arange(min(ANOMALIES, len(data.part("test")))))
    mixed = chimeras(data, test)
    given = _given(test)
    normal = anomaly(model, test, data, given, draws=4, rng=_noise(spec))
    strange = anomaly(model, mixed, None, given, draws=4, rng=_noise(spec), route=normal.route)
    found = auroc(normal.value.numpy(), strange.value.numpy())
    p = torch.as_tensor(normal.diagnostics["p"])
    return {
        "anomaly_auroc": found.value,
        "anomaly_interval": [found.low, found.high],
        "anomaly_route": normal.route,
        "anomaly_false_alarms": float((p <= 0.1).double().mean()),
    }


def chimeras(data: Data, batch: Batch) -> Batch:
    """Rows made of two halves of different rows: left and right, before and after, every other column of a table."""
    other = batch.take(torch.roll(torch.arange(len(batch)), 1))
    left = torch.zeros(data.space.shape, dtype=torch.bool)
    if data.space.layout == "grid":
        left[:, : data.space.shape[1] // 2] = True
    elif data.space.layout == "sequence":
        left[: data.space.shape[0] // 2] = True
    else:
        left[::2] = True
    observed = None
    if batch.observed is not None and other.observed is not None:
        observed = torch.where(left, batch.observed, other.observed)
    return Batch(torch.where(left, batch.x, other.x), batch.given, observed)


def _noise(spec: Spec) -> int:
    """The seed of what is drawn to answer: another one for each fit of a family, or their spread would lack it."""
    return spec.get("noise", 0)


def _given(batch: Batch) -> dict[str, Tensor] | None:
    return batch.given or None


def _vector(data: Data, x: Tensor) -> np.ndarray:
    """Rows as standardised vectors, the same for every family: categories as codes in {-1, 1}^bits."""
    from pofx.kinds.relax import Chart

    return Chart(data.space).encode(x).flatten(1).double().numpy()


def _unit(data: Data, x: Tensor) -> Tensor:
    """Entries in units of their spread in the data."""
    variables = [data.space.variable(i) for i in range(data.space.size)]
    scale = torch.tensor([v.scale for v in variables], dtype=torch.float64)
    return x.flatten(1).double() / scale


def _reasons(row: dict[str, Any]) -> dict[str, str]:
    return {name: row[f"no_{name}"] for name in QUESTIONS if f"no_{name}" in row}


def _stage(folder: Path, stage: str, **more: Any) -> None:
    write_atomic(folder / "stage.json", json.dumps({"stage": stage, **more}).encode())


def _peak_mb() -> float:
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def _plain(value: Any) -> Any:
    """JSON types only; a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (bool, str)) or value is None:
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None


def run_all(todo: Sequence[Spec], jobs: int, report: Callable[[Callable[[Spec], dict[str, Any]]], None] | None) -> None:
    """Measure every spec, each in a process of its own, some at a time; none outlives this call, or this process.

    Args:
        todo: what to fit, in this order.
        jobs: processes at once.
        report: called a few times a second with a function that gives the stage of a spec.
    """
    waiting, running, ended = list(todo), dict[str, subprocess.Popen[bytes]](), set[str]()

    def stage(spec: Spec) -> dict[str, Any]:
        return _at(spec, spec["folder"] in ended)

    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                spec = waiting.pop(0)
                running[spec["folder"]] = _start(spec)
            time.sleep(0.2)
            over = [folder for folder, process in running.items() if process.poll() is not None]
            for folder in over:
                _release(running.pop(folder))
            ended.update(over)
            if report is not None:
                report(stage)
    finally:
        for process in running.values():
            process.terminate()
            _release(process)
            process.wait()


def _release(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe that keeps a process alive."""
    if process.stdin is not None:
        process.stdin.close()


def _start(spec: Spec) -> subprocess.Popen[bytes]:
    folder = Path(spec["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():  # half a measurement of an interrupted comparison; other seeds' are whole
        if path.is_dir() and not path.name.startswith("seed-"):
            shutil.rmtree(path, ignore_errors=True)
        elif not path.is_dir():
            path.unlink()
    write_atomic(folder / "spec.json", json.dumps(spec).encode())
    threads = {k: str(spec["threads"]) for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    with open(folder / "log.txt", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "pofx.tasks.measure", str(folder / "spec.json"), "--with-parent"],
            stdin=subprocess.PIPE,  # whose other end closes however this process ends: then the child ends too
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **threads},
        )


def _at(spec: Spec, ended: bool) -> dict[str, Any]:
    path = Path(spec["folder"]) / "stage.json"
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        found = {"stage": "waiting"}
    return {"stage": "failed"} if ended and found["stage"] not in OVER else found  # killed, or out of memory


def _end_with_parent() -> None:
    """End this process when the one that started it has: SIGTERM and SIGKILL let no `finally` there run.

    Standard input is a pipe that only the parent holds open. The system closes it with the parent, whatever ended that;
    `os.read` and not `sys.stdin`, whose lock a thread that waits would keep as Python ends.
    """
    while os.read(0, 1):
        continue
    os._exit(1)


def main() -> None:
    """Read a spec and run it."""
    if "--with-parent" in sys.argv[2:]:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    spec = json.loads(Path(sys.argv[1]).read_text())
    os.environ.setdefault("OMP_NUM_THREADS", str(spec["threads"]))
    row = run(spec)
    sys.exit(0 if row["error"] is None else 1)


if __name__ == "__main__":
    main()
