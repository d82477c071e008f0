"""Plain networks without normalisation: a vector to one number (an energy), and one for both sides of a GAN.

    ScalarMLP    h <- h + W2 silu(W1 silu(h)),    f = w . silu(h) + (W c) . silu(h) / sqrt(width)
    LeakyMLP     h <- leaky(W h) from [x, c]
    LeakyCritic  f = w . h(x') + (W c) . h(x') / sqrt(width), or f of [x', c];  x' = x and the waves of its numbers
    Waves        x, sin(2^k w x) / 2^(k/2), cos(2^k w x) / 2^(k/2)

Without normalisation rows do not see each other and f grows at most linearly, so that exp(-f) times a normal density
can be normalised. On small data a game of two plain leaky networks is learnt several times faster than one of
normalised residual ones. `convnet.ConvCritic` is the scalar body for pictures.

References: residual branches without normalisation (Zhang 2019, arXiv:1901.09321); projection of the condition (Miyato
2018, arXiv:1802.05637); waves of a few coordinates (Tancik 2020, arXiv:2006.10739).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .convnet import ConvCritic
from .mlp import check_condition

Weigh = Callable[[Tensor], Tensor]


class ScalarMLP(nn.Module):
    """(B, d_in), c (B, c_dim) -> (B,), or (B, d_out) where d_out > 1.

    Args:
        d_in: numbers in.
        width, depth: features and number of residual blocks (or of plain layers after the first).
        c_dim: size of the condition, 0 for none.
        d_out: numbers out; only 1 takes a condition.
        residual: h <- h + W2 silu(W1 silu(h)); False: h <- W1 silu(h).
    """

    def __init__(
        self, d_in: int, width: int, depth: int, c_dim: int = 0, d_out: int = 1, residual: bool = True
    ) -> None:
        super().__init__()
        self.c_dim, self.width, self.d_out, self.residual = c_dim, width, d_out, residual
        self.inlet = nn.Linear(d_in, width)
        self.first: Any = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        second = [nn.Linear(width, width) for _ in range(depth if residual else 0)]
        self.second: Any = nn.ModuleList(second)
        self.outlet = nn.Linear(width, d_out)
        self.project = nn.Linear(c_dim, width) if c_dim else None
        with torch.no_grad():
            for layer in second:
                layer.weight.mul_(0.3)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, d_in) -> (B,) or (B, d_out)."""
        return self._out(F.silu(self._hidden(x)[-1]), c)

    def slope(self, x: Tensor, c: Tensor | None = None, weigh: Weigh | None = None) -> Tensor:
        """The gradient of f in x (B, d_in), written out: chains need no graph of it.

        With several outputs, `weigh` says from f (B, d_out) which sum of them, (B, d_out), has its gradient taken.
        """
        h = self._hidden(x)
        return self._back(h, c, None if weigh is None else weigh(self._out(F.silu(h[-1]), c)))

    def value_and_slope(self, x: Tensor, c: Tensor | None = None, weigh: Weigh | None = None) -> tuple[Tensor, Tensor]:
        """f of x (B, d_in), and its `slope`."""
        h = self._hidden(x)
        f = self._out(F.silu(h[-1]), c)
        return f, self._back(h, c, None if weigh is None else weigh(f))

    def _hidden(self, x: Tensor) -> list[Tensor]:
        """What stands before each silu, the last one's in front of the outlet."""
        h = [F.linear(x, self.inlet.weight, self.inlet.bias)]
        for k, first in enumerate(self.first):
            h.append(F.linear(F.silu(h[-1]), first.weight, first.bias))
            if self.residual:
                second = self.second[k]
                h.append(h[-2] + F.linear(F.silu(h[-1]), second.weight, second.bias))
        return h

    def _back(self, h: list[Tensor], c: Tensor | None, weights: Tensor | None) -> Tensor:
        """The gradient in x from what `_hidden` gave."""
        back = self.outlet.weight if weights is None else weights @ self.outlet.weight
        if c is not None:
            back = back + self.project(c) / self.width**0.5  # type: ignore[misc]
        back = _before_silu(back, h[-1])
        for k in range(len(self.first) - 1, -1, -1):
            if not self.residual:
                back = _before_silu(back @ self.first[k].weight, h[k])
                continue
            through = _before_silu(back @ self.second[k].weight, h[2 * k + 1])
            back = back + _before_silu(through @ self.first[k].weight, h[2 * k])
        return back @ self.inlet.weight

    def _out(self, h: Tensor, c: Tensor | None) -> Tensor:
        f = self.outlet(h)
        f = f[:, 0] if self.d_out == 1 else f
        if c is None:
            return f
        check_condition(c, self.c_dim)
        assert self.project is not None
        return f + (self.project(c) * h).sum(1) / self.width**0.5


def chosen(g: Tensor, given: Mapping[str, Tensor]) -> Tensor:
    """g (B, K) of the one code given, or log sum exp of all without one: (B,)."""
    return g.gather(1, next(iter(given.values())).long().reshape(-1, 1))[:, 0] if given else torch.logsumexp(g, 1)


def chosen_weights(g: Tensor, given: Mapping[str, Tensor]) -> Tensor:
    """The slope of `chosen` in g, (B, K)."""
    return F.one_hot(next(iter(given.values())).long().reshape(-1), g.shape[1]).to(g) if given else g.softmax(1)


class ConvLogits(nn.Module):
    """(B, C, H, W) -> (B, d_out): the trunk of a `ConvCritic` with several numbers out.

    Args:
        shape: (C, H, W) of a picture.
        width: channels at full size.
        d_out: numbers out.
    """

    def __init__(self, shape: Sequence[int], width: int, d_out: int) -> None:
        super().__init__()
        self.trunk = ConvCritic(shape, width).trunk
        self.outlet = nn.Linear(self.trunk.features, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, d_out)."""
        return self.outlet(self.trunk(x, None))


def _before_silu(back: Tensor, h: Tensor) -> Tensor:
    """A gradient after silu(h), in front of it."""
    back = back.expand_as(h)
    return _SiluBack.apply(back, h) if torch.is_grad_enabled() else torch.ops.aten.silu_backward(back, h)


class _SiluBack(torch.autograd.Function):
    """back silu'(h), whose own gradient takes fewer passes over memory than the one torch derives."""

    @staticmethod
    def forward(ctx: Any, back: Tensor, h: Tensor) -> Tensor:
        ctx.save_for_backward(back, h)
        return torch.ops.aten.silu_backward(back, h)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (g,), (back, h) = grads, ctx.saved_tensors
        s = torch.sigmoid(h)
        t = 1 - s
        if torch.is_grad_enabled():  # somebody wants the gradient of this one too
            bend = s * t * (2 + h * (t - s)) * g * back
        else:
            bend = t.sub(s).mul_(h).add_(2).mul_(t).mul_(s).mul_(g).mul_(back)
        return _before_silu(g, h), bend


class LeakyMLP(nn.Module):
    """(B, d_in), c (B, c_dim) -> (B, d_out), with leaky rectifiers.

    Args:
        d_in, d_out: numbers in and out.
        width, depth: features and number of layers after the first.
        c_dim: size of the condition, 0 for none.
    """

    def __init__(self, d_in: int, d_out: int, width: int, depth: int, c_dim: int = 0) -> None:
        super().__init__()
        self.c_dim = c_dim
        sizes = [d_in + c_dim, *[width] * (depth + 1), d_out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True))

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, d_in) -> (B, d_out)."""
        if c is not None:
            check_condition(c, self.c_dim)
            x = torch.cat([x, c], -1)
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x), 0.2)
        return self.layers[-1](x)


class Waves(nn.Module):
    """(B, d_in) -> (B, size): x beside sines and cosines of its first numbers, so that fine structure is seen at once.

    Args:
        d_in: numbers in.
        first: how many of them have waves.
        octaves: waves of each; the k-th has the angular frequency 2^k lowest.
        lowest: angular frequency of the longest wave.
    """

    frequency: Tensor

    def __init__(self, d_in: int, first: int, octaves: int, lowest: float = 2.0) -> None:
        super().__init__()
        self.first, self.size = first, d_in + 2 * first * octaves
        self.register_buffer("frequency", lowest * 2.0 ** torch.arange(octaves), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, d_in) -> (B, size)."""
        angle = x[:, : self.first, None] * self.frequency
        # short waves of full size would hide long ones, by which far clusters are found
        size = (self.frequency[0] / self.frequency).sqrt()
        return torch.cat([x, (size * angle.sin()).flatten(1), (size * angle.cos()).flatten(1)], 1)


class Projection(nn.Module):
    """(B, features), c (B, c_dim) -> (B,): w . h + (W c) . h / sqrt(features).

    Args:
        features: numbers in.
        c_dim: size of the condition, 0 for none.
    """

    def __init__(self, features: int, c_dim: int = 0) -> None:
        super().__init__()
        self.features, self.c_dim = features, c_dim
        self.outlet = nn.Linear(features, 1)
        self.project = nn.Linear(c_dim, features) if c_dim else None

    def forward(self, h: Tensor, c: Tensor | None = None) -> Tensor:
        """h (B, features) -> (B,)."""
        score = self.outlet(h)[:, 0]
        if c is None:
            return score
        check_condition(c, self.c_dim)
        assert self.project is not None
        return score + (self.project(c) * h).sum(1) / self.features**0.5


class LeakyCritic(nn.Module):
    """(B, d_in), c (B, c_dim) -> (B,).

    Args:
        d_in: numbers in.
        width, depth: features and number of layers after the first.
        c_dim: size of the condition, 0 for none.
        projection: c as a projection of the features; False: c beside x.
        waved, octaves: how many leading numbers have how many waves each.
    """

    def __init__(
        self,
        d_in: int,
        width: int,
        depth: int,
        c_dim: int = 0,
        projection: bool = True,
        waved: int = 0,
        octaves: int = 0,
    ) -> None:
        super().__init__()
        self.waves = Waves(d_in, waved, octaves) if waved * octaves else None
        size = d_in if self.waves is None else self.waves.size
        self.beside = c_dim if not projection else 0
        self.body = LeakyMLP(size, width, width, depth - 1, self.beside)
        self.head = Projection(width, c_dim if projection else 0)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, d_in) -> (B,)."""
        x = x if self.waves is None else self.waves(x)
        h = self.body(x, c if self.beside else None)
        return self.head(F.leaky_relu(h, 0.2), None if self.beside else c)
