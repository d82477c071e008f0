"""Picture to picture, from pairs: a grey photograph, its edges or its regions become a photograph in colour.

    POFX_DATA=... python examples/picture_to_picture.py [--task grey|edges|regions|all] [--seconds 60] [--no-picture]

x is a photograph of 32 x 32 pixels in colour, and what it is given is made from the same photograph: it in grey, its
edges (the steepest fifth of its pixels), or its regions (for each pixel one of eight classes of colour, smoothed; which
class is which colour is not told). Beside grey, which is known, only the tints are learnt, at half the size.
`fit(data, family, given={...})` and `translate(model, pictures)` are all there is. The GAN is told to stay near its
row (fidelity, pix2pix's L1); the diffusion draws several answers, whose mean is the safest one.

Measured on 100 photographs kept aside: PSNR against the true colours of (a) the mean colour (of the training part; for
regions of each class; for grey the grey itself, shifted), (b) the training photograph whose given is nearest, (c) a
draw of the GAN, (d) a draw of the diffusion and (e) the mean of four. The best of (c) and (e) must beat (a) and (b).

References: pix2pix (Isola 2016, arXiv:1611.07004); Palette (Saharia 2021, arXiv:2111.05826).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom

import pofx
from pofx.data import Data, find
from pofx.families.diffusion import Diffusion
from pofx.families.gan import GAN

OUT = Path("docs/applications")
TEST, DRAWS, CLASSES = 100, 4, 8
TASKS = ("grey", "edges", "regions")
FIDELITY = {"grey": 30.0, "edges": 300.0, "regions": 300.0}  # the less is known, the further a game alone strays


def photographs() -> np.ndarray:
    """Photographs in colour (N, 32, 32, 3), bytes; in a fixed random order."""
    with np.load(find("images/cifar10/cifar10_train_first4000_lossless.npz")) as held:
        colour = held["x"]
    return colour[np.random.default_rng(0).permutation(len(colour))]


def in_grey(colour: np.ndarray) -> np.ndarray:
    """(N, 32, 32, 1), bytes."""
    return (colour @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)[..., None]


def tints(colour: np.ndarray) -> np.ndarray:
    """Each colour less grey, at half the size, around 128: (N, 16, 16, 3), bytes."""
    less = colour - in_grey(colour).astype(float)
    half = less.reshape(len(colour), 16, 2, 16, 2, 3).mean((2, 4))
    return np.clip((128 + half / 2).round(), 0, 255).astype(np.uint8)


def tinted(grey: np.ndarray, tint: np.ndarray) -> np.ndarray:
    """The photograph with this grey and these tints, (N, 32, 32, 3)."""
    large = zoom(2 * (tint.astype(float) - 128), (1, 2, 2, 1), order=1, grid_mode=True, mode="nearest")
    return np.clip(grey + large, 0, 255)


def in_edges(colour: np.ndarray) -> np.ndarray:
    """255 where a photograph is steepest, 0 elsewhere, (N, 32, 32, 1)."""
    y = gaussian_filter(in_grey(colour)[..., 0].astype(float), (0, 0.7, 0.7))
    steep = np.hypot(np.gradient(y, axis=1), np.gradient(y, axis=2))
    least = np.quantile(steep.reshape(len(y), -1), 0.8, axis=1)[:, None, None]
    return (255 * (steep > least)).astype(np.uint8)[..., None]


def palette(colour: np.ndarray) -> np.ndarray:
    """Eight colours (8, 3) that the pixels of photographs are near to, by k-means."""
    from sklearn.cluster import KMeans

    pixels = gaussian_filter(colour[:400].astype(float), (0, 1, 1, 0)).reshape(-1, 3)[::16]
    return KMeans(CLASSES, n_init=1, max_iter=30, random_state=0).fit(pixels).cluster_centers_


def in_regions(colour: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """The class of each pixel of a smoothed photograph, one channel a class, 0 or 255, (N, 32, 32, 8)."""
    smooth = gaussian_filter(colour.astype(float), (0, 1, 1, 0))
    which = np.square(smooth[..., None, :] - colours).sum(-1).argmin(-1)
    return (255 * (which[..., None] == np.arange(CLASSES))).astype(np.uint8)


def givens(task: str, colour: np.ndarray, known: np.ndarray) -> np.ndarray:
    """What the photographs are given; the classes of colour are those of the known ones."""
    if task == "regions":
        return in_regions(colour, palette(known))
    return in_grey(colour) if task == "grey" else in_edges(colour)


def mirrored(x: np.ndarray) -> np.ndarray:
    """The pictures and their mirror images."""
    return np.concatenate([x, x[:, :, ::-1]])


def psnr(y: np.ndarray, truth: np.ndarray) -> float:
    """Mean decibels over the pictures."""
    gap = np.square(y.astype(float) - truth.astype(float)).mean((1, 2, 3))
    return float((10 * np.log10(255**2 / np.maximum(gap, 1e-9))).mean())


def mean_colour(task: str, given: np.ndarray, known_given: np.ndarray, known: np.ndarray) -> np.ndarray:
    """What needs no model: grey with the mean tint, the mean colour of all pixels, or that of each class."""
    if task == "grey":
        return np.clip(given + (known.astype(float) - known_given).mean((0, 1, 2)), 0, 255)
    if task == "edges":
        return np.broadcast_to(known.mean((0, 1, 2)), (*given.shape[:3], 3))
    weights = (known_given > 0).reshape(-1, CLASSES).astype(float)
    colours = weights.T @ known.reshape(-1, 3) / weights.sum(0)[:, None]
    return (given > 0).astype(float) @ colours


def nearest(task: str, given: np.ndarray, known_given: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The training photograph whose given is nearest (in grey: its tints on the picture's own grey)."""
    a, b = (gaussian_filter(g.astype(np.float32), (0, 1, 1, 0)).reshape(len(g), -1) for g in (given, known_given))
    found = (np.square(b).sum(1) - 2 * a @ b.T).argmin(1)
    if task == "grey":
        return np.clip(given.astype(float) + known[found] - known_given[found], 0, 255)
    return known[found].astype(float)


def fitted(family: GAN | Diffusion, data: Data, seconds: float) -> pofx.Model:
    """One fit within the CPU seconds, and how long it took."""
    clock = time.process_time()
    model = pofx.fit(data, family, budget=f"{seconds:g} cpu s", batch=16, precision="32-true", seed=0, threads=1)
    print(f"{model.core.name}: {time.process_time() - clock:.0f} CPU s", flush=True)
    return model


def drawn(model: pofx.Model, given: np.ndarray, draws: int = 1) -> np.ndarray:
    """(draws, N, height, width, channels)."""
    return np.stack([pofx.translate(model, given, rng=k).raw.numpy() for k in range(draws)])


def picture(task: str, lines: list[tuple[str, np.ndarray]], columns: int = 12) -> None:
    """One line an answer, one column a photograph."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(lines), 1, figsize=(8.6, 0.62 * len(lines)))
    figure.subplots_adjust(left=0.14, right=0.995, top=0.99, bottom=0.01, hspace=0.04)
    for axis, (name, pictures) in zip(axes, lines, strict=True):
        strip = np.concatenate(list(np.broadcast_to(pictures, (*pictures.shape[:3], 3))[:columns]), 1)
        axis.imshow(strip.astype(np.uint8))
        axis.set(xticks=[], yticks=[], frame_on=False)
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"picture_to_picture_{task}.png"
    figure.savefig(path, dpi=100)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


def shown(task: str, given: np.ndarray) -> np.ndarray:
    """What a person sees of the given: classes in eight greys, since no colour is told."""
    return given.argmax(-1)[..., None] * 36 if task == "regions" else given


def answered(task: str, colour: np.ndarray, seconds: float) -> list[tuple[str, np.ndarray]]:
    """Fit both, answer for the photographs kept aside, print the decibels and check what is claimed."""
    truth, known = colour[:TEST], colour[TEST:]
    given = givens(task, colour, known)
    seen, told = given[:TEST], given[TEST:]
    x = tints(known) if task == "grey" else known
    data = pofx.open_data(mirrored(x), given={"seen": mirrored(told)}, test=10, valid=60)
    gan = fitted(GAN(body="dcgan", width=16, fidelity=FIDELITY[task]), data, seconds)
    diffusion = fitted(Diffusion(width=16, solver_steps=9), data, seconds)
    one, many = drawn(gan, seen)[0], drawn(diffusion, seen, DRAWS)
    if task == "grey":
        one, many = tinted(seen, one), np.stack([tinted(seen, tint) for tint in many])
    answers = {
        "mean colour": mean_colour(task, seen, told, known),
        "nearest": nearest(task, seen, told, known),
        "GAN": one,
        "diffusion": many[0],
        f"mean of {DRAWS}": many.astype(float).mean(0),
    }
    scores = {name: psnr(y, truth) for name, y in answers.items()}
    for name, score in scores.items():
        print(f"{task:8s} {name:12s} {score:6.2f} dB", flush=True)
    spread = many.astype(float).std(0).mean()
    print(f"{task:8s} the {DRAWS} draws differ by {spread:.1f} levels")
    best, least = max(scores["GAN"], scores[f"mean of {DRAWS}"]), max(scores["mean colour"], scores["nearest"])
    assert best > least, f"{task}: the best answer has {best:.2f} dB, and no model at all {least:.2f} dB"
    lines = [(task, shown(task, seen)), ("nearest", answers["nearest"].astype(np.uint8)), ("GAN", one)]
    return [*lines, ("diffusion", many[0]), ("another draw", many[1]), ("photograph", truth)]


def main() -> None:
    """The tasks that are asked for, and a picture of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=[*TASKS, "all"], default="all")
    parser.add_argument("--seconds", type=float, default=60, help="CPU seconds of each fit")
    parser.add_argument("--no-picture", action="store_true")
    asked = parser.parse_args()
    colour = photographs()
    for task in TASKS if asked.task == "all" else (asked.task,):
        lines = answered(task, colour, asked.seconds)
        if not asked.no_picture:
            picture(task, lines)


if __name__ == "__main__":
    main()
