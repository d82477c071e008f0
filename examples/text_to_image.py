"""Text to image: pictures drawn from a caption, also from combinations of words that no training caption had.

    POFX_DATA=... python examples/text_to_image.py [--steps 7500] [--folder runs/NAME] [--no-picture]

x is a picture of 32 x 32 pixels: a digit or a piece of clothing (MNIST, Fashion-MNIST) in one of six colours and two
sizes, on a ground of another colour, in one of four corners. Its caption says so: "a small red boot on a blue ground,
top left". There are 2400 captions; every thing is held out in one of its six colours, so that 400 captions hold words
that were never trained on together. `fit(data, Diffusion(...), given={"caption": ...})` trains a reader of captions
and the U-Net that attends to it, and `Guided` draws with classifier-free guidance.

Measured by `pofx.metrics.retrieval`: p(words | picture), fitted on *real* pictures of all captions (it is the judge)
from other glyphs than the diffusion saw. How often is a picture's own caption the likeliest of 20, of which 9 are near
misses? Chance is 5 %. Fresh real pictures are the upper bound; pictures beside other captions than they were drawn
from, and draws that were given no caption, the lower one. The scale of the guidance is chosen on captions that are not
measured on.

References: classifier-free guidance (Ho 2022, arXiv:2207.12598); attention to a caption (Rombach 2021,
arXiv:2112.10752); a network that says the picture (Li 2025, arXiv:2511.13720); R-precision (Xu 2018, arXiv:1711.10485).
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import pofx
from pofx.data import open_data
from pofx.families.diffusion import Diffusion
from pofx.files import CHECKPOINT, MODEL
from pofx.metrics.base import Metric
from pofx.metrics.retrieval import Retrieval, candidates, right_first
from pofx.wrappers import Guided

OUT = Path("docs/applications/text_to_image.png")
SIDE = 32
SIZES = {"small": 16, "large": 24}
COLOURS = {
    "red": (215, 40, 40), "green": (40, 165, 70), "blue": (45, 80, 220), "yellow": (240, 210, 50),
    "white": (245, 245, 245), "black": (15, 15, 15),
}  # fmt: skip
PLACES = ("top left", "top right", "bottom left", "bottom right")
DIGITS = ("zero", "one", "two", "three", "four")
CLOTHES = {"shirt": 0, "trousers": 1, "dress": 3, "bag": 8, "boot": 9}  # their labels
NOUNS = (*DIGITS, *CLOTHES)
SCALES = (1.0, 2.0, 3.0, 5.0)


@dataclass(frozen=True)
class Scene:
    """What a caption says."""

    size: str
    colour: str
    noun: str
    ground: str
    place: str

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.noun} on a {self.ground} ground, {self.place}"

    @property
    def held_out(self) -> bool:
        """One of six colours of each thing."""
        return NOUNS.index(self.noun) % len(COLOURS) == list(COLOURS).index(self.colour)


def scenes() -> list[Scene]:
    """All of them."""
    every = (Scene(*words) for words in itertools.product(SIZES, COLOURS, NOUNS, COLOURS, PLACES))
    return [s for s in every if s.colour != s.ground]


def glyphs(part: str) -> dict[str, np.ndarray]:
    """Noun -> pictures (N, 28, 28), bytes, of the part "train" or "t10k"."""
    found: dict[str, np.ndarray] = {}
    for folder, labels in (("mnist", dict(zip(DIGITS, range(5), strict=True))), ("fashion-mnist", CLOTHES)):
        data = open_data(f"images/{folder}/{part}-images-idx3-ubyte.gz", given="label")
        values = data.given_spaces["label"].variables[0].values or ()
        known = np.array([int(values[k]) for k in data.given["label"].tolist()])
        found |= {noun: data.x.numpy()[known == label].squeeze(-1) for noun, label in labels.items()}
    return found


def drawing(scene: Scene, glyph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One picture (32, 32, 3) of a scene."""
    side = SIZES[scene.size]
    cut = glyph[4:24, 4:24] if scene.noun in DIGITS else np.minimum(glyph.astype(float) * 1.5, 255).astype(np.uint8)
    ink = np.asarray(Image.fromarray(cut).resize((side, side), Image.Resampling.BOX), float)[..., None] / 255
    i = 0 if scene.place.startswith("top") else SIDE - side
    j = 0 if scene.place.endswith("left") else SIDE - side
    colour, ground = (np.array(COLOURS[c]) + rng.normal(0, 6, 3) for c in (scene.colour, scene.ground))
    x = np.tile(ground, (SIDE, SIDE, 1))
    x[i : i + side, j : j + side] = ink * colour + (1 - ink) * ground
    return np.clip(x.round(), 0, 255).astype(np.uint8)


def pictures(said: list[Scene], held: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A picture of each scene, of glyphs drawn at random."""
    return np.stack([drawing(s, held[s.noun][rng.integers(len(held[s.noun]))], rng) for s in said])


def some(of: list[Scene], count: int, rng: np.random.Generator) -> list[Scene]:
    """Scenes at random, each noun as often as others."""
    return [of[k] for k in rng.integers(len(of), size=count)]


def fitted(said: list[Scene], x: np.ndarray, steps: int, folder: Path | None = None) -> pofx.Model:
    """p(picture | caption); it goes on with what the folder holds."""
    if folder is not None and (folder / MODEL).exists() and not (folder / CHECKPOINT).exists():
        return pofx.load(folder)
    captions = open_data([str(s) for s in said], kind="text", options={"unit": "bpe", "vocabulary": 400})
    data = open_data(x, given={"caption": captions}, test=8, valid=96)
    # half of the rows are mostly noise, where the caption decides. The network says the picture, as few channels do not
    # carry the noise of a patch through
    family = Diffusion(path="linear", weighting="even", predict="x", width=16, patch=2, frequencies=0, lr=3e-3)
    resume, budget = folder is not None and folder.exists(), f"{steps} steps"
    return pofx.fit(data, family, budget=budget, batch=32, seed=0, threads=1, folder=folder, resume=resume)


def drawn(model: pofx.Model, said: list[Scene], scale: float, seed: int) -> np.ndarray:
    """A picture for each caption, by guidance."""
    guided = Guided(model, {"caption": scale}, solver="dpm++2m", solver_steps=16, path="linear")
    return pofx.sample(guided, len(said), {"caption": [str(s) for s in said]}, rng=seed).value


def judged(judge: Retrieval, x: np.ndarray, said: list[Scene], seed: int) -> Metric:
    """How often the right caption is the nearest of 20."""
    others = candidates([str(s) for s in said], [str(s) for s in scenes()], seed)
    return right_first(judge.scores(x, others))


def learnt_judge(held: dict[str, np.ndarray], steps: int, rng: np.random.Generator) -> Retrieval:
    """p(words | picture), from real pictures of all captions."""
    said = some(scenes(), 24_000, rng)
    return Retrieval.fit(pictures(said, held, rng), [str(s) for s in said], steps=steps)


def chosen_scale(model: pofx.Model, judge: Retrieval, said: list[Scene]) -> float:
    """The scale under which most captions of these are found."""
    found = {}
    for scale in SCALES:
        found[scale] = judged(judge, drawn(model, said, scale, 1), said, 2)
        print(f"guidance {scale:g}: {found[scale].value:.1%} of {len(said)} captions to choose by", flush=True)
    return max(SCALES, key=lambda s: found[s].value)


def answers(
    model: pofx.Model, judge: Retrieval, tests: dict[str, list[Scene]], fresh: dict[str, np.ndarray], scale: float
) -> tuple[dict[str, Metric], dict[str, np.ndarray]]:
    """All that is measured, and the pictures of seen and unseen captions."""
    rng, found, made = np.random.default_rng(5), {}, {}
    for name, said in tests.items():
        made[name] = drawn(model, said, scale, 3)
        found[f"real, {name}"] = judged(judge, pictures(said, fresh, rng), said, 4)
        found[f"drawn, {name}"] = judged(judge, made[name], said, 4)
    seen = tests["seen"]
    found["drawn, captions shuffled"] = judged(judge, made["seen"], seen[1:] + seen[:1], 4)
    found["drawn without a caption"] = judged(judge, drawn(model, seen, 0.0, 3), seen, 4)
    return found, made


def picture(tests: dict[str, list[Scene]], made: dict[str, np.ndarray], columns: int = 6) -> None:
    """Pictures of seen and unseen captions, with what was asked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(4, columns, figsize=(1.75 * columns, 8.6), layout="constrained")
    for line, row in enumerate(axes):
        name = "seen" if line < 2 else "unseen"
        for column, axis in enumerate(row):
            k = line % 2 * columns + column
            s = tests[name][k]
            axis.imshow(made[name][k], interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            words = f"a {s.size} {s.colour} {s.noun}\non a {s.ground} ground,\n{s.place}"
            axis.set_xlabel(words, fontsize=8.5)
        row[0].set_ylabel("words seen together" if line < 2 else "never seen together", fontsize=9)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT, dpi=90)


def main() -> None:
    """Fit the judge and the model, choose the guidance, measure, and check what is claimed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=7500, help="of the diffusion's fit, 32 pictures each")
    parser.add_argument("--judge-steps", type=int, default=500)
    parser.add_argument("--tests", type=int, default=200, help="captions of each kind")
    parser.add_argument("--folder", type=Path, help="keeps the model; a fit that was cut off goes on")
    parser.add_argument("--no-picture", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rng, held, fresh = np.random.default_rng(0), glyphs("train"), glyphs("t10k")
    seen, unseen = ([s for s in scenes() if s.held_out is flag] for flag in (False, True))
    tests = {"seen": some(seen, asked.tests, rng), "unseen": some(unseen, asked.tests, rng)}
    choice = some(seen, asked.tests // 2, rng)
    said = some([s for s in seen if s not in {*tests["seen"], *choice}], 20_000, rng)
    halves = [{noun: x[k::2] for noun, x in held.items()} for k in range(2)]
    clock = time.process_time()
    model = fitted(said, pictures(said, halves[0], rng), asked.steps, asked.folder)
    print(f"diffusion fitted in {time.process_time() - clock:.0f} CPU s", flush=True)
    clock = time.process_time()
    judge = learnt_judge(halves[1], asked.judge_steps, np.random.default_rng(1))
    print(f"judge fitted in {time.process_time() - clock:.0f} CPU s", flush=True)
    scale = chosen_scale(model, judge, choice)
    found, made = answers(model, judge, tests, fresh, scale)
    for name, metric in found.items():
        print(f"{name:26s} {metric.value:6.1%}  [{metric.low:.1%}, {metric.high:.1%}] of {metric.n}")
    print(f"guidance {scale:g}; {time.process_time():.0f} CPU s in all")
    if not asked.no_picture:
        picture(tests, made)
    for name, claimed in (("seen", 0.6), ("unseen", 0.4)):
        share = found[f"drawn, {name}"].value
        assert share >= claimed, f"{name}: {share:.1%} of the captions are found, {claimed:.0%} is claimed"


if __name__ == "__main__":
    main()
