"""Classes by Bayes' rule: how right, with how few labels, and what is refused.

    POFX_DATA=... python benchmarks/classify.py [--only digits few refuse curves] [--seeds 0 1 2] [--draws 20]
    python benchmarks/classify.py table
    python benchmarks/classify.py picture docs/questions/classify.png

The digits are scikit-learn's, 8 x 8 with 17 grey levels; 300 are held out, other ones for each seed.
digits   accuracy of Bayes' rule over models of p(x | label), with all labels, beside discriminative peers.
few      50 labelled rows, drawn at random (again where a class is lacking); the other training rows have no label.
         `tied` is one normal a class with one covariance, shrunk to a round one, from the 50 rows; `partly` the same by
         `fit_partly`, which also uses the rows without a label. The logistic regression is tuned over its penalty,
         in 3 folds of cross-validation. Paired by draw.
refuse   at 5 % false alarms, which share of clothes and letters is of no class? Clothes are of Fashion-MNIST, made as
         the digits were (a bitmap of 32 x 32, black above 127, counted in 4 x 4 blocks) and, as grey clothes, averaged
         over 8 x 8 boxes. Letters are the Latin ones of Omniglot, cropped, scaled to the digits' frame of 32 x 32,
         thickened until their ink is nearest to the digits', and counted in the same blocks. The threshold is
         conformal, from 300 digits that the model did not see; false alarms are counted on 300 others. The
         discriminative peers refuse by their largest probability, at the same nominal rate. `network and kernels`: the
         strangest of two scores, the surprise of an autoregressive model and -log p of kernels, both of all digits
         without labels and of those of 30 other writers (ADBench's optdigits, less those of scikit-learn).
curves   how far the probabilities may be trusted: 600 digits held out, 897 to learn from, 300 that set a temperature,
         the same rows for all; the logistic regression also tuned, over its penalty by log loss in 3 folds. Log loss,
         calibration error (15 bins of equal count) beside that of a perfect model as sure, and the area under the
         risk-coverage curve of the largest probability, before the temperature and after it.

Every cell is a line of runs/classify.jsonl and is not run again.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageFilter
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

import pofx
from pofx.data import Data, find, open_data
from pofx.metrics import classes
from pofx.metrics.base import paired_difference
from pofx.metrics.scores import conformal_pvalues, strangest_pvalues
from pofx.model import Model
from pofx.training.partly import fit_partly

RESULTS, LEVEL, HELD, LABELS = Path("runs/classify.jsonl"), 0.05, 300, 50
NORMAL = {"components": 1, "separate": "label", "longest": 1}
FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "kde": ("kde", {}, "60s"),
    "mixture, 8 a class": ("mixture", {"components": 8, "separate": "label"}, "60s"),
    "normal, tied": ("mixture", {**NORMAL, "covariance": "tied"}, "60s"),
    "normal, full": ("mixture", {**NORMAL, "covariance": "full", "smoothing": 200.0, "prior": "round"}, "60s"),
    "factor analysers": ("mixture", {**NORMAL, "covariance": "factor", "factors": 12, "smoothing": 20.0}, "60s"),
    "autoregressive": ("autoregressive", {}, "60 cpu s"),
}
PEERS: dict[str, Callable[[], Any]] = {
    "logistic": lambda: LogisticRegression(C=0.1, max_iter=500),
    "neighbours": lambda: KNeighborsClassifier(3),
    "support vectors": lambda: SVC(C=10, gamma="scale"),
}
COMMITTEE, TUNED = "network and kernels", "logistic, tuned"
FEW = {"tied": 0, "partly": 8}
SMOOTHING = 1000.0  # of the normals from 50 rows of 64 pixels, in tenths of a row


def split(seed: int, valid: int) -> Data:
    """The digits with 300 to test on, and some to calibrate with."""
    return open_data("digits", given="label", seed=seed, test=HELD, valid=valid)


def numbers(data: Data, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows as flat numbers in [0, 1], and labels."""
    batch = data.part(part)
    return batch.x.flatten(1).numpy() / 16, batch.given["label"].numpy()


def fitted(name: str, data: Data, seed: int) -> Model:
    """A model of x given its label."""
    family, knobs, budget = FAMILIES[name]
    options: dict[str, Any] = {"hyper_parameters": knobs, "budget": budget, "threads": 1, "progress": False}
    return pofx.fit(data, family, seed=seed, **options)


def right(model: Model, data: Data) -> float:
    """Accuracy of Bayes' rule on the test rows."""
    test = data.part("test")
    p = pofx.classify(model, test.x, draws=4).diagnostics["p"]
    return float((p.argmax(1) == test.given["label"]).double().mean())


def digits(seed: int, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """With all labels."""
    data = split(seed, 150)
    x, y = (np.concatenate(v) for v in zip(numbers(data, "train"), numbers(data, "valid"), strict=True))
    for name in (*FAMILIES, *PEERS):
        if asked.ways and name not in asked.ways:
            continue
        start = time.process_time()
        if name in PEERS:
            score = float(PEERS[name]().fit(x, y).score(*numbers(data, "test")))
        else:
            score = right(fitted(name, data, seed), data)
        yield {"way": name, "accuracy": score, "cpu": time.process_time() - start}


def few(seed: int, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """With 50 labels, draw after draw, all on one split a draw."""
    data = split(seed, 0)
    picked = chosen(data, seed)
    test, (x, y) = numbers(data, "test"), _at(data, picked)
    start = time.process_time()
    tuned = _tuned(seed, "accuracy").fit(x, y)
    yield {"way": TUNED, "accuracy": float(tuned.score(*test)), "cpu": time.process_time() - start}
    labels: list[Any] = [None] * len(data)
    for i in picked:
        labels[i] = int(data.given["label"][i])
    for name, rounds in FEW.items():
        start = time.process_time()
        knobs = {**NORMAL, "covariance": "tied", "smoothing": SMOOTHING, "prior": "round"}
        model = fit_partly(data.without_given(), "mixture", labels, rounds=rounds, hyper_parameters=knobs, seed=seed)
        yield {"way": name, "accuracy": right(model, data), "cpu": time.process_time() - start}


def _tuned(seed: int, scoring: str) -> GridSearchCV:
    """Logistic regression with its penalty from 3 folds."""
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    return GridSearchCV(LogisticRegression(max_iter=500), {"C": [0.01, 0.1, 1, 10, 100]}, cv=folds, scoring=scoring)


def chosen(data: Data, seed: int) -> list[int]:
    """Fifty training rows with every class among them."""
    rng, train = np.random.default_rng(seed), data.split["train"].numpy()
    while True:
        picked = rng.permutation(train)[:LABELS]
        if len(set(data.given["label"][picked].tolist())) == 10:
            return picked.tolist()


def _at(data: Data, rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return data.x[rows].flatten(1).numpy() / 16, data.given["label"][rows].numpy()


def refuse(seed: int, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What is of no class, at 5 % false alarms."""
    data = split(seed, HELD)
    strange = {**clothes(1000), "letters": letters(float(data.x.double().mean() / 16))}
    for name in FAMILIES:
        if name == "autoregressive" or asked.ways and name not in asked.ways:
            continue
        start, model, found = time.process_time(), fitted(name, data, seed), {}
        rows = {"false alarms": data.part("test").x, **{k: torch.from_numpy(v)[..., None] for k, v in strange.items()}}
        for what, x in rows.items():
            belongs = pofx.classify(model, x.to(data.x.dtype), calibration=data, draws=4).diagnostics["belongs"]
            found[what] = float((torch.as_tensor(belongs) <= LEVEL).double().mean())
        yield {"way": name, **found, "cpu": time.process_time() - start}
    if not asked.ways or COMMITTEE in asked.ways:
        yield {"way": COMMITTEE, **committee(data, strange, seed)}
    for name in ("logistic", "support vectors"):
        if asked.ways and name not in asked.ways:
            continue
        yield {"way": name, **unsure(name, data, strange)}


def committee(data: Data, strange: dict[str, np.ndarray], seed: int) -> dict[str, float]:
    """Two models without labels, of these digits and of those of other writers: the strangest of their scores."""
    start, every, scores = time.process_time(), more(data), []
    rows = {"false alarms": data.part("test").x, **{k: torch.from_numpy(v)[..., None] for k, v in strange.items()}}
    for family, route in (("autoregressive", "surprise"), ("kde", "log prob")):
        model = pofx.fit(every, family, seed=seed, budget="150 cpu s", threads=1, progress=False)
        answers = [pofx.anomaly(model, x.to(data.x.dtype), data.part("valid").x, route=route) for x in rows.values()]
        scores.append((answers[0].known, [a.value for a in answers]))
    known, found = np.stack([k for k, _ in scores]), {}
    for i, what in enumerate(rows):
        p = strangest_pvalues(known, np.stack([each[i] for _, each in scores]))
        found[what] = float((p <= LEVEL).mean())
    return {**found, "cpu": time.process_time() - start}


def more(data: Data) -> Data:
    """The training digits and 3553 by other writers, without labels; each tenth of both to validate."""
    theirs = np.round(np.load(find("tables/adbench/26_optdigits.npz"))["X"]).astype(np.uint8)
    known = {x.tobytes() for x in data.x.flatten(1).numpy().astype(np.uint8)}
    theirs = np.stack([x for x in theirs if x.tobytes() not in known])
    x = torch.cat([data.part("train").x, torch.from_numpy(theirs).reshape(-1, 8, 8, 1).to(data.x.dtype)])
    rows = torch.arange(len(x))
    split = {"train": rows[rows % 10 != 0], "valid": rows[rows % 10 == 0], "test": rows[:0]}
    return replace(data.without_given(), x=x, split=split, aside={}, name="digits of 43 writers")


def unsure(name: str, data: Data, strange: dict[str, np.ndarray]) -> dict[str, float]:
    """What a discriminative peer refuses: its largest probability (or vote) is as small as of few digits."""
    peer = (SVC(C=10, probability=True, random_state=0) if name == "support vectors" else PEERS[name]()).fit(
        *numbers(data, "train")
    )
    known = 1 - peer.predict_proba(numbers(data, "valid")[0]).max(1)
    rows = {"false alarms": numbers(data, "test")[0], **{k: v.reshape(len(v), -1) / 16 for k, v in strange.items()}}
    return {
        k: float((np.asarray(conformal_pvalues(known, 1 - peer.predict_proba(x).max(1))) <= LEVEL).mean())
        for k, x in rows.items()
    }


def clothes(count: int) -> dict[str, np.ndarray]:
    """Test pictures of Fashion-MNIST as 8 x 8 with 17 levels: as the digits were made, and averaged as they are."""
    raw = gzip.decompress(find("images/fashion-mnist/t10k-images-idx3-ubyte.gz").read_bytes())
    pictures = [Image.fromarray(p) for p in np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)[:count]]
    bitmaps = np.stack([np.asarray(p.resize((32, 32), Image.Resampling.BILINEAR)) > 127 for p in pictures])
    grey = np.stack([np.asarray(p.resize((8, 8), Image.Resampling.BOX)) for p in pictures])
    counts = bitmaps.reshape(-1, 8, 4, 8, 4).sum((2, 4)).astype(np.uint8)
    return {"clothes": counts, "grey clothes": np.round(grey / 255 * 16).astype(np.uint8)}


def letters(ink: float) -> np.ndarray:
    """The Latin letters of Omniglot in the digits' form: 8 x 8 counts of 4 x 4 blocks of a bitmap, with their ink."""
    archive = zipfile.ZipFile(find("images/omniglot/images_background_small1.zip"))
    names = sorted(n for n in archive.namelist() if "/Latin/" in n and n.endswith(".png"))
    return np.stack([_letter(~np.asarray(Image.open(io.BytesIO(archive.read(n)))), ink) for n in names])


def _letter(strokes: np.ndarray, ink: float) -> np.ndarray:
    ys, xs = np.where(strokes)
    crop = strokes[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    height, width = (max(1, round(side * 32 / max(crop.shape))) for side in crop.shape)
    scaled = Image.fromarray((crop * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BOX)
    frame = Image.new("L", (32, 32))
    frame.paste(scaled.point(lambda v: 255 * (v > 80)), ((32 - width) // 2, (32 - height) // 2))
    tries = [frame]
    for _ in range(3):
        tries.append(tries[-1].filter(ImageFilter.MaxFilter(3)))
    counts = [(np.asarray(t) > 0).reshape(8, 4, 8, 4).sum((1, 3)).astype(np.uint8) for t in tries]
    return min(counts, key=lambda c: abs(c.mean() / 16 - ink))


def curves(seed: int, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """How far p(class | x) may be trusted, and what a temperature mends."""
    data = halves(seed)
    y = data.part("test").given["label"].numpy()
    for name in asked.ways:
        start = time.process_time()
        raw, mended, heat = told(name, data, seed)
        line: dict[str, Any] = {"accuracy": classes.accuracy(mended, y).value, "temperature": heat}
        for when, p in (("raw", raw), ("mended", mended)):
            sure, wrong = p.max(1).values, p.argmax(1).numpy() != y
            line |= {
                f"log loss, {when}": classes.log_loss(p, y).value,
                f"gap, {when}": classes.calibration_error(p, y).value,
            }
            line |= {f"floor, {when}": classes.calibration_floor(p), f"area, {when}": classes.aurc(sure, wrong).value}
        yield {"way": name, **line, "cpu": time.process_time() - start}


def halves(seed: int) -> Data:
    """Half of the digits to learn from, 600 to test on, 300 to calibrate with."""
    return open_data("digits", given="label", seed=seed, test=600, valid=HELD)


def told(name: str, data: Data, seed: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """p(class | x) of the test rows (N, K) before and after the temperature, and that temperature."""
    if name in (*PEERS, TUNED):
        peer = (_tuned(seed, "neg_log_loss") if name == TUNED else PEERS[name]()).fit(*numbers(data, "train"))
        known, log_p = (peer.predict_log_proba(numbers(data, part)[0]) for part in ("valid", "test"))
        heat = classes.temperature_of(known, numbers(data, "valid")[1])
        return torch.from_numpy(log_p).softmax(1), torch.from_numpy(log_p / heat).softmax(1), heat
    mended = pofx.classify(fitted(name, data, seed), data.part("test").x, calibration=data, draws=4).diagnostics
    return (mended["temperature"] * mended["p"].log()).softmax(1), mended["p"], mended["temperature"]


CURVES = ("normal, full", "factor analysers", "normal, tied", "kde", "logistic", TUNED)
JUDGED = [f"{what}, {when}" for what in ("log loss", "gap", "floor", "area") for when in ("raw", "mended")]
CELLS = {"digits": digits, "few": few, "refuse": refuse, "curves": curves}


def lines() -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def run(asked: argparse.Namespace) -> None:
    """Every cell that is not there yet."""
    RESULTS.parent.mkdir(exist_ok=True)
    for cell in asked.only:
        for seed in range(asked.draws) if cell == "few" else asked.seeds:
            known = [(line["cell"], line["seed"], line["way"]) for line in lines()]
            if cell == "few" and (cell, seed, "partly") in known:
                continue
            wanted = argparse.Namespace(ways=_open(cell, seed, known, asked.ways))
            if wanted.ways == []:
                continue
            for line in CELLS[cell](seed, wanted):
                if (cell, seed, line["way"]) not in known:
                    with RESULTS.open("a") as file:
                        file.write(json.dumps({"cell": cell, "seed": seed, **line}) + "\n")
                    print(cell, seed, line, flush=True)


def _open(cell: str, seed: int, known: list[tuple[str, int, str]], asked: list[str]) -> list[str]:
    every = [*FAMILIES, *PEERS]
    if cell == "curves":
        every = list(CURVES)
    if cell == "refuse":
        every = [w for w in every if w not in ("autoregressive", "neighbours")] + [COMMITTEE]
    return [w for w in every if (not asked or w in asked) and (cell, seed, w) not in known]


def table() -> None:
    """Means over seeds, and the paired interval of few labels."""
    found = pd.DataFrame(lines())
    for cell, part in found.groupby("cell"):
        known = part.notna().any()
        columns = ("accuracy", "false alarms", "clothes", "grey clothes", "letters", "temperature", *JUDGED, "cpu")
        wanted = [c for c in columns if known.get(c, False)]
        means = part.groupby("way")[wanted].mean()
        print(f"\n{cell}, {part['seed'].nunique()} seeds\n{means.sort_values(wanted[0], ascending=False).round(4)}")
        if cell == "curves":
            for what in ("log loss, mended", "gap, raw", "gap, mended", "area, mended"):
                wide = part.pivot_table(index="seed", columns="way", values=what).dropna()
                for way in CURVES[:-2]:
                    less = paired_difference(wide[way].to_numpy(), wide[TUNED].to_numpy())
                    print(f"{what}: {way} - {TUNED} {less.value:+.4f} [{less.low:+.4f}, {less.high:+.4f}]")
        if cell == "few":
            wide = part.pivot_table(index="seed", columns="way", values="accuracy").dropna()
            for way in FEW:
                gain = paired_difference(wide[way].to_numpy(), wide[TUNED].to_numpy())
                print(f"{way} - {TUNED}: {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}], {len(wide)} draws")


def picture(path: str) -> None:
    """What is refused: log p(x) of digits, clothes and letters, and the ones nearest to the threshold."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    data = split(0, HELD)
    model = fitted("normal, full", data, 0)
    sets = {"digits": data.part("test").x[..., 0].numpy(), "letters": letters(float(data.x.double().mean() / 16))}
    sets["clothes"] = clothes(300)["clothes"]
    figure = plt.figure(figsize=(9.5, 5.2), layout="constrained")
    top, below = figure.subfigures(2, 1, height_ratios=(1, 1.15))
    axes = top.subplots()
    strips = below.subplots(3, 14)
    for k, (name, x) in enumerate(sets.items()):
        rows = torch.from_numpy(np.ascontiguousarray(x))[..., None].to(data.x.dtype)
        facts = pofx.classify(model, rows, calibration=data)
        belongs, log_p = torch.as_tensor(facts.diagnostics["belongs"]), facts.diagnostics["log_p"].clamp_min(-400)
        share = float((belongs <= LEVEL).double().mean())
        words, tone = f"{name}: {share:.0%} of no class", ("0.2", "C3", "C0")[k]
        axes.hist(log_p.numpy(), 60, (-400, -50), density=True, alpha=0.6, label=words, color=tone)
        for j, i in enumerate(log_p.argsort(descending=True)[:14].tolist()):
            cell = strips[k, j]
            cell.imshow(x[i], cmap="gray_r", vmin=0, vmax=16)
            cell.set_title(f"{facts.value[i]}" if float(belongs[i]) > LEVEL else "none", fontsize=8)
            cell.set_xticks([])
            cell.set_yticks([])
        strips[k, 0].set_ylabel(name, fontsize=9)
    axes.set(xlabel="log p(x), nats (left of -400: at -400)", yticks=[], title="one normal a class, 5 % false alarms")
    axes.legend(frameon=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=110, facecolor="white")


def main() -> None:
    """Run, or show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="run", choices=("run", "table", "picture"))
    parser.add_argument("out", nargs="?", default="classify.png")
    parser.add_argument("--only", nargs="*", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--ways", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--draws", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    {"run": lambda: run(asked), "table": table, "picture": lambda: picture(asked.out)}[asked.what]()


if __name__ == "__main__":
    main()
