"""Draws of tables, pofx and its peers: the same rows, one thread, CPU seconds.

    POFX_DATA=... python benchmarks/table_peers.py [--only adult/trees ...] [--rows 10000] [--seeds 0] [--epochs 150]

Tables: Adult (15 mixed columns, blanks) and default of credit cards (24 columns, the ID left out). Every method learns
from the same rows and draws as many; 5000 other real rows judge: column shapes and pair trends (SDMetrics' errors),
AUC of boosted trees trained on the draws and tested on real rows (beside real rows in their place), and closeness to
the training rows as against the held-out ones (excess: the share of copies; below: draws nearer to a training row than
the median held-out row is, honest at most one half). Seconds of CPU time to fit and to draw.
Recipes: pofx by name with a budget of --budget CPU seconds for families with networks; CTGAN and TVAE (ctgan) at their
defaults but for CTGAN's epochs, which are cut so that it ends in about as many seconds as its 300 would need for 5000
rows; the Gaussian copula of SDV at its defaults with detected metadata. They know no blanks in categories, which become
a word and come back as blanks. Finished cells stand in --out and are skipped; a peer that is not installed is said.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import pofx
from pofx.data import find, open_data
from pofx.metrics import column_shapes, copying, pair_trends, utility

NAMES = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship", "race",
    "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
)  # fmt: skip
OURS = ("trees", "copula", "mixture", "autoregressive", "diffusion")
PEERS = ("ctgan", "tvae", "sdv-copula")
TARGET = {"adult": "income", "credit": "Y"}
BLANK = "(blank)"
HELD = 5000
Draw = Callable[[int, int], pd.DataFrame]  # (rows, seed)


def real_rows(table: str, rows: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training rows and held-out rows, from a fixed shuffle."""
    if table == "adult":
        path = find("tables/adult/adult-train.csv.gz")
        frame = pd.read_csv(path, header=None, names=list(NAMES), skipinitialspace=True, na_values="?")
    else:
        path = find("tables/default_credit/UCI_Credit_Card.csv.gz")
        frame = pd.read_csv(path).drop(columns="ID").rename(columns=lambda c: c.strip())
    frame = frame.iloc[np.random.default_rng(0).permutation(len(frame))].reset_index(drop=True)
    return frame.iloc[:rows], frame.iloc[rows : rows + HELD].reset_index(drop=True)


def words_of(frame: pd.DataFrame) -> list[str]:
    """The columns that a peer must be told are categories: words, and numbers with few values."""
    return [c for c in frame.columns if frame[c].dtype == object or frame[c].nunique() <= 12]


def fit_ours(name: str, train: pd.DataFrame, seed: int, budget: str) -> Draw:
    """A family of pofx, by name."""
    data = open_data(train, test=0, valid=0.1, seed=seed)
    model = pofx.fit(data, name, budget=budget, seed=seed, threads=1, progress=False)
    return lambda rows, rng: pofx.sample(model, rows, rng=rng).value


def fit_ctgan(name: str, train: pd.DataFrame, seed: int, epochs: int) -> Draw:
    """CTGAN or TVAE of the package ctgan."""
    from ctgan import CTGAN, TVAE

    discrete = words_of(train)
    filled = train.copy()
    filled[discrete] = filled[discrete].astype(object).where(train[discrete].notna(), BLANK)
    model = CTGAN(epochs=epochs, enable_gpu=False) if name == "ctgan" else TVAE(epochs=300, enable_gpu=False)
    model.set_random_state(seed)
    model.fit(filled, discrete)
    return lambda rows, rng: _as_real(model.sample(rows), train)


def fit_sdv(train: pd.DataFrame, seed: int) -> Draw:
    """The Gaussian copula of SDV."""
    from sdv.metadata import Metadata
    from sdv.single_table import GaussianCopulaSynthesizer

    metadata = Metadata.detect_from_dataframes({"table": train})
    model = GaussianCopulaSynthesizer(metadata)
    model.fit({"table": train} if _wants_dict(model) else train)
    return lambda rows, rng: _as_real(model.sample(num_rows=rows), train)


def _wants_dict(model: object) -> bool:
    import sdv

    return int(sdv.__version__.split(".")[0]) >= 2


def _as_real(drawn: pd.DataFrame | dict[str, pd.DataFrame], train: pd.DataFrame) -> pd.DataFrame:
    """Drawn rows with the real rows' dtypes and blanks."""
    drawn = (drawn["table"] if isinstance(drawn, dict) else drawn)[train.columns].reset_index(drop=True)
    drawn = drawn.mask(drawn == BLANK)
    for c in train.columns:
        if pd.api.types.is_numeric_dtype(train[c]):
            drawn[c] = pd.to_numeric(drawn[c])
    return drawn


def numbers(frames: list[pd.DataFrame]) -> list[np.ndarray]:
    """Rows as vectors for distances: numbers by the first frame's deviation, a category as a 1 in its place."""
    first, parts = frames[0], [[] for _ in frames]
    for c in first.columns:
        number = pd.api.types.is_numeric_dtype(first[c])
        words = None if number else sorted(first[c].dropna().unique())
        for frame, out in zip(frames, parts, strict=True):
            if number:
                values = frame[c].astype(float)
                out.append(
                    ((values.fillna(first[c].mean()) - first[c].mean()) / (first[c].std() or 1.0)).to_numpy()[:, None]
                )
            else:
                out.append(np.stack([(frame[c] == w).to_numpy() for w in words], 1) / np.sqrt(2))
    return [np.concatenate(p, 1) for p in parts]


def judged(table: str, train: pd.DataFrame, held: pd.DataFrame, drawn: pd.DataFrame) -> dict[str, float | bool]:
    """All scores of drawn rows."""
    auc = utility(drawn, held, TARGET[table], 0)
    some = [train.iloc[:HELD], held, drawn.iloc[:2000]]
    near = copying(*numbers(some), standardise=False)
    return {
        "shape": column_shapes(held, drawn, draws=2).mean.value,
        "trend": pair_trends(held, drawn, draws=2).mean.value,
        "auc": auc.value, "auc_low": auc.low, "auc_high": auc.high,
        "excess": near.excess.value, "below": near.below_median.value, "copies": near.flagged,
    }  # fmt: skip


def cell(table: str, method: str, rows: int, seed: int, budget: float, epochs: int) -> dict[str, object]:
    """Fit, draw and judge one method on one table."""
    train, held = real_rows(table, rows)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (the peers' only seed)
    clock, note = time.process_time(), ""
    if method == "real":
        draw: Draw = lambda n, rng: train  # noqa: E731
    elif method in OURS:
        draw = fit_ours(method, train, seed, f"{budget:g} cpu s")
    elif method == "sdv-copula":
        draw = fit_sdv(train, seed)
    else:
        draw, note = fit_ctgan(method, train, seed, epochs), f"{epochs if method == 'ctgan' else 300} epochs"
    fitted = time.process_time()
    drawn = draw(len(train), seed + 1)
    spent = {"fit_cpu": round(fitted - clock, 2), "draw_cpu": round(time.process_time() - fitted, 2)}
    found = {"table": table, "method": method, "seed": seed, "rows": len(train), "note": note}
    return {**found, **spent, **judged(table, train, held, drawn)}


def show(lines: list[dict]) -> None:
    """All finished cells as a table."""
    head = ("table", "method", "seed", "rows", "fit_cpu", "draw_cpu", "shape", "trend", "auc", "auc_low", "auc_high")
    print(pd.DataFrame(lines)[[*head, "excess", "below", "copies", "note"]].round(4).to_string(index=False))


def main() -> None:
    """Run the cells that are not finished, and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="cells such as adult/trees")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--budget", type=float, default=180)
    parser.add_argument("--epochs", type=int, default=150, help="of CTGAN")
    parser.add_argument("--out", type=Path, default=Path("runs/table_peers.jsonl"))
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["LOKY_MAX_CPU_COUNT"] = "1"  # seconds spent in worker processes would not be counted
    done = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    cells = [(t, m, s) for s in asked.seeds for t in TARGET for m in ("real", *OURS, *PEERS)]
    for table, method, seed in cells:
        known = any((d["table"], d["method"], d["seed"], d["rows"]) == (table, method, seed, asked.rows) for d in done)
        if known or (asked.only and f"{table}/{method}" not in asked.only):
            continue
        try:
            done.append(cell(table, method, asked.rows, seed, asked.budget, asked.epochs))
        except (ImportError, FileNotFoundError) as missing:
            print(f"{table}/{method} is left out: {missing}")
            continue
        with open(asked.out, "a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        print(done[-1], flush=True)
    if done:
        show(done)


if __name__ == "__main__":
    main()
