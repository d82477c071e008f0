"""Structure: what a learnt p(x) says about where the data lie, against PCA, k-means and SMOTE. One picture each.

    POFX_DATA=... python benchmarks/structure.py [--only latents dimension depend augment] [--seeds 0 1 2]
    python benchmarks/structure.py table
    python benchmarks/structure.py picture docs/questions     (interpolate.png, traverse.png, augment.png)

embed        MNIST in black and white, 10 000 rows to learn from and 1000 test pictures; 8 latents of a vae against 8
             principal components: a linear probe and 5 neighbours.
cluster      the same latents; ten groups by a mixture against k-means with k = 10 on them, on pixels and on the
             principal components: adjusted Rand index.
dimension    a plane and a curve in 10 dimensions with a little noise (truth 2 and 1), and the digits: by what the
             denoiser of a mixture leaves of noise, against TwoNN on the rows.
depend       mutual information of all pairs of columns of three tables from 500 rows, with all cells and with half of
             them gone: asked of a mixture of four normals, of scikit-learn's nearest neighbours on the rows where both
             cells are there, and of the correlation; mean distance in nats to the neighbours' on 8000 other rows.
interpolate  halfway between two test digits of a class: log p under a judge (60 tables of pixels, fitted to 10 000
             other rows) of the vae's middle, of the mean of the pixels, of the line between 8 principal components; and
             how often the nearest of those rows is of that class.
augment      six unbalanced tables of adbench, 20 rare rows in training: balanced accuracy of a logistic regression that
             is given draws of a mixture with one full covariance a class, against no augmentation, SMOTE
             (5 neighbours), rows repeated, and rows with noise, all of `gain`. Means over seeds, paired by table; and
             the verdict of each.

Every cell is a line of runs/structure.jsonl and is not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from impute_peers import table as impute_table
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.feature_selection import mutual_info_regression
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier

import pofx
from pofx.data import Data, find, open_data
from pofx.engines.oversample import noisy, smote
from pofx.kinds._pictures import read_idx
from pofx.metrics.base import paired_difference
from pofx.metrics.representation import neighbour_accuracy, probe_accuracy
from pofx.model import Model
from pofx.randomness import Rng
from pofx.tasks.augment import gain
from pofx.tasks.dimension import two_nearest

RESULTS = Path("runs/structure.jsonl")
LATENTS, BUDGET, RARE, ROWS, TEST = 8, "60 cpu s", 20, 10_000, 1000
COLUMNS = ("power_plant", "california", "protein")
TABLES = ("2_annthyroid", "19_landsat", "23_mammography", "28_pendigits", "7_Cardiotocography", "40_vowels")


def vae(seed: int, budget: str) -> tuple[Data, Model]:
    """Digits, and a model with eight latents."""
    data = mnist(seed)
    knobs = {"latents": LATENTS}
    model = pofx.fit(data, "vae", hyper_parameters=knobs, budget=budget, seed=seed, threads=1, progress=False)
    return data, model


def mnist(seed: int, which: int = 0) -> Data:
    """MNIST in black and white, a share of its training rows by seed and `which`, and the first 1000 test rows."""
    x, _ = _digits("train")
    order = np.random.default_rng(seed).permutation(len(x))[which * ROWS :][:ROWS]
    both = np.concatenate([x[order], _digits("t10k")[0][:TEST]])
    data, rows = open_data(both, kind="image", test=1, valid=100), torch.arange(len(both))
    return replace(data, split={"train": rows[200:ROWS], "valid": rows[:200], "test": rows[ROWS:]}, name="MNIST")


def _digits(part: str) -> tuple[np.ndarray, np.ndarray]:
    folder = find("images/mnist")
    x, y = (read_idx(folder / f"{part}-{what}-ubyte.gz") for what in ("images-idx3", "labels-idx1"))
    return (x > 127).astype(np.uint8), y


def _pixels(data: Data, part: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a part, flat, and their digits."""
    x = data.part(part).x.flatten(1).double().numpy()
    if part == "test":
        return x, _digits("t10k")[1][:TEST]
    return x, _digits("train")[1][np.random.default_rng(seed).permutation(60_000)[:ROWS]][200:]


def latents(seed: int, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """embed, cluster and interpolate share one fit."""
    start = time.process_time()
    data, model = vae(seed, asked.budget)
    spent = time.process_time() - start
    (x, y), (xt, yt) = (_pixels(data, p, seed) for p in ("train", "test"))
    main = PCA(LATENTS).fit(x)
    codes = {"vae": [pofx.embed(model, data.part(p).x).value.numpy() for p in ("train", "test")]}
    codes |= {"pca": [main.transform(x), main.transform(xt)], "pixels": [x, xt]}
    for way, (z, zt) in codes.items():
        probe, near = probe_accuracy(z, y, zt, yt).value, neighbour_accuracy(z, y, zt, yt).value
        yield {"cell": "embed", "way": way, "probe": probe, "neighbours": near, "cpu": spent if way == "vae" else 0.0}
    found = pofx.cluster(model, data.part("train").x, 10, rng=seed).value.numpy()
    yield {"cell": "cluster", "way": "vae, mixture of normals", "rand": adjusted_rand_score(y, found)}
    for way, (z, _) in codes.items():
        groups = KMeans(10, n_init=4, random_state=seed).fit_predict(z)
        yield {"cell": "cluster", "way": f"{way}, k-means", "rand": adjusted_rand_score(y, groups)}
    yield from between(data, model, main, seed)


def between(data: Data, model: Model, main: PCA, seed: int) -> Iterator[dict[str, Any]]:
    """How likely is halfway, to a judge that has seen other rows, and of which class are the rows nearest to it?"""
    xt, yt = _pixels(data, "test", seed)
    rng, pairs = np.random.default_rng(seed), []
    while len(pairs) < 200:
        i, j = rng.integers(len(xt), size=2)
        if i != j and yt[i] == yt[j]:
            pairs.append((i, j))
    a, b = (xt[[p[k] for p in pairs]] for k in (0, 1))
    others = mnist(seed, 1)
    judge = pofx.fit(others, "mixture", hyper_parameters={"components": 60}, threads=1, progress=False)
    known = others.part("train").x.flatten(1).numpy()
    order = np.random.default_rng(seed).permutation(60_000)[ROWS : 2 * ROWS][200:]
    near = KNeighborsClassifier(1).fit(known, _digits("train")[1][order])
    shape = (-1, *data.space.shape)
    ends = [torch.from_numpy(v).to(data.x.dtype).reshape(shape) for v in (a, b)]
    middles = {"vae": pofx.interpolate(model, *ends, 3).raw[:, 1].flatten(1).double().numpy(), "pixels": (a + b) / 2}
    middles["pca"] = main.inverse_transform((main.transform(a) + main.transform(b)) / 2)
    middles["real digits"] = a
    for way, x in middles.items():
        rows = data.space.nearest(torch.from_numpy(x).reshape(shape))
        nats = float(pofx.density(judge, rows).value.mean())
        right = float((near.predict(rows.flatten(1).numpy()) == yt[[p[0] for p in pairs]]).mean())
        yield {"cell": "interpolate", "way": way, "nats": nats, "same class": right}


def dimension(seed: int, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Of shapes whose truth is known, and of digits."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    angle = rng.uniform(0, 2 * np.pi, 2000)
    curve = np.stack([np.cos(angle), np.sin(angle), 0.5 * np.cos(2 * angle)], 1) @ turn[:3]
    plane = rng.normal(size=(2000, 2)) @ turn[:2]
    for name, x, truth in (("plane", plane, 2), ("curve", curve, 1)):
        x = x + 0.01 * rng.normal(size=x.shape)
        yield {"cell": "dimension", "way": f"{name} ({truth}), TwoNN on rows", "d": two_nearest(torch.from_numpy(x))}
        model = pofx.fit(
            x, "mixture", hyper_parameters={"components": 32 if truth == 1 else 1}, threads=1, progress=False
        )
        for scale in (0.1, 0.2):
            found = pofx.dimension(model, x[:300], scale=scale, rng=seed)
            yield {"cell": "dimension", "way": f"{name} ({truth}), denoiser at {scale}", "d": found.value}
    digits = open_data("digits").x.flatten(1).double()
    x = (digits + torch.from_numpy(rng.uniform(size=tuple(digits.shape)) - 0.5)).numpy()
    yield {"cell": "dimension", "way": "digits, TwoNN on rows", "d": two_nearest(digits)}
    knobs = {"components": 20, "covariance": "factor", "factors": 10, "smoothing": 20.0}
    model = pofx.fit(x, "mixture", hyper_parameters=knobs, threads=1, progress=False)
    for scale in (0.2, 0.4, 0.8):
        found = pofx.dimension(model, x[:300], scale=scale, rng=seed)
        yield {"cell": "dimension", "way": f"digits, denoiser at {scale}", "d": found.value}


def depend(seed: int, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """How much columns say about each other."""
    rng = np.random.default_rng(seed)
    for name in COLUMNS:
        every = rng.permutation(np.unique(impute_table(name, 10**6), axis=0))
        x, others = every[:500], every[500:8500]
        truth = _pairs(others, _neighbours)
        frame = pd.DataFrame(x, columns=[f"x{j}" for j in range(x.shape[1])])
        for gone in (0.0, 0.5):
            gaps = frame.mask(rng.random(x.shape) < gone)
            data = open_data(gaps, test=0, valid=0, options={"types": dict.fromkeys(frame, "real")})
            knobs = {"components": 4, "covariance": "full"}
            model = pofx.fit(data, "mixture", hyper_parameters=knobs, seed=seed, threads=1, progress=False)
            ways = {"mixture": pofx.depend(model, rng=seed).value.numpy()}
            ways |= {"neighbours": _pairs(gaps.to_numpy(), _neighbours), "correlation": _pairs(gaps.to_numpy(), _line)}
            for way, found in {**ways, "none": np.zeros_like(truth)}.items():
                apart = float(np.abs(found - truth)[np.triu_indices(len(truth), 1)].mean())
                yield {"cell": f"depend, {gone:.0%} gone", "way": way, "table": name, "apart": apart}


def _pairs(x: np.ndarray, information: Callable[[np.ndarray, np.ndarray], float]) -> np.ndarray:
    """Of every pair of columns, over the rows that have both."""
    found = np.zeros((x.shape[1],) * 2)
    for i, j in zip(*np.triu_indices(x.shape[1], 1), strict=True):
        both = ~np.isnan(x[:, [i, j]]).any(1)
        found[i, j] = found[j, i] = information(x[both, i], x[both, j])
    return found


def _neighbours(a: np.ndarray, b: np.ndarray) -> float:
    return float(mutual_info_regression(a[:, None], b, n_neighbors=3, random_state=0)[0])


def _line(a: np.ndarray, b: np.ndarray) -> float:
    return float(-0.5 * np.log(1 - np.corrcoef(a, b)[0, 1] ** 2))


def augment(seed: int, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Few rare rows, and what helps."""
    for name in asked.tables:
        path = find(f"tables/adbench/{name}.npz")
        raw = np.load(path)
        train, test = unbalanced(raw["X"], raw["y"].astype(int), seed)
        start = time.process_time()
        model = conditional(train)
        found = gain(model, train, test, "rare", repeats=3, rng=seed).diagnostics
        spent, said = time.process_time() - start, {"verdict": found["verdict"]}
        for way, score in found["scores"].items():
            more = said if way == "drawn" else {}
            yield {"cell": "augment", "way": way, "table": name, "balanced": score, "cpu": spent, **more}


def conditional(train: pd.DataFrame) -> Model:
    """One normal for each class; the rare one leans on the spread of all."""
    types = {c: "real" for c in train.columns if c != "rare"}  # test rows may hold values that training rows do not
    data = open_data(train, given="rare", test=0, valid=0, options={"types": types})
    knobs = {"components": 1, "covariance": "full", "separate": "rare", "smoothing": 20.0}
    return pofx.fit(data, "mixture", hyper_parameters=knobs, threads=1, progress=False)


def unbalanced(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """20 rare rows and at most 1000 others to train on; the rest, at most 3000 rows, to test."""
    rng = np.random.default_rng(seed)
    _, first = np.unique(x, axis=0, return_index=True)
    rows = rng.permutation(first)
    rare, others = rows[y[rows] == 1], rows[y[rows] == 0]
    wide = x.std(0) > 1e-9
    frame = pd.DataFrame(x[:, wide], columns=[f"x{j}" for j in range(wide.sum())])
    frame["rare"] = np.where(y == 1, "yes", "no")
    half = len(others) // 2
    train = np.concatenate([rare[:RARE], others[: min(1000, half)]])
    test = np.concatenate([rare[RARE:][:500], others[half:][:2500]])
    return frame.iloc[train].reset_index(drop=True), frame.iloc[test].reset_index(drop=True)


CELLS = {"latents": latents, "dimension": dimension, "depend": depend, "augment": augment}


def lines() -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def run(asked: argparse.Namespace) -> None:
    """Every cell that is not there yet."""
    RESULTS.parent.mkdir(exist_ok=True)
    for group in asked.only:
        for seed in asked.seeds:
            known = {(x["group"], x["seed"], x["cell"], x["way"], x.get("table")) for x in lines()}
            tables = [t for t in asked.tables if asked.again or (group, seed, "augment", "smote", t) not in known]
            asked_now = argparse.Namespace(budget=asked.budget, tables=tables)
            if group != "augment" and any(k[:2] == (group, seed) for k in known) and not asked.again:
                continue
            for line in CELLS[group](seed, asked_now):
                with RESULTS.open("a") as file:
                    file.write(json.dumps({"group": group, "seed": seed, **line}) + "\n")
                print(seed, line, flush=True)


def table() -> None:
    """Means over seeds, and what is paired."""
    found = pd.DataFrame(lines())
    for cell, part in found.groupby("cell", sort=False):
        known = part.notna().any()
        values = [
            c
            for c in ("probe", "neighbours", "rand", "d", "nats", "same class", "balanced", "apart")
            if known.get(c, False)
        ]
        print(f"\n{cell}, {part['seed'].nunique()} seeds\n{part.groupby('way', sort=False)[values].mean().round(4)}")
        if cell == "augment":
            wide = part.pivot_table(index=["table", "seed"], columns="way", values="balanced").dropna()
            wide = wide.groupby("table").mean()  # other tables, not other seeds, are what the interval is about
            print(wide.round(3))
            for way in ("real", "smote", "repeated", "noise"):
                more = paired_difference(wide["drawn"].to_numpy(), wide[way].to_numpy())
                print(f"drawn - {way}: {more.value:+.4f} [{more.low:+.4f}, {more.high:+.4f}]")
            said = part[part["way"] == "drawn"].reindex(columns=["table", "seed", "verdict"]).dropna()
            for line in said.sort_values(["table", "seed"]).itertuples(index=False):
                print(*line)


def picture(folder: str, budget: str) -> None:
    """A map of the manifold with strips; a rare class enlarged three ways."""
    import matplotlib

    matplotlib.use("Agg")
    strips(Path(folder) / "interpolate.png", budget)
    traversal(Path(folder) / "traverse.png", budget)
    enlarged(Path(folder) / "augment.png")


def strips(path: Path, budget: str) -> None:
    """From one digit to another: by the codes of a vae, and by fading."""
    import matplotlib.pyplot as plt

    data, model = vae(0, budget)
    x = data.part("test").x[:12]
    found = pofx.interpolate(model, x[0::2], x[1::2], 9).raw[..., 0].float()
    share = torch.linspace(0, 1, 9)[:, None, None]
    faded = (1 - share) * x[0::2, None, ..., 0].float() + share * x[1::2, None, ..., 0].float()
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.7), layout="constrained")
    for axes, (title, grid) in zip(panels, {"by the codes": found, "by the pixels": faded}.items(), strict=True):
        lines = [torch.cat(list(torch.nn.functional.pad(row, (1, 1, 1, 1))), 1) for row in grid]
        axes.imshow(torch.cat(lines).numpy(), cmap="gray_r", vmin=0, vmax=1)
        axes.set(title=title, xticks=[], yticks=[])
    figure.savefig(path, dpi=90, facecolor="white")


def traversal(path: Path, budget: str) -> None:
    """Strips along the main axes of a vae's codes, and a map of the first two."""
    import matplotlib.pyplot as plt

    data, model = vae(0, budget)
    x = data.part("train").x
    strips = pofx.traverse(model, x, 5, steps=9).raw[..., 0]
    plane = pofx.traverse(model, x, steps=9, plane=True, reach=2.2).raw[..., 0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 5), layout="constrained", width_ratios=(1, 1))
    for axes, grid, title in ((left, strips, "five main axes of the codes"), (right, plane, "a map of the first two")):
        rows = [torch.cat([torch.nn.functional.pad(c, (1, 1, 1, 1)) for c in row], 1) for row in grid.float()]
        axes.imshow(torch.cat(rows).numpy(), cmap="gray_r", vmin=0, vmax=data.space.variables[0].levels - 1)
        axes.set(title=title, xticks=[], yticks=[])
    figure.savefig(path, dpi=110, facecolor="white")


def enlarged(path: Path) -> None:
    """Mammography: 20 rare rows in two of its columns, and 200 more by a model, by SMOTE, by noise."""
    import matplotlib.pyplot as plt

    raw = np.load(find("tables/adbench/23_mammography.npz"))
    train, test = unbalanced(raw["X"], raw["y"].astype(int), 0)
    model, names = conditional(train), [c for c in train.columns if c != "rare"]
    more = pofx.augment(model, train, "rare", {"yes": 220}, rng=0).value
    z, y = train[names].to_numpy(), (train["rare"] == "yes").to_numpy().astype(int)
    ways = {"drawn from the model": more[more["drawn"]][names].to_numpy()}
    for name, way in (("SMOTE", smote), ("rows with noise", noisy)):
        a, _ = way(z, y, np.array([0, 200]), Rng(0))
        ways[name] = a[len(z) :]
    held = test[test["rare"] == "yes"][names].to_numpy()
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained", sharex=True, sharey=True)
    for axes, (name, x) in zip(panels, ways.items(), strict=True):
        axes.scatter(held[:, 2], held[:, 3], s=9, color="0.75", label="rare rows held out")
        axes.scatter(x[:, 2], x[:, 3], s=6, color="C0", alpha=0.6, label=name)
        axes.scatter(z[y == 1, 2], z[y == 1, 3], s=22, facecolor="none", edgecolor="C3", label="20 rare rows")
        axes.set(title=name, xlabel=names[2])
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(names[3])
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110, facecolor="white")


def main() -> None:
    """Run, or show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="run", choices=("run", "table", "picture"))
    parser.add_argument("out", nargs="?", default=".")
    parser.add_argument("--only", nargs="*", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--tables", nargs="*", default=list(TABLES))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--budget", default=BUDGET, help="of the vae")
    parser.add_argument("--again", action="store_true", help="also where the seed has lines")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    {"run": lambda: run(asked), "table": table, "picture": lambda: picture(asked.out, asked.budget)}[asked.what]()


if __name__ == "__main__":
    main()
