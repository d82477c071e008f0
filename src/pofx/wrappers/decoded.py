"""Decoded: what a decoder gives where it gives points and no likelihood.

    Point     x = G(z)
    Charted   x = chart(u),  u of a decoder in the chart

Both draw and have a mean; neither has a log p, for the width around a point would be our choice and not the model's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pofx.kinds.base import Space
from pofx.kinds.likelihood import Likelihood
from pofx.kinds.relax import Chart
from pofx.model import Unsupported
from pofx.randomness import Rng


class Point(Likelihood):
    """All mass at the parameters, which are x itself, flat `(*batch, size)`.

    Args:
        space: what one x is.
        name: of the model, for its refusal.
    """

    def __init__(self, space: Space, name: str) -> None:
        self.space, self.name, self.size = space, name, space.size

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Raises Unsupported: a point has no density."""
        raise Unsupported(f"{self.name}: what it decodes is a point, not a likelihood; it has no log p.")

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        """The point, `(*batch, *event)`."""
        return params.reshape(*params.shape[:-1], *self.space.shape).to(self.space.torch_dtype)

    def mean(self, params: Tensor) -> Tensor:
        """The point in float64, `(*batch, *event)`."""
        return params.reshape(*params.shape[:-1], *self.space.shape).double()


class Charted(Likelihood):
    """What is decoded in a chart, in the data's own units.

    Args:
        chart: from x to u.
        inner: of u.
        name: of the model, for its refusal.
    """

    def __init__(self, chart: Chart, inner: Likelihood, name: str) -> None:
        self.chart, self.inner, self.name = chart, inner, name

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Raises Unsupported: u is not seen through the chart's noise."""
        raise Unsupported(f"{self.name}: it decodes into the chart, where x is a cloud; it has no log p of x.")

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        """One x per row, `(B, *event)`."""
        return self.chart.decode(self.inner.sample(params, rng), rng)

    def mean(self, params: Tensor) -> Tensor:
        """The likeliest x at the mean of u, `(B, *event)` float64; a code of a category is not averaged.

        Its slope is that of x before it is rounded, where there are no categories; rounded numbers have none.
        """
        u = self.inner.mean(params).to(torch.float32)
        with torch.no_grad():
            x = self.chart.decode(u).double()
        if self.chart.codes or not (torch.is_grad_enabled() and u.requires_grad):
            return x
        smooth = self.chart.unrounded(u)
        return x + (smooth - smooth.detach())
