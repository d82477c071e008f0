"""Without pairs: outlines of digits become filled digits, filled digits outlines, and rough drawings digits.

    POFX_DATA=... python examples/unpaired.py [--seconds 90] [--keep FOLDER] [--no-picture]

One side are 3000 digits of MNIST, the other the outlines of 3000 other digits: no outline's own digit is among the
filled ones. Two ways across: a `cycle` (two generators, two critics), and the bridge of two `diffusion` models that
never saw each other's side. Beside them the picture itself, the nearest picture of the other side, and each pixel moved
to the other side's mean and deviation. The last part needs one model: `translate(filled, drawings, strength=...)` adds
noise to blocks of 4 x 4 pixels and takes it away again.

Measured on 100 digits of which neither side has anything, both ways: the share whose class is kept, as told by a
support vector machine that was fitted to real pictures of the side arrived at; the root mean square distance to the
true counterpart (which here exists, and no fit saw) in grey levels; and the distance of the way there and back from the
start. The cycle must keep more classes, and come nearer to the truth, than each of the three baselines.

References: CycleGAN (Zhu 2017, arXiv:1703.10593); DDIB (Su 2022, arXiv:2203.08382); SDEdit (Meng 2021,
arXiv:2108.01073).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import grey_dilation
from sklearn.svm import SVC

import pofx
from pofx.families.cycle import Cycle
from pofx.families.diffusion import Diffusion

OUT = Path("docs/applications/translate.png")
ROWS, TEST, STEPS = 3000, 100, 10
STRENGTHS = (0.3, 0.5, 0.7, 0.9)
Pictures = np.ndarray
Way = Callable[[Pictures], Pictures]


def outlined(x: Pictures) -> Pictures:
    """What a brush of 3 x 3 pixels adds around each stroke, (N, 28, 28, 1)."""
    return grey_dilation(x, (1, 3, 3, 1)) - x


def sides() -> tuple[list[tuple[Pictures, np.ndarray]], tuple[Pictures, Pictures, np.ndarray]]:
    """(pictures, classes) of filled digits and of outlines, and (filled, outlined, classes) of those kept aside."""
    data = pofx.open_data("images/mnist/train-images-idx3-ubyte.gz", limit=2 * ROWS + TEST, seed=0)
    x, y = data.x.numpy(), data.aside["label"][0].numpy()
    order = np.random.default_rng(0).permutation(len(x))
    a, b, test = order[:ROWS], order[ROWS : 2 * ROWS], order[2 * ROWS :]
    return [(x[a], y[a]), (outlined(x[b]), y[b])], (x[test], outlined(x[test]), y[test])


def flat(x: Pictures) -> np.ndarray:
    """(N, 784), between 0 and 1."""
    return x.reshape(len(x), -1) / 255


def nearest(known: Pictures) -> Way:
    """The known picture with the smallest angle to a picture."""
    b = flat(known)
    b = b / np.linalg.norm(b, axis=1, keepdims=True).clip(1e-9)
    return lambda x: known[(flat(x) @ b.T).argmax(1)]


def moved(start: Pictures, end: Pictures) -> Way:
    """Each pixel with the mean and the deviation of the other side, its own taken away."""
    (m, s), (to, wide) = ((x.mean(0), x.std(0) + 8.0) for x in (start.astype(float), end.astype(float)))
    return lambda x: np.clip(to + wide * (x - m) / s, 0, 255).astype(np.uint8)


def fitted(title: str, family: Any, data: Any, batch: int, asked: argparse.Namespace) -> pofx.Model:
    """One fit, and how long it took; or the one that was kept."""
    folder = None if asked.keep is None else asked.keep / title
    if folder is not None and (folder / "model.json").exists():
        return pofx.load(folder)
    clock, budget = time.process_time(), f"{asked.seconds:g} cpu s"
    model = pofx.fit(
        data, family, budget=budget, batch=batch, precision="32-true", seed=0, threads=1, progress=False, folder=folder
    )
    print(f"{title}: {time.process_time() - clock:.0f} CPU s, {model.history[-1]['step']} steps", flush=True)
    return model


def across(model: pofx.Model, **asked: Any) -> Way:
    """`translate` as a function of pictures."""
    return lambda x: pofx.translate(model, x, rng=0, **asked).raw.numpy()


def ways(
    filled: Pictures, outlines: Pictures, asked: argparse.Namespace
) -> tuple[dict[str, tuple[Way, Way]], pofx.Model]:
    """Name -> (outline to digit, digit to outline); and the diffusion model of the digits."""
    here, there = (pofx.open_data(x, test=10, valid=100, seed=0) for x in (filled, outlines))
    both = pofx.open_data(here, given={"outline": there}, paired=False)
    two = (("digits", here), ("outlines", there))
    noisy = [fitted(f"diffusion of {name}", Diffusion(width=16), side, 16, asked) for name, side in two]
    cycle = fitted("cycle", Cycle(), both, 4, asked)
    found = {
        "itself": (np.copy, np.copy),
        "nearest": (nearest(filled), nearest(outlines)),
        "moments": (moved(outlines, filled), moved(filled, outlines)),
        "bridge": (
            across(noisy[0], source=noisy[1], steps=STEPS),
            across(noisy[1], source=noisy[0], steps=STEPS),
        ),
        "cycle": (across(cycle), across(cycle.back)),
    }
    return found, noisy[0]


def distance(a: Pictures, b: Pictures) -> float:
    """Root mean square, grey levels."""
    return float(np.sqrt(np.square(a.astype(float) - b).mean()))


def blocks(x: Pictures) -> Pictures:
    """Rough drawings: the strokes in blocks of 4 x 4 pixels, black or white."""
    coarse = x.reshape(len(x), 7, 4, 7, 4, 1).mean((2, 4), keepdims=True)
    return (255 * (coarse > 60) * np.ones((1, 1, 4, 1, 4, 1))).reshape(x.shape).astype(np.uint8)


def redrawn(model: pofx.Model, truth: Pictures, kept: Callable[[Pictures], float]) -> list[tuple[str, Pictures]]:
    """Drawings at several strengths: classes kept, and how far the answers are from drawing and digit."""
    drawings = blocks(truth)
    lines = [("drawing", drawings)]
    print(f"{'strength':>9s} {'class kept':>11s} {'to drawing':>11s} {'to digit':>9s}")
    for strength in (0.0, *STRENGTHS, 1.0):
        x = across(model, strength=strength, steps=STEPS)(drawings)
        print(f"{strength:9.1f} {kept(x):11.1%} {distance(x, drawings):11.1f} {distance(x, truth):9.1f}", flush=True)
        lines += [(f"strength {strength:g}", x)] if strength in STRENGTHS else []
    return lines


def picture(groups: list[list[tuple[str, Pictures]]], columns: int = 14) -> None:
    """Three groups of lines: outlines to digits, digits to outlines, drawings to digits."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tall = [line for group in groups for line in [*group, None]][:-1]
    heights = [0.25 if line is None else 1 for line in tall]
    figure, axes = plt.subplots(len(tall), 1, figsize=(8.6, 0.6 * sum(heights)), height_ratios=heights)
    figure.subplots_adjust(left=0.17, right=0.995, top=0.995, bottom=0.005, hspace=0.06)
    for axis, line in zip(axes, tall, strict=True):
        axis.set(xticks=[], yticks=[], frame_on=False)
        if line is not None:
            axis.imshow(np.concatenate(list(line[1][:columns, :, :, 0]), 1), cmap="gray", vmin=0, vmax=255)
            axis.set_ylabel(line[0], rotation=0, ha="right", va="center", fontsize=9)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT, dpi=100)
    Image.open(OUT).convert("L").quantize(24).save(OUT, optimize=True)


def main() -> None:
    """Fit all, go there and back, print what is kept and check what is claimed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90, help="CPU seconds of each fit")
    parser.add_argument("--keep", type=Path, help="folder of finished fits, which are loaded the next time")
    parser.add_argument("--no-picture", action="store_true")
    asked = parser.parse_args()
    clock = time.process_time()
    (filled, classes), (outlines, other_classes) = sides()[0]
    digits, rings, y = sides()[1]
    judges = [SVC(C=10).fit(flat(filled), classes), SVC(C=10).fit(flat(outlines), other_classes)]

    def kept(side: int, x: Pictures) -> float:
        return float((judges[side].predict(flat(x)) == y).mean())

    found, model = ways(filled, outlines, asked)
    print(f"classes of real pictures: digits {kept(0, digits):.1%}, outlines {kept(1, rings):.1%}")
    print(f"{'':17s} outline to digit: kept, to truth, cycle     digit to outline: kept, to truth, cycle")
    table, shown = {}, ([("outline", rings)], [("digit", digits)])
    for name, (to_digit, to_ring) in found.items():
        a, b = to_digit(rings), to_ring(digits)
        row = [kept(0, a), distance(a, digits), distance(to_ring(a), rings)]
        row += [kept(1, b), distance(b, rings), distance(to_digit(b), digits)]
        table[name] = row
        print(
            f"{name:17s} " + "      ".join(f"{k:12.1%} {t:9.1f} {c:7.1f}" for k, t, c in (row[:3], row[3:])), flush=True
        )
        for lines, x in zip(shown, (a, b), strict=True):
            lines.append((name, x))
    lines = redrawn(model, digits, lambda x: kept(0, x))
    print(f"{time.process_time() - clock:.0f} CPU s in all")
    if not asked.no_picture:
        picture(
            [shown[0][:1] + shown[0][2:] + [("truth", digits)], shown[1][:1] + shown[1][2:] + [("truth", rings)], lines]
        )
    best = table["cycle"]
    for k in (0, 3):
        others = [table[name] for name in ("itself", "nearest", "moments")]
        assert best[k] > max(row[k] for row in others), "the cycle keeps no more classes than a baseline"
        assert best[k + 1] < min(row[k + 1] for row in others), "the cycle is no nearer to the truth than a baseline"


if __name__ == "__main__":
    main()
