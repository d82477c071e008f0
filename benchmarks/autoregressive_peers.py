"""How good and how fast are autoregressive models of pictures? pofx beside plain re-writings of its peers.

    POFX_DATA=... python benchmarks/autoregressive_peers.py sampling [--only CELL ...]
    POFX_DATA=... python benchmarks/autoregressive_peers.py quality [--only CELL ...] [--seeds 0 1 2] [--seconds 60]
    python benchmarks/autoregressive_peers.py steps
    python benchmarks/autoregressive_peers.py table

sampling: 16 binary pictures of 28 x 28 from one net with its cache, against the loop that runs the whole net for each
pixel (three of its 784 passes are timed and scaled). steps: training steps a second of the recurrent nets. quality:
nats of the first 500 test digits of MNIST, black or white at 127, after the same CPU seconds of one thread, batches of
16. pofx is `pofx.fit` with a body; the peers are a PixelCNN (15 residual blocks, 16 inside, head 32) and a gated
PixelCNN (10 layers of 128) written plainly at the sizes and with the optimiser (Adam 1e-3) of pytorch-generative, which
no registry has, with a cosine to the end of the budget. A cell is a name, part of which is enough. Every finished cell
is a line of runs/autoregressive_peers.jsonl and is not run again.
"""

import argparse
import gzip
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pofx
from pofx.data import Data
from pofx.families.autoregressive import Autoregressive
from pofx.kinds.base import Space, Variable
from pofx.randomness import Rng

RESULTS = Path("runs/autoregressive_peers.jsonl")
SIDE, TEST, VALID, BATCH = 28, 500, 32, 16
LN2 = math.log(2)

OURS = {
    "pofx-default": {},
    "pofx-pixelcnn": {"body": "pixelcnn", "width": 16, "depth": 15, "dropout": 0.0},
    "pofx-row-lstm": {"body": "row-lstm"},
    "pofx-diagonal-bilstm": {"body": "diagonal-bilstm"},
}
SAMPLED = {
    "gated-10x128": {"body": "gated", "width": 128, "depth": 10},
    "pixelcnn-15x32": {"body": "pixelcnn", "width": 16, "depth": 15},
    "row-lstm-2x32": {"body": "row-lstm", "width": 32, "depth": 2},
    "diagonal-bilstm-2x32": {"body": "diagonal-bilstm", "width": 32, "depth": 2},
    "transformer-3x64": {"body": "transformer", "width": 64, "depth": 3},
    "made-512": {"body": "made", "width": 512},
    "nade-512": {"body": "nade", "width": 512},
}


class Masked(nn.Conv2d):
    """A convolution whose later taps are zero; `centre` leaves out the pixel itself."""

    def __init__(self, centre: bool, *args: int, **options: int) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        _, _, height, wide = self.weight.shape
        mask = torch.zeros_like(self.weight)
        mask[:, :, : height // 2] = 1
        mask[:, :, height // 2, : wide // 2 + (not centre)] = 1
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, self.stride, self.padding)


class Block(nn.Module):
    """A residual block of the PixelCNN: `inside` features, twice as many outside."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ReLU(), nn.Conv2d(2 * inside, inside, 1), nn.ReLU(), Masked(False, inside, inside, 3, padding=1),
            nn.ReLU(), nn.Conv2d(inside, 2 * inside, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


def pixelcnn(blocks: int = 15, inside: int = 16, head: int = 32) -> nn.Module:
    """PixelCNN: pixels in {0, 1} to logits, (B, 1, H, W)."""
    return nn.Sequential(
        Masked(True, 1, 2 * inside, 7, padding=3), *(Block(inside) for _ in range(blocks)),
        nn.ReLU(), nn.Conv2d(2 * inside, head, 1), nn.ReLU(), nn.Conv2d(head, 1, 1),
    )  # fmt: skip


def gate(a: Tensor) -> Tensor:
    """tanh of one half of the features times the sigmoid of the other."""
    left, right = a.chunk(2, 1)
    return torch.tanh(left) * torch.sigmoid(right)


class GatedLayer(nn.Module):
    """One layer of the gated PixelCNN: both stacks, with skip connections."""

    def __init__(self, inlet: int, width: int, kernel: int, first: bool) -> None:
        super().__init__()
        self.first, r = first, kernel // 2
        self.above = nn.Conv2d(inlet, 2 * width, (r + 1, kernel), padding=(r + 1, r))
        self.same = nn.Conv2d(inlet, 2 * width, 1) if not first else None
        self.link, self.left = nn.Conv2d(2 * width, 2 * width, 1), nn.Conv2d(inlet, 2 * width, (1, r + 1 - first))
        self.residual, self.skip = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.pad = (r, 0, 0, 0)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        height, wide = h.shape[2:]
        above = self.above(v)[:, :, :height]  # rows above, and no other
        a = above if self.same is None else above + self.same(v)
        left = self.left(F.pad(h, self.pad))[..., :wide]
        out = gate(left + self.link(above))
        residual = self.residual(out)
        return gate(a), residual if self.first else h + residual, self.skip(out)


class GatedPixelCNN(nn.Module):
    """Pixels in {0, 1} to logits, (B, 1, H, W)."""

    def __init__(self, depth: int = 10, width: int = 128, head: int = 32) -> None:
        super().__init__()
        self.inlet = GatedLayer(1, width, 7, True)
        self.layers = nn.ModuleList(GatedLayer(width, width, 3, False) for _ in range(depth))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(width, head, 1), nn.ReLU(), nn.Conv2d(head, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        v, h, total = self.inlet(x, x)
        for layer in self.layers:
            v, h, skip = layer(v, h)
            total = total + skip
        return self.head(total)


PEERS: dict[str, Callable[[], nn.Module]] = {"peer-pixelcnn-15x32": pixelcnn, "peer-gated-10x128": GatedPixelCNN}


def images(name: str, count: int) -> Tensor:
    """The first pictures of MNIST, 0 or 1, (count, 28, 28, 1)."""
    folder = os.environ.get("POFX_DATA")
    if not folder:
        raise SystemExit("POFX_DATA: name the folder that holds images/mnist/*.gz")
    with gzip.open(Path(folder, "images", "mnist", f"{name}-images-idx3-ubyte.gz")) as f:
        raw = np.frombuffer(f.read(16 + SIDE * SIDE * count), np.uint8, offset=16)
    return torch.from_numpy(raw.reshape(-1, SIDE, SIDE, 1) > 127).to(torch.uint8)


def space(share: float = 0.13) -> Space:
    """Black and white pictures."""
    pixel = Variable("pixel", "ordinal", 2, mean=share, scale=math.sqrt(share * (1 - share)))
    return Space((SIDE, SIDE, 1), (pixel,), "grid", "image", "uint8", {"white": 1, "axis": True})


def mnist() -> Data:
    """60000 rows to train on, a few of them to validate by, and the first test rows."""
    train, test = images("train", 60000), images("t10k", TEST)
    n = len(train) - VALID
    split = {
        "train": torch.arange(n),
        "valid": torch.arange(n, n + VALID),
        "test": torch.arange(n + VALID, n + VALID + TEST),
    }
    return Data(torch.cat([train, test]), space(float(train.double().mean())), split=split, name="mnist, two levels")


def ours(name: str, seed: int, seconds: float) -> dict[str, float]:
    """pofx.fit as it comes."""
    data = mnist()
    started = time.process_time()
    model = pofx.fit(
        data, Autoregressive(**OURS[name]), budget=f"{seconds} cpu s", seed=seed, threads=1, batch=BATCH,
        precision="32-true", progress=False,
    )  # fmt: skip
    spent = time.process_time() - started
    with torch.no_grad():
        nats = [-model.log_prob(rows).value for rows in data.part("test").x.split(100)]
    return {"nats": float(torch.cat(nats).mean()), "cpu": spent, "steps": model.history[-1]["step"]}


def theirs(name: str, seed: int, seconds: float) -> dict[str, float]:
    """Adam and a cosine until the seconds are over."""
    train, test = images("train", 60000), images("t10k", TEST)
    started, k = time.process_time(), 0
    with torch.random.fork_rng():
        torch.random.manual_seed(seed)
        net = PEERS[name]()
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    while (past := (time.process_time() - started) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * past))
        x = train[Rng.derive(seed, k).integers(len(train), (BATCH,))].permute(0, 3, 1, 2).float()
        loss = F.binary_cross_entropy_with_logits(net(x), x, reduction="sum") / len(x)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        k += 1
    spent, total = time.process_time() - started, 0.0
    with torch.no_grad():
        for rows in test.permute(0, 3, 1, 2).float().split(100):
            total += float(F.binary_cross_entropy_with_logits(net(rows), rows, reduction="sum"))
    return {"nats": total / len(test), "cpu": spent, "steps": k}


def sampling(name: str, seed: int, seconds: float) -> dict[str, float]:
    """CPU seconds of 16 pictures with the cache and by the naive loop."""
    model = Autoregressive(**SAMPLED[name]).build(space(), seed=seed).eval()
    started = time.process_time()
    x = model.sample(16, rng=seed)
    cached, times, flat = time.process_time() - started, [], x.flatten(1)
    with torch.no_grad():
        for _ in range(3):
            started = time.process_time()
            model.net(flat, model._standard(flat))  # type: ignore[operator]
            times.append(time.process_time() - started)
    naive = statistics.median(times) * SIDE * SIDE
    return {"cached": cached, "naive": naive, "times": naive / cached}


def steps(name: str, seed: int, seconds: float) -> dict[str, float]:
    """Training steps a CPU second, batch 16: the best of ten, for other work on the machine only slows them."""
    model = Autoregressive(**SAMPLED[name]).build(space(), seed=seed).train()
    x = Rng(seed).bernoulli(0.2, (BATCH, SIDE, SIDE, 1)).to(torch.uint8)
    optimiser, times = torch.optim.AdamW(model.parameters(), lr=1e-4), []
    for k in range(10):
        started = time.process_time()
        optimiser.zero_grad()
        model._loss(pofx.data.Batch(x), Rng(k)).backward()  # type: ignore[attr-defined,operator]
        optimiser.step()
        times.append(time.process_time() - started)
    return {"best": 1 / min(times), "median": 1 / statistics.median(times)}


VERBS: dict[str, tuple[tuple[str, ...], Callable[[str, int, float], dict[str, float]]]] = {
    "sampling": (tuple(SAMPLED), sampling),
    "steps": (("row-lstm-2x32", "diagonal-bilstm-2x32"), steps),
    "quality": ((*OURS, *PEERS), lambda name, *rest: (ours if name in OURS else theirs)(name, *rest)),
}


def lines() -> list[dict]:
    """The finished cells."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def table() -> None:
    """Print the means over seeds."""
    found: dict[tuple[str, str, float], list[dict]] = {}
    for line in lines():
        found.setdefault((line["verb"], line["cell"], line["seconds"]), []).append(line)
    for (verb, cell, seconds), some in sorted(found.items()):
        keys = [k for k in some[0] if k not in ("verb", "cell", "seed", "seconds")]
        words = "  ".join(f"{k} {statistics.mean(s[k] for s in some):.2f}" for k in keys)
        print(f"{verb:9} {cell:22} {seconds:4g} s  seeds {len(some)}  {words}")


def main() -> None:
    """One verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=[*VERBS, "table"])
    parser.add_argument("--only", nargs="+", default=[""])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.parent.mkdir(exist_ok=True)
    if asked.verb != "table":
        cells, run = VERBS[asked.verb]
        done = {(x["verb"], x["cell"], x["seed"], x["seconds"]) for x in lines()}
        for seed in asked.seeds:
            for cell in cells:
                key = (asked.verb, cell, seed, asked.seconds)
                if key in done or not any(word in cell for word in asked.only):
                    continue
                line = dict(zip(("verb", "cell", "seed", "seconds"), key, strict=True)) | run(cell, seed, asked.seconds)
                with RESULTS.open("a") as f:
                    f.write(json.dumps(line) + "\n")
                print(line, flush=True)
    table()


if __name__ == "__main__":
    main()
