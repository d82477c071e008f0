"""Text: learn to write, go on from a prompt, fill gaps, and tell good reviews from bad ones by Bayes' rule.

    POFX_DATA=/folder/of/data python examples/text.py [--only write] [--store runs/text.jsonl] [--out text.png]
    python examples/text.py --only hide --minutes 60          # the long run of masked diffusion; again: it goes on

    write     tiny Shakespeare, 4 layers of 128, context 64, 3 CPU minutes (nanoGPT's recipe for a CPU: 1.88 nats)
    cache     drawing with a cache of keys and values, against computing the whole window for every symbol
    hide      the same text by masked diffusion: its bound, and gaps filled in
    reviews   Korean film reviews (NSMC): p(review | good), p(review | bad) by n-grams of characters and a bag of pieces

Each finished cell is a line of the store, so that the script goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import torch

import pofx
from pofx.data import Data, find, open_data
from pofx.families.autoregressive import Autoregressive
from pofx.randomness import Rng
from pofx.wrappers import joint

SHAKESPEARE, REVIEWS = "text/tinyshakespeare/input.txt", "text/nsmc/nsmc_raw_20k_neg_20k_pos.tsv.gz"
REVIEWERS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("4-grams of characters", 4, {"rare": 2}),
    ("bag of pieces", 1, {"unit": "bpe", "vocabulary": 20_000}),  # chosen on 4000 reviews to train on
)
CONTEXT = 64
RUNS = Path("runs")


def shakespeare() -> Data:
    """Windows of one symbol and the 64 after it: the last 10 % of the text are tested on, as is usual."""
    data = open_data(SHAKESPEARE, options={"length": CONTEXT + 1, "stride": 16}, test=0, valid=0.1)
    held = data.split["valid"]
    few, many = (held[:: max(1, len(held) // n)] for n in (200, 1700))
    return replace(data, split={"train": data.split["train"], "valid": few, "test": many})


def fitted(name: str, data: Data, family: Any, budget: str, batch: int | None) -> Any:
    """A model that was fitted before, or goes on being fitted, or begins."""
    folder = RUNS / f"text-{name}"
    if (folder / "model.json").exists() and not (folder / "checkpoint.safetensors").exists():
        return pofx.load(folder)
    return pofx.fit(
        data, family, budget=budget, batch=batch, threads=1, folder=folder, resume=folder.exists(), progress=False
    )


def write_cell(minutes: float) -> dict:
    """Nats a symbol, with 1 .. 64 symbols of context each, as nanoGPT measures them."""
    data = shakespeare()
    family = Autoregressive(width=128, depth=4, dropout=0.0, lr=6e-3, weight_decay=0.1)
    model = fitted("write", data, family, "180 cpu s", 8)
    test = data.part("test").x
    nats = float(-pofx.log_score(model, test, 1).value.mean()) / CONTEXT
    texts = pofx.forecast(model, "ROMEO:\n", ahead=240, draws=2, rng=1).value
    seconds = model.record["seconds"]["cpu"]
    curve = [(line["seconds"], line["valid"] / (CONTEXT + 1)) for line in model.history if "valid" in line]
    return {"nats": nats, "bits": nats / 0.693147, "seconds of the fit": seconds, "curve": curve, "texts": texts}


def cache_cell(minutes: float) -> dict:
    """Seconds to draw 32 windows: the cursor, and the same net asked anew about the whole window for every symbol."""
    model = pofx.load(RUNS / "text-write")
    found: dict[str, Any] = {}
    for rows in (1, 32):
        started = time.process_time()
        pofx.sample(model, rows, rng=0)
        found[f"cache, {rows}"] = time.process_time() - started
        x, rng, some = torch.zeros(rows, CONTEXT + 1, dtype=torch.int64), Rng(0), 16
        started = time.process_time()
        with torch.no_grad():
            for t in range(some):
                params = model.net(x, x.double(), None).unflatten(1, (CONTEXT + 1, -1))
                x[:, t] = rng.categorical(params[:, t])
        found[f"naive, {rows}"] = (time.process_time() - started) / some * (CONTEXT + 1)
        found[f"times, {rows}"] = found[f"naive, {rows}"] / found[f"cache, {rows}"]
    return found


def hide_cell(minutes: float) -> dict:
    """The bound in nats a symbol, and gaps filled."""
    from pofx.families.masked_diffusion import MaskedDiffusion

    data = shakespeare()
    name = "hide" if minutes <= 3 else f"hide-{minutes:g}"
    model = fitted(name, data, MaskedDiffusion(width=128, depth=4, dropout=0.0, lr=3e-3), f"{minutes * 60:g} cpu s", 32)
    some = data.part("test").x[:300]
    with torch.no_grad():
        nats = float(-model.log_prob(some, draws=4, rng=0).value.mean()) / (CONTEXT + 1)
    whole = data.restore(some[:1])[0]
    holed = whole[:20] + "█" * 8 + whole[28:]
    filled = [t[0] for t in pofx.impute(model, [holed], draws=3, rng=0).value]
    curve = [(line["seconds"], line["valid"] / (CONTEXT + 1)) for line in model.history if "valid" in line]
    return {"nats": nats, "minutes": minutes, "curve": curve, "gaps": [holed, *filled], "truth": whole}


def reviews_cell(minutes: float) -> dict:
    """How many of 4000 reviews are told right, by n-grams of characters, by a bag of pieces, and by their product."""
    frame = pd.read_csv(find(REVIEWS), sep="\t", quoting=3, keep_default_na=False)[["document", "label"]]
    split = open_data(frame, kind="text", given="label", test=4000, valid=400, options={"column": "document"}).split
    told, test = frame.iloc[torch.cat([split["train"], split["valid"]]).tolist()], frame.iloc[split["test"].tolist()]
    label = torch.as_tensor(test.label.to_numpy())
    parts = {}
    for name, order, options in REVIEWERS:
        # the pieces are learnt from the reviews to train on, as everything else is
        data = open_data(told, kind="text", given="label", test=0, valid=400, options={"column": "document", **options})
        settings = {"order": order, "smoothing": "jelinek-mercer"}
        model = pofx.fit(data, "ngram", threads=1, progress=False, hyper_parameters=settings)
        x, _ = data.kind.encode(list(test.document), data.space)
        parts[name] = joint(model, data.part("train").given["label"]).log_joint(x).value
        if order > 1:
            letters = int((x < data.space.meta["end"]).sum())
            nats = -float(parts[name].gather(1, label[:, None]).sum()) / letters
    share = {name: _share(log_joint, label) for name, log_joint in parts.items()}
    return {"share": _share(sum(parts.values()), label), "each": share, "bits a character": nats / 0.693147}


def _share(log_joint: torch.Tensor, label: torch.Tensor) -> float:
    return float((log_joint.argmax(1) == label).double().mean())


CELLS = {"write": write_cell, "cache": cache_cell, "hide": hide_cell, "reviews": reviews_cell}


def told(found: dict[str, dict]) -> None:
    """What was found, and whether it is what the page says."""
    if "write" in found:
        c = found["write"]
        verdict = "as stated" if c["nats"] <= 1.80 else "NOT as stated"
        print(
            f"write: {c['nats']:.4f} nats, {c['bits']:.4f} bits a character, {c['seconds of the fit']:.0f} s: {verdict}"
        )
        print("\n".join(c["texts"][0].splitlines()[:8]))
    if "cache" in found:
        c = found["cache"]
        verdict = "as stated" if c["times, 32"] >= 10 else "NOT as stated"
        print(f"cache: {c['times, 1']:.1f} times faster for one window, {c['times, 32']:.1f} for 32: {verdict}")
    for name in (n for n in found if n.startswith("hide")):
        c = found[name]
        print(f"{name}: {c['nats']:.4f} nats a character (bound) after {c['minutes']:g} CPU minutes")
        print("\n".join(repr(t)[1:-1] for t in c["gaps"]))
    if "reviews" in found:
        c = found["reviews"]
        verdict = "as stated" if c["share"] >= 0.84 else "NOT as stated"
        print(
            f"reviews: {c['share']:.2%} right ({', '.join(f'{k}: {v:.2%}' for k, v in c['each'].items())}): {verdict}"
        )


def draw(found: dict[str, dict], path: str) -> None:
    """The curves, and what was written."""
    longest = max((n for n in found if n.startswith("hide")), key=lambda n: found[n]["minutes"], default="hide")
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained", width_ratios=(1, 1.25))
    for name, words, tone in (("write", "autoregressive", "C0"), (longest, "masked diffusion (bound)", "C1")):
        if name in found:
            seconds, nats = zip(*found[name]["curve"], strict=True)
            axes[0].plot([s / 60 for s in seconds], nats, color=tone, marker=".", label=words)
    axes[0].axhline(1.88, color="0.6", ls="--", lw=1)
    where = {"transform": axes[0].get_yaxis_transform(), "va": "bottom"}
    axes[0].text(0.02, 1.882, "nanoGPT's CPU recipe", fontsize=7, color="0.4", **where)
    axes[0].set(
        xlabel="minutes by the clock", ylabel="nats a character, held out", title="tiny Shakespeare", xscale="log"
    )
    axes[0].xaxis.set_major_formatter("{x:g}")
    axes[0].legend(frameon=False)
    axes[0].spines[["top", "right"]].set_visible(False)
    axes[1].set_axis_off()
    lines = found["write"]["texts"][0].splitlines()[:9] if "write" in found else []
    if longest in found:
        lines += ["", "a gap filled three times:", *(repr(t)[1:-1] for t in found[longest]["gaps"])]
    for k, line in enumerate(lines):
        axes[1].text(0, 1 - k / max(len(lines), 12), line[:76], family="monospace", fontsize=7.5, parse_math=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run what is not stored, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(CELLS))
    parser.add_argument("--minutes", type=float, default=3, help="CPU minutes of masked diffusion")
    parser.add_argument("--store", type=Path, default=RUNS / "text.jsonl")
    parser.add_argument("--out", default="text.png")
    asked = parser.parse_args()
    asked.store.parent.mkdir(parents=True, exist_ok=True)
    lines = asked.store.read_text().splitlines() if asked.store.exists() else []
    found = {line["cell"]: line for line in map(json.loads, lines)}
    for name in asked.only:
        cell = name if name != "hide" or asked.minutes <= 3 else f"hide-{asked.minutes:g}"
        if cell in found:
            continue
        started = time.process_time()
        found[cell] = {"cell": cell, **CELLS[name](asked.minutes)}
        found[cell]["cpu seconds"] = round(time.process_time() - started, 1)
        with asked.store.open("a") as file:
            file.write(json.dumps(found[cell]) + "\n")
    told(found)
    draw(found, asked.out)


if __name__ == "__main__":
    main()
