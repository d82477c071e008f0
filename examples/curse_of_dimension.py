"""The curse of dimension: how far a kernel density estimate is from a known law, beside a flow and a mixture.

    python examples/curse_of_dimension.py [--rows 2000] [--seconds 12] [--out curse_of_dimension.png]

The law is a mixture of four normals in D = 1, 2, 4, 8, 16 dimensions whose neighbouring coordinates are correlated; all
learn from the same rows. What is printed and drawn is the gap KL(law, model) in nats a row, on 4000 fresh rows: 0 is
perfect, and a gap of g means that the model's density is e^g too low at a typical row. A kernel estimate must
widen its kernels as rows become lonely. A family with the right shape, here the mixture, loses far less; a flow has to
learn the shape, so its gap falls with its seconds and its rows.
"""

from __future__ import annotations

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import pofx
from pofx.data import Data
from pofx.kinds.base import Space, Variable
from pofx.randomness import Rng

DIMENSIONS = (1, 2, 4, 8, 16)
FAMILIES = {"kde": "kernel density", "flow": "flow", "mixture": "mixture of normals"}


def law(d: int) -> MixtureSameFamily:
    """Four normals, about four deviations apart, each with correlations of its own."""
    mean = 4 * Rng(d).normal((4, d), torch.float64) / d**0.5
    rho = torch.tensor([0.8, -0.6, 0.3, 0.0], dtype=torch.float64).reshape(4, 1, 1)
    distance = (torch.arange(d)[:, None] - torch.arange(d)).abs()
    covariance = torch.where(distance == 0, torch.ones_like(rho), rho.sign() ** distance * rho.abs() ** distance)
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    return MixtureSameFamily(Categorical(weights), MultivariateNormal(mean, covariance))


def drawn(p: MixtureSameFamily, n: int, seed: int) -> Tensor:
    """Rows of the law, `(n, D)`."""
    rng, parts = Rng(seed), p.component_distribution
    pick = rng.categorical(p.mixture_distribution.logits.expand(n, -1))
    z = rng.normal((n, parts.mean.shape[1], 1), torch.float64)
    return parts.mean[pick] + (parts.scale_tril[pick] @ z).squeeze(2)


def gaps(d: int, rows: int, seconds: float) -> dict[str, float]:
    """KL(law, model) of every family, in nats a row."""
    p = law(d)
    x, test = drawn(p, rows, 1), drawn(p, 4000, 2)
    variables = tuple(Variable(f"x{j}", mean=float(x[:, j].mean()), scale=float(x[:, j].std())) for j in range(d))
    data = Data(x, Space((d,), variables)).splitted(0.0, 0.1)
    truth, found = p.log_prob(test), {}
    for name in FAMILIES:
        model = pofx.fit(data, name, budget=f"{seconds} cpu s", threads=1, progress=False)
        with torch.no_grad():
            found[name] = float((truth - model.log_prob(test).value.double()).mean())
    return found


def draw(found: dict[int, dict[str, float]], rows: int, path: str) -> None:
    """The gaps against the dimension."""
    figure, axes = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
    for (name, words), marker, tone in zip(FAMILIES.items(), "os^", ("0.1", "C0", "C1"), strict=True):
        axes.plot(list(found), [g[name] for g in found.values()], marker=marker, color=tone, label=words)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(found), [str(d) for d in found])
    axes.set(xlabel="dimension D", ylabel="KL(law, model), nats a row", title=f"{rows} rows of a known law")
    axes.axhline(0, color="0.8", lw=0.8, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Fit, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=12, help="of CPU time for each flow")
    parser.add_argument("--out", default="curse_of_dimension.png")
    asked = parser.parse_args()
    print("D   " + "".join(f"{words:>22}" for words in FAMILIES.values()) + "   (KL in nats a row)")
    found = {}
    for d in DIMENSIONS:
        found[d] = gaps(d, asked.rows, asked.seconds)
        print(f"{d:<4}" + "".join(f"{found[d][name]:22.3f}" for name in FAMILIES), flush=True)
    draw(found, asked.rows, asked.out)
    print(f"drawn in {asked.out}")


if __name__ == "__main__":
    main()
