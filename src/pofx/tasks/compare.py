"""Compare: which family for which question, at which cost?

Every family is fitted in a fresh process under the same budget, on the same rows, and asked the same questions of the
same held-out rows. Ranks by *guaranteed* bits (exact or lower bound); estimates, upper bounds and unnormalised values
stand in a block of their own. Differences are paired by row. A row flagged as a copy of the training set wins nothing.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pofx.data import Data, open_data
from pofx.files import load_tensors, write_atomic
from pofx.kinds import KINDS
from pofx.metrics import paired_difference
from pofx.training.run import families_named, family_class

QUESTION = "Which family for which question, at which cost?"
ALWAYS = ("independent", "copy", "uniform")
BASELINE_NAMES = (*ALWAYS, "last", "unigram")
LEADERBOARD, GUARANTEED = "leaderboard.json", ("exact", "lower bound")
FIELDS = (
    "family", "bits_per_dim", "quality", "stderr", "c2st", "precision", "recall", "density", "coverage",
    "impute_rmse", "anomaly_auroc", "fit_seconds", "sample_ms", "parameters", "peak_mb",
)  # fmt: skip
BETTER = {
    "bits_per_dim": "lower", "nats": "higher", "c2st": "lower", "precision": "higher", "recall": "higher",
    "density": "higher", "coverage": "higher", "impute_rmse": "lower", "anomaly_auroc": "higher",
    "fit_seconds": "lower", "sample_ms": "lower", "parameters": "lower", "peak_mb": "lower",
    "shape_error": "lower", "trend_error": "lower",
}  # fmt: skip
Report = Callable[[dict[str, dict[str, Any]]], None]


@dataclass(frozen=True)
class Comparison:
    """The rows of a leaderboard, best guaranteed bits first, and where everything lies.

    Args:
        rows: one dictionary a family; null (None) where a family has no answer.
        folder: holds leaderboard.json, data.safetensors and a folder for each family.
        data: what was compared on.
        settings: budget, seed, draws, samples.
    """

    rows: tuple[dict[str, Any], ...]
    folder: Path
    data: Data
    settings: dict[str, Any]

    def best(self, field: str) -> str | None:
        """The family that is best at a field; baselines and flagged copies win nothing."""
        fair = [r for r in self.rows if wins(r) and r.get(field) is not None]
        if field in ("bits_per_dim", "nats"):
            fair = [r for r in fair if r.get("quality") in GUARANTEED]
        if not fair:
            return None
        pick = min if BETTER[field] == "lower" else max
        key = (lambda r: abs(r[field] - 0.5)) if field == "c2st" else (lambda r: r[field])
        return min(fair, key=key)["family"] if field == "c2st" else pick(fair, key=key)["family"]

    def tensors(self, family: str) -> dict[str, torch.Tensor]:
        """What a family answered: "log_p" of the held-out rows, "samples", "imputed", "holes"."""
        path = self.folder / family_folder(family) / "rows.safetensors"
        return load_tensors(path)[0] if path.exists() else {}


def wins(row: dict[str, Any]) -> bool:
    """Whether a row may be best at anything."""
    return not (row.get("baseline") or row.get("copying") or row.get("error"))


def compare(
    source: Any,
    families: Sequence[str] | None = None,
    *,
    add: Sequence[str] = (),
    given: Any = None,
    budget: str = "60 cpu s",
    seed: int = 0,
    folder: str | Path | None = None,
    jobs: int | None = None,
    draws: int = 16,
    samples: int = 500,
    baselines: bool = True,
    resume: bool = False,
    report: Report | None = None,
    hyper_parameters: dict[str, dict[str, Any]] | None = None,
) -> Comparison:
    """Fit and ask every family, each in a process of its own.

    Args:
        source: Data, or what `open_data` reads.
        families: names, or `path.py:Class`; None takes one of each branch, "all" every family.
        add: further families, such as `path.py:Class`.
        given: what x is given.
        budget: of each family; CPU seconds of one thread make it fair on a busy machine.
        seed: of the split, the weights and the noise.
        folder: where everything goes; default runs/<name of the data>.
        jobs: processes at once; default the number of processors.
        draws: Monte-Carlo draws of every bound, the same for all.
        samples: draws that are judged.
        baselines: independent entries, a copy of the training set, uniform noise and what is trivial for the kind
            (last value, unigram) stand in the same table.
        resume: keep the families already measured in the folder.
        report: called with the stage of every family, a few times a second.
        hyper_parameters: family -> its hyper-parameters, where the defaults are not wanted.

    Raises:
        ValueError: a family is unknown, or the folder holds another comparison and `resume` is not set.
    """
    wanted = [*_known(families_named(families)), *_known(add)]
    data = source if isinstance(source, Data) else open_data(source, given=given, seed=seed, test=held_out(source))
    beaten = (*ALWAYS, KINDS[data.space.kind].trivial)
    wanted += [name for name in dict.fromkeys(beaten) if baselines and name not in wanted]
    folder = Path(folder or Path("runs") / data.name)
    settings = {"budget": budget, "seed": seed, "draws": draws, "samples": samples, "fingerprint": data.fingerprint()}
    _prepare(folder, data, settings, resume)
    specs = [_spec(folder, w, settings, (hyper_parameters or {}).get(w)) for w in wanted]
    todo = [s for s in specs if not (resume and (Path(s["folder"]) / "row.json").exists())]
    _run_all(todo, jobs or len(os.sched_getaffinity(0)), report, specs)
    rows = ranked([_row(s) for s in specs])
    _pair(rows, folder)
    write_atomic(folder / LEADERBOARD, json.dumps([_short(r) for r in rows], indent=1).encode())
    write_atomic(folder / "rows.json", json.dumps({"settings": settings, "rows": rows}, indent=1).encode())
    return Comparison(tuple(rows), folder, data, settings)


def read(folder: str | Path) -> Comparison:
    """A comparison that was made before.

    Raises:
        FileNotFoundError: there is none. ValueError: its file is cut off or damaged.
    """
    folder = Path(folder)
    if not (folder / "rows.json").exists():
        raise FileNotFoundError(f"{folder} holds no comparison; make one with `pofx compare DATA --out {folder}`.")
    saved = _json(folder / "rows.json", folder, ("settings", "rows"))
    return Comparison(tuple(saved["rows"]), folder, Data.load(folder / "data.safetensors"), saved["settings"])


def _json(path: Path, folder: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    """A JSON object that the comparison in a folder wrote."""
    try:
        found = json.loads(path.read_text())
        if isinstance(found, dict) and all(k in found for k in keys):
            return found
        why = f"expected an object with {', '.join(keys)}" if keys else "expected an object"
    except ValueError as error:  # bytes that are no text, too
        why = str(error)
    again = f"`pofx compare DATA --out {folder} --resume`, which keeps what was measured"
    raise ValueError(f"{path} is damaged or cut off ({why}); remove it and run {again}.")


def ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Guaranteed values first, best first; then the rest; then those without a density."""

    def key(row: dict[str, Any]) -> tuple[int, float]:
        nats, quality = row.get("nats"), row.get("quality")
        block = 0 if quality in GUARANTEED and nats is not None else 1 if nats is not None else 2
        return block, -nats if nats is not None else math.inf

    return sorted(rows, key=key)


def family_folder(name: str) -> str:
    """A family's folder inside the comparison's."""
    return name.replace("/", "_").replace(":", "_")


def held_out(source: Any) -> int | None:
    """Test rows of bundled data; None leaves it to `open_data`."""
    return 300 if isinstance(source, str) and source == "digits" else None


def _prepare(folder: Path, data: Data, settings: dict[str, Any], resume: bool) -> None:
    known = folder / "settings.json"
    if known.exists() and resume and _json(known, folder) != settings:
        raise ValueError(f"{folder} holds a comparison with other settings; give the same ones, or another folder.")
    if known.exists() and not resume:
        raise ValueError(f"{folder} already holds a comparison; give another folder (--out), or resume it (--resume).")
    folder.mkdir(parents=True, exist_ok=True)
    data.save(folder / "data.safetensors")
    write_atomic(known, json.dumps(settings, indent=1).encode())


def _spec(
    folder: Path, wanted: str, settings: dict[str, Any], hyper_parameters: dict[str, Any] | None
) -> dict[str, Any]:
    name = wanted.rsplit(":", 1)[-1].lower() if ".py:" in wanted else wanted
    own = folder / family_folder(name)
    spec = {"family": wanted, "name": name, "folder": str(own), "data": str(folder / "data.safetensors"), "threads": 1}
    return {**spec, **settings, "hyper_parameters": hyper_parameters or {}}


def _run_all(todo: list[dict[str, Any]], jobs: int, report: Report | None, specs: list[dict[str, Any]]) -> None:
    waiting, running = list(todo), dict[str, subprocess.Popen[bytes]]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                spec = waiting.pop(0)
                running[spec["name"]] = _start(spec)
            time.sleep(0.2)
            running = {name: p for name, p in running.items() if p.poll() is None}
            if report is not None:
                report({s["name"]: _stage(s) for s in specs})
    finally:
        for process in running.values():
            process.terminate()


def _start(spec: dict[str, Any]) -> subprocess.Popen[bytes]:
    import shutil

    folder = Path(spec["folder"])
    shutil.rmtree(folder, ignore_errors=True)  # half a measurement of an interrupted comparison
    folder.mkdir(parents=True)
    write_atomic(folder / "spec.json", json.dumps(spec).encode())
    threads = {k: str(spec["threads"]) for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    with open(folder / "log.txt", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "pofx.tasks.measure", str(folder / "spec.json")],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **threads},
        )


def _stage(spec: dict[str, Any]) -> dict[str, Any]:
    path = Path(spec["folder"]) / "stage.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {"stage": "waiting"}


def _row(spec: dict[str, Any]) -> dict[str, Any]:
    path = Path(spec["folder"]) / "row.json"
    if path.exists():
        return _json(path, path.parent.parent)
    log = Path(spec["folder"]) / "log.txt"
    tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
    words = {"family": spec["name"], "baseline": spec["family"] in BASELINE_NAMES}
    return {**words, "error": f"the process ended without an answer: {' '.join(tail)}".rstrip(": ")}


def _pair(rows: list[dict[str, Any]], folder: Path) -> None:
    """How far each row with a log p is behind the best guaranteed one, paired by held-out row."""
    best = next((r for r in rows if wins(r) and r.get("quality") in GUARANTEED and r.get("nats") is not None), None)
    if best is None:
        return
    reference = load_tensors(folder / family_folder(best["family"]) / "rows.safetensors")[0]["log_p"].numpy()
    for row in rows:
        path = folder / family_folder(row["family"]) / "rows.safetensors"
        if row is best or row.get("nats") is None or not path.exists():
            continue
        gap = paired_difference(reference, load_tensors(path)[0]["log_p"].numpy())
        row["behind"] = {"nats": gap.value, "low": gap.low, "high": gap.high, "of": best["family"]}


def _short(row: dict[str, Any]) -> dict[str, Any]:
    extra = ("nats", "copying", "baseline", "error", "shape_error", "trend_error")
    return {k: row.get(k) for k in FIELDS} | {k: row[k] for k in extra if k in row}


def _known(names: Sequence[str]) -> list[str]:
    """The names, each of which something has: else it is said before anything is fitted."""
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"compare: got {name!r}; say it as path.py:Class, since each has a process.")  # noqa: TRY004
        if name not in BASELINE_NAMES:
            family_class(name)
    return list(names)
