"""Discriminative: p(y | x), where the event y is a label or a number and x is what is given.

    label     p(y = k | x) = softmax(f(x))_k
    number    p(y | x) = N(u(y); f(x), s^2)     s from held-out residuals; with a network s = s(x)
    linear    f(x) = W x + b                    network    f(x) = a residual perceptron of x

A Model like any other whose event is the answer, so it needs no new hook: `fit(labels, "discriminative", given=...)`.
Several entries of y are independent given x. A number at a resolution has the mass of its bin.
Offers sample, log_prob (of observed entries too), condition, all exact, and score where y is a standard vector.
linear: logistic or ridge regression by scikit-learn, whose weights are copied into tensors; the penalty, and the spread
of a number, by held-out rows. network: maximum likelihood; givens are dropped while training, so that each may be
missing. Where every given is missing, linear answers with the shares (or the normal law) of the training rows.
References: Cox 1958; Hoerl and Kennard 1970; Ng and Jordan 2001 (beside the generative way).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pofx.data import Batch, Data
from pofx.engines.bins import LOG_2PI, Columns, log_interval
from pofx.kinds.base import Space
from pofx.kinds.joined import numbers_of
from pofx.model import Card, Conditional, Given, Model, Player, Report, Unsupported, Value
from pofx.nn.conditioner import drop
from pofx.nn.mlp import MLP
from pofx.randomness import Rng

PENALTIES = (1e-2, 1e-1, 1.0, 10.0, 100.0)  # tried, where none is asked for
NARROWEST = 1e-3  # spread of a number, in its standard deviations


class Discriminative(Model):
    """A classifier or a regressor as a distribution of its answer.

    Args:
        method: "linear" (logistic or ridge regression) or "network".
        penalty: L2 penalty of the linear weights; None chooses by held-out rows.
        width, depth, dropout: of the network.
        lr, weight_decay: of its training.
    """

    card = Card(
        density="exact, fast",
        sampling="fast",
        training="convex, or maximum likelihood",
        latents="none",
        architecture="linear or a perceptron",
        branch=("explicit", "tractable"),
        incomplete="observed loss: a missing answer is left out",
        summary="the answer given the question: logistic and linear regression, or a network, as a distribution",
        reference="Cox 1958; Ng and Jordan 2001",
    )
    diagram = (("x", "line or network"), ("line or network", "p(y | x)"), ("p(y | x)", "y", "draw"))

    def __init__(
        self,
        *,
        method: str = "linear",
        penalty: float | None = None,
        width: int = 64,
        depth: int = 2,
        dropout: float = 0.1,
        lr: float = 2e-3,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__()
        if method not in ("linear", "network"):
            raise ValueError(f"discriminative: method is {method!r}; expected 'linear' or 'network'.")
        self.method, self.penalty, self.width, self.depth, self.dropout = method, penalty, width, depth, dropout
        self.lr, self.weight_decay = lr, weight_decay

    @property
    def closed(self) -> bool:
        return self.method == "linear"

    def _build(self) -> None:
        if not self.given:
            raise Unsupported("discriminative learns p(y | x) and is given no x; name it: fit(y, ..., given=x).")
        variables = [self.space.variable(i) for i in range(self.space.size)]
        self.widths = [v.levels if v.discrete else 2 for v in variables]
        self.labels = [i for i, v in enumerate(variables) if v.discrete]
        self.numbers = [i for i, v in enumerate(variables) if not v.discrete]
        if self.numbers:
            self.columns = Columns.of(numbers_of([variables[i] for i in self.numbers]))
        self.features = sum(_width(space) for space in self.given.values())
        size = sum(self.widths)
        if self.method == "network":
            self.body = MLP(self.features, size, self.width, self.depth, dropout=self.dropout, zero=True)
            return
        self.register_buffer("weight", torch.zeros(self.features, size, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("alone", torch.zeros(size, dtype=torch.float64))  # where nothing is given

    # x as numbers
    def _design(self, given: Given, rows: int, keep: dict[str, Tensor] | None = None) -> Tensor:
        """Features `(rows, F)`: standardised numbers, indicators of codes, and whether each given is there."""
        parts = []
        for name, space in self.given.items():
            if name not in given:
                parts.append(torch.zeros(rows, _width(space), dtype=torch.float64, device=self.device))
                continue
            c = given[name].reshape(rows, space.size).double()
            own = [_encoded(c[:, _entries(space, k)], space.variable(k)) for k in range(_kinds(space))]
            own.append(torch.ones(rows, 1, dtype=torch.float64, device=c.device))
            part = torch.cat(own, 1)
            parts.append(part if keep is None else part * keep[name].unsqueeze(1))
        return torch.cat(parts, 1)

    def _params(self, given: Given, rows: int) -> list[Tensor]:
        """Of each entry: logits `(rows, K)`, or mean and log spread `(rows, 2)` in standard coordinates."""
        if self.method == "network":
            return self._split(self.body(self._design(given, rows).float()).double())
        if not given:
            return self._split(self.alone.expand(rows, -1))
        return self._split(self._design(given, rows) @ self.weight + self.bias)

    def _split(self, params: Tensor) -> list[Tensor]:
        return list(params.split(self.widths, 1))

    def shares(self, given: Given) -> Tensor:
        """p(y = k | x), `(B, K)`, of a single label; ValueError where y is something else."""
        if self.labels != [0] or self.numbers:
            raise ValueError("discriminative: shares are of one label; ask log_prob.")
        batch, flat = self._flat_given(given, ())
        return self._params(flat, math.prod(batch))[0].softmax(1).reshape(*batch, -1)

    # fitting
    def _players(self) -> list[Player]:
        if self.method == "linear":
            return []
        return [Player("model", list(self.parameters()), self._loss, lr=self.lr, weight_decay=self.weight_decay)]

    def _loss(self, batch: Batch, rng: Rng) -> Tensor:
        keep = drop(self.given, len(batch), rng)
        params = self._split(self.body(self._design(batch.given, len(batch), keep).float()).double())
        log_p = self._entries(params, batch.x.reshape(len(batch), self.space.size))
        observed = torch.ones_like(log_p, dtype=torch.bool) if batch.observed is None else batch.observed.flatten(1)
        return -torch.where(observed, log_p, torch.zeros_like(log_p)).sum(1).mean()

    def _fit_closed(self, data: Data, rng: Rng, report: Report) -> None:
        train, held = _held_out(data, rng)
        z, held_z = (self._design(rows.given, len(rows)) for rows in (train, held))
        for i in range(self.space.size):
            (y, seen), (held_y, held_seen) = (self._entry(rows, i) for rows in (train, held))
            at = sum(self.widths[:i])
            place = slice(at, at + self.widths[i])
            fit = self._fit_label if i in self.labels else self._fit_number
            found = fit(i, z[seen], y[seen], held_z[held_seen], held_y[held_seen])
            self.weight[:, place], self.bias[place], self.alone[place] = found
            if not report():
                break
        report({"step": 1, "loss": -float(self._log_prob(train.x, train.given, train.observed, 1, rng).value.mean())})

    def _fit_label(self, i: int, z: Tensor, y: Tensor, held_z: Tensor, held_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        levels = self.widths[i]
        counts = torch.bincount(y.long(), minlength=levels).double()
        alone = ((counts + 0.5) / (counts.sum() + 0.5 * levels)).log()
        if int((counts > 0).sum()) < 2:
            return self.weight.new_zeros(self.features, levels), alone, alone
        best: tuple[float, Any] = (math.inf, None)
        for penalty in self._penalties(len(held_y)):
            weight, bias = _logistic(z.numpy(), y.long().numpy(), levels, penalty, alone)
            log_p = (held_z @ weight + bias).log_softmax(1)
            loss = -float(log_p.gather(1, held_y.long().unsqueeze(1)).mean()) if len(held_y) else 0.0
            if loss < best[0]:
                best = loss, (weight, bias, alone)
        return best[1]

    def _fit_number(
        self, i: int, z: Tensor, y: Tensor, held_z: Tensor, held_y: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        columns = self.columns.take([self.numbers.index(i)])
        u, held_u = (columns.coordinates(v.unsqueeze(1)).squeeze(1) for v in (y, held_y))
        middle, floor = u.mean() if len(u) else u.new_zeros(()), NARROWEST
        spread = float((u - middle).square().mean().sqrt()) if len(u) else 1.0
        alone = torch.tensor([float(middle), math.log(max(spread, floor))], dtype=torch.float64)
        best: tuple[float, Any] = (math.inf, None)
        for penalty in self._penalties(len(held_u)):
            slope = _ridge(z, u - middle, penalty)
            gap = held_u - middle - held_z @ slope if len(held_u) else u - middle - z @ slope
            rest = float(gap.square().mean().sqrt()) if len(gap) else 1.0
            if rest < best[0]:
                bias = torch.stack([middle, middle.new_tensor(math.log(max(rest, floor)))])
                best = rest, (torch.stack([slope, torch.zeros_like(slope)], 1), bias, alone)
        return best[1]

    def _entry(self, rows: Batch, i: int) -> tuple[Tensor, Tensor]:
        """Entry i of y, and where it is observed."""
        x = rows.x.reshape(len(rows), self.space.size)[:, i].double()
        seen = torch.ones(len(x), dtype=torch.bool)
        return x, seen if rows.observed is None else rows.observed.reshape(len(rows), self.space.size)[:, i]

    def _penalties(self, held: int) -> tuple[float, ...]:
        if self.penalty is not None:
            return (self.penalty,)
        return PENALTIES if held >= 20 else (1.0,)

    # hooks
    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        log_p = self._entries(self._params(given, len(x)), x.reshape(len(x), self.space.size))
        if observed is not None:
            log_p = torch.where(observed.reshape(log_p.shape), log_p, torch.zeros_like(log_p))
        return Value(log_p.sum(1))

    def _entries(self, params: list[Tensor], x: Tensor) -> Tensor:
        """log p of each entry, `(B, D)`, in the data's units."""
        out: list[Tensor] = [x.new_zeros(0)] * self.space.size
        for i in self.labels:
            code = x[:, i].long().clamp(0, self.widths[i] - 1)
            log_p = params[i].log_softmax(1).gather(1, code.unsqueeze(1)).squeeze(1)
            out[i] = log_p.masked_fill(code != x[:, i], -torch.inf)
        for k, i in enumerate(self.numbers):
            out[i] = self._log_number(k, params[i], x[:, i : i + 1]).squeeze(1)
        return torch.stack(out, 1)

    def _log_number(self, k: int, params: Tensor, y: Tensor) -> Tensor:
        columns, y = self.columns.take([k]).to(y.device), y.double()
        mean, log_s = params[:, :1], params[:, 1:].clamp_min(math.log(NARROWEST))
        if bool(columns.step > 0):
            a, b = columns.edges(y)
            log_p = log_interval((a - mean) / log_s.exp(), (b - mean) / log_s.exp())
        else:
            u = columns.coordinates(y)
            log_p = -0.5 * (((u - mean) / log_s.exp()).square() + LOG_2PI) - log_s + columns.log_slope(u)
        return log_p.masked_fill(~columns.inside(y), -torch.inf)

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        params = self._params(given, count)
        out = torch.zeros(count, self.space.size, dtype=torch.float64, device=self.device)
        for i in self.labels:
            out[:, i] = rng.categorical(params[i]).double()
        if self.numbers:
            own = torch.stack([params[i] for i in self.numbers], 1)
            spread = own[..., 1].clamp_min(math.log(NARROWEST)).exp()
            u = own[..., 0] + spread * rng.normal((count, len(self.numbers)), torch.float64)
            out[:, self.numbers] = self.columns.to(u.device).restore(u)
        return out.reshape(count, *self.space.shape).to(self.space.torch_dtype)

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        def sample(n: int, rng: Rng) -> Tensor:
            many = {k: v.repeat(n, *[1] * (v.ndim - 1)) for k, v in given.items()}
            with torch.no_grad():
                return torch.where(observed, x, self._sample(n * len(x), many, rng).reshape(n, *x.shape))

        return Conditional(sample, lambda full: self._log_prob(full, given, ~observed, 1, Rng(0)))


def _logistic(z: Any, y: Any, levels: int, penalty: float, alone: Tensor) -> tuple[Tensor, Tensor]:
    """Weights `(F, K)` and biases `(K,)`; a code that no row has keeps its small share."""
    from sklearn.linear_model import LogisticRegression

    peer = LogisticRegression(C=1 / penalty, max_iter=300).fit(z, y)
    coefficient, intercept = torch.from_numpy(peer.coef_), torch.from_numpy(np.atleast_1d(peer.intercept_))
    if len(peer.classes_) == 2:
        zero = torch.zeros_like(coefficient)
        coefficient, intercept = torch.cat([zero, coefficient]), torch.cat([torch.zeros_like(intercept), intercept])
    weight, bias = coefficient.new_zeros(z.shape[1], levels), alone.clone() - alone.max()
    codes = torch.from_numpy(peer.classes_).long()
    weight[:, codes], bias[codes] = coefficient.T, intercept
    return weight, bias


def _ridge(z: Tensor, u: Tensor, penalty: float) -> Tensor:
    """The slopes `(F,)`; the middle of u is not penalised."""
    from sklearn.linear_model import Ridge

    return torch.from_numpy(Ridge(alpha=penalty, fit_intercept=False).fit(z.numpy(), u.numpy()).coef_)


def _kinds(space: Space) -> int:
    return 1 if space.shared else space.size


def _entries(space: Space, k: int) -> Any:
    return slice(None) if space.shared else slice(k, k + 1)


def _width(space: Space) -> int:
    """Features of a given: one for each number, K for each code, and one that says that it is there."""
    entries = [space.variable(i) for i in range(space.size)]
    return 1 + sum(v.levels if v.discrete else 1 for v in entries)


def _encoded(c: Tensor, v: Any) -> Tensor:
    if not v.discrete:
        return (c - v.mean) / v.scale
    return nn.functional.one_hot(c.long().clamp(0, v.levels - 1), v.levels).double().flatten(1)


def _held_out(data: Data, rng: Rng) -> tuple[Batch, Batch]:
    train = data.part("train")
    if len(data.split.get("valid", ())) >= 20:
        return train, data.part("valid")
    if len(train) < 50:
        return train, train.take(torch.arange(0))
    order, count = rng.permutation(len(train)), len(train) // 5
    return train.take(order[count:]), train.take(order[:count])
