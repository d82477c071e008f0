"""What a step of `fit` costs beyond a plain loop written by hand, on the same VAE, the same rows, the same optimiser.

    OMP_NUM_THREADS=1 python benchmarks/loop_overhead.py [blocks] [steps]

The model is an MLP 784-512-16-512-784 with a Bernoulli loss, 128 rows a step. Blocks of N steps run one after the other
in turn. It is compared with a loop that only descends, and with one that also clips the gradient and averages the
weights, as ours does. Medians of the CPU milliseconds of a step (so that a busy machine matters little), of the paired
differences and of the paired ratios are printed.
"""

import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

from pofx.data import Data
from pofx.kinds.base import Space, Variable
from pofx.model import Card, Model, Player
from pofx.training.budget import Plan
from pofx.training.loop import Loop, Parts
from pofx.training.run import fabric_of

ROWS, SIDE, WIDTH, LATENTS, BATCH = 4096, 28, 512, 16, 128


class Net(nn.Module):
    """Encoder and decoder with one hidden layer each."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(SIDE**2, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2 * LATENTS))
        self.decoder = nn.Sequential(nn.Linear(LATENTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, SIDE**2))

    def loss(self, x, normal):
        x = x.flatten(1).float()
        mean, log_variance = self.encoder(x).chunk(2, 1)
        z = mean + (0.5 * log_variance).exp() * normal((len(x), LATENTS))
        entropy = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        return (entropy + 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum()) / len(x)


class Plain(Model):
    """The same network as a family."""

    card = Card("", "", "", "", "", ("explicit",), "refuses", "a VAE for timing", "")

    def _build(self):
        self.net = Net()

    def _players(self):
        loss = lambda batch, rng: self.net.loss(batch.x, rng.normal)  # noqa: E731
        return [Player("plain", list(self.parameters()), loss, lr=1e-3)]


def by_hand(x, clip):
    """A plain loop: shuffled rows, AdamW; with `clip`, also clipping and an average of the weights."""
    torch.random.manual_seed(0)
    net = Net()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    order, params = torch.randperm(len(x)), list(net.parameters())
    average = [p.detach().clone() for p in params]

    def step(k):
        first = k * BATCH % len(x)
        if first == 0:
            order[:] = torch.randperm(len(x))
        optimiser.zero_grad()
        loss = net.loss(x[order[first : first + BATCH]], torch.randn)
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        if clip and k % 8 == 7:
            torch._foreach_lerp_(average, [p.detach() for p in params], 0.001)

    return step


def by_fit(x):
    """The step of pofx."""
    space = Space((SIDE, SIDE, 1), (Variable(support="binary", levels=2),), "grid", "image", "uint8")
    data = Data(x.reshape(-1, SIDE, SIDE, 1), space).splitted(0.0, 64)
    fabric = fabric_of("cpu")
    plan = Plan(10**6, BATCH, torch.get_num_threads(), "32-true", 0.0, 0, "benchmark")
    return Loop(Plain().build(space), Parts.of(data, fabric.device), plan, fabric).step


def clocked(step, k, steps):
    start = time.process_time()
    for i in range(k, k + steps):
        step(i)
    return 1e3 * (time.process_time() - start) / steps


def main(blocks=20, steps=50):
    x = (torch.rand(ROWS, SIDE**2, generator=torch.Generator().manual_seed(0)) < 0.2).to(torch.uint8)
    ways = {"pofx": by_fit(x), "plain": by_hand(x, False), "plain, clipped and averaged": by_hand(x, True)}
    times = {name: [] for name in ways}
    for step in ways.values():
        clocked(step, 0, 20)
    for block in range(blocks):
        for name in list(ways) if block % 2 else reversed(list(ways)):
            times[name].append(clocked(ways[name], 20 + block * steps, steps))
    print(f"{blocks} blocks of {steps} steps, {torch.get_num_threads()} thread(s); CPU ms a step, median")
    for name in ways:
        line = f"{name:30s} {statistics.median(times[name]):8.3f}"
        if name != "pofx":
            pairs = list(zip(times["pofx"], times[name], strict=True))
            extra, ratio = (statistics.median(f) for f in ([a - b for a, b in pairs], [a / b for a, b in pairs]))
            line += f"   pofx {extra:+.3f} ms, ratio {ratio:.3f}"
        print(line)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
