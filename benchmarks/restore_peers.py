"""Restoring pictures: pofx.restore beside interpolation and deepinv's DPS, all with the same prior.

    POFX_DATA=... python benchmarks/restore_peers.py [train] [tune] [judge] [table] [draw] [--only frey/x4 ...]

    y = A(x) + n e,  n = 5 grey levels of 255;     A: 60 % of the pixels hidden, a Gaussian blur, means of 4 x 4 pixels

One prior a data set, `pofx.fit(data, Diffusion(width=...))`, 300 CPU seconds of one thread: Frey faces (the default
width), AT&T faces of people never seen (28 x 20 both; of 300 pictures, so with dropout), MNIST (28 x 28) and, in 600
seconds, luma patches of photographs (32 x 32; other photographs), which a narrower network learns further in the time.
Judged on held-out pictures, by one draw, by the mean of several and half-way between the two: PSNR; sharpness, the mean
length of the gradient over the true picture's (1 is best); misfit, the root mean square of (y - A(x)) / n (1 is best).

    interpolation   thin plates through the known pixels; Tikhonov's deblurring; bicubic
    dps             deepinv's `DPS` with its own weight of 1 and 1000 steps (only if named by --methods: it is slow, and
                    the tuning tries this weight)
    dps-tuned       the same, form and weight of its guidance those with the highest PSNR on other pictures; 75
                    steps, each two forward passes and a backward one
    pofx            `pofx.restore` as it is; pofx-coarse: its route of that name

Trained priors are folders of runs/restore_peers, finished cells lines of runs/restore_peers.jsonl: neither is run
again. A peer that is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from torch import Tensor

import pofx
from pofx.data import Data, find, open_data
from pofx.engines.operators import Blur, Downsample, Mask
from pofx.families.diffusion import Diffusion
from pofx.randomness import Rng

WEIGHTS, RESULTS = Path("runs/restore_peers"), Path("runs/restore_peers.jsonl")
SECONDS = {"frey": 300, "att": 300, "mnist": 300, "photos": 600}
PRIOR: dict[str, dict[str, Any]] = {
    "frey": {}, "att": {"width": 16, "dropout": 0.3}, "mnist": {"width": 16}, "photos": {"width": 16},
}  # fmt: skip
SIDE, NOISE, TASKS = 32, 5.0, ("hidden", "blur", "x4")
Measure = Callable[[Tensor], Tensor]


def frey() -> Data:
    """1965 frames of one face, (28, 20)."""
    return replace(open_data("video/frey_faces/frey_faces.npz", test=200, valid=65), name="Frey faces")


def att() -> Data:
    """400 faces, cut to (28, 20); the last 8 of 40 people are held out."""
    content = np.load(find("images/faces_att_28x23/att_faces_28x23.npz"))
    data = open_data(content["x"][:, :, 1:21, None], kind="image", test=80, valid=20)
    person = torch.from_numpy(content["subject"].astype(np.int64)).unique(return_inverse=True)[1]
    held, rest = (person >= 32).nonzero()[:, 0], (person < 32).nonzero()[:, 0]
    valid = torch.arange(len(rest)) % 16 == 7
    split = {"train": rest[~valid], "valid": rest[valid], "test": held}
    return replace(data, split=split, name="AT&T faces")


def mnist() -> Data:
    """Digits (28, 28): 20 000 to train on, and the public test set."""
    parts = [open_data(f"images/mnist/{p}-images-idx3-ubyte.gz").x for p in ("train", "t10k")]
    x = torch.cat([parts[0][:20_128], parts[1][:1000]]).reshape(-1, 28, 28, 1)
    data, rows = open_data(x.numpy(), kind="image", test=1, valid=128), torch.arange(len(x))
    return replace(data, split={"train": rows[128:20_128], "valid": rows[:128], "test": rows[20_128:]}, name="MNIST")


def photos() -> Data:
    """Luma patches (32, 32): of CBSD68's first 34 photographs to train on, of Set14 to judge by."""
    x = [patches(p, 600) for p in sorted(find("images/photos/cbsd68_first34").glob("*.png"))]
    held = [patches(p, 40) for p in sorted(find("images/photos/set14").glob("*HR.png"))]
    x, held = np.concatenate(x), np.concatenate(held)
    order = np.random.default_rng(0).permutation(len(held))
    both = np.concatenate([x, held[order]])[..., None]
    data, rows = open_data(both, kind="image", test=1, valid=128), torch.arange(len(both))
    valid = rows[: len(x)] % 160 == 0
    split = {"train": rows[: len(x)][~valid], "valid": rows[: len(x)][valid], "test": rows[len(x) :]}
    return replace(data, split=split, name="photographs")


def patches(path: Path, count: int) -> np.ndarray:
    """Random luma patches of a photograph, (count, 32, 32) uint8, those of no contrast left out."""
    y = np.asarray(Image.open(path).convert("L"))
    rng, found = np.random.default_rng(0), sliding_window_view(y, (SIDE, SIDE))
    cut = found[tuple(rng.integers(0, n, 4 * count) for n in found.shape[:2])]
    return cut[cut.std((1, 2)) > 12][:count]


DATA = {"frey": frey, "att": att, "mnist": mnist, "photos": photos}


@dataclass(frozen=True)
class Problem:
    """True pictures x (N, H, W, 1) in grey levels, how they were measured, and what was: y (N, *measured)."""

    task: str
    x: Tensor
    measure: Measure
    y: Tensor

    @classmethod
    def of(cls, task: str, x: Tensor, seed: int) -> Problem:
        """A problem of one task; the hidden pixels and the noise are a function of the seed."""
        rng, x = Rng(seed), x.double()
        masks = Mask(rng.uniform(tuple(x.shape[1:])) > 0.6)
        measure: Measure = {"hidden": masks, "blur": Blur(1.5), "x4": Downsample(4)}[task]
        y = measure(x)
        return cls(task, x, measure, y + NOISE * rng.normal(tuple(y.shape), torch.float64))


def train(name: str, seed: int) -> None:
    """One `fit` of the default diffusion, saved as a model folder."""
    folder, data = WEIGHTS / f"{name}-{seed}", DATA[name]()
    if not (folder / "model.json").exists():
        family, budget = Diffusion(**PRIOR[name]), f"{SECONDS[name]} cpu s"
        model = pofx.fit(data, family, budget=budget, seed=seed, threads=1, batch=64, folder=folder)
        print(data.name, model.record["parameters"], "parameters", model.record["plan"]["steps"], "steps", flush=True)


def interpolated(problem: Problem) -> Tensor:
    """What needs no prior, (N, H, W, 1)."""
    h, w = problem.x.shape[1:3]
    if problem.task == "x4":
        small = [Image.fromarray(y.float().numpy()) for y in problem.y[..., 0]]
        found = np.stack([np.asarray(s.resize((w, h), Image.Resampling.BICUBIC)) for s in small])
    elif problem.task == "hidden":
        found = plates(problem, h, w)
    else:
        found = deblurred(problem, h, w)
    return torch.from_numpy(found.astype(float)).reshape(problem.x.shape).clamp(0, 255)


def plates(problem: Problem, h: int, w: int) -> np.ndarray:
    """Thin-plate splines through the known pixels, which solve the biharmonic equation between them."""
    from scipy.interpolate import RBFInterpolator

    everywhere = np.stack(np.mgrid[:h, :w], -1).reshape(-1, 2).astype(float)
    keep = problem.measure.keep.flatten().numpy()  # type: ignore[attr-defined]
    return RBFInterpolator(everywhere[keep], problem.y.numpy().T, kernel="thin_plate_spline")(everywhere).T


def deblurred(problem: Problem, h: int, w: int) -> np.ndarray:
    """Tikhonov: |A x - y|^2 + l |gradient of x|^2 is least; l is the best one for these very pictures."""
    eye = torch.eye(h * w, dtype=torch.float64).reshape(-1, h, w, 1)
    a = problem.measure(eye).reshape(h * w, -1).T
    slope = torch.cat([eye.diff(dim=1).flatten(1), eye.diff(dim=2).flatten(1)], 1).T
    y, found = problem.y.flatten(1).T, []
    for weight in (0.003, 0.01, 0.02, 0.04, 0.08):
        x = torch.linalg.solve(a.T @ a + weight * slope.T @ slope, a.T @ y).T.reshape(problem.x.shape)
        found.append((float((x - problem.x).square().mean()), x))
    return min(found, key=lambda pair: pair[0])[1].numpy()


def ours(problem: Problem, model: pofx.Model, draws: int, seed: int, route: str | None = None) -> Tensor:
    """`pofx.restore`, (draws, N, H, W, 1)."""
    ask = {"draws": draws, "rng": seed, "route": route}
    return pofx.restore(model, problem.y, problem.measure, NOISE, **ask).raw.double()  # type: ignore


def prior(model: pofx.Model) -> Any:
    """The model as deepinv's denoiser of pictures (N, 1, H, W) in [0, 1]."""
    from deepinv.models import Denoiser

    v = model.space.variables[0]

    class Prior(Denoiser):
        def forward(self, x: Tensor, sigma: Any, *args: Any, **kwargs: Any) -> Tensor:
            level = torch.as_tensor(sigma, dtype=torch.float32).reshape(-1).expand(len(x)) * 255 / v.scale
            u = (255 * x.float() - v.mean) / v.scale
            return (model.denoise(u, torch.ones_like(level), level) * v.scale + v.mean) / 255

    return Prior()


def physics(problem: Problem) -> Any:
    """The measurement for deepinv, in units of 255 grey levels."""
    from deepinv.physics import GaussianNoise, LinearPhysics

    def a(x: Tensor, **_: Any) -> Tensor:
        return problem.measure(x.permute(0, 2, 3, 1))

    def adjoint(y: Tensor, **_: Any) -> Tensor:
        blank = torch.zeros(len(y), 1, *problem.x.shape[1:3], dtype=y.dtype)
        return torch.func.vjp(a, blank)[1](y)[0]

    return LinearPhysics(A=a, A_adjoint=adjoint, noise_model=GaussianNoise(NOISE / 255), solver="CG", max_iter=20)


def repeated(problem: Problem, draws: int) -> tuple[Tensor, tuple[int, ...]]:
    """y of all draws in units of 255, and the shape of deepinv's pictures."""
    y = problem.y.repeat(draws, *[1] * (problem.y.ndim - 1)) / 255
    return y, (len(y), 1, *problem.x.shape[1:3])


def dps(problem: Problem, model: pofx.Model, draws: int, seed: int, **words: Any) -> Tensor:
    """deepinv's DPS, (draws, N, H, W, 1) in grey levels."""
    from deepinv.sampling import DPS

    y, shape = repeated(problem, draws)
    sampler = DPS(prior(model), rng=torch.Generator().manual_seed(seed), **words)
    found = sampler(y.double(), physics(problem), x_init=shape, seed=seed)
    return (255 * found).clamp(0, 255).double().reshape(draws, *problem.x.shape)


def psnr(x: Tensor, truth: Tensor) -> Tensor:
    """Decibels of each picture, (N,)."""
    return 10 * torch.log10(255**2 / (x - truth).square().flatten(1).mean(1))


def slope(x: Tensor) -> float:
    """The mean length of the gradient."""
    down, right = x.diff(dim=1)[:, :, :-1], x.diff(dim=2)[:, :-1]
    return float(torch.hypot(down, right).mean())


def judged(problem: Problem, x: Tensor) -> dict[str, float]:
    """PSNR, sharpness and misfit of pictures (N, H, W, 1)."""
    misfit = float(((problem.y - problem.measure(x)) / NOISE).square().mean().sqrt())
    found = {"psnr": float(psnr(x, problem.x).mean()), "sharp": slope(x) / slope(problem.x), "misfit": misfit}
    return {k: round(v, 3) for k, v in found.items()}


NORM, ANNEALED = (1.0, 30.0, 100.0, 300.0, 1000.0), (1.0, 3.0, 10.0)
GRID = [{"guidance": f, "weight": w} for f, ws in (("norm", NORM), ("annealed", ANNEALED)) for w in ws]
METHODS = ("interpolation", "pofx", "pofx-coarse", "dps-tuned")


def finished() -> list[dict[str, Any]]:
    """Cells that have been run."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def found(**words: Any) -> dict[str, Any] | None:
    """The finished cell of these words."""
    return next((d for d in finished() if all(d.get(k) == v for k, v in words.items())), None)


def kept(line: dict[str, Any]) -> None:
    """One more finished cell."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with open(RESULTS, "a") as file:
        file.write(json.dumps(line) + "\n")
    print(line, flush=True)


def tune(name: str, task: str, seed: int, asked: argparse.Namespace) -> None:
    """The form and weight of DPS's guidance with the highest PSNR of one draw on validation pictures."""
    cell = {"stage": "tune", "data": name, "task": task, "method": "dps-tuned", "seed": seed}
    if found(**cell) or "dps-tuned" not in asked.methods:
        return
    model, data = pofx.load(WEIGHTS / f"{name}-{seed}"), DATA[name]()
    problem = Problem.of(task, data.part("valid").x[: asked.tuning], seed + 100)
    start = time.process_time()
    tried = weights_tried(problem, model, seed, asked.steps)
    tried = [-99.0 if math.isnan(t) else round(t, 2) for t in tried]
    best = GRID[int(np.argmax(tried))]
    kept({**cell, "best": best, "psnr": tried, "seconds": round(time.process_time() - start, 1)})


def weights_tried(problem: Problem, model: pofx.Model, seed: int, steps: int) -> list[float]:
    """PSNR of DPS at each weight of the grid; those of one form run as one batch."""
    tried: list[float] = []
    for form, grid in (("norm", NORM), ("annealed", ANNEALED)):
        each = torch.tensor(grid).repeat_interleave(len(problem.x))
        x = dps(problem, model, len(grid), seed, guidance=form, weight=each, num_steps=steps)
        tried += [float(psnr(one, problem.x).mean()) for one in x]
    return tried


def answer(method: str, problem: Problem, name: str, seed: int, draws: int, steps: int) -> Tensor:
    """The answers of one method, (draws, N, H, W, 1)."""
    if method == "interpolation":
        return interpolated(problem)[None]
    model = pofx.load(WEIGHTS / f"{name}-{seed}")
    if method.startswith("pofx"):
        return ours(problem, model, draws, seed, "coarse guidance" if method == "pofx-coarse" else None)
    if method == "dps":
        return dps(problem, model, 1, seed)
    tuned = found(stage="tune", data=name, task=problem.task, method=method, seed=seed)
    assert tuned is not None, f"{name}/{problem.task}: run the stage tune first"
    return dps(problem, model, draws, seed, num_steps=steps, **tuned["best"])


def judge(name: str, task: str, seed: int, asked: argparse.Namespace) -> None:
    """All methods on held-out pictures; the draws of the first pictures are kept for the drawing."""
    problem = Problem.of(task, DATA[name]().part("test").x[: asked.pictures], seed)
    for method in asked.methods:
        cell = {"stage": "judge", "data": name, "task": task, "method": method, "seed": seed}
        if found(**cell):
            continue
        start = time.process_time()
        x = answer(method, problem, name, seed, asked.draws, asked.steps)
        spent = (time.process_time() - start) / (len(x) * asked.pictures)
        mean, half = (judged(problem, (x.mean(0) + w) / 2) if len(x) > 1 else None for w in (x.mean(0), x[0]))
        each = [round(v, 2) for v in psnr(x.mean(0), problem.x).tolist()]
        words = {"draws": len(x), "pictures": asked.pictures, "cpu_per_draw": round(spent, 3)}
        kept({**cell, **words, "draw": judged(problem, x[0]), "mean": mean, "half": half, "each": each})
        shown = {"x": problem.x[:4], "y": problem.y[:4], "draws": x[:, :4]}
        arrays: dict[str, Any] = {k: v.numpy() for k, v in shown.items()}
        np.savez_compressed(WEIGHTS / f"{name}-{task}-{method}-{seed}.npz", **arrays)


def table() -> None:
    """All judged cells."""
    three = f"{'psnr':>7}{'sharp':>7}{'misfit':>8}"
    head = f"{'cell':<14}{'method':<15}{three}{'  mean:':<8}{three}{'  half:':<8}{three}"
    print(f"{head}{'CPU s a draw':>14}")
    for d in sorted((d for d in finished() if d["stage"] == "judge"), key=lambda d: (d["data"], d["task"])):
        three = (d["draw"], d["mean"], d["half"])
        parts = (" ".join(f"{v:7.2f}" for v in w.values()) if w else " " * 23 for w in three)
        print(f"{d['data'] + '/' + d['task']:<14}{d['method']:<14}{'        '.join(parts)}{d['cpu_per_draw']:13.2f}")


def drawing(seed: int, out: Path) -> None:
    """A held-out picture of every cell: the truth, what was measured of it, and the answers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import colormaps
    from matplotlib import pyplot as plt

    grey = colormaps["gray"].with_extremes(bad="#7aa6d8")  # what is hidden is blue
    cells = [(n, t) for n in DATA for t in TASKS if (WEIGHTS / f"{n}-{t}-pofx-{seed}.npz").exists()]
    figure, axes = plt.subplots(len(cells), len(COLUMNS), figsize=(6.2, 0.78 * len(cells)), squeeze=False)
    for line, (name, task) in zip(axes, cells, strict=True):
        shown = row_of(name, task, seed)
        for axis, column in zip(line, COLUMNS, strict=True):
            style = {"cmap": "magma", "vmax": 90} if column == "spread" else {"cmap": grey, "vmax": 255}
            if column in shown:
                axis.imshow(shown[column], vmin=0, **style)
            axis.set_xticks([]), axis.set_yticks([])
            axis.set_frame_on(False)
            axis.set_title(column if axis in axes[0] else "", fontsize=8)
        line[0].set_ylabel(f"{name}\n{task}", fontsize=7, rotation=0, ha="right", va="center")
    figure.subplots_adjust(0.09, 0.005, 0.995, 1 - 0.3 / len(cells), 0.04, 0.04)
    figure.savefig(out, dpi=76, pil_kwargs={"optimize": True})


COLUMNS = ("truth", "measured", "interpolated", "DPS draw", "pofx draw", "pofx mean", "spread")


def row_of(name: str, task: str, seed: int, picture: int = 1) -> dict[str, np.ndarray]:
    """The pictures of a line of the drawing, (H, W) each."""
    files = {m: WEIGHTS / f"{name}-{task}-{m}-{seed}.npz" for m in METHODS}
    kept_of = {m: np.load(f) for m, f in files.items() if f.exists()}
    own = kept_of["pofx"]["draws"][:, picture, ..., 0]
    truth = kept_of["pofx"]["x"][picture, ..., 0]
    measured = kept_of["pofx"]["y"][picture]
    if task == "hidden":
        keep = Problem.of(task, torch.from_numpy(kept_of["pofx"]["x"]), seed).measure.keep  # type: ignore[attr-defined]
        full = np.full(truth.shape, np.nan)
        full[keep[..., 0].numpy()], measured = measured, full
    shown = {"truth": truth, "measured": measured.squeeze(), "pofx draw": own[0], "pofx mean": own.mean(0)}
    shown["spread"] = own.std(0)
    others = {w: m for w, m in (("interpolated", "interpolation"), ("DPS draw", "dps-tuned")) if m in kept_of}
    return shown | {w: kept_of[m]["draws"][0, picture, ..., 0] for w, m in others.items()}


def main() -> None:
    """Run what is asked and not finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", default=["train", "tune", "judge", "table"])
    parser.add_argument("--only", nargs="*", default=list(DATA), help="frey, or frey/x4")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--tuning", type=int, default=4, help="pictures to tune the peers on")
    parser.add_argument("--steps", type=int, default=75, help="of the tuned DPS")
    asked = parser.parse_args()
    if importlib.util.find_spec("deepinv") is None:
        print("deepinv is not installed: its DPS is left out")
        asked.methods = [m for m in asked.methods if not m.startswith("dps")]
    cells = [(n.split("/")[0], [n.split("/")[1]] if "/" in n else TASKS) for n in asked.only]
    for name, tasks in cells:
        if "train" in asked.stages:
            train(name, asked.seed)
        for task in tasks:
            if "tune" in asked.stages:
                tune(name, task, asked.seed, asked)
            if "judge" in asked.stages:
                judge(name, task, asked.seed, asked)
    if "table" in asked.stages:
        table()
    if "draw" in asked.stages:
        drawing(asked.seed, Path("docs/questions/restore.png"))


if __name__ == "__main__":
    main()
