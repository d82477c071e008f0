"""Picture to picture: colours for a grey photograph, by a conditional GAN and by a conditional diffusion.

    POFX_DATA=... python examples/picture_to_picture.py [--seconds 300] [--no-picture]

x is a photograph of 32 x 32 pixels in colour, and what it is given is the same photograph in grey. Nothing here is
particular to colours: `fit(data, family, given={"grey": ...})` and `sample(model, given={"grey": ...})` are all there
is, and edges, segmentations or an earlier frame would stand in the same place. The GAN is told to stay near its row
(fidelity, pix2pix's L1); the diffusion draws several answers, whose mean is the safest one.

Measured on 200 photographs kept aside: PSNR against the true colours of (a) the grey picture itself, (b) grey shifted
to the mean colour of the training part, (c) the colours of the nearest training photograph in grey, (d) a draw of
the GAN, (e) a draw of the diffusion and (f) the mean of eight. It must be better than (b) and (c).

References: pix2pix (Isola 2017, arXiv:1611.07004); Palette (Saharia 2022, arXiv:2111.05826).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

import pofx
from pofx.data import Data, find
from pofx.families.diffusion import Diffusion
from pofx.families.gan import GAN

OUT = Path("docs/applications/picture_to_picture.png")
TEST = 200


def photographs() -> tuple[np.ndarray, np.ndarray]:
    """Photographs in colour (N, 32, 32, 3) and in grey (N, 32, 32, 1), bytes; in a fixed random order."""
    with np.load(find("images/cifar10/cifar10_train_first4000_lossless.npz")) as held:
        colour = held["x"]
    colour = colour[np.random.default_rng(0).permutation(len(colour))]
    grey = (colour @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)[..., None]
    return colour, grey


def mirrored(x: np.ndarray) -> np.ndarray:
    """The pictures and their mirror images."""
    return np.concatenate([x, x[:, :, ::-1]])


def psnr(y: np.ndarray, truth: np.ndarray) -> float:
    """Mean decibels over the pictures."""
    gap = np.square(y.astype(float) - truth.astype(float)).mean((1, 2, 3))
    return float((10 * np.log10(255**2 / np.maximum(gap, 1e-9))).mean())


def nearest(grey: np.ndarray, known: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The colours (less grey) of the training photograph that is nearest in grey, on each grey picture."""
    a, b = grey.reshape(len(grey), -1).astype(float), known.reshape(len(known), -1).astype(float)
    found = (np.square(b).sum(1) - 2 * a @ b.T).argmin(1)
    return np.clip(grey.astype(float) + colour[found] - known[found], 0, 255)


def fitted(family: GAN | Diffusion, data: Data, seconds: float) -> pofx.Model:
    """One fit within the CPU seconds, and how long it took."""
    clock = time.process_time()
    model = pofx.fit(data, family, budget=f"{seconds:g} cpu s", seed=0, threads=1)
    print(f"{model.core.name}: {time.process_time() - clock:.0f} CPU s", flush=True)
    return model


def drawn(model: pofx.Model, grey: np.ndarray, seed: int, draws: int = 1) -> np.ndarray:
    """(draws, N, 32, 32, 3)."""
    given = {"grey": torch.from_numpy(grey)}
    parts = [model.sample(1, given, rng=seed + k)[0].numpy() for k in range(draws)]
    return np.stack(parts)


def picture(columns: list[tuple[str, np.ndarray]], rows: int = 10) -> None:
    """One row a photograph, one column an answer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(columns), rows, figsize=(rows * 1.05, len(columns) * 1.12), layout="constrained")
    for line, (name, pictures) in zip(axes, columns, strict=True):
        for axis, one in zip(line, pictures, strict=False):
            axis.imshow(one.squeeze(), cmap="gray" if one.shape[-1] == 1 else None, vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[], frame_on=False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT, dpi=110)


def main() -> None:
    """Fit both, answer for photographs kept aside, print the decibels and check what is claimed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="CPU seconds of each fit")
    parser.add_argument("--no-picture", action="store_true")
    asked = parser.parse_args()
    colour, grey = photographs()
    truth, seen, known, greys = colour[:TEST], grey[:TEST], colour[TEST:], grey[TEST:]
    data = pofx.open_data(mirrored(known), given={"grey": mirrored(greys)}, test=10, valid=100)
    gan = fitted(GAN(body="dcgan", width=16, fidelity=30.0), data, asked.seconds)
    diffusion = fitted(Diffusion(width=32), data, asked.seconds)
    one, many = drawn(gan, seen, 0)[0], drawn(diffusion, seen, 0, 8)
    answers = {
        "grey": np.repeat(seen, 3, -1).astype(float),
        "mean colour": np.clip(seen + (known.astype(float) - greys).mean((0, 1, 2)), 0, 255),
        "nearest": nearest(seen, greys, known),
        "GAN": one.astype(float),
        "diffusion": many[0].astype(float),
        "mean of 8": many.mean(0),
    }
    scores = {name: psnr(y, truth) for name, y in answers.items()}
    for name, score in scores.items():
        print(f"{name:12s} {score:6.2f} dB")
    spread = many.astype(float).std(0).mean()
    print(f"the eight draws differ by {spread:.1f} grey levels")
    if not asked.no_picture:
        shown = [
            ("given", seen),
            ("nearest", answers["nearest"].astype(np.uint8)),
            ("GAN", one),
            ("diffusion", many[0]),
        ]
        picture([*shown, ("another draw", many[1]), ("photograph", truth)])
    least = max(scores["mean colour"], scores["nearest"])
    assert max(scores["GAN"], scores["mean of 8"]) > least, f"no answer is above {least:.2f} dB"


if __name__ == "__main__":
    main()
