"""Components: K distributions over some columns, in the forms whose EM updates are closed.

    Table    p_k(x_j = l) = (T_j t_jk)_l              t = (n_jk + a f_j) / (sum n_jk + a);  T_j = I, or blurs an order
    Binned   p_k(x_j) = Phi((b - m)/s) - Phi((a - m)/s)   m, s^2 from the moments of the normal inside each bin

A third form, Normal, has a file of its own. a is `smoothing`, in pseudo-observations, and f the marginal frequencies:
the updates maximise the penalised likelihood, so it never falls. A missing entry is integrated out exactly everywhere.
References: Dempster, Laird and Rubin 1977; Fraley and Raftery 2007 (the prior); Little and Rubin 2002 (gaps).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.engines.bins import interval_moments, log_interval
from pofx.randomness import Rng

STAYS = 0.1  # of a blurred level, the share that is seen where it is


class Block(nn.Module, ABC):
    """K components over some columns. Parameters are buffers, sized when fitted or loaded."""

    smoothing: float

    @abstractmethod
    def prepare(self, x: Any, mask: Tensor | None, train: bool = False) -> Any:
        """Whatever can be computed from the rows once, before many calls of `log_prob`."""

    @abstractmethod
    def start(self, rows: Any, components: int) -> None:
        """Size the parameters and set the prior from the marginal of the rows."""

    @abstractmethod
    def log_prob(self, rows: Any) -> Tensor:
        """log p_k of the observed columns of each row, `(N, K)`."""

    @abstractmethod
    def maximise(self, rows: Any, R: Tensor) -> None:
        """Update the parameters from responsibilities `(N, K)`."""

    @abstractmethod
    def log_prior(self) -> Tensor:
        """The log prior that the updates maximise along with the likelihood."""

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in list(self._buffers):  # the number of components is only known from the file
            if prefix + name in state:
                self._buffers[name] = torch.empty_like(state[prefix + name])
        super()._load_from_state_dict(state, prefix, *rest)


class Table(Block):
    """A table of probabilities for each column; codes `(N, J)`.

    `blur` smooths ordered columns: the table is T q with a fixed T of that width in levels, and q is what is fitted.
    """

    sizes: Tensor
    offsets: Tensor
    column: Tensor
    log_p: Tensor
    sharp: Tensor
    prior: Tensor

    def __init__(self, levels: list[int], smoothing: float, blur: list[float] | None = None) -> None:
        super().__init__()
        self.levels, self.smoothing = levels, smoothing
        self.blur = [0.0] * len(levels) if blur is None else blur
        sizes, column = torch.tensor(levels), torch.arange(len(levels))
        self.register_buffer("sizes", sizes, persistent=False)
        self.register_buffer("offsets", sizes.cumsum(0) - sizes, persistent=False)
        self.register_buffer("column", torch.repeat_interleave(column, sizes), persistent=False)
        for name in ("log_p", "sharp", "prior"):
            self.register_buffer(name, torch.zeros(sum(levels), 1, dtype=torch.float64))

    def prepare(self, x: Tensor, mask: Tensor | None, train: bool = False) -> tuple[Tensor, Tensor | None]:
        index = torch.minimum(x.long().clamp_min(0), self.sizes - 1) + self.offsets
        return index, None if mask is None else mask.double()

    def start(self, rows: tuple[Tensor, Tensor | None], components: int) -> None:
        count = _count(*rows, rows[0].new_ones(len(rows[0]), 1).double(), len(self.column))
        count += 1 / self.sizes[self.column, None]  # the marginal is never zero
        self.prior = self._normalised(count)
        self.sharp = self.prior.repeat(1, components)
        self.log_p = self._blurred(self.sharp, False).log()

    def log_prob(self, rows: tuple[Tensor, Tensor | None]) -> Tensor:
        return F.embedding_bag(rows[0], self.log_p, mode="sum", per_sample_weights=rows[1])

    def maximise(self, rows: tuple[Tensor, Tensor | None], R: Tensor) -> None:
        count = _count(*rows, R, len(self.column))
        # the share of each sharp level in what was seen at the levels around it: an EM step within the M step
        sharp = self.sharp * self._blurred(count * (-self.log_p).exp(), True)
        self.sharp = self._normalised(sharp + max(self.smoothing, 1e-9) * self.prior)
        self.log_p = self._blurred(self.sharp, False).log()

    def log_prior(self) -> Tensor:
        return self.smoothing * (self.prior * self.sharp.log()).sum()

    def sample(self, pick: Tensor, rng: Rng) -> Tensor:
        """Codes `(n, J)` of the components `pick` `(n,)`."""
        tables = self.log_p.split(self.levels)
        return torch.stack([rng.categorical(t.T[pick]) for t in tables], 1).double()

    def _blurred(self, values: Tensor, back: bool) -> Tensor:
        """T values (or its transpose), where T_lz is the chance that the sharp level z is seen as l."""
        out = values.clone()
        for levels, blur in sorted(set(zip(self.levels, self.blur, strict=True))):
            if blur > 0:
                same = [j for j, form in enumerate(zip(self.levels, self.blur, strict=True)) if form == (levels, blur)]
                index = (self.offsets[same].unsqueeze(1) + torch.arange(levels, device=values.device)).flatten()
                T = _transition(levels, blur).to(values)
                part = values[index].unflatten(0, (-1, levels))
                out[index] = ((T.mT if back else T) @ part).flatten(0, 1)
        return out

    def _normalised(self, count: Tensor) -> Tensor:
        total = count.new_zeros(len(self.levels), count.shape[1]).index_add_(0, self.column, count)
        return count / total[self.column]


class Binned(Block):
    """A normal for each column, seen through bins; edges a, b `(N, J)` each, possibly infinite."""

    def __init__(self, columns: int, smoothing: float) -> None:
        super().__init__()
        self.columns, self.smoothing = columns, smoothing
        for name in ("mean", "variance", "prior"):
            self.register_buffer(name, torch.ones(1, columns, dtype=torch.float64))

    def prepare(self, x: tuple[Tensor, Tensor], mask: Tensor | None, train: bool = False) -> tuple[Tensor, ...]:
        index, low, high, column, size = [], [], [], [], 0
        for j in range(self.columns):  # each bin of a column is computed once, however many rows fall into it
            edges, which = torch.unique(torch.stack([x[0][:, j], x[1][:, j]], 1), dim=0, return_inverse=True)
            index.append(which + size)
            low.append(edges[:, 0])
            high.append(edges[:, 1])
            column.append(torch.full_like(which[:1], j).expand(len(edges)))
            size += len(edges)
        weight = None if mask is None else mask.double()
        return torch.stack(index, 1), weight, torch.cat(low), torch.cat(high), torch.cat(column)  # type: ignore[return-value]

    def start(self, rows: tuple[Tensor, ...], components: int) -> None:
        index, weight, low, high, _ = rows
        centre = _centre(low, high)[index]
        mean, self.prior = marginal(centre, weight, components)
        self.mean, self.variance = mean.repeat(components, 1), self.prior.repeat(components, 1)

    def log_prob(self, rows: tuple[Tensor, ...]) -> Tensor:
        return F.embedding_bag(rows[0], self._log_mass(rows)[0], mode="sum", per_sample_weights=rows[1])

    def maximise(self, rows: tuple[Tensor, ...], R: Tensor) -> None:
        column, (log_mass, a, b) = rows[4], self._log_mass(rows)
        count = _count(rows[0], rows[1], R, len(column))
        first, second = interval_moments(a, b, log_mass)
        zero = count.new_zeros(self.columns, count.shape[1])
        n, n1, n2 = (zero.index_add(0, column, v).T for v in (count, count * first, count * second))
        spread, n = self.variance.sqrt(), n + 1e-9  # an empty component stays where it is
        shift = n1 / n
        scatter = (n2 - n * shift.square()).clamp_min(0) * self.variance
        self.mean = self.mean + spread * shift
        self.variance = (scatter + self.smoothing * self.prior) / (n + self.smoothing)

    def log_prior(self) -> Tensor:
        return -0.5 * self.smoothing * (self.variance.log() + self.prior / self.variance).sum()

    def sample(self, pick: Tensor, rng: Rng) -> Tensor:
        """u `(n, J)` of the components `pick` `(n,)`, not yet rounded to a bin."""
        z = rng.normal((len(pick), self.columns), torch.float64)
        return self.mean[pick] + self.variance.sqrt()[pick] * z

    def _log_mass(self, rows: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        low, high, column = rows[2:]
        mean, spread = self.mean.T[column], self.variance.sqrt().T[column]
        a, b = ((e.unsqueeze(1) - mean) / spread for e in (low, high))
        return log_interval(a, b), a, b


def _transition(levels: int, blur: float) -> Tensor:
    """T_lz: a share stays at z, the rest spreads to the levels around it; the two ends stay (they are often spikes)."""
    level = torch.arange(levels, dtype=torch.float64)
    T = (-0.5 * ((level.unsqueeze(1) - level) / blur).square()).exp()
    T[:, 0], T[:, -1] = 0.0, 0.0
    T[0, 0] = T[-1, -1] = 1.0
    return (1 - STAYS) * T / T.sum(0) + STAYS * torch.eye(levels, dtype=torch.float64)


def _count(index: Tensor, weight: Tensor | None, R: Tensor, size: int) -> Tensor:
    """The responsibilities of the rows that have each value: `(size, K)`."""
    count = R.new_zeros(size, R.shape[1])
    for j in range(index.shape[1]):
        count.index_add_(0, index[:, j], R if weight is None else R * weight[:, j : j + 1])
    return count


def _centre(low: Tensor, high: Tensor) -> Tensor:
    low, high = torch.where(low.isinf(), high, low), torch.where(high.isinf(), low, high)
    return ((low + high) / 2).nan_to_num(0.0, 0.0, 0.0)


def marginal(u: Tensor, weight: Tensor | None, components: int) -> tuple[Tensor, Tensor]:
    """The mean of every column, and its variance over K^(2/J): how wide a component is before it has seen a row."""
    weight = torch.ones_like(u) if weight is None else weight
    n = weight.sum(0, keepdim=True).clamp_min(1)
    mean = (u * weight).sum(0, keepdim=True) / n
    variance = ((u - mean).square() * weight).sum(0, keepdim=True) / n
    return mean, variance.clamp_min(1e-6) / math.pow(components, 2 / u.shape[1])
