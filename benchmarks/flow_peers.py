"""How good and how fast are normalising flows? pofx beside zuko and nflows: same rows, same CPU seconds of one thread.

    POFX_DATA=... python benchmarks/flow_peers.py quality [--only CELL ...] [--seeds 0 1 2] [--seconds 60]
    python benchmarks/flow_peers.py speed
    python benchmarks/flow_peers.py table

A cell is DATA/LIBRARY, such as `moons/zuko-ar`; a part of a name is enough. Finished cells are lines of
runs/flow_peers.jsonl and are not run again. pofx is `pofx.fit(rows, "flow")` as it comes. The peers are neural spline
flows as their papers and their documentation build them: 5 transforms, 128 wide, 2 hidden layers (or residual blocks),
8 bins, Adam 1e-3 with a cosine to the end of the budget, batches of 512 (pictures 128), gradients clipped at norm 5,
the best of 20 validations kept; pictures enter as the logits of x + e, standardised. Versions:
benchmarks/requirements.txt.
"""

import argparse
import importlib.util
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import flow_data
import torch
from flow_data import Rows
from torch import Tensor

import pofx
from pofx.data import Batch, Data
from pofx.families.flow import Flow
from pofx.kinds.base import Space, Variable
from pofx.randomness import Rng

RESULTS = Path("runs/flow_peers.jsonl")
LIBRARIES = ("pofx", "zuko-ar", "zuko-coupling", "nflows-ar", "nflows-coupling")
LOGIT = 1e-6  # pictures of the peers: logit(LOGIT + (1 - 2 LOGIT) x), as in the paper of the masked autoregressive flow


def zuko_flow(d: int, coupling: bool, transforms: int = 5, width: int = 128) -> torch.nn.Module:
    """zuko's neural spline flow; coupling or autoregressive."""
    import zuko

    return zuko.flows.NSF(d, transforms=transforms, hidden_features=[width] * 2, passes=2 if coupling else None)


def nflows_flow(d: int, coupling: bool, transforms: int = 5, width: int = 128) -> torch.nn.Module:
    """nflows' neural spline flow with a permutation and an LU layer before each transform, as in the paper."""
    from nflows import distributions, flows, nn
    from nflows import transforms as T

    layers: list[torch.nn.Module] = []
    for i in range(transforms):
        layers += [T.RandomPermutation(d), T.LULinear(d, identity_init=True)]
        options = {"tails": "linear", "tail_bound": 5.0, "num_bins": 8}
        if coupling:
            mask = (torch.arange(d) + i) % 2
            net = lambda a, b: nn.nets.ResidualNet(a, b, hidden_features=width, num_blocks=2)  # noqa: E731
            layers.append(T.PiecewiseRationalQuadraticCouplingTransform(mask, net, **options))
        else:
            layers.append(T.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(d, width, num_blocks=2, **options))
    return flows.Flow(T.CompositeTransform(layers), distributions.StandardNormal([d]))


class Peer:
    """A peer's flow on rows, with the one preprocessing that all peers share."""

    def __init__(self, library: str, rows: Rows, seed: int) -> None:
        torch.manual_seed(seed)
        name, form = library.split("-")
        self.picture = rows.train.dtype == torch.uint8
        self.mean, self.scale = 0.0, 1.0
        if self.picture:
            u = self.enter(rows.train[:2000], Rng(0))[0]
            self.mean, self.scale = float(u.mean()), float(u.std())
        self.net = {"zuko": zuko_flow, "nflows": nflows_flow}[name](rows.train.shape[1], form == "coupling")

    def enter(self, x: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """u, and the log of the determinant that brings log p(u) back to x."""
        if not self.picture:
            return x, x.new_zeros(len(x))
        p = LOGIT + (1 - 2 * LOGIT) * (x + rng.uniform(tuple(x.shape))) / 256
        log_det = math.log((1 - 2 * LOGIT) / 256 / self.scale) - p.log() - (-p).log1p()
        return (torch.logit(p) - self.mean) / self.scale, log_det.sum(1)

    def log_prob(self, x: Tensor, rng: Rng) -> Tensor:
        """log p of rows, nats."""
        u, log_det = self.enter(x, rng)
        flow = self.net() if hasattr(self.net, "transform") and not hasattr(self.net, "_distribution") else self.net
        return flow.log_prob(u) + log_det

    def nll(self, x: Tensor) -> float:
        """The mean of -log p."""
        self.net.eval()
        with torch.no_grad():
            parts = [self.log_prob(part, Rng(1)).double().sum() for part in x.split(500)]
        self.net.train()
        return -float(torch.stack(parts).sum()) / len(x)


def train_peer(peer: Peer, rows: Rows, seconds: float, seed: int) -> int:
    """Adam for some CPU seconds; the weights that validate best are kept. Returns the steps."""
    size, k, best, state = 128 if peer.picture else 512, 0, math.inf, {}
    optimiser = torch.optim.Adam(peer.net.parameters(), lr=1e-3)
    peer.log_prob(rows.train[:2], Rng(seed)).mean().backward()  # what torch loads at first use is not the peer's cost
    begun = time.process_time()
    valid, looks = rows.valid[:512], 0
    order, at = Rng(seed).permutation(len(rows.train)), 0
    while (share := (time.process_time() - begun) / seconds) < 1:
        if at + size > len(order):
            order, at = Rng.derive(seed, k).permutation(len(rows.train)), 0
        optimiser.param_groups[0]["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * share))
        loss = -peer.log_prob(rows.train[order[at : at + size]], Rng.derive(seed, 1, k)).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.net.parameters(), 5.0)
        optimiser.step()
        k, at = k + 1, at + size
        if share * 20 >= looks + 1:
            looks, value = looks + 1, peer.nll(valid)
            if value < best:
                best, state = value, {n: v.clone() for n, v in peer.net.state_dict().items()}
    if peer.nll(valid) > best:
        peer.net.load_state_dict(state)
    return k


def as_data(rows: Rows) -> Data:
    """The same rows and the same split, as pofx reads them."""
    x = torch.cat([rows.train, rows.valid, rows.test])
    if x.dtype == torch.uint8:
        x = x.reshape(-1, 28, 28, 1)
        data = pofx.open_data(x.numpy())
    else:
        variables = tuple(Variable(f"x{i}", mean=0.0, scale=1.0) for i in range(x.shape[1]))
        data = Data(x.double(), Space((x.shape[1],), variables))
    ends = torch.tensor([0, len(rows.train), len(rows.valid), len(rows.test)]).cumsum(0).tolist()
    split = {name: torch.arange(a, b) for name, a, b in zip(("train", "valid", "test"), ends, ends[1:], strict=False)}
    return Data(data.x, data.space, split=split)


def fit_pofx(rows: Rows, seconds: float, seed: int, options: dict) -> tuple[float, float, int]:
    """Test -log p in nats, validation value, and steps of `pofx.fit`."""
    data = as_data(rows)
    pofx.fit(data, "flow", budget="1 steps", threads=1, progress=False)  # what is loaded at first use is not its cost
    budget = f"{seconds} cpu s"
    model = pofx.fit(data, "flow", budget=budget, seed=seed, threads=1, progress=False, hyper_parameters=options)
    values = []
    for i, part in enumerate(data.part("test").x.split(500)):
        with torch.no_grad():
            values.append(model.log_prob(part, rng=i).value.double())
    return (
        -float(torch.cat(values).mean()),
        min(h["valid"] for h in model.history if "valid" in h),
        model.history[-1]["step"],
    )


def quality(name: str, library: str, seed: int, seconds: float, options: dict) -> dict:
    """One cell."""
    rows = flow_data.load(name)
    begun, wall = time.process_time(), time.perf_counter()
    if library == "pofx":
        nll, valid, steps = fit_pofx(rows, seconds, seed, options)
    else:
        peer = Peer(library, rows, seed)
        steps = train_peer(peer, rows, seconds, seed)
        valid, nll = peer.nll(rows.valid), peer.nll(rows.test)
    line = {"cell": f"{name}/{library}", "seed": seed, "seconds": seconds, "nll": nll, "valid": valid, "steps": steps}
    line |= {"truth": rows.truth, "cpu": time.process_time() - begun, "wall": time.perf_counter() - wall}
    if rows.train.dtype == torch.uint8:
        line["bits"] = nll / 784 / math.log(2)
    return line


def best(call: Callable[[], object], times: int, repeats: int = 5) -> float:
    """CPU milliseconds of one call, the least of some repeats."""
    call()
    spent = []
    for _ in range(repeats):
        begun = time.process_time()
        for _ in range(times):
            call()
        spent.append((time.process_time() - begun) / times)
    return 1e3 * min(spent)


def trainer(params: list[Tensor], loss: Callable[[], Tensor], optimiser: torch.optim.Optimizer) -> Callable[[], None]:
    """One step of training."""

    def step() -> None:
        optimiser.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(params, 5.0)
        optimiser.step()

    return step


def chart_flow(d: int, **options: object) -> Flow:
    """pofx's flow with the peers' sizes: 5 transforms, 128 wide, 8 bins."""
    space = Space((d,), (Variable("u"),), "vector", "chart", "float32")
    return Flow(layers=5, width=128, bins=8, marginals=0, **options).build(space, seed=0)  # type: ignore[return-value]


def speed() -> None:
    """Training steps at D = 6, batch 512; draws of 256 rows of D = 63; Jacobi beside entry by entry."""
    x = Rng(0).normal((512, 6))
    ours, peer = chart_flow(6, depth=1, coupling="autoregressive", mixing="reverse").train(), zuko_flow(6, False)
    mine, theirs = list(ours.parameters()), list(peer.parameters())
    own = trainer(mine, lambda: ours._loss(Batch(x), Rng(0)), torch.optim.AdamW(mine, 1e-3, fused=True))
    other = trainer(theirs, lambda: -peer().log_prob(x).mean(), torch.optim.Adam(theirs, 1e-3))
    pairs = [(best(own, 10), best(other, 10)) for _ in range(36)]
    ratio = statistics.quantiles([b / a for a, b in pairs])
    mine_ms, theirs_ms = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"training step, ms, median of {len(pairs)} pairs: pofx {mine_ms:.1f}, zuko {theirs_ms:.1f}", end="; ")
    print("quartiles of the ratio", *(f"{r:.2f}" for r in ratio))
    masked, jacobi = (chart_flow(63, depth=1, coupling="autoregressive", inverse=i) for i in ("sequential", "jacobi"))
    jacobi.load_state_dict(masked.state_dict())
    coupled, peer, other_coupled = chart_flow(63, coupling="coupling"), zuko_flow(63, False), nflows_flow(63, True)
    with torch.no_grad():
        for word in ("at initialisation", "trained 60 steps on dependent columns"):
            report_draws(word, masked.eval(), jacobi.eval(), coupled.eval(), peer, other_coupled)
            if word == "at initialisation":
                with torch.enable_grad():
                    train_briefly(masked.train())
                jacobi.load_state_dict(masked.state_dict())


def train_briefly(flow: Flow) -> None:
    """Some steps on rows whose neighbours depend on each other."""
    params = list(flow.parameters())
    optimiser = torch.optim.AdamW(params, 3e-3, fused=True)
    for k in range(60):
        x = Rng(k).normal((256, 63)).cumsum(1) / 4
        trainer(params, lambda x=x: flow._loss(Batch(x), Rng(0)), optimiser)()


def report_draws(
    word: str, masked: Flow, jacobi: Flow, coupled: Flow, peer: torch.nn.Module, other: torch.nn.Module
) -> None:
    """Milliseconds of 256 draws of 63 columns."""
    ours, fixed = best(lambda: masked.sample(256, rng=0), 1, 3), best(lambda: jacobi.sample(256, rng=0), 1, 2)
    theirs = best(lambda: peer().sample((256,)), 1, 1)
    gap = float((masked.sample(256, rng=0) - jacobi.sample(256, rng=0)).abs().max())
    print(f"256 draws of 63 columns, {word}, ms: pofx {ours:.0f}, zuko {theirs:.0f}, ratio {theirs / ours:.1f}")
    print(f"    by Jacobi iteration {fixed:.0f}, farthest entry {gap:.1e}")
    a, b = best(lambda: coupled.sample(256, rng=0), 5), best(lambda: other.sample(256), 5)
    print(f"    couplings: pofx {a:.0f}, nflows {b:.0f}, ratio {b / a:.2f}")


def table(path: Path, seconds: float) -> None:
    """Means over seeds, nats a row (bits a pixel for pictures), and the gap to the truth where it is known."""
    lines = [r for r in stored(path) if r["seconds"] == seconds]
    for name in flow_data.NAMES:
        for library in LIBRARIES:
            mine = [r for r in lines if r["cell"] == f"{name}/{library}"]
            if mine:
                values = [r.get("bits", r["nll"]) for r in mine]
                spread = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
                gap = (
                    ""
                    if mine[0]["truth"] is None
                    else f"  gap to the truth {statistics.mean(values) - mine[0]['truth']:.3f}"
                )
                steps = f"{len(mine)} seeds, {statistics.mean(r['steps'] for r in mine):.0f} steps"
                print(f"{name:13s} {library:16s} {statistics.mean(values):8.4f}{spread}  {steps}{gap}")


def main() -> None:
    """Run what is asked and not yet done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "speed", "table"))
    parser.add_argument("--only", nargs="*", default=[""])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--options", type=json.loads, default={})
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what == "speed":
        speed()
    elif asked.what == "table":
        table(asked.results, asked.seconds)
    else:
        cells(asked)


def cells(asked: argparse.Namespace) -> None:
    """The cells of quality that are asked for and not yet done."""
    done = {(r["cell"], r["seed"], r["seconds"]) for r in stored(asked.results)}
    for name in flow_data.NAMES:
        for library in LIBRARIES:
            cell = f"{name}/{library}"
            if not any(part in cell for part in asked.only):
                continue
            if library != "pofx" and importlib.util.find_spec(library.split("-")[0]) is None:
                print(f"{cell}: {library.split('-')[0]} is not installed, left out")
                continue
            for seed in asked.seeds:
                if (cell, seed, asked.seconds) not in done:
                    line = quality(name, library, seed, asked.seconds, asked.options)
                    asked.results.parent.mkdir(exist_ok=True)
                    with asked.results.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                    print(line, flush=True)


def stored(path: Path) -> list[dict]:
    """The finished cells."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    main()
