"""Picture to picture, from pairs: a grey photograph, its edges or its regions become a photograph in colour.

    POFX_DATA=... python examples/picture_to_picture.py [--task grey|edges|regions|all] [--seconds 90] [--no-picture]

x is a photograph of 32 x 32 pixels in colour, and what it is given is made from the same photograph: it in grey, its
edges (the steepest fifth of its pixels), or its regions (for each pixel one of eight classes of colour, smoothed; which
class is which colour is not told). Only what is not known is learnt: beside grey the tints, at half the size; within
regions how the photograph differs from the mean colour of each class. `fit(data, family, given={...})` and
`translate(model, pictures)` are all there is. The GAN is told to stay near its row (fidelity, pix2pix's L1). The
diffusion draws several answers; their mean is the safest one, and D(noise | given) says where it goes with ever more.

Measured on 200 photographs kept aside: PSNR against the true colours of (a) the mean colour (of the training part; for
regions of each class; for grey the grey itself, shifted), (b) the training photograph whose given is nearest, (c) a
draw of the GAN, (d) a draw of the diffusion, (e) the mean of 4 and (f) D(noise | given). Photograph by photograph both
(c) and (f) must beat both (a) and (b), with the whole 95 % interval of the difference.

References: pix2pix (Isola 2016, arXiv:1611.07004); Palette (Saharia 2021, arXiv:2111.05826).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom

import pofx
from pofx.data import Data, find
from pofx.metrics.base import Metric, paired_difference
from pofx.randomness import Rng

OUT = Path("docs/applications")
TEST, DRAWS, CLASSES = 200, 4, 8
TASKS = ("grey", "edges", "regions")
MEAN = f"mean of {DRAWS}"
FIDELITY = {"grey": 100.0, "edges": 300.0, "regions": 100.0}  # the less is known, the further a game alone strays


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


def class_colours(given: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The mean colour of each class, (8, 3)."""
    weights = (given > 0).reshape(-1, CLASSES).astype(float)
    return weights.T @ colour.reshape(-1, 3) / weights.sum(0)[:, None]


def painted(given: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Each region in the colour of its class, (N, 32, 32, 3)."""
    return (given > 0).astype(float) @ colours


def beside(colour: np.ndarray, painting: np.ndarray) -> np.ndarray:
    """How photographs differ from a painting, halved, around 128, bytes."""
    return np.clip((128 + (colour - painting) / 2).round(), 0, 255).astype(np.uint8)


def upon(painting: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """The photograph that differs so from a painting."""
    return np.clip(painting + 2 * (difference.astype(float) - 128), 0, 255)


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


def psnr(y: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Decibels of each picture."""
    gap = np.square(y.astype(float) - truth.astype(float)).mean((1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(gap, 1e-9))


def mean_colour(task: str, given: np.ndarray, known_given: np.ndarray, known: np.ndarray) -> np.ndarray:
    """What needs no model: grey with the mean tint, the mean colour of all pixels, or that of each class."""
    if task == "grey":
        return np.clip(given + (known.astype(float) - known_given).mean((0, 1, 2)), 0, 255)
    if task == "edges":
        return np.broadcast_to(known.mean((0, 1, 2)), (*given.shape[:3], 3))
    return painted(given, class_colours(known_given, known))


def nearest(task: str, given: np.ndarray, known_given: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The training photograph whose given is nearest (in grey: its tints on the picture's own grey)."""
    a, b = (gaussian_filter(g.astype(np.float32), (0, 1, 1, 0)).reshape(len(g), -1) for g in (given, known_given))
    found = (np.square(b).sum(1) - 2 * a @ b.T).argmin(1)
    if task == "grey":
        return np.clip(given.astype(float) + known[found] - known_given[found], 0, 255)
    return known[found].astype(float)


def fitted(family: str, data: Data, seconds: float, hyper_parameters: dict[str, Any]) -> pofx.Model:
    """One fit within the CPU seconds, and how long it took."""
    clock = time.process_time()
    asked: dict[str, Any] = {"batch": 16, "precision": "32-true", "seed": 0, "threads": 1}
    model = pofx.fit(data, family, budget=f"{seconds:g} cpu s", hyper_parameters=hyper_parameters, **asked)
    print(f"{model.core.name}: {time.process_time() - clock:.0f} CPU s", flush=True)
    return model


def drawn(model: pofx.Model, given: np.ndarray, draws: int = 1) -> np.ndarray:
    """(draws, N, height, width, channels)."""
    return np.stack([pofx.translate(model, given, rng=k).value for k in range(draws)])


def expected(model: pofx.Model, given: np.ndarray, noises: int = 4) -> np.ndarray:
    """Where the mean of ever more draws goes: what the denoiser makes of noise that nothing shines through.

    It should not see that noise at all. What a young one sees of it goes out between a noise and its negative.
    """
    c, found = {"seen": torch.from_numpy(given)}, []
    nothing, all_of_it = torch.zeros(len(given)), torch.ones(len(given))
    for k in range(noises):
        noise = Rng(k).normal((len(given), *model.chart.space.shape))
        with torch.no_grad():
            found += [model.denoise(e, nothing, all_of_it, c) for e in (noise, -noise)]
    return model.chart.decode(torch.stack(found).mean(0)).numpy()


def picture(task: str, lines: list[tuple[str, np.ndarray]], columns: int = 8, times: int = 2, left: int = 110) -> None:
    """One line an answer, one column a photograph, every pixel twice as large."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    side, gap = 32 * times, 3
    wide, high = left + columns * side, len(lines) * (side + gap)
    figure = plt.figure(figsize=(wide / 100, high / 100), dpi=100)
    for k, (name, pictures) in enumerate(lines):
        strip = np.concatenate(list(np.broadcast_to(pictures, (*pictures.shape[:3], 3))[:columns]), 1)
        y = high - (k + 1) * (side + gap)
        figure.figimage(strip.astype(np.uint8).repeat(times, 0).repeat(times, 1), left, y)
        figure.text((left - 8) / wide, (y + side / 2) / high, name, ha="right", va="center", fontsize=9)
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"picture_to_picture_{task}.png"
    figure.savefig(path)
    Image.open(path).convert("RGB").save(path, optimize=True)


def shown(task: str, given: np.ndarray) -> np.ndarray:
    """What a person sees of the given: classes in eight greys, since no colour is told."""
    return given.argmax(-1)[..., None] * 36 if task == "regions" else given


@dataclass(frozen=True)
class Pairs:
    """What models are given (`told`, in training; `seen`, kept aside) and what they learn, `x`."""

    task: str
    colour: np.ndarray
    told: np.ndarray
    seen: np.ndarray

    @classmethod
    def of(cls, task: str, colour: np.ndarray) -> Pairs:
        """Pairs of all photographs; the first of them are kept aside."""
        given = givens(task, colour, colour[TEST:])
        return cls(task, colour, given[TEST:], given[:TEST])

    @property
    def known(self) -> np.ndarray:
        """The photographs to learn from."""
        return self.colour[TEST:]

    @property
    def truth(self) -> np.ndarray:
        """Those kept aside."""
        return self.colour[:TEST]

    @property
    def x(self) -> np.ndarray:
        """What is not known of a photograph, once what is given is."""
        if self.task == "regions":
            return beside(self.known, painted(self.told, class_colours(self.told, self.known)))
        return tints(self.known) if self.task == "grey" else self.known

    def whole(self, x: np.ndarray) -> np.ndarray:
        """The photographs kept aside, of what was drawn for them."""
        if self.task == "regions":
            return upon(painted(self.seen, class_colours(self.told, self.known)), x)
        return tinted(self.seen, x) if self.task == "grey" else x

    def without(self) -> dict[str, np.ndarray]:
        """The answers that need no model."""
        given = self.task, self.seen, self.told, self.known
        return {"mean colour": mean_colour(*given), "nearest": nearest(*given)}


def learnt(pairs: Pairs, seconds: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Fit both; their answers for the photographs kept aside, and all draws of the diffusion."""
    data = pofx.open_data(mirrored(pairs.x), given={"seen": mirrored(pairs.told)}, test=10, valid=60)
    gan = fitted("gan", data, seconds, {"body": "dcgan", "width": 16, "fidelity": FIDELITY[pairs.task]})
    # the network says the picture, and the plain error of that counts large noise, where only the given says anything
    sizes, solver = {"width": 16, "frequencies": 0}, {"path": "linear", "solver": "dpm++2m", "solver_steps": 12}
    hyper_parameters = {"weighting": "simple", "predict": "x", "lr": 3e-3, **sizes, **solver}
    diffusion = fitted("diffusion", data, seconds, hyper_parameters)
    many = np.stack([pairs.whole(x) for x in drawn(diffusion, pairs.seen, DRAWS)]).astype(float)
    answers = {"GAN": pairs.whole(drawn(gan, pairs.seen)[0]), "diffusion": many[0], MEAN: many.mean(0)}
    return answers | {"D(noise)": pairs.whole(expected(diffusion, pairs.seen))}, many


def compared(task: str, scores: dict[str, np.ndarray]) -> list[Metric]:
    """Decibels of every answer, and how far models are above what needs none, photograph by photograph."""
    for name, score in scores.items():
        print(f"{task:8s} {name:12s} {score.mean():6.2f} dB", flush=True)
    found = []
    for name in ("GAN", "D(noise)"):
        for other in ("mean colour", "nearest"):
            found.append(paired_difference(scores[name], scores[other], name=f"{task}: {name} - {other}"))
            print(f"{found[-1].name}: {found[-1].value:+.2f} dB [{found[-1].low:+.2f}, {found[-1].high:+.2f}]")
    return found


def answered(task: str, colour: np.ndarray, seconds: float) -> tuple[list[tuple[str, np.ndarray]], list[Metric]]:
    """The lines of the picture, and what is claimed."""
    pairs = Pairs.of(task, colour)
    answers, many = learnt(pairs, seconds)
    answers = pairs.without() | answers
    found = compared(task, {name: psnr(y, pairs.truth) for name, y in answers.items()})
    print(f"{task:8s} the {DRAWS} draws differ by {many.std(0).mean():.1f} levels")
    lines = [(task, shown(task, pairs.seen)), ("nearest", answers["nearest"]), ("GAN", answers["GAN"])]
    lines += [("diffusion", many[0]), ("another draw", many[1]), ("D(noise)", answers["D(noise)"])]
    return [*lines, ("photograph", pairs.truth)], found


def main() -> None:
    """The tasks that are asked for, and a picture of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=[*TASKS, "all"], default="all")
    parser.add_argument("--seconds", type=float, default=90, help="CPU seconds of each fit")
    parser.add_argument("--no-picture", action="store_true")
    asked = parser.parse_args()
    colour, found = photographs(), []
    for task in TASKS if asked.task == "all" else (asked.task,):
        lines, claims = answered(task, colour, asked.seconds)
        found += claims
        if not asked.no_picture:
            picture(task, lines)
    short = [f"{m.name} is {m.value:+.2f} dB, from {m.low:+.2f} on" for m in found if m.low <= 0]
    assert not short, "; ".join(short)


if __name__ == "__main__":
    main()
