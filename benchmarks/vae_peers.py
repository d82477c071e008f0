"""How good is a VAE after a minute? pofx beside pythae on binary MNIST: same rows, same CPU seconds of one thread.

    POFX_DATA=... python benchmarks/vae_peers.py [--only CELL ...] [--seeds 0 1 2] [--seconds 60]
    POFX_DATA=... python benchmarks/vae_peers.py variants       posteriors, latents and hierarchies on the 8 x 8 digits
    python benchmarks/vae_peers.py table

The first 10 000 training pictures of MNIST; every batch of 128 rows is drawn anew as Bernoulli numbers whose means are
the grey levels. Scored are the first 2000 test pictures, a pixel on where its level is above 127: the bound with one
draw (the ELBO) and with 100 (IWAE-100), in nats. `pythae` is its VAE class with its own MLP of 784-512-16-512-784 in a
plain loop, Adam with rate 1e-3; `same` is pofx with an MLP of those sizes; `default` is pofx as it comes; `flow prior`
trains a flow on the codes in the last quarter of the time. The clock is the CPU time of the process from the first line
of the fit to the last, scoring apart. Finished cells are lines of runs/vae_peers.jsonl and are not run again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pofx
from pofx.data import Batch, Data, open_data
from pofx.families.autoregressive import Autoregressive
from pofx.families.flow import Flow
from pofx.families.hierarchical import HVAE
from pofx.families.vae import VAE
from pofx.families.vqvae import VQVAE
from pofx.model import Model
from pofx.randomness import Rng
from pofx.wrappers import InLatent

RESULTS = Path("runs/vae_peers.jsonl")
TRAIN, VALID, TEST, BATCH, DRAWS = 10_000, 500, 2000, 128, 100


def mnist() -> tuple[Data, Tensor, Tensor]:
    """The binary training pictures, their grey levels in 0 .. 1, and the binary test pictures."""
    train = open_data("images/mnist/train-images-idx3-ubyte.gz").x[:TRAIN]
    test = open_data("images/mnist/t10k-images-idx3-ubyte.gz").x[:TEST]
    x, y = ((t > 127).to(torch.uint8) for t in (train, test))
    data = open_data(x.numpy(), kind="image", test=1, valid=VALID)
    return replace(data, name="binary MNIST"), train.float() / 255, y.reshape(-1, *data.space.shape)


def by_pofx(make: Callable[[], Model], rows: int | None = BATCH) -> Callable[[int, float], dict[str, Any]]:
    """A cell of pofx: one `fit` with fresh draws of the grey levels."""

    def run(seed: int, seconds: float) -> dict[str, Any]:
        data, levels, test = mnist()
        levels = levels.reshape(-1, *data.space.shape)[data.split["train"]]

        def draw(batch: Batch, rng: Rng) -> Batch:
            level = levels[batch.index]
            return replace(batch, x=rng.bernoulli(level, tuple(level.shape)).to(torch.uint8))

        model = pofx.fit(
            data, make(), budget=f"{seconds} cpu s", seed=seed, threads=1, batch=rows, augment=draw,
            precision="32-true", progress=False,
        )  # fmt: skip
        steps, spent = model.history[-1]["step"], model.record["seconds"]["cpu"]
        elbo, iwae = (_mean_log_prob(model, test, k) for k in (1, DRAWS))
        return {"elbo": elbo, "iwae": iwae, "steps": steps, "seconds": spent, "parameters": model.record["parameters"]}

    return run


@torch.no_grad()
def _mean_log_prob(model: Model, x: Tensor, draws: int) -> float:
    parts = [model.log_prob(rows, draws=draws, rng=i).value.sum() for i, rows in enumerate(x.split(50))]
    return float(torch.stack(parts).sum()) / len(x)


def by_pythae(seed: int, seconds: float) -> dict[str, Any]:
    """pythae's VAE in a plain loop."""
    if importlib.util.find_spec("pythae") is None:
        raise ImportError("pythae is not installed here (see benchmarks/requirements.txt)")
    from pythae.models import VAE as Peer
    from pythae.models import VAEConfig

    _, levels, test = mnist()
    levels, rng, start = levels.reshape(TRAIN, 1, 28, 28), Rng(seed), time.process_time()
    torch.manual_seed(seed)
    model = Peer(VAEConfig(input_dim=(1, 28, 28), latent_dim=16, reconstruction_loss="bce"))
    optimiser, steps = torch.optim.Adam(model.parameters(), lr=1e-3), 0
    while True:
        for rows in rng.permutation(TRAIN).split(BATCH):
            level = levels[rows]
            x = rng.bernoulli(level, tuple(level.shape)).float()
            optimiser.zero_grad()
            model({"data": x}).loss.backward()
            optimiser.step()
            steps += 1
            if time.process_time() - start > seconds:
                spent, size = time.process_time() - start, sum(p.numel() for p in model.parameters())
                elbo, iwae = (_pythae_bound(model.eval(), test.float(), k, Rng(0)) for k in (1, DRAWS))
                return {"elbo": elbo, "iwae": iwae, "steps": steps, "seconds": spent, "parameters": size}


@torch.no_grad()
def _pythae_bound(model: Any, x: Tensor, draws: int, rng: Rng) -> float:
    """The bound of pythae's model, as its own `get_nll` counts it, for many rows at once."""
    total = 0.0
    for rows in x.reshape(-1, 1, 28, 28).split(50):
        found = model.encoder(rows)
        mu, log_var = found.embedding, found.log_covariance
        e = rng.normal((draws, *mu.shape))
        z = mu + e * (0.5 * log_var).exp()
        p = model.decoder(z.flatten(0, 1))["reconstruction"].reshape(draws, len(rows), -1)
        target = rows.flatten(1).expand_as(p)
        log_p = -torch.nn.functional.binary_cross_entropy(p, target, reduction="none").sum(-1)
        log_w = log_p + 0.5 * (e.square() - z.square() + log_var).sum(-1)
        total += float((torch.logsumexp(log_w.double(), 0) - math.log(draws)).sum())
    return total / len(x)


def by_variant(make: Callable[[], Model], draws: int = 100) -> Callable[[int, float], dict[str, Any]]:
    """A cell of the variants: one fit of the 8 x 8 digits, and its bounds on 300 test pictures, bits per dimension."""

    def run(seed: int, seconds: float) -> dict[str, Any]:
        data = open_data("digits", test=300)
        model = pofx.fit(data, make(), budget=f"{seconds} cpu s", seed=seed, threads=1, progress=False)
        x, bits = data.part("test").x, data.space.size * math.log(2)
        elbo, iwae = (-_mean_log_prob(model, x, k) / bits for k in (1, draws))
        found = {"steps": model.history[-1]["step"], "seconds": model.record["seconds"]["cpu"]}
        return {"elbo": elbo, "iwae": iwae, **found, "parameters": model.record["parameters"]}

    return run


SAME: dict[str, Any] = {"latents": 16, "width": 512, "depth": 0, "dropout": 0.0}
CELLS: dict[str, Callable[[int, float], dict[str, Any]]] = {
    "pythae": by_pythae,
    "same": by_pofx(lambda: VAE(**SAME)),
    "default": by_pofx(lambda: VAE(), None),
    "flow prior": by_pofx(lambda: InLatent(VAE(), Flow(layers=4, width=96), share=0.75), None),
}
VARIANTS: dict[str, Callable[[int, float], dict[str, Any]]] = {
    "digits vae": by_variant(lambda: VAE()),
    "digits full": by_variant(lambda: VAE(posterior="full")),
    "digits planar": by_variant(lambda: VAE(posterior="planar")),
    "digits iaf": by_variant(lambda: VAE(posterior="iaf")),
    "digits iwae-5": by_variant(lambda: VAE(samples=5)),
    "digits bernoulli": by_variant(lambda: VAE(prior="bernoulli")),
    "digits hvae": by_variant(lambda: HVAE()),
    "digits vae+flow": by_variant(lambda: InLatent(VAE(), Flow())),
    "digits vqvae": by_variant(lambda: VQVAE(), 1),
    "digits vqvae+autoregressive": by_variant(lambda: InLatent(VQVAE(), Autoregressive()), 1),
}


def finished() -> list[dict[str, Any]]:
    """The lines of the results file."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def cell(name: str, run: Callable[[int, float], dict[str, Any]], seed: int, seconds: float) -> None:
    """Run one cell unless it is there."""
    key = {"cell": name, "seed": seed, "budget": seconds}
    if any(all(line[k] == v for k, v in key.items()) for line in finished()):
        return
    try:
        found = run(seed, seconds)
    except ImportError as missing:
        print(f"{name}: {missing}")
        return
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps({**key, **found}) + "\n")
    print(key, found, flush=True)


def table() -> None:
    """Means over seeds."""
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for line in finished():
        groups.setdefault((line["cell"], line["budget"]), []).append(line)
    print(f"{'cell':30}{'CPU s':>7}{'seeds':>7}{'steps':>8}{'ELBO':>10}{'IWAE-100':>10}{'spread':>8}")
    for (name, budget), lines in groups.items():
        mean = {k: statistics.mean(line[k] for line in lines) for k in ("steps", "elbo", "iwae")}
        spread = statistics.stdev([line["iwae"] for line in lines]) if len(lines) > 1 else 0.0
        numbers = f"{mean['steps']:8.0f}{mean['elbo']:10.3f}{mean['iwae']:10.3f}{spread:8.3f}"
        print(f"{name:30}{budget:7.0f}{len(lines):7}{numbers}")


def main() -> None:
    """Run the cells that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="mnist", choices=("mnist", "variants", "table"))
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for seed in asked.seeds if asked.what != "table" else []:
        for name, run in (VARIANTS if asked.what == "variants" else CELLS).items():
            if asked.only is None or name in asked.only:
                cell(name, run, seed, asked.seconds)
    table()


if __name__ == "__main__":
    main()
