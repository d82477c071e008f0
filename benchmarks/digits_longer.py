"""Digits with a longer budget: the autoregressive family, told the digit and how each training picture was moved.

    python benchmarks/digits_longer.py [--budget "150 cpu s"] [--members 2] [--seed 0] [--plain]

Little data over-fits long before the budget ends. Here every training picture also appears moved by one pixel; the move
and the digit are *given*: p(x | digit, move). Held-out pictures are asked about with the move "none" (distribution
augmentation, Jun et al. 2020, arXiv:2006.06666), and `Joint` sums over the digit: p(x) = sum_c p(c) p(x | c, none), an
exact log p of the picture alone; no label of a held-out picture is used. Several such models, of different seeds, are
then one equal mixture, whose log p is exact too. With --plain: nothing given.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch

import pofx
from pofx.data import Data
from pofx.kinds.base import category
from pofx.model import Model
from pofx.tasks.density import bits_per_dim, density
from pofx.wrappers import Ensemble, Fixed, joint

MOVES = [(0, 0), *((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0))]


def moved(data: Data) -> Data:
    """The data given digit and move; half of the training rows stay where they are, half are moved in one of 8 ways."""
    train, (label, digits) = data.split["train"], data.aside["label"]
    copies, labels, codes = [data.x], [label], [torch.zeros(len(data), dtype=torch.long)]
    for code, (i, j) in enumerate(MOVES):
        for _ in range(7 if code == 0 else 1):
            copies.append(shifted(data.x[train], i, j))
            labels.append(label[train])
            codes.append(torch.full((len(train),), code))
    x = torch.cat(copies)
    new = torch.arange(len(data), len(x))
    split = {**data.split, "train": torch.cat([train, new])}
    bigger = replace(data, x=x, aside={}, split=split, name="digits-moved")
    return bigger.with_given({
        "move": (torch.cat(codes), category(len(MOVES), "move")),
        "label": (torch.cat(labels), digits),
    })  # fmt: skip


def unmoved(model: Model, data: Data) -> Model:
    """p(x) of pictures that were not moved, whatever the digit."""
    return joint(Fixed(model, {"move": torch.tensor(0)}), data.aside["label"][0][data.split["train"]])


def shifted(x: torch.Tensor, i: int, j: int) -> torch.Tensor:
    """Pictures (N, H, W, C) moved by (i, j) pixels; what enters is blank."""
    out = torch.zeros_like(x)
    h, w = x.shape[1:3]
    rows, columns = slice(max(i, 0), h + min(i, 0)), slice(max(j, 0), w + min(j, 0))
    out[:, rows, columns] = x[:, max(-i, 0) : h - max(i, 0), max(-j, 0) : w - max(j, 0)]
    return out


def main() -> None:
    """Fit several members one after the other and print bits per dimension on the 300 held-out digits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="150 cpu s", help="of each member")
    parser.add_argument("--members", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the first member")
    parser.add_argument("--plain", action="store_true", help="without the moves")
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--dropout", type=float, default=0.3)
    asked = parser.parse_args()
    data, start, members = pofx.open_data("digits", test=300, seed=asked.seed), time.process_time(), []
    for k in range(asked.members):
        model = pofx.fit(
            data if asked.plain else moved(data), "autoregressive", budget=asked.budget, seed=asked.seed + k, threads=1,
            hyper_parameters={"width": asked.width, "dropout": asked.dropout},
        )  # fmt: skip
        members.append(model if asked.plain else unmoved(model, data))
        for one in (members[-1:], members):
            answer = density(Ensemble(one), data.part("test"))
            bits = bits_per_dim(answer.value, data.space)
            stderr = float(bits.std()) / len(bits) ** 0.5
            print(
                f"{len(one)} member(s): {float(bits.mean()):.4f} +- {stderr:.4f} bits/dim, "
                f"{answer.quality.value}; {time.process_time() - start:.0f} CPU s so far",
                flush=True,
            )


if __name__ == "__main__":
    main()
