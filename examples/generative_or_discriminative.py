"""Generative or discriminative? Who wins with few labels (Ng and Jordan 2001), in one interface.

    python examples/generative_or_discriminative.py [--repeats 10] [--out generative_or_discriminative.png]

Breast cancer, 569 rows of 30 numbers, two classes. The discriminative model is p(y | x): logistic regression, a Model
whose event is the label, with hardly a penalty as in the paper, and with one. The generative ones are p(x | y), with
p(y | x) by Bayes' rule (`Joint`): naive Bayes (diagonal covariances), a linear discriminant (one shared covariance) and
a quadratic one (one for each class); all are the mixture with one component for each class. What p(x | y) also knows is
where no row has ever been: the picture shows densities beside the boundaries.
"""

from __future__ import annotations

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor

import pofx
from pofx.data import Data
from pofx.kinds.base import Space, Variable, category
from pofx.wrappers import joint

SIZES = (10, 20, 40, 80, 160, 320)
GENERATIVE = {"naive Bayes": "diagonal", "linear discriminant": "tied", "quadratic discriminant": "full"}
DISCRIMINATIVE = {"logistic regression": 1e-3, "logistic, penalised": 3.0}
METHODS = (*GENERATIVE, *DISCRIMINATIVE)
STYLE = dict(zip(METHODS, (("0.1", "o"), ("C0", "s"), ("C2", "^"), ("C1", "D"), ("C3", "v")), strict=True))
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
    """Errors against labels; beside them densities of two columns and both kinds of boundary."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    groups = found.groupby(["method", "labels"])["error"]
    for method, (tone, marker) in STYLE.items():
        mean, sem = groups.mean()[method] * 100, groups.sem()[method] * 100
        left.errorbar(mean.index, mean, sem, marker=marker, color=tone, label=method, capsize=2)
    left.set_xscale("log")
    left.set_xticks(SIZES, [str(s) for s in SIZES])
    left.minorticks_off()
    left.set(xlabel="labels", ylabel="wrong labels, %", title="breast cancer, 30 numbers")
    left.legend(frameon=False)
    _boundaries(right)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _boundaries(axes: plt.Axes) -> None:
    x, y, names = rows([0, 1])
    side = torch.linspace(-4, 4, 160, dtype=torch.float64)
    a, b = torch.meshgrid(side, side, indexing="xy")
    grid = torch.stack([a.flatten(), b.flatten()], 1)
    data = Data(x, Space((2,), (Variable("a"), Variable("b")))).with_given({"y": (y, category(2))})
    knobs = {"components": 1, "covariance": "full", "separate": "y"}
    model = pofx.fit(_all(data), "mixture", hyper_parameters=knobs, threads=1, progress=False)
    for code, tone in ((0, "0.45"), (1, "C3")):
        log_p = model.log_prob(grid, {"y": torch.full((len(grid),), code)}).value.reshape(a.shape)
        axes.contour(a, b, log_p, levels=[-8, -6, -4, -3, -2], colors=tone, linewidths=0.7, linestyles="solid")
        shown = y == code
        axes.scatter(x[shown, 0], x[shown, 1], s=5, color=tone, alpha=0.5, label=("benign", "malignant")[code])
    for method in ("quadratic discriminant", "logistic regression"):
        p = posterior(method, x, y, grid).reshape(a.shape)
        axes.contour(a, b, p, levels=[0.5], colors=STYLE[method][0], linewidths=2)
        axes.plot([], [], color=STYLE[method][0], lw=2, label=f"boundary, {method}")
    axes.set(xlabel=f"{names[0]} (log, standardised)", ylabel=names[1], title="densities and boundaries")
    axes.set(xlim=(-3, 3.2), ylim=(-3.6, 5.2))
    axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)


def main() -> None:
    """Fit, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", default="generative_or_discriminative.png")
    asked = parser.parse_args()
    found = errors(asked.repeats)
    table = found.pivot_table(index="labels", columns="method", values="error")[list(METHODS)] * 100
    print("wrong labels in %, mean over", asked.repeats, "draws of the labelled rows")
    print(table.round(1).to_string())
    draw(found, asked.out)
    print(f"drawn in {asked.out}")


if __name__ == "__main__":
    main()
