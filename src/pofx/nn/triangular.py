"""Autoregressive maps of vectors: entry i is changed as the entries before it say.

    z_i = f(u_i; a_i(u_1, ..., u_{i-1}, c)),     log_det = sum_i log f',     dz/du is triangular

Forward is one pass of a masked network. Back, u_i needs a_i, which needs u_1 .. u_{i-1}. `sequential` computes of the
network just what each new entry adds: a hidden unit that sees the first m entries is computed once, when they are
known, so that D steps together cost about one pass. `MaskedBody` is a MADE with residual layers, one linear map each.

References: MADE (Germain 2015, arXiv:1502.03509); inverse autoregressive flow (Kingma 2016, arXiv:1606.04934); masked
autoregressive flow (Papamakarios 2017, arXiv:1705.07057); ResMADE (Nash 2019, arXiv:1904.05626).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .bijections import Bijection
from .masked import MaskedLinear
from .mlp import Modulation, check_condition
from .splines import Monotone

Update = Callable[[Tensor, Tensor], Tensor]  # (some rows, their numbers) -> the same rows, one round later
Solver = Callable[[Update, Tensor, int], Tensor]  # (update, start, most rounds) -> the fixed point


class MaskedBody(nn.Module):
    """Entries before i, and c -> the numbers that steer entry i: u `(B, d)` -> `(numbers, d, B)`.

    Args:
        d: entries.
        numbers: raw numbers for one entry.
        width: hidden units, at least d.
        depth: hidden layers after the first.
        c_dim: size of the condition, 0 for none.
        dropout: probability after each hidden layer.
    """

    def __init__(self, d: int, numbers: int, width: int, depth: int, c_dim: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        width, self.d, self.numbers = max(width, d), d, numbers
        least = -1 if c_dim or d == 1 else 0  # units of degree -1 see c alone
        degree = least + torch.arange(width) * (d - 1 - least) // width  # unit j sees the entries up to degree[j]
        self.ends = [int((degree < i).sum()) for i in range(d)]  # how many units know enough at entry i
        entry = torch.arange(d)
        self.inlet = MaskedLinear(degree[:, None] >= entry)
        same = degree[:, None] >= degree
        self.layers = nn.ModuleList(MaskedLinear(same, 0.5) for _ in range(depth))
        self.modulations = nn.ModuleList(Modulation(c_dim, width) for _ in range(depth + 1))
        self.outlet = MaskedLinear((entry[:, None] > degree).repeat(numbers, 1), 0.1)
        self.drop = nn.Dropout(dropout)

    def forward(self, u: Tensor, c: Tensor | None = None) -> Tensor:
        """The numbers of all entries."""
        # rows run last throughout: with both orders in one pass half of the gradient's steps are strided, and slow
        films, everything = [_film(m, c) for m in self.modulations], slice(None)
        h = self.inlet.columns(u.t().contiguous())
        for layer, film in zip(self.layers, films, strict=False):
            assert isinstance(layer, MaskedLinear)
            h = h + self.drop(layer.columns(F.silu(_modulated(h, film, everything))))
        raw = self.outlet.columns(F.silu(_modulated(h, films[-1], everything)))
        return raw.view(self.numbers, self.d, len(u))

    def begin(self, rows: int, c: Tensor | None = None) -> Walk:
        """Start from no entry; see `Walk.numbers`."""
        return Walk(self, rows, c)


class Walk:
    """A masked body evaluated entry by entry; every hidden unit is computed once, as soon as what it sees is known."""

    def __init__(self, body: MaskedBody, rows: int, c: Tensor | None) -> None:
        self.body, self.done, numbers, d = body, 0, body.numbers, body.d
        self.layers = [body.inlet, *body.layers]
        self.weights = [layer.masked for layer in self.layers]
        self.outlet = body.outlet.masked.view(numbers, d, -1).transpose(0, 1).contiguous()
        self.bias = body.outlet.bias.view(numbers, d).t()[:, :, None]
        self.films = [_film(m, c) for m in body.modulations]
        self.known = [Growing(body.inlet.out_features, rows, self.outlet) for _ in self.layers]

    def numbers(self, u: Tensor) -> Tensor:
        """Of entry i, from the entries before it, u `(i, B)`: `(numbers, B)`. To be asked in the order of i."""
        i = len(u)
        end = self.body.ends[i]
        if end > self.done:
            self._grow(u, end)
            self.done = end
        return torch.addmm(self.bias[i], self.outlet[i, :, :end], self.known[-1].upto(end))

    def _grow(self, u: Tensor, end: int) -> None:
        new, source, h = slice(self.done, end), u, None
        for layer, weight, film, known in zip(self.layers, self.weights, self.films, self.known, strict=True):
            step = torch.addmm(layer.bias[new, None], weight[new, : len(source)], source)
            h = step if h is None else h + step
            known.append(F.silu(_modulated(h, film, new)))
            source = known.upto(end)


class Growing:
    """Rows that are added one block after the other, in place where nothing is to be differentiated."""

    def __init__(self, most: int, columns: int, like: Tensor) -> None:
        self.all = None if torch.is_grad_enabled() else like.new_empty(most, columns)
        self.parts, self.size = like.new_empty(0, columns), 0

    def append(self, rows: Tensor) -> None:
        """Add some rows."""
        end = self.size + len(rows)
        if self.all is None:
            self.parts = torch.cat([self.parts, rows])
        else:
            self.all[self.size : end] = rows
        self.size = end

    def upto(self, end: int) -> Tensor:
        """The first rows."""
        return self.parts[:end] if self.all is None else self.all[:end]


def _film(modulation: nn.Module, c: Tensor | None) -> Tensor | None:
    """Scales and shifts of all units, `(2 width, B)`."""
    assert isinstance(modulation, Modulation)
    if c is None:
        return None
    check_condition(c, modulation.c_dim)
    assert modulation.affine is not None
    return torch.addmm(modulation.affine.bias[:, None], modulation.affine.weight, c.t())


def _modulated(h: Tensor, film: Tensor | None, rows: slice) -> Tensor:
    if film is None:
        return h
    scale, shift = film.chunk(2)
    return h * (1 + scale[rows]) + shift[rows]


class Autoregressive(Bijection):
    """The masked autoregressive map of a vector, in the order in which its entries stand.

    Args:
        body: steers it.
        monotone: the map of one entry.
        solver: finds the inverse as the fixed point of u -> f^-1(z; a(u)) instead of entry by entry.
    """

    def __init__(self, body: MaskedBody, monotone: Monotone, solver: Solver | None = None) -> None:
        super().__init__()
        self.body, self.monotone, self.solver = body, monotone, solver

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_slope = self.monotone(u.t(), self.body(u, c))
        return z.t(), log_slope.sum(0)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        if self.solver is None:
            return self.sequential(z, c)

        def update(u: Tensor, rows: Tensor) -> Tensor:
            return self.monotone(z[rows].t(), self.body(u, None if c is None else c[rows]), True)[0].t()

        return self.solver(update, z, z.shape[1])

    def sequential(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """The inverse entry by entry, exact."""
        walk, z = self.body.begin(len(z), c), z.t()
        u = Growing(len(z), z.shape[1], z)
        for i in range(len(z)):
            raw = walk.numbers(u.upto(i))
            u.append(self.monotone(z[i : i + 1], raw[:, None], True)[0])
        return u.upto(len(z)).t()
