"""What does not belong: pofx and PyOD on the same rows, one thread; and the known failure of log p on pictures.

    POFX_DATA=... python benchmarks/anomaly_peers.py [--only glass fashion ...] [--seeds 1 2 3] [--methods pofx KNN ...]

Tables: the 25 sets of ADBench, at most 3000 rows each, split 70/30 by class without duplication. *contaminated* trains
on all 70 %, strange rows included; *clean* on its normal rows. pofx: `fit(frame, "experts")`, all columns as numbers,
then `anomaly(model, rows)`: one default for all. PyOD at its defaults on standardised columns. AUROC on the 30 %; a
score that is not finite is counted. Differences to each peer are paired over sets, with their standard error.
Pictures: a model of Fashion-MNIST, trained --budget, is asked about held-out Fashion and about MNIST: raw log p,
complexity, likelihood ratio to a model of perturbed pictures (half the budget each), typicality, surprise.
Finished cells stand in --out and are skipped; a peer that is not installed is said.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import pofx
from pofx.data import find, open_data
from pofx.metrics import auroc
from pofx.tasks.anomalies import perturbed

PEERS = {
    "IForest": "iforest", "HBOS": "hbos", "KNN": "knn", "ECOD": "ecod", "COPOD": "copod", "LOF": "lof", "GMM": "gmm",
    "KDE": "kde", "PCA": "pca", "OCSVM": "ocsvm", "INNE": "inne",
}  # fmt: skip
SEEDED = ("IForest", "GMM", "PCA", "INNE")
OURS = ("pofx", "pofx-kde")
SCORES = ("log prob", "ratio", "complexity", "typicality", "surprise")
Array = np.ndarray[Any, Any]


def split(name: str, seed: int, clean: bool, most: int = 3000) -> tuple[Array, Array, Array]:
    """Training rows, test rows, and which of these are strange."""
    from sklearn.model_selection import train_test_split

    with np.load(find(f"tables/adbench/{name}.npz"), allow_pickle=False) as file:
        x, y = file["X"].astype(float), file["y"].astype(int)
    if len(x) > most:
        some = np.random.RandomState(seed).choice(len(x), most, replace=False)  # noqa: NPY002 (ADBench's own protocol)
        x, y = x[some], y[some]
    train, test, of_train, of_test = train_test_split(x, y, test_size=0.3, stratify=y, random_state=seed)
    return train[of_train == 0] if clean else train, test, of_test == 1


def by_pofx(method: str, train: Array, test: Array, seed: int) -> Array:
    """Scores of test rows by one default of pofx."""
    names = [f"c{i}" for i in range(train.shape[1])]
    data = open_data(
        pd.DataFrame(train, columns=names), test=0, valid=0, seed=seed, options={"types": dict.fromkeys(names, "real")}
    )
    family = "experts" if method == "pofx" else method.removeprefix("pofx-")
    model = pofx.fit(data, family, seed=seed, threads=1, progress=False)
    return pofx.anomaly(model, pd.DataFrame(test, columns=names)).value.numpy()


def by_peer(method: str, train: Array, test: Array, seed: int) -> Array:
    """Scores of test rows by a detector of PyOD at its defaults."""
    detector = getattr(importlib.import_module(f"pyod.models.{PEERS[method]}"), method)
    middle, spread = train.mean(0), train.std(0)
    spread[spread < 1e-12] = 1.0
    model = detector(random_state=seed) if method in SEEDED else detector()
    return model.fit((train - middle) / spread).decision_function((test - middle) / spread)


def table_cell(name: str, clean: bool, method: str, seed: int) -> dict[str, Any]:
    """One method on one table."""
    train, test, strange = split(name, seed, clean)
    clock = time.process_time()
    score = (by_pofx if method in OURS else by_peer)(method, train, test, seed)
    spent, finite = time.process_time() - clock, np.isfinite(score)
    mended = np.where(finite, score, score[finite].max() if finite.any() else 0.0)
    value = auroc(mended[~strange], mended[strange]).value
    return {"auroc": value, "cpu": round(spent, 3), "not finite": int((~finite).sum()), "rows": len(train)}


def draw(file: Path) -> None:
    """The picture of docs/questions/anomaly.md: heart rates of cardio, learnt from normal rows, a third held out."""
    train, test, _ = split("6_cardio", 1, True)
    names = [f"c{i}" for i in range(train.shape[1])]
    rows = pd.DataFrame(train, columns=names)
    data = open_data(rows, test=0, valid=1 / 3, options={"types": dict.fromkeys(names, "real")})
    model = pofx.fit(data, "experts", progress=False)
    answer = pofx.anomaly(model, pd.DataFrame(test, columns=names), data, fdr=0.1)
    answer.figure().savefig(file, dpi=110, facecolor="white")
    print(answer.explain())


def fashion_cell(seed: int, budget: float, asked: int, rows: int = 4000) -> dict[str, Any]:
    """A model of clothes is asked about clothes and about digits, by several scores."""
    train = open_data("images/fashion-mnist/train-images-idx3-ubyte.gz", limit=rows, test=0, valid=300, seed=seed)
    clothes, digits = (
        open_data(f"images/{name}/t10k-images-idx3-ubyte.gz", limit=asked, test=0, valid=0, seed=seed).x
        for name in ("fashion-mnist", "mnist")
    )
    clock, each = time.process_time(), f"{budget / 2:g} cpu s"
    model = pofx.fit(train, "autoregressive", budget=each, seed=seed, threads=1, progress=False)
    behind = pofx.fit(perturbed(train, 0.2), "autoregressive", budget=each, seed=seed, threads=1, progress=False)
    found: dict[str, Any] = {"fit cpu": round(time.process_time() - clock, 1), "asked": len(digits)}
    for route in SCORES:
        more = {"background": behind} if route == "ratio" else {"calibration": train} if route == "typicality" else {}
        few, many = (pofx.anomaly(model, x, route=route, **more).value for x in (clothes, digits))
        found[route] = auroc(few.numpy(), many.numpy()).value
    found["cpu"] = round(time.process_time() - clock, 1)
    return found


def show(lines: list[dict[str, Any]]) -> None:
    """Means over seeds and sets, and paired differences between pofx and each peer."""
    tables = pd.DataFrame([d for d in lines if d["protocol"] != "pictures"])
    for protocol, some in tables.groupby("protocol") if len(tables) else ():
        wide = some.pivot_table(index="set", columns="method", values="auroc").dropna()
        print(f"\n{protocol}: mean AUROC over {len(wide)} sets, seeds {sorted(some['seed'].unique().tolist())}")
        for method in wide.mean().sort_values(ascending=False).index:
            own = some[some["method"] == method]
            gap = wide["pofx"] - wide[method] if "pofx" in wide else wide[method] * np.nan
            error = gap.std(ddof=1) / max(len(gap), 1) ** 0.5
            print(
                f"  {method:10s} {wide[method].mean():.4f}   pofx - it {gap.mean():+.4f} +- {error:.4f}, better on "
                f"{int((gap > 0).sum()):2d}   cpu s {own['cpu'].sum():7.1f}   not finite {own['not finite'].sum()}"
            )
    for line in lines:
        if line["protocol"] == "pictures":
            print("\nFashion-MNIST against MNIST:", {k: v for k, v in line.items() if k not in ("set", "protocol")})


def main() -> None:
    """Run the cells that are not finished, and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="parts of names of sets, or fashion")
    parser.add_argument("--methods", nargs="*", default=["pofx", *PEERS])
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--budget", type=float, default=280, help="CPU seconds of the picture models together")
    parser.add_argument("--asked", type=int, default=500, help="pictures of each kind that the model is asked about")
    parser.add_argument("--picture", type=Path, help="draw one answer into this file, and nothing else")
    parser.add_argument("--out", type=Path, default=Path("runs/anomaly_peers.jsonl"))
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if asked.picture is not None:
        draw(asked.picture)
        return
    os.environ["LOKY_MAX_CPU_COUNT"] = "1"
    done = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    names = sorted(p.stem for p in find("tables/adbench").glob("*.npz"))
    protocols = ("contaminated", "clean")
    cells = [(n, p, m, s) for s in asked.seeds for n in names for p in protocols for m in asked.methods]
    cells += [("fashion", "pictures", "pofx", s) for s in asked.seeds[:1]]
    for cell in cells:
        known = any((d["set"], d["protocol"], d["method"], d["seed"]) == cell for d in done)
        if known or (asked.only and not any(part in cell[0] for part in asked.only)):
            continue
        name, protocol, method, seed = cell
        try:
            picture = protocol == "pictures"
            found = (
                fashion_cell(seed, asked.budget, asked.asked)
                if picture
                else table_cell(name, protocol == "clean", method, seed)
            )
        except (ImportError, FileNotFoundError) as missing:
            print(f"{'/'.join(map(str, cell))} is left out: {missing}")
            continue
        done.append({"set": name, "protocol": protocol, "method": method, "seed": seed, **found})
        with open(asked.out, "a") as file:
            file.write(json.dumps(done[-1]) + "\n")
    show(done)


if __name__ == "__main__":
    main()
