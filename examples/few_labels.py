"""Ten labels a class: does a vision model that also sees drawn pictures read better?

    python examples/few_labels.py [--seeds 5] [--steps 600] [--out few_labels.png]

The bundled 8 x 8 digits, 500 held out; 100 have a label, ten of each class, and the other 1197 have none. `fit_partly`
learns p(picture | label) from all of them: one normal a class with one covariance, whose rows without a label are
sorted by the model itself. `augment` draws 100 pictures of each class from it. The vision model is a small
convolutional network, which can use neither pictures without a label nor a density; every way of teaching it takes the
same steps:

    labelled          the hundred pictures alone
    mixed             and as many pictures between a picture and a neighbour of its class as are drawn (SMOTE)
    drawn             and the drawn ones
    drawn, hundred    and as many drawn by the same model of the hundred labelled pictures alone
    ..., moved        the same, every picture turned, shifted and stretched a little at every step

Differences are paired by seed: split, labels, drawing and the network's start change together. Fails if drawn pictures
do not help, or help the labelled ones alone by no more than their interval allows.
"""

from __future__ import annotations

import argparse
import math
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pofx
from pofx.data import Data, open_data
from pofx.metrics.base import paired_difference
from pofx.training.partly import fit_partly

LABELS, EACH, HELD, BATCH = 10, 100, 500, 64
NORMAL = {"components": 1, "separate": "label", "longest": 1}
NORMAL |= {"covariance": "tied", "smoothing": 1000.0, "prior": "round"}
TURN, SHIFT, STRETCH = math.radians(15), 0.25, 0.1  # at most; a shift of 0.25 is one pixel
Pair = tuple[Tensor, Tensor]


class Vision(nn.Module):
    """Two convolutions and a hidden layer: (B, 1, 8, 8) in [0, 1] -> logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the classes."""
        return self.head(F.max_pool2d(self.maps(x), 2).flatten(1))


def taught(pairs: list[Pair], held: Pair, seed: int, move: bool, steps: int) -> float:
    """Accuracy on held-out pictures after steps that see as many pictures of every pair."""
    torch.manual_seed(seed)
    net = Vision()
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(steps):
        picked = [(x[i], y[i]) for x, y in pairs for i in [torch.randint(len(x), (BATCH,))]]
        x, y = (torch.cat(part) for part in zip(*picked, strict=True))
        loss = F.cross_entropy(net(moved(x) if move else x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        return float((net(held[0]).argmax(1) == held[1]).double().mean())


def moved(x: Tensor) -> Tensor:
    """Every picture turned, shifted and stretched a little."""
    turn, stretch = ((torch.rand(len(x)) * 2 - 1) * most for most in (TURN, STRETCH))
    cos, sin = turn.cos() * (1 + stretch), turn.sin() * (1 + stretch)
    shift = (torch.rand(len(x), 2) * 2 - 1) * SHIFT
    maps = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    return F.grid_sample(x, F.affine_grid(maps, list(x.shape), align_corners=False), align_corners=False)


def mixed(x: Tensor, y: Tensor, each: int) -> Pair:
    """Pictures between one and one of the three nearest of its class, `each` of every class."""
    made = []
    for c in range(10):
        own = x[y == c]
        near = torch.cdist(own.flatten(1), own.flatten(1)).argsort(1)[:, 1:4]
        i, k = torch.randint(len(own), (each,)), torch.randint(3, (each,))
        share = torch.rand(each, 1, 1, 1)
        made.append(own[i] + share * (own[near[i, k]] - own[i]))
    return torch.cat(made), torch.arange(10).repeat_interleave(each)


def pixels(x: Tensor) -> Tensor:
    """Codes (N, 8, 8, 1) as what the network reads."""
    return (x.float() / 16).reshape(-1, 1, 8, 8)


def chosen(data: Data, seed: int) -> Tensor:
    """Ten training rows of each class."""
    rng, train = np.random.default_rng(seed), data.split["train"].numpy()
    label = data.given["label"].numpy()[train]
    return torch.from_numpy(np.concatenate([rng.permutation(train[label == c])[:LABELS] for c in range(10)]))


def partly(data: Data, rows: Tensor, seed: int, rounds: int) -> pofx.Model:
    """p(picture | label) where these rows alone have a label; with 0 rounds, from them alone."""
    labels: list[int | None] = [None] * len(data)
    for i in rows.tolist():
        labels[i] = int(data.given["label"][i])
    rest = data.without_given()
    return fit_partly(rest, "mixture", labels, rounds=rounds, hyper_parameters=NORMAL, seed=seed)


def run(seed: int, steps: int) -> tuple[dict[str, float], Tensor, Tensor]:
    """Accuracy of every way; the labelled pictures and the drawn ones."""
    data = open_data("digits", given="label", seed=seed, test=HELD, valid=0)
    rows, held = chosen(data, seed), data.part("test")
    x, y, codes = data.x[rows], data.given["label"][rows], torch.arange(10).repeat_interleave(EACH)
    models = {"drawn": partly(data, rows, seed, 8), "drawn, hundred": partly(data, rows, seed, 0)}
    drawn = {k: pofx.augment(m, (x, y), "label", LABELS + EACH, rng=seed).raw for k, m in models.items()}
    torch.manual_seed(seed)
    few, truth = (pixels(x), y), (pixels(held.x), held.given["label"])
    also = {"labelled": [], "mixed": [mixed(*few, EACH)], **{k: [(pixels(d), codes)] for k, d in drawn.items()}}
    p = pofx.classify(models["drawn"], held.x).diagnostics["p"]
    found = {"Bayes' rule": float((p.argmax(1) == truth[1]).double().mean())}
    for move in (False, True):
        for name, more in also.items():
            way = f"{name}, moved" if move else name
            found[way] = taught([few, *more], truth, seed, move, steps)
    return found, x, drawn["drawn"]


def told(found: dict[str, list[float]]) -> bool:
    """Means, and what drawn pictures add; whether they help, the labelled ones alone beyond chance."""
    for name, values in found.items():
        print(f"{name:24}{np.mean(values):7.1%}")
    gains = []
    for way, other in (("drawn", "labelled"), ("drawn, moved", "mixed, moved"), ("drawn, moved", "labelled, moved")):
        gain = paired_difference(found[way], found[other])
        print(f"{way} - {other}: {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}], {len(found[way])} seeds")
        gains.append(gain)
    sure = gains[0].low > 0 and all(g.value > 0 for g in gains)
    print("as stated" if sure else "NOT as stated")
    return sure


def draw(found: dict[str, list[float]], real: Tensor, drawn: Tensor, path: str) -> None:
    """Labelled and drawn pictures, and how well each way reads."""
    figure = plt.figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.15))
    both = left.subplots(1, 2)
    for axes, x, title in zip(both, (real, drawn), ("labelled, all ten", "drawn, ten of 100"), strict=True):
        tiles = x.reshape(10, -1, 8, 8)[:, :10]
        axes.imshow(F.pad(tiles, (1, 1, 1, 1)).permute(0, 2, 1, 3).reshape(100, 100), cmap="gray_r")
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    axes, names = right.subplots(), list(found)
    tones = ["0.6" if "drawn" not in n else "C0" for n in names]
    for k, name in enumerate(names):
        values = np.array(found[name]) * 100
        axes.barh(k, values.mean(), color=tones[k], height=0.7)
        axes.plot(values, np.full(len(values), k), "k.", ms=3)
        axes.text(values.min() - 0.4, k, f"{values.mean():.1f}", va="center", ha="right", fontsize=9, color="w")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlim=(80, 100.5), xticks=range(80, 101, 5), xlabel="of 500 held-out digits read, %; a dot a seed")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Every seed, then words and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", default="few_labels.png")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {}
    started = time.process_time()
    for seed in range(asked.seeds):
        each, real, drawn = run(seed, asked.steps)
        for name, value in each.items():
            found.setdefault(name, []).append(value)
        print(seed, {k: round(v, 3) for k, v in each.items()}, f"{time.process_time() - started:.0f} CPU s", flush=True)
    draw(found, real, drawn, asked.out)
    if not told(found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
