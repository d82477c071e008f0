"""Generative or discriminative? Who wins with few labels (Ng and Jordan 2001), in one interface.

    python examples/generative_or_discriminative.py [--repeats 30] [--out learning_curves.png] [--boundary boundary.png]

Breast cancer, 569 rows of 30 numbers, two classes. The discriminative model is p(y | x): logistic regression, a Model
whose event is the label, with hardly a penalty as in the paper, and with one. The generative ones are p(x | y), with
p(y | x) by Bayes' rule (`Joint`): naive Bayes (diagonal covariances), a linear discriminant (one shared covariance) and
a quadratic one (one for each class); all are the mixture with one component for each class. The first picture is of
errors against labels, all methods on the same rows. What p(x | y) also knows is where no row has ever been: the second
shows boundary and density of two of the columns, with five rows that are like none of them.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor

import pofx
from pofx.data import Data
from pofx.drawing.boundary import Classes, draw_boundary, legend
from pofx.drawing.style import INK, LINE, blank, plain, png
from pofx.kinds.base import Space, Variable, category
from pofx.wrappers import joint

SIZES = (10, 20, 40, 80, 160, 320)
GENERATIVE = {"naive Bayes": "diagonal", "linear discriminant": "tied", "quadratic discriminant": "full"}
DISCRIMINATIVE = {"logistic regression": 1e-3, "logistic, penalised": 3.0}
METHODS = (*GENERATIVE, *DISCRIMINATIVE)
STYLE = dict(zip(METHODS, (("0.1", "o"), ("C0", "s"), ("C2", "^"), ("C1", "D"), ("C3", "v")), strict=True))
LEVEL = 0.05  # of no class: the p-value below which a row is refused
SMOOTHING = 10.0  # pseudo-observations of the overall spread: 30 numbers and 10 rows would have no covariance


def rows(columns: list[int] | None = None) -> tuple[Tensor, Tensor, list[str]]:
    """x `(N, D)` as logarithms in standard deviations, y `(N,)` (1: malignant) and what the columns are called."""
    found = load_breast_cancer()
    x = np.log(found.data + 1e-2)
    x = (x - x.mean(0)) / x.std(0)
    keep = list(range(x.shape[1])) if columns is None else columns
    return torch.from_numpy(x[:, keep]), torch.from_numpy(1 - found.target), [found.feature_names[j] for j in keep]


def posterior(method: str, x: Tensor, y: Tensor, fresh: Tensor) -> Tensor:
    """p(y = 1 | x) for fresh rows, learnt from rows x with labels y."""
    if method in DISCRIMINATIVE:
        labels = Data(y[:, None].double(), Space((1,), (Variable("y", "binary", 2),)))
        data = labels.with_given({"x": (x, Space((x.shape[1],), (Variable("x"),)))})
        knobs = {"penalty": DISCRIMINATIVE[method]}
        model = pofx.fit(_all(data), "discriminative", hyper_parameters=knobs, threads=1, progress=False)
        return model.shares({"x": fresh})[:, 1]
    data = Data(x, Space((x.shape[1],), tuple(Variable(f"x{j}") for j in range(x.shape[1]))))
    knobs = {"components": 1, "covariance": GENERATIVE[method], "separate": "y", "smoothing": SMOOTHING}
    data = _all(data.with_given({"y": (y, category(2))}))
    model = pofx.fit(data, "mixture", hyper_parameters=knobs, threads=1, progress=False)
    return joint(model, y, "y").posterior(fresh)[:, 1]


def _all(data: Data) -> Data:
    every, none = torch.arange(len(data)), torch.arange(0)
    return Data(
        data.x, data.space, data.given, data.given_spaces, split={"train": every, "valid": none, "test": none}
    )  # fmt: skip


def errors(repeats: int) -> pd.DataFrame:
    """Share of wrong labels on the rows that were not used, for every number of labels, method and repeat."""
    x, y, _ = rows()
    lines = []
    for size in SIZES:
        for repeat in range(repeats):
            order = torch.from_numpy(np.random.default_rng(repeat).permutation(len(x)))
            train, test = order[:size], order[size:]
            for method in METHODS:
                p = posterior(method, x[train], y[train], x[test])
                wrong = float(((p > 0.5) != y[test].bool()).double().mean())
                lines.append({"labels": size, "method": method, "error": wrong})
    return pd.DataFrame(lines)


def draw(found: pd.DataFrame, path: str) -> None:
    """Errors against labels."""
    figure = blank(6.6, 4.0)
    axes = figure.subplots()
    groups = found.groupby(["method", "labels"])["error"]
    for k, (method, (tone, marker)) in enumerate(STYLE.items()):
        mean, sem = groups.mean()[method] * 100, groups.sem()[method] * 100
        aside = 1 + 0.03 * (k - 2)  # bars beside one another
        line = {"marker": marker, "color": tone, "ls": "-" if method in GENERATIVE else (0, (4, 2)), "lw": 1.4, "ms": 5}
        axes.errorbar(mean.index * aside, mean, sem, label=method, capsize=2, elinewidth=0.9, **line)
    axes.set_xscale("log")
    axes.set_xticks(SIZES, [str(s) for s in SIZES])
    axes.minorticks_off()
    axes.grid(axis="y", color=LINE, lw=0.6)
    axes.set(xlabel="labelled rows", ylabel="wrong labels on the other rows, %", ylim=(0, None))
    repeats = int(groups.count().min())
    plain(axes, f"breast cancer, 30 numbers: mean and standard error of {repeats} draws of the labels")
    axes.legend(frameon=False, fontsize=8.5, title="solid: generative, dashed: discriminative", title_fontsize=8.5)
    Path(path).write_bytes(png(figure))


def boundaries(path: str) -> None:
    """Logistic regression and a quadratic discriminant on two columns: both have boundaries, one has a density."""
    x, y, names = rows([0, 1])
    strange = torch.tensor([[-2.6, 4.2], [3.2, -3.2], [-3.0, -3.4], [3.1, 4.2], [0.3, 4.7]], dtype=torch.float64)
    asked, true = torch.cat([x, strange]), torch.cat([y, torch.zeros(len(strange), dtype=torch.long)])
    side = tuple(np.linspace(low, high, 160) for low, high in ((-3.8, 4.2), (-4.4, 5.6)))
    grid = torch.from_numpy(np.stack(np.meshgrid(*side), -1).reshape(-1, 2))
    figure = blank(9.6, 4.9)
    left, right = figure.subplots(1, 2, sharey=True)
    p, on_grid = (posterior("logistic regression", x, y, z).double() for z in (asked, grid))
    told = Classes(("benign", "malignant"), true.numpy(), torch.minimum(p, 1 - p).numpy(), known=True)
    draw_boundary(left, asked.numpy(), told, side, _both(on_grid), None)
    plain(left, "logistic regression: p(class | x)")
    data = Data(x, Space((2,), (Variable("a"), Variable("b")))).with_given({"y": (y, category(2))})
    split = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
    data = replace(data, split={"train": split[:400], "valid": split[400:], "test": split[:0]})
    knobs = {"components": 1, "covariance": "full", "separate": "y"}
    model = pofx.fit(data, "mixture", hyper_parameters=knobs, threads=1, progress=False)
    found = pofx.classify(model, asked, calibration=data).diagnostics
    over = pofx.classify(model, grid, calibration=data).diagnostics
    belongs, log_p = np.asarray(found["belongs"]), found["log_p"].numpy()
    threshold = float(np.max(log_p[belongs <= LEVEL], initial=-np.inf))
    density = Classes(
        told.names, told.codes, found["ambiguity"].numpy(), log_p, belongs <= LEVEL, threshold, known=True
    )
    draw_boundary(right, asked.numpy(), density, side, _both(over["p"][:, 1]), over["log_p"].reshape(160, 160).numpy())
    plain(right, "a normal for each class: p(x | class)")
    left.set_xlabel(f"{names[0]} (log, standardised)")
    right.set_xlabel(f"{names[0]} (log, standardised)")
    left.set_ylabel(f"{names[1]} (log, standardised)")
    for axes in (left, right):
        axes.scatter(*strange.T.numpy(), s=42, marker="X", color=INK, edgecolor="white", linewidths=0.8, zorder=5)
    for i, (at, own) in enumerate(zip(strange.tolist(), p[-len(strange) :].tolist(), strict=True)):
        sure = f"{('benign', 'malignant')[own > 0.5]} {max(own, 1 - own):.0%}"
        left.annotate(sure, at, (0, 8), textcoords="offset points", ha="center", size=8, color=INK)
        told_too = "of no class" if belongs[len(x) + i] <= LEVEL else "belongs"
        right.annotate(told_too, at, (0, 10), textcoords="offset points", ha="center", size=8, color=INK)
    legend(figure, density, boundary=True)
    Path(path).write_bytes(png(figure, 85))


def _both(p: Tensor) -> np.ndarray:
    """p(y = 1) on the grid as shares of both classes, (160, 160, 2)."""
    return torch.stack([1 - p, p], -1).reshape(160, 160, 2).numpy()


def main() -> None:
    """Fit, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", default="learning_curves.png")
    parser.add_argument("--boundary", default="boundary.png")
    asked = parser.parse_args()
    boundaries(asked.boundary)
    found = errors(asked.repeats)
    table = found.pivot_table(index="labels", columns="method", values="error")[list(METHODS)] * 100
    print("wrong labels in %, mean over", asked.repeats, "draws of the labelled rows")
    print(table.round(1).to_string())
    draw(found, asked.out)
    print(f"drawn in {asked.out} and {asked.boundary}")


if __name__ == "__main__":
    main()
