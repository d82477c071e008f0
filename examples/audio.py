"""Audio: spoken digits, coded, said, mended, judged and recognised.

    POFX_DATA=/folder/of/data python examples/audio.py [--budget "200 cpu s"] [--runs runs] [--out audio.png]

Six speakers say ten digits; takes 0 to 4 are held out, 5 to 9 are learnt from (300 sounds each).

    bits        autoregressive on the samples (adaptive prediction): bits a sample, beside FLAC without its headers
    say         a normal distribution of the mel view given digit and speaker; what is drawn comes back as sound
                (Griffin and Lim) and is read by a classifier that was trained on real digits only
    mend        a fifth of some held-out digits is hidden: pofx.impute, beside the mean of the speaker's takes
    anomaly     log p of held-out digits against the same digits played backwards
    classify    pofx.classify, by Bayes' rule from the same distribution

The first part takes the time; the others together take a minute. Writes WAV files below --runs, and one picture.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

import pofx
from pofx.data import Data, open_data
from pofx.families.autoregressive import Autoregressive
from pofx.families.gaussian import Gaussian
from pofx.kinds import KINDS
from pofx.kinds._sounds import flac_bytes, write_sound
from pofx.model import Model

DIGITS = "audio/fsdd/recordings_idx0-9.zip"
NAMES = {"names": "digit_speaker_take"}
AUDIO = KINDS["audio"]
GOAL = 0.8


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a file holds, or what is made now and put there: the script goes on where it stopped."""
    if not path.exists():
        path.write_text(json.dumps(make()))
    return dict(json.loads(path.read_text()))


def words(data: Data, name: str) -> np.ndarray:
    """What file names say of each row."""
    codes, space = data.aside[name]
    return np.array([(space.variables[0].values or ())[k] for k in codes])


def parted(data: Data, valid: bool) -> Data:
    """Takes 0 to 4 to test; take 9 to validate where asked."""
    take = words(data, "take").astype(int)
    of = np.where(take < 5, "test", np.where((take == 9) & valid, "valid", "train"))
    split = {p: torch.from_numpy(np.flatnonzero(of == p)) for p in ("train", "valid", "test")}
    return replace(data, split=split)


def coder(budget: str, folder: Path) -> tuple[Model, Data]:
    """A model of the samples, in windows of half a second."""
    data = parted(open_data(DIGITS, options={**NAMES, "length": 4000}), valid=True)
    if (folder / "model.json").exists() and not (folder / "checkpoint.safetensors").exists():
        return pofx.load(folder), data
    family = Autoregressive(components=20, lr=3e-3)
    return pofx.fit(data, family, budget=budget, batch=16, folder=folder, resume=folder.exists()), data


def bits(model: Model, data: Data) -> dict[str, dict[str, float]]:
    """Bits a sample of the held-out sounds, by speaker: the model's, and FLAC's of each whole sound."""
    test, found = data.part("test"), dict[str, dict[str, float]]()
    assert test.observed is not None
    rows = torch.arange(len(test.x)).split(16)
    with torch.no_grad():
        log_p = torch.cat([model.log_prob(test.x[r], observed=test.observed[r]).value for r in rows]).numpy()
    samples, speaker = test.observed.sum(1).numpy(), words(data, "speaker")[data.split["test"]]
    whole = open_data(DIGITS, options=NAMES)
    held = np.flatnonzero(words(whole, "take").astype(int) < 5)
    assert whole.observed is not None
    sounds = [whole.x[k][whole.observed[k]].numpy() - 2**15 for k in held]
    flac, by = np.array([8.0 * flac_bytes(x, 8000) for x in sounds]), words(whole, "speaker")[held]
    for name in [*np.unique(by), "all"]:
        a, b = (np.ones(len(w), bool) if name == "all" else w == name for w in (speaker, by))
        count = float(samples[a].sum())
        found[name] = {"pofx": float(-log_p[a].sum() / math.log(2) / count), "FLAC": float(flac[b].sum() / count)}
    return found


def sayer() -> tuple[Model, Data]:
    """The mel view given what is said by whom, as one normal distribution with 60 means."""
    data = open_data(DIGITS, options={**NAMES, "view": "mel", "length": 4096, "mels": 20})
    said = [f"{d} {s}" for d, s in zip(words(data, "digit"), words(data, "speaker"), strict=True)]
    data = parted(open_data(data, given={"said": said}), valid=False)
    return pofx.fit(data, Gaussian(shrinkage=0.1), progress=False), data


def reader(data: Data) -> SVC:
    """A classifier of the levels, trained on real digits alone."""
    train = data.part("train")
    return SVC(C=10).fit(_flat(train.x), digits_of(train.given["said"]))


def digits_of(said: torch.Tensor) -> np.ndarray:
    """The digit of codes of "digit speaker", which stand in order."""
    return said.numpy() // 6


def said_again(model: Model, data: Data, clf: SVC, folder: Path) -> dict[str, float]:
    """Draw each digit of each speaker five times, as levels and as sound, and have them read."""
    test = data.part("test")
    given = {"said": test.given["said"]}
    drawn = model.sample(1, given, rng=0)[0]
    sounds = AUDIO.restore(drawn, model.space)
    back, _ = AUDIO.encode(sounds, model.space)
    names = data.given_spaces["said"].variables[0].values or ()
    for k in range(0, len(sounds), 5):
        name = str(names[int(given["said"][k])]).replace(" ", "-")
        write_sound(folder / f"{name}.wav", sounds[k], 8000)
    truth = digits_of(given["said"])
    read = {"real, held out": test.x, "sampled": drawn, "sampled, as sound": back}
    return {name: float((clf.predict(_flat(x)) == truth).mean()) for name, x in read.items()}


def mended(model: Model, data: Data, folder: Path) -> tuple[dict[str, float], torch.Tensor]:
    """Hide a fifth of some held-out digits; root mean square error in decibels, and some rows to draw."""
    test, train = data.part("test").take(torch.arange(3, 300, 8)), data.part("train")
    observed = torch.ones_like(test.x, dtype=torch.bool)
    observed[:, 8:14] = False
    answer = pofx.impute(model, test.x, {"said": test.given["said"]}, observed=observed, draws=8, rng=0)
    assert answer.raw is not None
    assert torch.equal(answer.raw[:, observed], test.x[observed].expand(8, -1))
    mean = torch.stack([train.x[train.given["said"] == k].double().mean(0) for k in test.given["said"]])
    decibels = 80 / 63
    error = {
        "gap, mean of 8 draws": answer.raw.double().mean(0),
        "gap, one draw": answer.raw[0].double(),
        "gap, mean of the speaker's takes": mean,
    }
    found = {k: decibels * float((v - test.x)[~observed].square().mean().sqrt()) for k, v in error.items()}
    whole = open_data(DIGITS, options=NAMES)
    assert whole.observed is not None
    row = int(data.split["test"][3])
    sound = (whole.x[row][whole.observed[row]].numpy() - 2**15)[:4096]
    made = AUDIO.complete([sound], answer.raw[0, :1], observed[:1], model.space)[0]
    kept = made[: 7 * 128] == sound[: 7 * 128]
    assert kept.all(), "samples that were known did not come back as they were"
    for name, x in (("whole", sound), ("mended", made)):
        write_sound(folder / f"gap-{name}.wav", x, 8000)
    shown = torch.where(observed, test.x, torch.zeros_like(test.x))
    return found, torch.cat([test.x[::8][:4], shown[::8][:4], answer.raw[0, ::8][:4].to(test.x.dtype)])


def judged(model: Model, data: Data) -> dict[str, float]:
    """Anomalies (digits played backwards) and classes of held-out digits."""
    test = data.part("test")
    backwards = test.x.clone()
    for row in backwards:  # the silence after a sound stays where it is
        end = int((row.amax((1, 2)) > 0).nonzero().max()) + 1
        row[:end] = row[:end].flip(0).clone()
    scores = [-model.log_prob(x, rng=0).value.numpy() for x in (test.x, backwards)]
    truth = np.repeat([0, 1], len(test.x))
    found = pofx.classify(model, test.x, name="said")
    digit = np.array([int(str(w).split()[0]) for w in found.value])
    return {
        "backwards against forwards, AUC": float(roc_auc_score(truth, np.concatenate(scores))),
        "digit by Bayes' rule": float((digit == digits_of(test.given["said"])).mean()),
        "digit and speaker by Bayes' rule": float(
            np.mean([str(a) == str(b) for a, b in zip(found.value, _said(data), strict=True)])
        ),
    }


def _said(data: Data) -> list[object]:
    values = data.given_spaces["said"].variables[0].values or ()
    return [values[k] for k in data.part("test").given["said"]]


def _flat(x: torch.Tensor) -> np.ndarray:
    return x.double().flatten(1).numpy()


def draw(coded: dict[str, dict[str, float]], model: Model, gaps: torch.Tensor, path: str) -> None:
    """Bits by speaker, digits that were drawn, and gaps that were mended."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    names, place = list(coded), np.arange(len(coded))
    for k, (who, tone) in enumerate((("FLAC", "0.75"), ("pofx", "C0"))):
        axes[0].bar(place + 0.4 * k - 0.2, [coded[n][who] for n in names], 0.4, color=tone, label=who)
    axes[0].set_xticks(place, names, rotation=30, fontsize=8)
    axes[0].set(title="bits a sample, held-out digits", ylim=(0, None))
    axes[0].legend(frameon=False)
    axes[0].spines[["top", "right"]].set_visible(False)
    given = {"said": torch.arange(16) % 10 * 6 + torch.arange(16) // 10}
    AUDIO.draw(axes[1], model.sample(1, given, rng=1)[0], model.space)
    axes[1].set_title("sampled: digits 0 to 9, then 0 to 5")
    AUDIO.draw(axes[2], gaps, model.space)
    axes[2].set_title("held-out digits, a gap, and the gap mended")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run every part, print, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="200 cpu s")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", default="audio.png")
    asked = parser.parse_args()
    started, folder = time.process_time(), asked.runs / "audio"
    folder.mkdir(parents=True, exist_ok=True)
    coded = kept(folder / "bits.json", lambda: bits(*coder(asked.budget, asked.runs / "audio-digits")))
    for name, row in coded.items():
        print(f"{name:36s} {row['pofx']:8.4f} bits a sample, FLAC {row['FLAC']:8.4f}", flush=True)
    model, data = sayer()
    found = kept(folder / "said.json", lambda: said_again(model, data, reader(data), folder))
    found |= kept(folder / "judged.json", lambda: judged(model, data))
    mends, gaps = mended(model, data, folder)
    found |= mends
    for name, value in found.items():
        print(f"{name:36s} {value:8.4f}", flush=True)
    draw(coded, model, gaps, asked.out)
    reached = coded["all"]["pofx"] < coded["all"]["FLAC"] and found["sampled, as sound"] >= GOAL
    print(json.dumps({"reached": reached, "cpu seconds": round(time.process_time() - started, 1)}))
    if not reached:
        raise SystemExit("a goal was not reached; say a larger --budget.")


if __name__ == "__main__":
    main()
