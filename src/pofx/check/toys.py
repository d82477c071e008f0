"""Toys: three small data sets that between them need every support, small enough to add up or to integrate over."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pofx.data import Data
from pofx.kinds.base import Space, Variable, category
from pofx.randomness import Rng


def pictures(rows: int = 600, seed: int = 0) -> Data:
    """2 x 2 binary pictures whose pixels agree with their neighbours: 16 states."""
    rng = Rng(seed)
    energies = torch.tensor([_agreement(state) for state in range(16)])
    code = rng.categorical((0.8 * energies).expand(rows, -1))
    x = (code[:, None] >> torch.arange(4)) & 1
    x = x.reshape(rows, 2, 2, 1).to(torch.uint8)
    mean, scale = float(x.double().mean()), float(x.double().std())
    pixel = Variable("pixel", "ordinal", 2, mean=mean, scale=scale)
    space = Space((2, 2, 1), (pixel,), "grid", "image", "uint8", {"white": 1, "axis": True})
    return Data(x, space, name="2x2 pictures").splitted(0.1, 0.1, seed)


def _agreement(state: int) -> float:
    a, b, c, d = (2.0 * (state >> k & 1) - 1 for k in range(4))
    return a * b + c * d + a * c + 0.3 * b + 0.2 * d


def density(rows: int = 800, seed: int = 0) -> Data:
    """Two correlated real numbers, far from unit scale, from two clusters."""
    rng = Rng(seed)
    which = rng.bernoulli(0.4, (rows, 1)).double()
    e = rng.normal((rows, 2), torch.float64)
    x = torch.cat([3 + 0.5 * e[:, :1], -40 + 8 * e[:, :1] + 6 * e[:, 1:]], 1)
    x = x + which * torch.tensor([2.5, 20.0], dtype=torch.float64)
    variables = tuple(Variable(f"x{j}", mean=float(x[:, j].mean()), scale=float(x[:, j].std())) for j in range(2))
    return Data(x, Space((2,), variables), name="2-D density").splitted(0.1, 0.1, seed)


def table(rows: int = 800, seed: int = 0) -> Data:
    """A rounded number, a bounded one, a category and a yes-no, given a label with three values."""
    rng = Rng(seed)
    label = rng.integers(3, (rows,))
    kind = (label + rng.bernoulli(0.3, (rows,)).long()) % 3
    yes = rng.bernoulli(0.2 + 0.3 * (kind == 1).float(), (rows,)).long()
    age = (40 + 10 * label + 5 * rng.normal((rows,), torch.float64)).round()
    share = torch.sigmoid(rng.normal((rows,), torch.float64) + yes)
    x = torch.stack([age, share, kind.double(), yes.double()], 1)
    mean, scale = x.mean(0).tolist(), x.std(0).tolist()
    variables = (
        Variable("age", resolution=1.0, mean=mean[0], scale=scale[0], integer=True),
        Variable("share", "bounded", low=0.0, high=1.0, mean=mean[1], scale=scale[1]),
        Variable("kind", "category", 3, mean=mean[2], scale=scale[2]),
        Variable("yes", "binary", 2, mean=mean[3], scale=scale[3]),
    )
    data = Data(x, Space((4,), variables), name="mixed table").splitted(0.1, 0.1, seed)
    return data.with_given({"label": (label, category(3))})


TOYS: dict[str, Callable[[], Data]] = {"pictures": pictures, "density": density, "table": table}
