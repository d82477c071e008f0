"""Photographs in the manner of a painting, learnt from two piles that share no picture: a `cycle` of squares.

    POFX_DATA=... python examples/photo_to_painting.py [--painting candy] [--seconds 300] [--keep FOLDER] [--no-picture]

One side are 3000 squares of 32 x 32 pixels of 34 photographs, the other 3000 of one painting, in three sizes. 64
squares of other photographs are turned into paintings and back. Beside it the photograph itself, its colours moved to
the painting's mean and covariance, and the square of the painting whose structure is nearest. Measured:

    manner   Gram distance of all answers together to other squares of the painting, as a share of the photographs' own
    own      how often the photograph that an answer is structurally nearest to, among the 64, is its own
    back     root mean square, grey levels, of the way there and back

The cycle must be four times nearer to the manner than the photographs, know its own photograph in four of five squares,
and come back to within 30 levels. Colours alone come as near: what the cycle adds is to be seen, not in these numbers.

References: CycleGAN (Zhu 2017, arXiv:1703.10593); moments of colours (Reinhard 2001); Gram (Gatys 2015).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import pofx
from pofx.data import find
from pofx.engines import style as engine
from pofx.families.cycle import Cycle

OUT = Path("docs/applications/photo_to_painting.png")
SIDE, ROWS, TEST, SHOWN = 32, 3000, 64, 12
SIZES = (120, 160, 208)  # of the longer side of a picture, from which squares are taken
Pictures = np.ndarray  # (N, 32, 32, 3) uint8


def squares(paths: list[Path], count: int, seed: int) -> Pictures:
    """Random squares of random pictures in three sizes, half of them mirrored."""
    rng, many = np.random.default_rng(seed), []
    for path in paths:
        picture = Image.open(path).convert("RGB")
        for size in SIZES:
            times = size / max(picture.size)
            many.append(np.asarray(picture.resize([round(times * s) for s in picture.size], Image.Resampling.LANCZOS)))
    found = []
    for k in rng.integers(len(many), size=count):
        y, x = (rng.integers(n - SIDE + 1) for n in many[k].shape[:2])
        one = many[k][y : y + SIDE, x : x + SIDE]
        found.append(one[:, ::-1] if rng.random() < 0.5 else one)
    return np.stack(found)


def fitted(photos: Pictures, paintings: Pictures, asked: argparse.Namespace) -> pofx.Model:
    """The cycle, or the one that was kept."""
    if asked.keep is not None and (asked.keep / "model.json").exists():
        return pofx.load(asked.keep)
    here, there = (pofx.open_data(x, test=10, valid=100, seed=0) for x in (paintings, photos))
    data = pofx.open_data(here, given={"photograph": there}, paired=False)
    clock = time.process_time()
    model = pofx.fit(
        data, Cycle(), budget=f"{asked.seconds:g} cpu s", batch=4, precision="32-true", seed=0, threads=1,
        progress=False, folder=asked.keep,
    )  # fmt: skip
    print(f"cycle: {time.process_time() - clock:.0f} CPU s, {model.history[-1]['step']} steps", flush=True)
    return model


def moved(paintings: Pictures) -> Callable[[Pictures], Pictures]:
    """Each photograph's colours with the painting's mean and covariance."""
    goal = paintings.reshape(-1, 3).astype(float)
    mean, root = goal.mean(0), _root(np.cov(goal.T))

    def one(x: Pictures) -> Pictures:
        flat = x.reshape(-1, 3).astype(float)
        spread = np.cov(flat.T) + 25.0 * np.eye(3)
        return (mean + (flat - flat.mean(0)) @ np.linalg.inv(_root(spread)) @ root).reshape(x.shape)

    return lambda x: np.stack([one(p) for p in x]).round().clip(0, 255).astype(np.uint8)


def _root(a: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(a)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def bands(x: Pictures) -> list[torch.Tensor]:
    """Octaves of each grey picture."""
    return [engine.structure(_tensor(p[None])) for p in x]


def _tensor(x: Pictures) -> torch.Tensor:
    return torch.from_numpy(x.copy()).permute(0, 3, 1, 2).float() / 255


def distances(a: Pictures, b: Pictures) -> np.ndarray:
    """Of structure, (len(a), len(b))."""
    first, second = bands(a), bands(b)
    return np.array([[float(engine.structure_distance(f, g)) for g in second] for f in first])


def manner(x: Pictures) -> list[torch.Tensor]:
    """The Gram matrices of all pictures together, in filters that no search or fit has seen."""
    maps = engine.random_filters(scales=3, seed=1)
    each = [[engine.gram(m) for m in maps(_tensor(p[None]))] for p in x]
    return [torch.stack(level).mean(0) for level in zip(*each, strict=True)]


def picture(lines: list[tuple[str, Pictures]]) -> None:
    """A line for each way, magnified twice."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(lines), 1, figsize=(9, 0.72 * len(lines)))
    figure.subplots_adjust(left=0.14, right=0.995, top=0.995, bottom=0.005, hspace=0.06)
    for axis, (name, x) in zip(axes, lines, strict=True):
        axis.imshow(np.concatenate(list(x[:SHOWN]), 1))
        axis.set(xticks=[], yticks=[], frame_on=False)
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT, dpi=100)
    Image.open(OUT).convert("RGB").quantize(160).save(OUT, optimize=True)


def main() -> None:
    """Fit, go there and back, print, draw and check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--painting", default="candy")
    parser.add_argument("--seconds", type=float, default=300, help="CPU seconds of the fit")
    parser.add_argument("--keep", type=Path, help="folder of the finished fit, which is loaded the next time")
    parser.add_argument("--no-picture", action="store_true")
    asked = parser.parse_args()
    canvas = [find(f"images/style/styles/{asked.painting}.jpg")]
    paintings, others = squares(canvas, ROWS, 1), squares(canvas, 300, 2)
    photos = squares(sorted(find("images/photos/cbsd68_first34").glob("*.png")), ROWS, 3)
    test = squares(sorted(find("images/photos/set14").glob("*HR.png")), TEST, 4)
    model = fitted(photos, paintings, asked)
    made = pofx.translate(model, test, rng=0).raw.numpy()
    back = pofx.translate(model.back, made, rng=0).raw.numpy()
    some = paintings[:500]
    answers = {
        "photograph": test,
        "colours": moved(paintings)(test),
        "nearest": some[distances(test, some).argmin(1)],
        "cycle": made,
    }
    goal, start = manner(others), manner(test)
    scale = float(engine.gram_distance(start, goal))
    table = {}
    print(f"{'':12s} {'manner':>8s} {'own':>7s}")
    for name, x in answers.items():
        near = float(engine.gram_distance(manner(x), goal)) / scale
        own = float((distances(x, test).argmin(1) == np.arange(len(test))).mean())
        table[name] = (near, own)
        print(f"{name:12s} {near:8.3f} {own:7.1%}", flush=True)
    returned = float(np.sqrt(np.square(back.astype(float) - test).mean()))
    print(f"there and back: {returned:.1f} grey levels")
    if not asked.no_picture:
        picture([*answers.items(), ("back again", back)])
    assert table["cycle"][0] < 0.25, "not four times nearer to the manner than the photographs"
    assert table["cycle"][1] >= 0.8, "answers do not know their own photograph"
    assert returned < 30, "the way back does not lead to the photographs"


if __name__ == "__main__":
    main()
