"""Music: chorales of J. S. Bach, learnt, sampled, harmonised and continued, beside published figures.

    POFX_DATA=/folder/of/data python examples/music.py [--budget "600 cpu s"] [--runs runs] [--out music.png]

One model of whole pieces, autoregressive over the notes of each quarter from the highest down, answers all of it:

    fit         pofx.fit(data, "autoregressive")             229 pieces to train on, 76 to validate, 77 to test
    density     nats per time step of 88 keys, the unit of Boulanger-Lewandowski 2012, and other units beside it
    sample      pofx.sample(model, 3)
    harmonise   pofx.impute of three voices under the soprano of a test piece; the soprano must come back exactly
    continue    pofx.impute of what follows the first 16 quarters of a test piece

Writes MIDI and WAV files below --runs, and one picture. A fit that was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

import pofx
from pofx.data import Data, open_data
from pofx.kinds import KINDS
from pofx.kinds.music import END, NONE
from pofx.model import Model

CHORALES = "music/jsb_chorales/jsb-chorales-quarter.json.gz"
GOAL = 5.8  # nats per time step
PUBLISHED = {"GRU, notes independent": 8.54, "TCN, notes independent": 8.10, "RNN-RBM": 6.27, "RNN-NADE": 5.56}
MUSIC = KINDS["music"]


def chorales() -> Data:
    """Whole pieces with the split that is published with them."""
    data = open_data(CHORALES)
    codes, space = data.aside["part"]
    values = space.variables[0].values or ()
    split = {p: torch.nonzero(codes == values.index(p)).squeeze(1) for p in ("train", "valid", "test")}
    return replace(data, split=split)


def fitted(data: Data, budget: str, folder: Path) -> Model:
    """The model, from its folder where it is there."""
    if (folder / "model.json").exists() and not (folder / "checkpoint.safetensors").exists():
        return pofx.load(folder)
    return pofx.fit(data, "autoregressive", budget=budget, batch=16, folder=folder, resume=folder.exists())


def likelihood(model: Model, data: Data) -> dict[str, float]:
    """Nats a step of the test pieces, in every unit that is in use."""
    x = data.part("test").x
    with torch.no_grad():
        log_p = torch.cat([model.log_prob(rows).value for rows in x.split(16)])
    steps = (x[..., 0] < END).sum(1).double()
    notes = (x < NONE).sum((1, 2)).double()
    total = -float(log_p.sum())
    return {
        "nats per time step": total / float(steps.sum()),
        "nats per time step, mean of pieces": float((-log_p / steps).mean()),
        "nats per note": total / float(notes.sum()),
        "bits per key": total / float(steps.sum()) / 88 / math.log(2),
        "nats per piece": total / len(x),
    }


def one_gram(data: Data) -> float:
    """The same unit where every key is a coin of its own: what knows nothing of time and chords."""
    rolls = [np.concatenate(data.restore(data.part(p).x)) for p in ("train", "test")]
    p = (rolls[0].sum(0) + 0.5) / (len(rolls[0]) + 1)
    return float(-(rolls[1] * np.log(p) + (1 - rolls[1]) * np.log1p(-p)).sum(1).mean())


def played(model: Model, data: Data, seed: int) -> dict[str, list[np.ndarray]]:
    """Samples, a harmonised soprano and a continuation, as rolls."""
    test = data.part("test").x
    lengths = (test[..., 0] < END).sum(1)
    row = int(((lengths - 40).abs()).argmin())  # a piece of about 40 quarters
    original = data.restore(test[row : row + 1])
    x, observed = MUSIC.voice(original, model.space)
    answer = pofx.impute(model, x, observed=observed, draws=2, rng=seed)
    assert answer.raw is not None
    kept = answer.raw[:, observed] == x[observed]
    assert bool(kept.all()), "the soprano did not come back as it was"
    harmonised = [MUSIC.restore(draw, model.space)[0] for draw in answer.raw]
    start = [original[0][:16]]
    x, observed = MUSIC.past(start, model.space)
    answer = pofx.impute(model, x, observed=observed, draws=1, rng=seed)
    assert answer.raw is not None
    gone_on = MUSIC.restore(answer.raw[0], model.space)
    assert np.array_equal(gone_on[0][:16], start[0]), "the beginning did not come back as it was"
    return {"sampled": pofx.sample(model, 3, rng=seed).value, "original": original, "harmonised": harmonised,
            "continued": gone_on}  # fmt: skip


def same_chords(rolls: list[np.ndarray], original: np.ndarray) -> list[float]:
    """How often the tones under the soprano are those that the composer chose."""
    tones = [np.stack([r[:, k::12].any(1) for k in range(12)], 1) for r in (original, *rolls)]
    return [float((t == tones[0]).all(1).mean()) for t in tones[1:]]


def sung(roll: np.ndarray) -> np.ndarray:
    """An octave lower: the published file has all pieces an octave higher than they are written."""
    return np.pad(roll[:, 12:], ((0, 0), (0, 12)))


def draw(rolls: dict[str, list[np.ndarray]], space: object, path: str) -> None:
    """Rolls of everything that was made."""
    rolls = {name: sorted(many, key=len) for name, many in rolls.items()}
    figure, axes = plt.subplots(2, 2, figsize=(11, 5.6), layout="constrained")
    titles = {
        "sampled": "sampled",
        "original": "a chorale that was not learnt from",
        "harmonised": "its soprano, harmonised",
        "continued": "its first 16 quarters, continued",
    }
    for a, (name, title) in zip(axes.flat, titles.items(), strict=True):
        x, _ = MUSIC.encode([sung(rolls[name][0])], space)
        MUSIC.draw(a, x, space)
        a.set_title(title, fontsize=10)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Fit or load, judge, play, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="600 cpu s")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", default="music.png")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    started, data = time.process_time(), chorales()
    model = fitted(data, asked.budget, asked.runs / "music-jsb")
    found = {**likelihood(model, data), "a coin for each key": one_gram(data), **PUBLISHED}
    for name, value in found.items():
        print(f"{name:40s} {value:8.4f}")
    rolls = played(model, data, asked.seed)
    print(
        "tones of each chord as the composer's:",
        [round(v, 3) for v in same_chords(rolls["harmonised"], rolls["original"][0])],
    )
    for name, many in rolls.items():
        for k, roll in enumerate(map(sung, many)):
            for suffix in ("mid", "wav"):
                MUSIC.write(roll, asked.runs / "music" / f"{name}-{k}.{suffix}", model.space)
    draw(rolls, model.space, asked.out)
    reached = found["nats per time step"] <= GOAL
    print(json.dumps({"goal": GOAL, "reached": reached, "cpu seconds": round(time.process_time() - started, 1)}))
    if not reached:
        raise SystemExit(f"the goal of {GOAL} nats was not reached; say a larger --budget.")


if __name__ == "__main__":
    main()
