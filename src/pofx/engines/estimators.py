"""Estimators: gradients of an expectation over draws that are not differentiable, and draws of any torch distribution.

    DisARM   g_j = 1/2 (f(b) - f(b')) (-1)^{b'_j} 1[b_j != b'_j] sigmoid(|a_j|)     b = 1[u > s(-a)],  b' = 1[u < s(a)]
    VIMCO    g   = sum_k (L - L_{-k}) grad log q(z_k) + sum_k w~_k grad log w_k     L = log 1/K sum_k w_k
             L_{-k}: w_k replaced by the geometric mean of the others

Both are unbiased. They give a surrogate: a number whose value is 0 and whose gradient is the estimate.
References: DisARM (Dong 2020, arXiv:2006.10680); VIMCO (Mnih and Rezende 2016, arXiv:1602.06725).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from pofx.randomness import Rng


def antithetic(logits: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
    """Two draws of Bernoulli(sigmoid(logits)), each right by itself, from u and 1 - u; float, of the logits' shape."""
    u, p = rng.uniform(tuple(logits.shape)).to(logits.dtype), torch.sigmoid(logits.detach())
    return (u > 1 - p).to(logits.dtype), (u < p).to(logits.dtype)


def disarm(logits: Tensor, f: Callable[[Tensor], Tensor], rng: Rng) -> tuple[Tensor, Tensor]:
    """E f(b), b ~ Bernoulli(sigmoid(logits)), by an antithetic pair.

    Args:
        logits: `(B, L)`.
        f: b `(B, L)` -> `(B,)`, differentiable in its own parameters.

    Returns:
        The mean of f over the pair `(B,)`, and the surrogate `(B,)` for the logits.
    """
    b, other = antithetic(logits, rng)
    f_b, f_other = f(b), f(other)
    gap = 0.5 * (f_b - f_other).detach().unsqueeze(-1)
    g = gap * (1 - 2 * other) * (b != other) * torch.sigmoid(logits.detach().abs())
    return 0.5 * (f_b + f_other), (g * (logits - logits.detach())).sum(-1)


def vimco(log_w: Tensor, log_q: Tensor) -> Tensor:
    """The surrogate `(B,)` of the score terms of log 1/K sum_k w_k.

    Args:
        log_w: `(K, B)` with K >= 2; its own gradient (the second sum) is not part of the surrogate.
        log_q: log q(z_k) `(K, B)`, with its gradient.
    """
    K = len(log_w)
    fixed = log_w.detach()
    bound = torch.logsumexp(fixed, 0) - math.log(K)
    others = (fixed.sum(0) - fixed) / (K - 1)
    replaced = torch.where(
        torch.eye(K, dtype=torch.bool, device=fixed.device)[:, :, None], others[None], fixed[:, None]
    )
    without = torch.logsumexp(replaced, 0) - math.log(K)  # entry k: w_k replaced
    return ((bound - without) * (log_q - log_q.detach())).sum(0)


def drawn(q: torch.distributions.Distribution, rng: Rng, shape: tuple[int, ...] = ()) -> Tensor:
    """Draws `(*shape, *batch, *event)` of a torch distribution, which knows no generator, from a stream of ours."""
    with torch.random.fork_rng(devices=[rng.device] if rng.device.type == "cuda" else []), torch.no_grad():
        torch.random.manual_seed(rng.seed())
        return q.sample(torch.Size(shape))


class Point(torch.distributions.Distribution):
    """All of q(z | x) in one point `(B, *event)`.

    Args:
        value: the points.
        discrete: whether z is a code, under which the point has probability 1; a point among real numbers has no
            density.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]

    def __init__(self, value: Tensor, discrete: bool) -> None:
        self.value, self.discrete = value, discrete
        super().__init__(value.shape[:1], value.shape[1:], validate_args=False)

    @property
    def support(self) -> Any:
        """Where z lives."""
        constraints = torch.distributions.constraints
        return constraints.integer_interval(0, 2**31) if self.discrete else constraints.real

    @property
    def mean(self) -> Tensor:
        """The point."""
        return self.value

    @property
    def variance(self) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.value)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The point, `(*sample_shape, B, *event)`."""
        return self.value.expand(*sample_shape, *self.value.shape)

    def log_prob(self, z: Tensor) -> Tensor:
        """0 where z is the point and -inf elsewhere, `(..., B)`.

        Raises:
            NotImplementedError: z is continuous.
        """
        if not self.discrete:
            raise NotImplementedError("a point among real numbers has no density.")
        same = (z == self.value).flatten(z.ndim - self.value.ndim + 1)
        return torch.where(same.all(-1), 0.0, -torch.inf)
