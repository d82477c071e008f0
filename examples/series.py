"""Series: forecasts with calibrated quantiles, gaps, and simulation, on real series beside simple baselines.

    POFX_DATA=/folder/of/data python examples/series.py [--only etth1] [--store runs/series.jsonl] [--out series.png]

    etth1     transformer temperature and loads, hourly: 24 h ahead from 72 h by a normal and two mixtures
    exchange  rates of 8 countries, daily: 24 days ahead, near a martingale; a mixture of normals of the daily changes
    gaps      10 % of the points of both hidden: a normal distribution of all channels against linear interpolation
    stocks    windows of 24 days: can a recurrent network tell drawn ones from real ones?

Each finished cell is a line of the store, so that the script goes on where it stopped; `--only` runs some of them. CRPS
is in deviations of the training part. Baselines get the quantiles of their own errors on the validation part; "monthly"
is calibrated anew four times, by the errors of the month before.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import pofx
from pofx.data import find, open_data
from pofx.families.gaussian import Gaussian
from pofx.families.mixture import Mixture
from pofx.metrics.scores import crps_values
from pofx.metrics.series import coverage_of_draws, discriminative_score

ETT, EXCHANGE, STOCKS = (
    "series/ett/ETTh1.csv.gz",
    "series/exchange_rate/exchange_rate.txt.gz",
    "series/timegan_stock/stock_data.csv.gz",
)
DRAWS = 100


def etth1() -> tuple[np.ndarray, list[str], tuple[int, int, int]]:
    """Hourly values (T, 7) in deviations of the first 12 months; the standard split."""
    frame = pd.read_csv(find(ETT)).iloc[:14400, 1:]
    x = frame.to_numpy(float)
    return (x - x[:8640].mean(0)) / x[:8640].std(0), list(frame), (8640, 11520, 14400)


def exchange() -> tuple[np.ndarray, list[str], tuple[int, int, int]]:
    """Daily log rates (T, 8) in deviations of the first 60 %; the standard split."""
    x = np.log(pd.read_csv(find(EXCHANGE), header=None).to_numpy(float))
    n = len(x)
    cuts = (int(0.6 * n), int(0.8 * n), n)
    return (x - x[: cuts[0]].mean(0)) / x[: cuts[0]].std(0), [f"rate {c}" for c in range(8)], cuts


def windows(x: np.ndarray, start: int, end: int, past: int, ahead: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Pasts (N, past) and futures (N, ahead) of one channel whose futures lie within start .. end."""
    both = np.lib.stride_tricks.sliding_window_view(x[start - past : end], past + ahead)[::stride]
    return both[:, :past].copy(), both[:, past:].copy()


def least_squares(a: np.ndarray, b: np.ndarray, ridge: float) -> np.ndarray:
    """Weights of a linear map with a constant."""
    a = np.c_[a, np.ones(len(a))]
    gram = a.T @ a + ridge * len(a) * np.eye(a.shape[1])
    return np.linalg.solve(gram, a.T @ b)


def trend_and_rest(a: np.ndarray) -> np.ndarray:
    """The moving average over 25 steps and what it leaves, as DLinear has them (Zeng 2023, arXiv:2205.13504)."""
    wide = np.pad(a, ((0, 0), (12, 12)), mode="edge")
    trend = np.lib.stride_tricks.sliding_window_view(wide, 25, axis=1).mean(-1)
    return np.c_[trend, a - trend]


def baselines(x: np.ndarray, cuts: tuple[int, int, int], past: int, ahead: int, season: int, stride: int) -> dict:
    """Name -> draws (m, N, ahead): a point forecast and its errors on the validation part."""
    a, b = windows(x, past, cuts[0], past, ahead, 1)
    valid, test = (windows(x, *part, past, ahead, stride) for part in ((cuts[0], cuts[1]), (cuts[1], cuts[2])))
    plain, parts = least_squares(a, b, 1e-6), least_squares(trend_and_rest(a), b, 1e-3)
    points = {
        "last value": lambda p: np.repeat(p[:, -1:], ahead, 1),
        "linear": lambda p: np.c_[p, np.ones(len(p))] @ plain,
        "dlinear-like": lambda p: np.c_[trend_and_rest(p), np.ones(len(p))] @ parts,
    }
    if season:
        points["seasonal naive"] = lambda p: np.tile(p[:, -season:], (1, -(-ahead // season)))[:, :ahead]
    some = np.linspace(0, len(valid[0]) - 1, min(200, len(valid[0]))).astype(int)
    return {name: f(test[0])[None] + (valid[1] - f(valid[0]))[some][:, None] for name, f in points.items()}


def judged(draws: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """CRPS and the coverage of the central 80 %."""
    return {"crps": float(crps_values(draws, truth).mean()), "covers": coverage_of_draws(draws, truth, 0.8).value}


def etth1_cell(channel: int, seed: int) -> dict:
    """One channel: a normal and two mixtures of normals, fitted to its training part, forecast its test part."""
    x, names, cuts = etth1()
    past, ahead, stride = 72, 24, 6
    one, share = x[:, channel], (cuts[1] - cuts[0]) / cuts[1]
    options = {"length": past + ahead, "shift": 3.0, "seed": seed}
    data = open_data(one[: cuts[1]], kind="series", options=options, test=0, valid=share)
    mixture = {"components": 8, "covariance": "full", "restarts": 1, "iterations": 20, "smoothing": 2.0}
    families = (
        Gaussian(shrinkage=1e-5),
        Mixture(**mixture),
        Mixture(**mixture),
    )  # best CRPS of validation rows of seven
    before, truth = windows(one, cuts[1], cuts[2], past, ahead, stride)
    plain, calibrated = [], []
    for k, family in enumerate(families):  # a third of the draws is each model's
        model = pofx.fit(data, family, budget="60s", threads=1, seed=seed + k, progress=False)
        ask = {"ahead": ahead, "draws": DRAWS // 3, "rng": seed + k}
        plain.append(pofx.forecast(model, before[..., None], **ask).raw[..., 0].numpy())
        parts = []
        for month in np.array_split(np.arange(len(before)), 4):  # by the errors of the month before, known by then
            now = cuts[1] + stride * month[0]
            last = open_data(one[:now], kind="series", options=options, test=0, valid=(cuts[2] - cuts[1]) / 4 / now)
            found = pofx.forecast(model, before[month][..., None], calibration=last, **ask)
            parts.append(found.raw[..., 0].numpy())
        calibrated.append(np.concatenate(parts, 1))
    rows = {"pofx": np.concatenate(plain), "pofx, calibrated monthly": np.concatenate(calibrated)}
    rows |= baselines(one, cuts, past, ahead, 24, stride)
    return {"channel": names[channel], "rows": {name: judged(d, truth) for name, d in rows.items()}}


def exchange_cell(seed: int) -> dict:
    """All channels by their daily changes: six normals that differ in how restless the days are."""
    x, _, cuts = exchange()
    past, ahead, stride = 30, 24, 4
    change = np.diff(x, axis=0, prepend=x[:1])
    unit = change[: cuts[0]].std(0)
    many = [(change[: cuts[1], c] / unit[c])[:, None] for c in range(x.shape[1])]
    options = {"length": past + ahead, "stride": 3}
    data = open_data(many, kind="series", options=options, test=0, valid=0.02)
    family = Mixture(components=6, covariance="diagonal", restarts=1, iterations=40, smoothing=0.5)
    model = pofx.fit(data, family, budget="60s", threads=1, seed=seed, progress=False)
    each: dict[str, list[dict[str, float]]] = {}
    for c in range(x.shape[1]):
        before, truth = windows(x[:, c], cuts[1], cuts[2], past + 1, ahead, stride)
        moves = np.diff(before, axis=1)[..., None] / unit[c]
        raw = pofx.forecast(model, moves, ahead, draws=DRAWS, rng=seed).raw[..., 0].numpy()
        rows = {"pofx": before[:, -1:] + unit[c] * raw.cumsum(-1)}
        rows |= baselines(x[:, c], cuts, past + 1, ahead, 0, stride)
        for name, draws in rows.items():
            each.setdefault(name, []).append(judged(draws, truth))
    return {"rows": {n: {k: float(np.mean([r[k] for r in rows])) for k in rows[0]} for n, rows in each.items()}}


def gaps_cell(which: str, seed: int) -> dict:
    """Hide 10 % of the test points; the error, in deviations, of the mean that the model puts there, and of a line."""
    x, _, cuts = etth1() if which == "etth1" else exchange()
    length = 12
    data = open_data(x[: cuts[1]], kind="series", options={"length": length}, test=0, valid=0.1)
    model = pofx.fit(data, Gaussian(shrinkage=1e-6), threads=1, progress=False)
    truth = x[cuts[1] : cuts[1] + 1200]
    hidden = np.random.default_rng(seed).random(truth.shape) < 0.1
    holed = np.where(hidden, np.nan, truth)
    done = np.mean(pofx.impute(model, holed, draws=30, rng=seed).value, 0)
    line = pd.DataFrame(holed).interpolate(limit_direction="both").to_numpy()
    errors = {name: float(np.abs(v - truth)[hidden].mean()) for name, v in (("pofx", done), ("line", line))}
    return {"rows": errors}


def stocks_cell(seed: int) -> dict:
    """How well a recurrent network tells drawn windows from real ones."""
    x = pd.read_csv(find(STOCKS)).to_numpy(float)
    x = (x - x.min(0)) / (x.max(0) - x.min(0))
    data = open_data(x, kind="series", options={"length": 24}, test=0, valid=0.0)
    family = Mixture(components=24, covariance="full", restarts=1, iterations=30, smoothing=0.01)
    model = pofx.fit(data, family, budget="90s", threads=1, seed=seed, progress=False)
    drawn, real = pofx.sample(model, len(data), rng=seed).value, data.x.numpy()
    np.savez_compressed("runs/series-stocks.npz", real=real[::37], drawn=drawn[:100])
    score = discriminative_score(real, drawn, rng=seed)
    strict = discriminative_score(real, drawn, rng=seed, hidden=16, steps=1000)
    flat = drawn.reshape(len(drawn), -1)[:400]
    own = real.reshape(len(real), -1)
    near = np.sqrt(((flat[:, None] - own[None]) ** 2).mean(-1).min(1)).mean()
    step = np.sqrt(((own[1:] - own[:-1]) ** 2).mean(-1)).mean()
    return {
        "rows": {"score": score.value, "strict": strict.value, "to nearest": float(near), "neighbours": float(step)}
    }


CELLS = {
    **{f"etth1:{c}": (lambda c=c: etth1_cell(c, 0)) for c in range(7)},
    "exchange": lambda: exchange_cell(0),
    **{f"gaps:{w}": (lambda w=w: gaps_cell(w, 0)) for w in ("etth1", "exchange")},
    **{f"stocks:{s}": (lambda s=s: stocks_cell(s)) for s in range(3)},
}


def told(found: dict[str, dict]) -> dict[str, dict]:
    """Tables, and whether each figure is what the page says."""
    summary: dict[str, dict] = {}
    for which in ("etth1", "exchange"):
        cells = [c for name, c in found.items() if name.split(":")[0] == which]
        if not cells:
            continue
        print(f"\n{which}, {len(cells)} cell(s)                CRPS    80 % interval covers")
        means = {
            n: {k: np.mean([c["rows"][n][k] for c in cells]) for k in ("crps", "covers")} for n in cells[0]["rows"]
        }
        for name, row in sorted(means.items(), key=lambda kv: kv[1]["crps"]):
            print(f"  {name:24s} {row['crps']:18.4f} {row['covers']:14.1%}")
        others = {n: r["crps"] for n, r in means.items() if not n.startswith("pofx")}
        limit = min(others.values()) if which == "etth1" else 1.02 * others["last value"]
        own = means["pofx, calibrated monthly" if which == "etth1" else "pofx"]
        good = own["crps"] < limit and 0.75 <= own["covers"] <= 0.85
        print(f"  {'as stated' if good else 'NOT as stated'}")
        summary[which] = means
    for name in ("gaps:etth1", "gaps:exchange"):
        if name in found:
            rows = found[name]["rows"]
            verdict = "beats the line" if rows["pofx"] < rows["line"] else "does NOT beat the line"
            print(f"{name}: mean error {rows['pofx']:.4f}, linear interpolation {rows['line']:.4f}: {verdict}")
    cells = [c["rows"] for name, c in found.items() if name.startswith("stocks:")]
    if cells:
        mean = {k: np.mean([c[k] for c in cells]) for k in cells[0]}
        words = ", ".join(f"{k} {v:.4f}" for k, v in mean.items())
        print(f"stocks, {len(cells)} seed(s): {words}; {'as stated' if mean['score'] <= 0.12 else 'NOT as stated'}")
    return summary


def draw(summary: dict[str, dict], channels: int, path: str) -> None:
    """A fan of quantiles, the table of ETTh1, and drawn stocks beside real ones."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained", width_ratios=(1.3, 1, 1.2))
    x, names, cuts = etth1()
    one, channel = x[:, 0], names[0]
    options = {"length": 96, "shift": 3.0}
    data = open_data(one[: cuts[1]], kind="series", options=options, test=0, valid=0.25)
    family = Mixture(components=4, covariance="full", restarts=1, iterations=15, smoothing=2.0)
    model = pofx.fit(data, family, threads=1, progress=False)
    at, levels = cuts[1] + 600, (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
    fan = pofx.forecast(model, one[at - 72 : at], 24, draws=300, quantiles=levels, calibration=data).value
    hours = np.arange(24)
    axes[0].plot(np.arange(-48, 24), one[at - 48 : at + 24], color="0.2", lw=1, label="what came")
    for low, high, tone in ((0, 6, 0.15), (1, 5, 0.25), (2, 4, 0.4)):
        axes[0].fill_between(hours, fan[low], fan[high], color="C0", alpha=tone, lw=0)
    axes[0].plot(hours, fan[3], color="C0", lw=1.2, label="median; 50, 80 and 90 %")
    axes[0].set(title=f"ETTh1 {channel}, 24 hours ahead", xlabel="hours", ylabel="deviations")
    axes[0].legend(frameon=False, fontsize=7)
    rows = sorted(summary.get("etth1", {}).items(), key=lambda kv: -kv[1]["crps"])
    axes[1].barh(
        [n for n, _ in rows], [r["crps"] for _, r in rows], color=["C0" if "pofx" in n else "0.75" for n, _ in rows]
    )
    axes[1].set(title=f"CRPS on ETTh1, {channels} channel(s)", xlabel="deviations (less is better)")
    axes[1].tick_params(axis="y", labelsize=7)
    if Path("runs/series-stocks.npz").exists():
        kept = np.load("runs/series-stocks.npz")
        for k, (name, tone) in enumerate((("real", "0.3"), ("drawn", "C0"))):
            axes[2].plot(np.arange(24) + 27 * k, kept[name][::4][:25, :, 3].T, color=tone, lw=0.7, alpha=0.7)
            axes[2].text(12 + 27 * k, 1.02, name, ha="center")
        axes[2].set(title="Google, 24 days: closing price", xlabel="days", ylim=(-0.05, 1.1), xticks=[])
    for a in axes:
        a.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run what is not stored, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="cells, or the beginnings of their names")
    parser.add_argument("--store", type=Path, default=Path("runs/series.jsonl"))
    parser.add_argument("--out", default="series.png")
    parser.add_argument("--no-picture", action="store_true")
    asked = parser.parse_args()
    asked.store.parent.mkdir(parents=True, exist_ok=True)
    lines = asked.store.read_text().splitlines() if asked.store.exists() else []
    found = {line["cell"]: line for line in map(json.loads, lines)}
    for name, cell in CELLS.items():
        if name in found or not (not asked.only or any(name.startswith(o) for o in asked.only)):
            continue
        started = time.process_time()
        found[name] = {"cell": name, **cell(), "cpu seconds": round(time.process_time() - started, 1)}
        with asked.store.open("a") as file:
            file.write(json.dumps(found[name]) + "\n")
        print(json.dumps(found[name]), flush=True)
    summary = told(found)
    if not asked.no_picture:
        draw(summary, sum(name.startswith("etth1:") for name in found), asked.out)


if __name__ == "__main__":
    main()
