"""How fast is a step of an energy, how tight is the sandwich of log Z, how good is a classifier that is an energy?

    python benchmarks/energy_peers.py [--only CELL ...] [--seeds 0 1 2] [--steps 100] [--rounds 7]
    python benchmarks/energy_peers.py table

    speed/pcd, speed/dsm   two moons, MLP 2-128-128-1 with silu, 256 rows, Adam; pcd: 10 Langevin moves of 256
                           persistent chains. torchebm, a bare torch loop, pofx's loss in that same loop, and
                           pofx's own training loop (which also averages weights and clips), in turn, in one
                           process; steps per CPU second of one thread, the median over rounds.
    rbm/HIDDEN             binary digits (level > 7): log Z summed in full, and its sandwich by annealing; nats of the
                           held-out pictures. 15 hidden units have an exact log Z, 128 have none.
    jem                    digits: held-out accuracy of the classifier that is an energy, of the same network as a plain
                           classifier, and how its pictures are judged.

Finished cells are lines of runs/energy_peers.jsonl and are not run again. A missing peer is said and left out.
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
from torch import Tensor, nn

import pofx
from pofx.data import Batch, Data, open_data
from pofx.families.energy import Energy
from pofx.families.rbm import RBM
from pofx.kinds.base import real
from pofx.metrics import c2st, prdc
from pofx.nn.scalar import ScalarMLP
from pofx.randomness import Rng
from pofx.tasks.classify import classify
from pofx.training.budget import Plan

RESULTS = Path("runs/energy_peers.jsonl")
ROWS, MOVES, STEP, LR, WIDTH, NOISE = 256, 10, 0.1, 1e-3, 128, 0.1
CELLS = ("speed/pcd", "speed/dsm", "rbm/15", "rbm/128", "jem")
Step = Callable[[Tensor], None]


def moons() -> Tensor:
    """Two moons, standardised, float32."""
    x = open_data("moons").x.float()
    return (x - x.mean(0)) / x.std(0)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 1))


def adam(params: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=LR, fused=True)


def by_torchebm(objective: str, seed: int) -> Step:
    """torchebm's own losses and sampler, as its documentation has them."""
    from torchebm.core import BaseModel
    from torchebm.losses import ContrastiveDivergence, DenoisingScoreMatching
    from torchebm.samplers import LangevinDynamics

    class Net(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).squeeze(-1)

    torch.manual_seed(seed)
    model = Net()
    if objective == "pcd":
        sampler = LangevinDynamics(model, step_size=STEP**2 / 2)
        loss_of: Any = ContrastiveDivergence(model, sampler, k_steps=MOVES, persistent=True)
    else:
        loss_of = DenoisingScoreMatching(model, noise_scale=NOISE)
    optimiser = adam(model.parameters())

    def step(x: Tensor) -> None:
        optimiser.zero_grad()
        loss = loss_of(x)
        (loss[0] if isinstance(loss, tuple) else loss).backward()
        optimiser.step()

    return step


def by_bare_torch(objective: str, seed: int) -> Step:
    """The same in a dozen lines of torch."""
    torch.manual_seed(seed)
    net = network()
    optimiser, chain = adam(net.parameters()), [torch.randn(ROWS, 2)]

    def slope(x: Tensor, graph: bool) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(net(x).sum(), x, create_graph=graph)[0]

    def pcd(x: Tensor) -> Tensor:
        y = chain[0]
        for _ in range(MOVES):
            y = y - 0.5 * STEP**2 * slope(y, False) + STEP * torch.randn_like(y)
        chain[0] = y.detach()
        on_data, on_chain = net(x), net(chain[0])
        level = on_data.square().mean() + on_chain.square().mean()
        return on_data.mean() - on_chain.mean() + 1e-3 * level

    def dsm(x: Tensor) -> Tensor:
        e = torch.randn_like(x)
        return 0.5 * (e - NOISE * slope(x + NOISE * e, True)).square().sum(1).mean()

    def step(x: Tensor) -> None:
        optimiser.zero_grad()
        (pcd if objective == "pcd" else dsm)(x).backward()
        optimiser.step()

    return step


def energy(objective: str) -> Energy:
    knobs: dict[str, Any] = {"width": WIDTH, "depth": 1, "residual": False, "chains": ROWS, "lr": LR}
    return Energy(
        objective=objective, kernel="langevin", step=STEP, moves=MOVES, noise=NOISE * (objective == "dsm"), **knobs
    )


def by_pofx(objective: str, seed: int) -> Step:
    """pofx's loss in the peers' loop."""
    model = energy(objective).build(real(2).replace(dtype="float32"), seed=seed)
    (player,), count = model.players(), [0]
    optimiser = adam(player.params)

    def step(x: Tensor) -> None:
        optimiser.zero_grad()
        player.loss(Batch(x), Rng.derive(seed, count[0])).backward()
        optimiser.step()
        count[0] += 1

    return step


def by_pofx_loop(objective: str, seed: int) -> Step:
    """pofx's training loop, weights averaged and gradients clipped."""
    from pofx.training.loop import Loop, Parts
    from pofx.training.run import fabric_of

    x = moons()
    data = Data(x, real(2).replace(dtype="float32"), name="moons").splitted(0.1, 0.1, 0)
    model = energy(objective).build(data.space, seed=seed)
    plan = Plan(10**6, ROWS, 1, "32-true", 1.0, seed, "a benchmark")
    fabric = fabric_of("cpu")
    loop = Loop(model, Parts.of(data, fabric.device), plan, fabric)

    def step(_: Tensor) -> None:
        loop.step(loop.k)
        loop.k += 1

    return step


PEERS = {"torchebm": by_torchebm, "bare torch": by_bare_torch, "pofx": by_pofx, "pofx, own loop": by_pofx_loop}


def speed(objective: str, seed: int, steps: int, rounds: int) -> dict[str, Any]:
    """Steps per CPU second of each, in turn."""
    x, found, makers = moons(), {}, dict(PEERS)
    if importlib.util.find_spec("torchebm") is None:
        print("torchebm is not installed here (see benchmarks/requirements.txt): left out")
        del makers["torchebm"]
    runs = {name: make(objective, seed) for name, make in makers.items()}
    rows = [x[Rng(k).permutation(len(x))[:ROWS]] for k in range(16)]
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for k in range(rounds + 1):
        for name, step in runs.items():
            start = time.process_time()
            for i in range(steps):
                step(rows[i % 16])
            if k:  # the first round warms up
                rates[name].append(steps / (time.process_time() - start))
    for name, rate in rates.items():
        found[name] = {"median": statistics.median(rate), "best": max(rate)}
    return found


def binary_digits() -> Data:
    """The digits, a pixel on where its level is above 7."""
    data = open_data("digits", test=300)
    x = (data.x > 7).to(torch.uint8)
    pixel = replace(
        data.space.variables[0], levels=2, values=None, mean=float(x.double().mean()), scale=float(x.double().std())
    )
    return replace(data, x=x, space=data.space.replace(variables=(pixel,), meta={"white": 1, "axis": True}))


def rbm(hidden: int, seed: int, seconds: float) -> dict[str, Any]:
    """A trained machine: log Z, its sandwich, nats of the held-out pictures."""
    data = binary_digits()
    start = time.process_time()
    model = pofx.fit(
        data, RBM(hidden=hidden), budget=f"{seconds} cpu s", seed=seed, threads=1, precision="32-true", progress=False
    )
    spent, start = time.process_time() - start, time.process_time()
    value = model.log_prob(data.part("test").x)
    low, high, stderr = model.sandwich(0, seed).tolist()
    found = {"low": low, "high": high, "stderr": stderr, "nats": -float(value.value.mean()), "fit": spent}
    found |= {
        "quality": value.quality.value,
        "ask": time.process_time() - start,
        "steps": model.record["plan"]["steps"],
    }
    return found | ({"exact": float(model.partition()[0, 0])} if model.closed_z else {})


def jem(seed: int, seconds: float) -> dict[str, Any]:
    """A classifier that is an energy beside the same network trained on the labels alone."""
    data = open_data("digits", given="label", test=300)
    test = data.part("test")
    model = pofx.fit(
        data,
        Energy(classifier=True),
        budget=f"{seconds} cpu s",
        seed=seed,
        threads=1,
        precision="32-true",
        progress=False,
    )
    asked = classify(model, test.x, prior=model.core.log_prior().exp(), draws=4)
    label, found = test.given["label"].long(), {}
    found["jem"] = float((asked.raw.argmax(1) == label).double().mean())
    found["jem, directly"] = float(
        (model.core.posterior(model.chart.encode(test.x)).argmax(1) == label).double().mean()
    )
    found["plain"] = plain(model, data, seed)
    x = model.sample(500, rng=seed)
    flat = [t.flatten(1).double().numpy() for t in (test.x, x)]
    judged = prdc(*flat)
    found |= {k: float(getattr(judged, k).value) for k in ("precision", "recall", "coverage")}
    found["c2st"] = float(c2st(*flat, rng=0).auc.value)
    found["bits"] = -float(model.log_prob(test.x, draws=16, rng=0).value.mean()) / 64 / math.log(2)
    return found


def plain(model: Any, data: Data, seed: int) -> float:
    """Held-out accuracy of the same network, trained by cross entropy alone for as many steps, decayed weights."""
    train, test, rng = data.part("train"), data.part("test"), Rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        net = ScalarMLP(64, 128, 2, d_out=10)
    u, core = model.chart.encode(train.x), model.core
    optimiser = torch.optim.AdamW(net.parameters(), lr=5e-4, weight_decay=1e-2)
    for _ in range(2000):
        rows = rng.integers(len(u), (64,))
        loss = nn.functional.cross_entropy(net(core.moments(u[rows]).flatten(1)), train.given["label"][rows].long())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    guess = net(core.moments(model.chart.encode(test.x)).flatten(1)).argmax(1)
    return float((guess == test.given["label"]).double().mean())


def run(cell: str, seed: int, asked: argparse.Namespace) -> dict[str, Any]:
    if cell.startswith("speed/"):
        return speed(cell[6:], seed, asked.steps, asked.rounds)
    if cell.startswith("rbm/"):
        return rbm(int(cell[4:]), seed, asked.seconds)
    return jem(seed, asked.seconds)


def done() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def table() -> None:
    """Every finished cell."""
    for row in done():
        print(f"{row['cell']}, seed {row['seed']}")
        base = row["found"].get("torchebm", {}).get("median")
        for name, value in row["found"].items():
            text = f"{value['median']:7.1f} steps/s" if isinstance(value, dict) else f"{value}"
            ratio = f", {value['median'] / base:.2f} of torchebm's" if isinstance(value, dict) and base else ""
            print(f"    {name:16} {text}{ratio}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="run", choices=("run", "table"))
    parser.add_argument("--only", nargs="+", default=CELLS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.parent.mkdir(exist_ok=True)
    known = {(row["cell"], row["seed"]) for row in done()}
    for cell in (c for c in CELLS if any(part in c for part in asked.only) and asked.what == "run"):
        for seed in asked.seeds:
            if (cell, seed) not in known:
                found = run(cell, seed, asked)
                with RESULTS.open("a") as file:
                    file.write(json.dumps({"cell": cell, "seed": seed, "found": found}) + "\n")
    table()


if __name__ == "__main__":
    main()
