"""How good are the pictures after five minutes? pofx's diffusion beside diffusers and azula on MNIST: one thread.

    POFX_DATA=... python benchmarks/diffusion_peers.py [train] [judge] [--only CELL ...] [--seeds 0 1 2] [--seconds 300]
    python benchmarks/diffusion_peers.py step | table

MNIST padded to 32 x 32, all 60 000 training pictures. Each cell trains for the same CPU seconds of one process, batches
of 64, then draws 500 pictures, judged against 2000 test pictures by features of a small classifier that is fitted on
training pictures: the AUC of a classifier that tells draws from test pictures (c2st, 0.5 is best), precision, recall,
density and coverage.

    diffusers   UNet2D of 32-64-128 channels, 2 layers a block, attention at 16 and 8 (3.9 M), DDPM's linear schedule of
                1000 steps and its loss on the noise, AdamW, 5 % warm-up and cosine as in its training guide; its own
                rate of 1e-4 learns nothing in so few steps: 1e-3. Drawn by its DPM-Solver++ in 20 steps.
    azula       UNet of 32-64-128 channels, 2 blocks each (2.35 M), KarrasDenoiser, cosine VP schedule and its own loss,
                AdamW at 1e-3, the same warm-up and cosine. Drawn by its Adams-Bashforth sampler in 20 steps.
    pofx        `Diffusion()` as it is; drawn by dpm++2m in 20 steps. pofx-250: the same weights in 250 steps;
                pofx-heun: by its default, Heun's method at 18 levels.

All average their weights as pofx does. Training and judging are separate commands of a cell, so that a run can stop in
between; finished cells are lines of runs/diffusion_peers.jsonl and are not run again. `step` times one training step of
every body. A peer that is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import pofx
from pofx.data import find, open_data
from pofx.families.diffusion import Diffusion
from pofx.metrics import Features, c2st, prdc

RESULTS, WEIGHTS = Path("runs/diffusion_peers.jsonl"), Path("runs/diffusion_peers")
ROWS, BATCH, JUDGED, STEPS = 60_000, 64, 2000, 20


def pictures(part: str, rows: int) -> Tensor:
    """Pictures (N, 32, 32, 1) uint8, black around."""
    x = open_data(f"images/mnist/{part}-images-idx3-ubyte.gz").x[:rows].reshape(-1, 28, 28, 1)
    return nn.functional.pad(x, (0, 0, 2, 2, 2, 2))


def labels(rows: int) -> Tensor:
    """Digits of the training pictures."""
    content = gzip.decompress(find("images/mnist/train-labels-idx1-ubyte.gz").read_bytes())
    return torch.frombuffer(bytearray(content[8:]), dtype=torch.uint8)[:rows].long()


class Peer:
    """A network, its loss on pictures in [-1, 1], and its sampler."""

    rate = 1e-3
    net: nn.Module

    def loss(self, x: Tensor) -> Tensor:
        """x (B, 1, 32, 32) -> scalar."""
        raise NotImplementedError

    def draw(self, n: int) -> Tensor:
        """(n, 1, 32, 32) in [-1, 1]."""
        raise NotImplementedError


class Diffusers(Peer):
    """UNet2DModel with DDPM's schedule."""

    def __init__(self) -> None:
        from diffusers import DDPMScheduler, UNet2DModel

        down, up = ("DownBlock2D", *["AttnDownBlock2D"] * 2), (*["AttnUpBlock2D"] * 2, "UpBlock2D")
        self.net = UNet2DModel(
            sample_size=32, in_channels=1, out_channels=1, layers_per_block=2, block_out_channels=(32, 64, 128),
            down_block_types=down, up_block_types=up, norm_num_groups=8,
        )  # fmt: skip
        self.schedule = DDPMScheduler(num_train_timesteps=1000)

    def loss(self, x: Tensor) -> Tensor:
        noise, t = torch.randn_like(x), torch.randint(0, 1000, (len(x),))
        noisy = self.schedule.add_noise(x, noise, t)  # type: ignore[arg-type]
        return nn.functional.mse_loss(self.net(noisy, t).sample, noise)

    @torch.no_grad()
    def draw(self, n: int) -> Tensor:
        from diffusers import DPMSolverMultistepScheduler

        solver = DPMSolverMultistepScheduler.from_config(self.schedule.config)
        solver.set_timesteps(STEPS)
        u = torch.randn(n, 1, 32, 32)
        for t in solver.timesteps:
            u = solver.step(self.net(u, t).sample, t, u).prev_sample
        return u


class Modulated(nn.Module):
    """azula's UNet takes a vector of features where its denoiser gives log(sigma / alpha)."""

    def __init__(self) -> None:
        super().__init__()
        from azula.nn.unet import UNet

        self.unet = UNet(1, 1, hid_channels=(32, 64, 128), hid_blocks=(2, 2, 2), mod_features=128)
        self.embed = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 128))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        w = torch.logspace(-1, 1.5, 32, dtype=x.dtype)
        angle = t.reshape(-1, 1) * w
        return self.unet(x, self.embed(torch.cat([angle.sin(), angle.cos()], -1)))


class Azula(Peer):
    """UNet with Karras' preconditioning."""

    def __init__(self) -> None:
        from azula.denoise import KarrasDenoiser
        from azula.noise import CosineSchedule

        self.net = KarrasDenoiser(Modulated(), CosineSchedule())

    def loss(self, x: Tensor) -> Tensor:
        return self.net.loss(x, torch.rand(len(x)))

    @torch.no_grad()
    def draw(self, n: int) -> Tensor:
        from azula.sample import zABSampler

        sampler = zABSampler(self.net, start=0.999, stop=0.001, steps=STEPS, silent=True)
        return sampler(sampler.init((n, 1, 32, 32)))


PEERS: dict[str, Callable[[], Peer]] = {"diffusers": Diffusers, "azula": Azula}
VARIANTS = {"pofx": ("dpm++2m", STEPS), "pofx-250": ("dpm++2m", 250), "pofx-heun": ("heun", 18)}


def train_peer(name: str, seed: int, seconds: float, path: Path) -> dict[str, Any]:
    """Train until the CPU seconds are spent, the rate following the clock; saves the averaged weights."""
    torch.manual_seed(seed)
    peer, x = PEERS[name](), pictures("train", ROWS)
    params = [p for p in peer.net.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(params, peer.rate, weight_decay=0.01, fused=True)
    average, k, start = [p.detach().clone() for p in params], 0, time.process_time()
    while (spent := (time.process_time() - start) / seconds) < 1:
        rows = torch.randint(0, len(x), (BATCH,))
        loss = peer.loss(x[rows].permute(0, 3, 1, 2).float() / 127.5 - 1)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.param_groups[0]["lr"] = peer.rate * min(1.0, spent / 0.05) * 0.5 * (1 + math.cos(math.pi * spent))
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, params, 1 - min(0.999, (k + 1) / (k + 10)))
        k += 1
    with torch.no_grad():
        torch._foreach_copy_(params, average)
    save_file({n: t.contiguous() for n, t in peer.net.state_dict().items()}, path)
    return {"steps": k, "seconds": time.process_time() - start, "parameters": sum(p.numel() for p in params)}


def train_pofx(seed: int, seconds: float, path: Path) -> dict[str, Any]:
    """One `fit`; 128 of the training pictures validate it."""
    data = replace(open_data(pictures("train", ROWS).numpy(), kind="image", test=1, valid=128), name="MNIST 32")
    start = time.process_time()
    model = pofx.fit(data, Diffusion(), budget=f"{seconds} cpu s", seed=seed, threads=1, batch=BATCH, folder=path)
    spent = time.process_time() - start
    return {"steps": model.record["plan"]["steps"], "seconds": spent, "parameters": model.record["parameters"]}


def draws(name: str, seed: int, count: int) -> Tensor:
    """Pictures (N, 32, 32, 1) uint8 of a trained cell."""
    if name in VARIANTS:
        model = pofx.load(WEIGHTS / f"pofx-{seed}")
        model.core.solver, model.core.solver_steps = VARIANTS[name]
        return torch.cat([model.sample(count // 4, rng=i) for i in range(4)])
    torch.manual_seed(seed)
    peer = PEERS[name]()
    peer.net.load_state_dict(load_file(WEIGHTS / f"{name}-{seed}.safetensors"))
    peer.net.eval()
    u = torch.cat([peer.draw(count // 4) for _ in range(4)])
    return ((u + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def judge(fake: Tensor) -> dict[str, float]:
    """The metrics of the draws."""
    real, x = pictures("t10k", JUDGED), pictures("train", 5000)
    features = Features.fit(x.float(), labels(5000), rng=0)
    a, b = features(real.float()), features(fake.float())
    told, near = c2st(a, b, rng=0), prdc(a, b)
    found = {"c2st": told.auc, "precision": near.precision, "recall": near.recall, "density": near.density}
    return {k: round(m.value, 4) for k, m in {**found, "coverage": near.coverage}.items()}


def judged(name: str, seed: int, count: int) -> dict[str, Any]:
    """Draw and judge."""
    start = time.process_time()
    fake = draws(name, seed, count)
    return {"drawn": len(fake), "draw_seconds": time.process_time() - start, **judge(fake)}


def finished() -> list[dict[str, Any]]:
    """Cells that have been run."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def once(stage: str, name: str, seed: int, seconds: float, run: Callable[[], dict[str, Any]]) -> None:
    """Run a cell unless it stands in the results."""
    cell = {"stage": stage, "cell": name, "seed": seed, "budget": seconds}
    if any(all(done[k] == v for k, v in cell.items()) for done in finished()):
        return
    line = {**cell, **run()}
    print(line, flush=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")


def steps() -> None:
    """Milliseconds of a training step of 64 pictures, the least of three."""
    x = pictures("t10k", BATCH).permute(0, 3, 1, 2).float() / 127.5 - 1
    data = open_data(pictures("t10k", 400).numpy(), kind="image", test=1, valid=1)
    model, rows = pofx.fit(data, Diffusion(), budget=1, threads=1, batch=BATCH).train(), data.rows
    timed("pofx", model, lambda: model.players()[0].loss(rows.take(torch.arange(BATCH)), pofx.Rng(0)))
    for name in available():
        peer = PEERS[name]()
        timed(name, peer.net, partial(peer.loss, x))


def timed(name: str, net: nn.Module, loss: Callable[[], Tensor]) -> None:
    """Print the time of a step, in single precision and in bf16."""
    optimiser, found = torch.optim.AdamW(net.parameters(), 1e-4, fused=True), {}
    for half in (False, True):
        times = []
        for _ in range(4):
            start = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                value = loss()
            value.backward()
            optimiser.step()
            optimiser.zero_grad()
            times.append(time.process_time() - start)
        found[half] = 1e3 * min(times[1:])
    size = sum(p.numel() for p in net.parameters()) / 1e6
    print(f"{name:10} {size:.2f} M parameters, {found[False]:.0f} ms a step, {found[True]:.0f} in bf16", flush=True)


def available() -> list[str]:
    """Peers that are installed; the others are named."""
    lacking = [p for p in PEERS if importlib.util.find_spec(p) is None]
    if lacking:
        print(f"not installed, left out: {', '.join(lacking)}")
    return [p for p in PEERS if p not in lacking]


def table() -> None:
    """Means over seeds."""
    cells: dict[str, list[dict[str, Any]]] = {}
    for line in finished():
        cells.setdefault(f"{line['stage']:6} {line['cell']}", []).append(line)
    for name, lines in sorted(cells.items()):
        keys = [k for k in lines[0] if k not in ("stage", "cell", "seed", "budget")]
        means = "  ".join(f"{k} {statistics.mean(line[k] for line in lines):.4g}" for k in keys)
        print(f"{name:18} seeds {sorted(line['seed'] for line in lines)}  {means}")


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["train", "judge"])
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--drawn", type=int, default=500)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    if "step" in asked.what:
        steps()
    names = ["pofx", *available()] if {"train", "judge"} & set(asked.what) else []
    for seed in asked.seeds if names else []:
        run_seed(seed, names, asked)
    table()


def run_seed(seed: int, names: list[str], asked: argparse.Namespace) -> None:
    """All cells of one seed that are asked for."""
    for name in [n for n in names if "train" in asked.what and (not asked.only or n in asked.only)]:
        path = WEIGHTS / (f"pofx-{seed}" if name == "pofx" else f"{name}-{seed}.safetensors")
        train = train_pofx if name == "pofx" else partial(train_peer, name)
        once("train", name, seed, asked.seconds, partial(train, seed, asked.seconds, path))
    drawn = [*VARIANTS, *names[1:]]
    for name in [n for n in drawn if "judge" in asked.what and (not asked.only or n in asked.only)]:
        once("judge", name, seed, asked.seconds, partial(judged, name, seed, asked.drawn))


if __name__ == "__main__":
    main()
