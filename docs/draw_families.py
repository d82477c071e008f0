"""Draw docs/families/NAME.png for every family: the plane it learns, what it draws there, and digits.

    python docs/draw_families.py [NAME ...] [--seconds 20]

Everything is asked through the hinge: a density map where `log_prob` is offered, draws where `sample` is, a
reconstruction where only `encode` and `decode` are, the probability of a class where the event is the label.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch

import pofx
from pofx.data import Data, open_data
from pofx.families import FAMILIES
from pofx.kinds.base import real
from pofx.model import Model

mpl.use("agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent / "families"
INK, MUTED, DATA, DRAWS = "#1f2328", "#6a7078", "#9aa1a8", "#0b5cad"
SIDE, EDGE = 90, 2.6
Panel = Callable[[Any, Model, Data], bool]


def main() -> None:
    """Draw the families that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(FAMILIES))
    parser.add_argument("--seconds", type=int, default=20, help="CPU seconds of each fit")
    asked = parser.parse_args()
    for name in asked.names:
        draw(name, asked.seconds)


def draw(name: str, seconds: int) -> None:
    """One picture: plane, draws, digits."""
    sketch, axes = plt.subplots(1, 3, figsize=(11.4, 3.9), layout="constrained")
    plane, pictures = open_data("moons", seed=0), open_data("digits", test=300, seed=0)
    if name == "discriminative":
        boundary(axes, plane)
    else:
        moons = fitted(name, plane, seconds)
        panel(axes[0], moons, plane, density, "log p(x), nats")
        panel(axes[1], moons, plane, cloud, "draws (blue) on data (grey)")
        digits = fitted(name, pictures, 2 * seconds)
        panel(axes[2], digits, pictures, sheet, "digits: draws")
    sketch.savefig(HERE / f"{name}.png", dpi=110, facecolor="white")
    plt.close(sketch)
    print(name, "drawn", flush=True)


def fitted(name: str, data: Data, seconds: int) -> Model | str:
    """The model, or why there is none."""
    try:
        return pofx.fit(data, name, budget=f"{seconds} cpu s", seed=0)
    except (ValueError, NotImplementedError) as error:
        return str(error)


def panel(axes: Any, model: Model | str, data: Data, fill: Panel, title: str) -> None:
    """One panel, or a word on why it is empty."""
    axes.set_title(title, fontsize=10, color=INK)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color("#dcdfe3")
    if isinstance(model, str):
        empty(axes, "not for such data")
    elif not fill(axes, model, data):
        empty(axes, f"no {'density' if fill is density else 'draws'}")


def empty(axes: Any, words: str) -> None:
    """A word where there is no picture."""
    axes.text(0.5, 0.5, words, ha="center", va="center", color=MUTED, fontsize=11, transform=axes.transAxes)


def standardised(data: Data) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Held-out rows, and the mean and deviation of each column."""
    x = data.part("test").x.double().numpy()
    return x, x.mean(0), x.std(0)


def density(axes: Any, model: Model, data: Data) -> bool:
    """log p over the plane."""
    if "log_prob" not in model.offers():
        return False
    _, mean, std = standardised(data)
    line = np.linspace(-EDGE, EDGE, SIDE)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2) * std + mean
    rows = torch.as_tensor(grid, dtype=data.space.torch_dtype)
    with torch.no_grad():
        value = model.log_prob(rows, draws=8, rng=0)
    log_p = value.value.detach().double().reshape(SIDE, SIDE).numpy()
    top = np.nanmax(log_p)
    axes.imshow(log_p, origin="lower", cmap="Blues", vmin=top - 7, vmax=top, extent=(-EDGE, EDGE, -EDGE, EDGE))
    axes.set_title(f"log p(x): {value.quality.value}", fontsize=10, color=INK)
    return True


def cloud(axes: Any, model: Model, data: Data) -> bool:
    """Draws over the held-out data."""
    x, mean, std = standardised(data)
    if "sample" not in model.offers():
        return False
    fake = (model.sample(600, rng=0).double().numpy() - mean) / std
    real = (x - mean) / std
    axes.scatter(*real[:600].T, s=5, color=DATA, linewidths=0, alpha=0.7)
    axes.scatter(*fake.T, s=5, color=DRAWS, linewidths=0, alpha=0.6)
    axes.set_xlim(-EDGE, EDGE)
    axes.set_ylim(-EDGE, EDGE)
    axes.set_aspect("equal")
    return True


def sheet(axes: Any, model: Model, data: Data) -> bool:
    """Digits: draws, or held-out ones above their reconstructions."""
    if "sample" in model.offers():
        rows = model.sample(48, rng=0)
    elif {"encode", "decode"} <= model.offers():
        x = data.part("test").x[:24]
        with torch.no_grad():
            again = model.decode(model.encode(x).mean).mean()
        rows = torch.stack([x.double().reshape(3, 8, 8, 8), again.double().reshape(3, 8, 8, 8)], 1).reshape(48, 8, 8)
        axes.set_title("digits, and their reconstructions below", fontsize=10, color=INK)
    else:
        return False
    rows = rows.double().reshape(6, 8, 8, 8).numpy()
    picture = np.pad(rows, ((0, 0), (0, 0), (1, 2), (1, 2))).transpose(0, 2, 1, 3).reshape(66, 88)
    axes.imshow(picture, cmap="gray_r", vmin=0, vmax=16, interpolation="nearest")
    return True


def boundary(axes: Any, plane: Data) -> None:
    """p(class | x) of the linear and the network method, and the labels themselves."""
    both = open_data("moons", seed=0, given="label")
    x, y = both.x.double(), both.given["label"]
    mean, std = x.mean(0), x.std(0)
    line = torch.linspace(-EDGE, EDGE, SIDE, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(-1, 2) * std + mean
    labels = Data(y, both.given_spaces["label"], split=both.split).with_given({"x": (x, real(2))})
    for ax, method in zip(axes, ("linear", "network"), strict=False):
        model = pofx.fit(labels, "discriminative", budget="10 cpu s", seed=0, hyper_parameters={"method": method})
        p = model.log_prob(torch.ones(len(grid), dtype=torch.long), {"x": grid}).value.exp().reshape(SIDE, SIDE)
        panel(ax, model, labels, lambda a, m, d, p=p: points(a, x, y, mean, std, p), f"p(class | x), {method}")
    panel(axes[2], model, labels, lambda a, m, d: points(a, x, y, mean, std, None), "the classes")


def points(axes: Any, x: Any, y: Any, mean: Any, std: Any, p: Any) -> bool:
    """Rows in the colour of their class, over p(class | x) where it is passed."""
    if p is not None:
        axes.imshow(p.detach().numpy(), origin="lower", cmap="RdBu_r", vmin=0, vmax=1, extent=(-EDGE, EDGE) * 2)
    z = ((x.double() - mean) / std)[:400].numpy()
    axes.scatter(*z.T, s=6, c=np.where(y[:400].flatten().numpy() > 0, "#b3261e", DRAWS), linewidths=0)
    axes.set_xlim(-EDGE, EDGE)
    axes.set_ylim(-EDGE, EDGE)
    return True


if __name__ == "__main__":
    main()
