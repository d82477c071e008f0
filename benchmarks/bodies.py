"""Bodies: does a network that knows the layout of x learn more in the same seconds? Clips, solids, points, series.

    POFX_DATA=... python benchmarks/bodies.py [--only chairs digits frey points stock] [--seeds 0] [--budget "60 cpu s"]
    python benchmarks/bodies.py table

chairs  ModelNet10's, 16^3 cells: frames of the solid as channels of a picture (2-D), or three axes (3-D).
digits  two moving digits, 10 frames of 16 x 16: the same two.
frey    Frey's face, 10 frames of 28 x 20: the same two.
points  128 points on the surface of each chair, in no order: a vector, or a set.
stock   24 steps of 6 channels: a vector, or a series.

Of each: nats an entry of the bound on rows that nothing has seen, and whether draws are told from such rows: the
accuracy of the nearest neighbour (0.5 is best), by entries, or by Chamfer distance of points.
Every cell is a line of runs/bodies.jsonl and is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pofx
from pofx.data import Data, find, open_data
from pofx.kinds._pictures import read_idx
from pofx.metrics.shapes import chamfer, surface_points

RESULTS = Path("runs/bodies.jsonl")
TEST, JUDGED = 100, 100


def chairs(seed: int) -> Data:
    """A cell of 2 x 2 x 2 is occupied where any of them is."""
    x = pofx.kinds.KINDS["shape"].read(find("shapes/modelnet10_voxels/chair.npy.gz")).x.numpy()
    small = x.reshape(len(x), 16, 2, 16, 2, 16, 2).max((2, 4, 6)).astype(bool)
    return open_data(small, kind="shape", seed=seed, test=TEST)


def digits(seed: int, side: int = 16, frames: int = 10) -> Data:
    """Two digits of a quarter of their area that move and bounce."""
    pictures = read_idx(find("images/mnist/t10k-images-idx3-ubyte.gz"))
    small = pictures.reshape(-1, 14, 2, 14, 2).mean((2, 4))[:, 2:12, 2:12].astype(np.uint8)
    rng, room = np.random.default_rng(7), side - 10
    out = np.zeros((2000, frames, side, side), np.uint8)
    for clip in out:
        for _ in range(2):
            digit, at, angle = small[rng.integers(len(small))], rng.uniform(0, room, 2), rng.uniform(0, 2 * np.pi)
            step = np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0.5, 1.5)
            for t in range(frames):
                path = (at + t * step) % (2 * room)
                y, x = np.round(np.minimum(path, 2 * room - path)).astype(int)
                np.maximum(clip[t, y : y + 10, x : x + 10], digit, out=clip[t, y : y + 10, x : x + 10])
    return open_data(out, kind="video", seed=seed, test=TEST)


def frey(seed: int) -> Data:
    """Windows of ten frames."""
    raw = np.load(find("video/frey_faces/frey_faces.npz"))
    x = raw[raw.files[0]].reshape(-1, 28, 20).astype(np.uint8)
    return open_data(x, kind="video", seed=seed, test=TEST, options={"length": 10, "stride": 2})


def points(seed: int) -> Data:
    """Middles of cells on the surface, moved within them."""
    rng, cells = np.random.default_rng(3), chairs(seed).x.numpy()
    clouds = []
    for x in cells:
        at = surface_points(x)
        at = at[rng.integers(len(at), size=128)]
        clouds.append(at + rng.uniform(-0.5, 0.5, at.shape))
    return open_data(np.stack(clouds), kind="shape", seed=seed, test=TEST)


def stock(seed: int) -> Data:
    """Google's, as TimeGAN has it."""
    path = find("series/timegan_stock/stock_data.csv.gz")
    return open_data(path, kind="series", seed=seed, test=TEST, options={"length": 24})


CELLS: dict[str, tuple[Callable[[int], Data], tuple[str, ...]]] = {
    "chairs": (chairs, ("picture", "volume")),
    "digits": (digits, ("picture", "volume")),
    "frey": (frey, ("picture", "volume")),
    "points": (points, ("vector", "set")),
    "stock": (stock, ("vector", "series")),
}


def neighbour_accuracy(real: np.ndarray, fake: np.ndarray, apart: Callable[..., float] | None) -> float:
    """How often the nearest other row is of the same kind: 0.5 where nothing tells draws from rows (Lopez-Paz 2017)."""
    both = np.concatenate([real, fake])
    if apart is None:
        flat = torch.from_numpy(both.reshape(len(both), -1).astype(np.float64))
        distance = torch.cdist(flat, flat).numpy()
    else:
        distance = np.array([[apart(a, b) for b in both] for a in both])
    np.fill_diagonal(distance, np.inf)
    mine = np.arange(len(both)) < len(real)
    return float((mine == mine[distance.argmin(1)]).mean())


def cell(name: str, body: str, seed: int, budget: str, family: str, knobs: dict[str, Any]) -> dict[str, Any]:
    """One fit and what it is worth."""
    data = CELLS[name][0](seed)
    settings = {"body": body, **knobs}
    start = time.process_time()
    model = pofx.fit(data, family, hyper_parameters=settings, budget=budget, seed=seed, threads=1, progress=False)
    spent, test = time.process_time() - start, data.part("test").x
    nats = pofx.density(model, test, draws=4, rng=0).value / data.space.size
    drawn = pofx.sample(model, min(JUDGED, len(test)), rng=0).raw.numpy()
    apart = chamfer if name == "points" else None
    told = neighbour_accuracy(test[:JUDGED].numpy(), drawn, apart)
    words = {"cell": name, "family": family, "body": body, "seed": seed, "knobs": knobs, "cpu": round(spent, 1)}
    words |= {"nats": float(nats.mean()), "error": float(nats.std() / math.sqrt(len(nats))), "told": told}
    return words | {"steps": model.history[-1]["step"], "parameters": model.record["parameters"]}


def lines() -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def main() -> None:
    """Every cell that is not there yet; then the table."""
    asked = argparse.ArgumentParser()
    asked.add_argument("action", nargs="?", default="run")
    asked.add_argument("--only", nargs="+", default=list(CELLS))
    asked.add_argument("--bodies", nargs="+")
    asked.add_argument("--seeds", nargs="+", type=int, default=[0])
    asked.add_argument("--budget", default="60 cpu s")
    asked.add_argument("--family", default="diffusion")
    asked.add_argument("--knobs", type=json.loads, default={})
    asked = asked.parse_args()
    RESULTS.parent.mkdir(exist_ok=True)
    for name in asked.only if asked.action == "run" else ():
        for body in asked.bodies or CELLS[name][1]:
            for seed in asked.seeds:
                what = {"cell": name, "family": asked.family, "body": body, "seed": seed, "knobs": asked.knobs}
                if any(all(line[k] == v for k, v in what.items()) for line in lines()):
                    continue
                found = cell(name, body, seed, asked.budget, asked.family, asked.knobs)
                with RESULTS.open("a") as file:
                    file.write(json.dumps(found) + "\n")
                print(json.dumps(found), flush=True)
    for x in lines():
        what = f"{x['cell']:8} {x['family']:10} {x['body']:8} {x['seed']} {x['knobs'] or ''}"
        print(f"{what} {x['nats']:9.4f} +- {x['error']:.4f} nats an entry, told {x['told']:.3f}, {x['steps']} steps")


if __name__ == "__main__":
    main()
