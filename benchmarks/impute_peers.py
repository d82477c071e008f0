"""Gaps of tables, pofx and its peers: the same masks, one thread, CPU seconds.

    POFX_DATA=... python benchmarks/impute_peers.py [--only concrete/mcar/pofx ...] [--seeds 0 1 2] [--table]

Tables: concrete, breast cancer (scikit-learn's), California, power plant, Boston, red wine, protein and banknote, at
most --rows rows of a fixed shuffle, numbers only, complete. Three mechanisms at 30 %: MCAR; MAR, where a random 30 % of
the columns (at least one) stay whole and drive the gaps of the others by a logistic law; MNAR, where each column drives
its own gaps by a logistic law. A method sees the table with gaps only, fills it, and is judged on the hidden cells:
RMSE of its point (mean of its completions), in standard deviations of the whole column; of single draws the mean
absolute error over the column's range (Gower), the mean over draws; of 90 % intervals the share that hold the truth,
where the method draws (quantiles at (m + 1) p of 20 draws; 5 draws hold no such interval), and range5, the share of
truths between the least and the largest of five draws: 4 of 6 where draws are as wide as they should be. Narrow draws
have a small Gower error and a small range5: read the two together.
Methods: pofx (Imputer at its defaults), the mean, IterativeImputer with BayesianRidge and with ExtraTrees (20 trees), a
MissForest (IterativeImputer with a random forest of 50, 5 rounds), miceforest (5 sets, 5 iterations, its mean and its
draws), HyperImpute (its default plugin). Finished cells stand in --out and are skipped; a peer that is not installed or
fails is said. They want pandas < 3, scikit-learn < 1.6 (else HyperImpute gives back means without a word) and, for
miceforest, LightGBM < 4.6.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd

from pofx.data import find

UCI = {"concrete": "concrete", "power_plant": "power-plant", "boston": "bostonHousing", "wine_red": "wine-quality-red"}
UCI |= {"protein": "protein-tertiary-structure"}
TABLES = ("concrete", "breast_cancer", "california", "power_plant", "boston", "wine_red", "protein", "banknote")
MECHANISMS = ("mcar", "mar", "mnar")
METHODS = ("mean", "pofx", "ridge", "extra_trees", "missforest", "miceforest", "hyperimpute")
SHARE, DRAWS = 0.3, 20
Array = np.ndarray


@dataclass(frozen=True)
class Filled:
    """A point for every cell, and draws `(m, N, D)` where the method has some."""

    point: Array
    draws: Array | None = None


def table(name: str, rows: int) -> Array:
    """The numbers of a table, in a fixed random order; constant columns left out."""
    if name in UCI:
        x = np.loadtxt(find(f"tables/uci_regression/{UCI[name]}/data.txt.gz"))
    elif name == "breast_cancer":
        from sklearn.datasets import load_breast_cancer

        x = load_breast_cancer().data
    elif name == "banknote":
        x = pd.read_csv(find("tables/banknote/banknote_authentication.csv.gz"), header=None).to_numpy(float)
    else:
        x = (
            pd.read_csv(find("tables/california_housing/housing.csv.gz"))
            .dropna()
            .select_dtypes("number")
            .to_numpy(float)
        )
    x = x[np.random.default_rng(0).permutation(len(x))[:rows]]
    return x[:, x.std(0) > 1e-9]


def hidden(x: Array, mechanism: str, seed: int) -> Array:
    """Which cells are hidden, `(N, D)` bool."""
    rng = np.random.default_rng(100 + seed)
    (n, d), z = x.shape, (x - x.mean(0)) / x.std(0)
    if mechanism == "mcar":
        return rng.random((n, d)) < SHARE
    gone = np.zeros((n, d), dtype=bool)
    whole = rng.permutation(d)[: max(1, int(0.3 * d))] if mechanism == "mar" else np.array([], dtype=int)
    for j in sorted(set(range(d)) - set(whole.tolist())):
        drive = z[:, whole] @ rng.normal(size=len(whole)) if mechanism == "mar" else z[:, j] * rng.choice([-1.0, 1.0])
        drive = drive / drive.std()
        gone[:, j] = rng.random(n) < 1 / (1 + np.exp(-(drive + _offset(drive))))
    return gone


def _offset(drive: Array) -> float:
    low, high = -50.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-(drive + middle)))).mean() < SHARE else (low, middle)
    return low


def by_mean(gaps: Array, seed: int) -> Filled:
    """The mean of each column."""
    return Filled(np.where(np.isnan(gaps), np.nanmean(gaps, 0), gaps))


def by_pofx(gaps: Array, seed: int) -> Filled:
    """pofx.Imputer at its defaults."""
    import pofx

    imputer = pofx.Imputer(random_state=seed).fit(gaps)
    answer = imputer.answer(pd.DataFrame(gaps, columns=[f"x{j}" for j in range(gaps.shape[1])]), DRAWS)
    draws = np.stack([one.to_numpy(float) for one in answer.value])
    return Filled(answer.diagnostics["mean"].to_numpy(float), draws)


def _iterative(gaps: Array, estimator: object, rounds: int, seed: int) -> Filled:
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    centre, scale = np.nanmean(gaps, 0), np.nanstd(gaps, 0)
    scale = np.where(scale > 0, scale, 1.0)  # a column may hide all but one of its values
    done = IterativeImputer(estimator, max_iter=rounds, random_state=seed).fit_transform((gaps - centre) / scale)
    return Filled(done * scale + centre)


def by_ridge(gaps: Array, seed: int) -> Filled:
    """IterativeImputer with BayesianRidge, its default."""
    from sklearn.linear_model import BayesianRidge

    return _iterative(gaps, BayesianRidge(), 10, seed)


def by_extra_trees(gaps: Array, seed: int) -> Filled:
    """IterativeImputer with 20 extremely randomised trees."""
    from sklearn.ensemble import ExtraTreesRegressor

    return _iterative(gaps, ExtraTreesRegressor(20, random_state=seed), 10, seed)


def by_missforest(gaps: Array, seed: int) -> Filled:
    """IterativeImputer with a random forest, as MissForest."""
    from sklearn.ensemble import RandomForestRegressor

    return _iterative(gaps, RandomForestRegressor(50, max_features="sqrt", random_state=seed), 5, seed)


def by_miceforest(gaps: Array, seed: int) -> Filled:
    """miceforest: LightGBM with predictive mean matching."""
    import miceforest

    frame = pd.DataFrame(gaps, columns=[f"x{j}" for j in range(gaps.shape[1])])
    kernel = miceforest.ImputationKernel(frame, num_datasets=5, random_state=seed)
    kernel.mice(5, num_threads=1)
    draws = np.stack([kernel.complete_data(k).to_numpy(float) for k in range(5)])
    return Filled(draws.mean(0), draws)


def by_hyperimpute(gaps: Array, seed: int) -> Filled:
    """HyperImpute's own plugin at its defaults."""
    from hyperimpute.plugins.imputers import Imputers

    done = Imputers().get("hyperimpute", random_state=seed).fit_transform(pd.DataFrame(gaps))
    return Filled(done.to_numpy(float))


def judged(x: Array, gone: Array, filled: Filled) -> dict[str, float]:
    """RMSE of the point, and of draws their Gower error and the coverage of 90 % intervals."""
    found = {"rmse": float(np.sqrt(np.square(((filled.point - x) / x.std(0))[gone]).mean()))}
    if filled.draws is not None:
        span = np.ptp(x, axis=0)
        found["gower"] = float(np.mean([(np.abs(one - x) / span)[gone].mean() for one in filled.draws]))
        few = filled.draws[:5]
        found["range5"] = float(((x >= few.min(0) - 1e-9) & (x <= few.max(0) + 1e-9))[gone].mean())
        if len(filled.draws) >= DRAWS - 1:
            low, high = np.quantile(filled.draws, [0.05, 0.95], axis=0, method="weibull")
            found["coverage"] = float(((x >= low - 1e-9) & (x <= high + 1e-9))[gone].mean())
    return found


def cell(name: str, mechanism: str, method: str, seed: int, rows: int) -> dict[str, object]:
    """One cell: a line of the results."""
    x = table(name, rows)
    gone = hidden(x, mechanism, seed)
    gaps = np.where(gone, np.nan, x)
    ask: Callable[[Array, int], Filled] = globals()[f"by_{method}"]
    key = {"cell": f"{name}/{mechanism}/{method}", "seed": seed, "rows": len(x), "gaps": round(float(gone.mean()), 4)}
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            filled = ask(gaps, seed)
    except Exception as error:  # noqa: BLE001 (a peer may fail in any way; the others go on)
        return key | {"error": f"{type(error).__name__}: {str(error)[:200]}"}
    seconds = time.process_time() - start
    assert filled.point.shape == x.shape
    return key | judged(x, gone, filled) | {"cpu_seconds": round(seconds, 2)}


def results(path: Path) -> list[dict[str, object]]:
    """The finished cells."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def show(lines: list[dict[str, object]]) -> None:
    """One row for each table and mechanism: means over masks; then how often pofx is near the best peer, or ahead."""
    frame = pd.DataFrame([one for one in lines if "error" not in one])
    if frame.empty:
        return
    frame[["table", "mechanism", "method"]] = frame["cell"].str.split("/", expand=True).to_numpy()
    for what in ("rmse", "gower", "range5", "coverage", "cpu_seconds"):
        if what in frame:
            wide = frame.pivot_table(index=["table", "mechanism"], columns="method", values=what)
            print(f"\n{what}\n{wide.round(3).to_string(na_rep='-')}")
    every = frame.pivot_table(index=["table", "mechanism", "seed"], columns="method", values="rmse")
    rivals = [m for m in every if m not in ("pofx", "mean")]
    if "pofx" in every and rivals:
        # with each rival over the masks that both have filled, then the strongest of them
        both = {m: every[["pofx", m]].dropna().groupby(["table", "mechanism"]).mean() for m in rivals}
        ratio = pd.DataFrame({m: means["pofx"] / means[m] for m, means in both.items()}).max(axis=1)
        print(
            f"\npofx / best peer, RMSE: within 2 % in {int((ratio <= 1.02).sum())} of {len(ratio)} cells, "
            f"better in {int((ratio < 1).sum())}; median ratio {ratio.median():.3f}, worst {ratio.max():.3f}"
        )
        print(every.groupby("seed").count().to_string())
    for line in lines:
        if "error" in line:
            print(f"{line['cell']} seed {line['seed']}: {line['error']}")


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="prefixes of table/mechanism/method; * for any part")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("runs/impute_peers.jsonl"))
    parser.add_argument("--table", action="store_true", help="only print what is there")
    asked = parser.parse_args()
    done = {(one["cell"], one["seed"]) for one in results(asked.out)}
    every = [(t, m, p, s) for s in asked.seeds for t in TABLES for m in MECHANISMS for p in METHODS]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    for t, m, p, s in every if not asked.table else []:
        if (f"{t}/{m}/{p}", s) in done or not _wanted((t, m, p), asked.only):
            continue
        line = cell(t, m, p, s, asked.rows)
        with asked.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
    show(results(asked.out))


def _wanted(parts: tuple[str, str, str], only: list[str]) -> bool:
    patterns = [pattern.split("/") for pattern in only]
    return not only or any(
        all(w in ("*", part) for w, part in zip(pattern, parts, strict=False)) for pattern in patterns
    )


if __name__ == "__main__":
    main()
