"""Worlds: laws that are known in closed form, and rows drawn from them.

A world's law is a Model itself (a mixture or a normal with exact answers to everything), so that it, the baselines and
the families are asked the same questions in the same words. What the laws look like was made up; rows are drawn from
the models, so nothing about them is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from pofx.baselines import Independent
from pofx.data import Data, open_data
from pofx.families.gaussian import Gaussian
from pofx.families.mixture import Mixture
from pofx.kinds.base import Space, Variable, category
from pofx.model import Model
from pofx.randomness import Rng

TRAIN, VALID, TEST = 2000, 200, 500


@dataclass(frozen=True)
class World:
    """A law, rows drawn from it, and every column by itself as what no model knows better.

    Args:
        name: what kind of rows they are.
        law: the model that drew them.
        data: train, valid and test rows.
        nothing: columns by themselves, fitted to the training rows.
    """

    name: str
    law: Model
    data: Data
    nothing: Model

    @property
    def train(self) -> Tensor:
        """Training rows `(N, *event)`."""
        return self.data.part("train").x

    @property
    def test(self) -> Tensor:
        """Test rows."""
        return self.data.part("test").x

    def label(self, part: str) -> Tensor:
        """The label of each row of a part, `(N,)`."""
        return self.data.part(part).given["label"]


def vectors() -> World:
    """Four real columns: two long thin clusters, each a plane and a little noise, one for each label."""
    rng = Rng(1)
    turn = torch.linalg.qr(rng.normal((4, 4), torch.float64)).Q
    label = rng.integers(2, (6000,))
    long = rng.normal((6000, 2), torch.float64) * torch.tensor([2.0, 1.0], dtype=torch.float64)
    u = torch.cat([long, 0.15 * rng.normal((6000, 2), torch.float64)], 1)
    u[:, 2] += 1.2 * (2.0 * label - 1)
    x = torch.where(label[:, None] == 1, u, u[:, [1, 0, 2, 3]]) @ turn
    space = Space((4,), tuple(_numbers(f"x{j}", x[:, j]) for j in range(4)))
    law = _fitted(Mixture(components=1, covariance="full", separate="label"), x, space, label, 2)
    return _world("vectors", law, 2)


def pictures() -> World:
    """4 x 4 pictures with 4 levels: bars that lie or stand (the label), at one of two places, each pixel with noise."""
    rng = Rng(2)
    label, place = rng.integers(2, (6000,)), rng.integers(2, (6000,))
    bar = torch.zeros(6000, 4, 4)
    for k in range(6000):
        first = 2 * int(place[k])
        bar[k, first : first + 2] = 2.4
    bar = torch.where(label[:, None, None] == 1, bar, bar.mT)
    x = (bar + 0.3 + 0.5 * rng.normal((6000, 4, 4))).round().clamp(0, 3)[..., None].to(torch.uint8)
    pixel = Variable("pixel", "ordinal", 4, mean=float(x.double().mean()), scale=float(x.double().std()))
    space = Space((4, 4, 1), (pixel,), "grid", "image", "uint8", {"white": 3, "axis": True})
    law = _fitted(Mixture(components=2, separate="label", blur=0.0), x, space, label, 2)
    return _world("pictures", law, 2)


def series() -> World:
    """Twelve steps of a wave of some phase and size, with noise: a normal law."""
    rng = Rng(3)
    waves = rng.normal((6000, 2, 1), torch.float64)
    t = torch.arange(12, dtype=torch.float64) * (2 * math.pi / 8)
    x = (waves * torch.stack([t.sin(), t.cos()])).sum(1) + 0.2 * rng.normal((6000, 12), torch.float64)
    x = x.unsqueeze(2)
    law = _fitted(Gaussian(), x, open_data(x.numpy(), kind="series").space, None, 0)
    return _world("series", law, 0)


def moves() -> World:
    """The next state (two numbers) given the state and a push: a body that slides, with noise."""
    rng = Rng(4)
    state, push = rng.normal((6000, 2), torch.float64), rng.normal((6000, 1), torch.float64)
    x = _moved(state, push) + 0.1 * rng.normal((6000, 2), torch.float64)
    spaces = {"state": _space(state, "s"), "action": _space(push, "a")}
    given = {"state": (state, spaces["state"]), "action": (push, spaces["action"])}
    data = Data(x, _space(x, "next")).splitted(TEST, VALID, 0).with_given(given)
    law = Mixture(components=1, covariance="full", smoothing=1e-6).build(data.space, data.given_spaces)
    law.fit_closed(data, Rng(0))
    return World("moves", law.eval(), data, _columns(data))


def _moved(state: Tensor, push: Tensor) -> Tensor:
    place, speed = state[:, :1], state[:, 1:]
    return torch.cat([0.95 * place + 0.5 * speed, 0.8 * speed + 0.6 * push], 1)


WORLDS: dict[str, Callable[[], World]] = {"vectors": vectors, "pictures": pictures, "series": series, "moves": moves}


@lru_cache(maxsize=8)
def world(name: str) -> World:
    """A world by its name; made once."""
    return WORLDS[name]()


def _numbers(name: str, x: Tensor) -> Variable:
    return Variable(name, mean=float(x.mean()), scale=float(x.std()))


def _space(x: Tensor, name: str) -> Space:
    return Space((x.shape[1],), tuple(_numbers(f"{name}{j}", x[:, j]) for j in range(x.shape[1])))


def _fitted(law: Model, x: Tensor, space: Space, label: Tensor | None, classes: int) -> Model:
    """The law that some made-up rows suggest."""
    data = Data(x, space).splitted(10, 10, 0)
    data = data if label is None else data.with_given({"label": (label, category(classes))})
    law = law.build(space, data.given_spaces)
    law.fit_closed(data, Rng(0))
    return law.eval()


def _world(name: str, law: Model, classes: int) -> World:
    """Rows of the law; where it has classes, as many of each."""
    rng, total = Rng(5), TRAIN + VALID + TEST
    label = rng.permutation(total) % classes if classes else None
    given = None if label is None else {"label": label}
    x = law.sample(total, None, rng) if given is None else law.sample(1, given, rng)[0]
    data = Data(x, law.space, name=name).splitted(TEST, VALID, 0)
    data = data if label is None else data.with_given({"label": (label, category(classes))})
    return World(name, law, data, _columns(data))


def _columns(data: Data) -> Model:
    plain = data.without_given()
    model = Independent().build(plain.space, {})
    model.fit_closed(plain, Rng(0))
    return model.eval()
