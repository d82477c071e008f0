"""Score matching and noise contrast: losses of an energy that need no chains.

    explicit    E [ tr grad s(x) + |s(x)|^2 / 2 ]                                s = grad log p~, by D backward passes
    sliced      E [ v.grad(v.s(x)) + |s(x)|^2 / 2 ]       v ~ N(0, I); or (v.s)^2 / 2 in place of |s|^2 / 2
    denoising   E [ |n s(x + n e) + e|^2 / 2 ]            the score of the data with noise of deviation n
    contrast    E_x softplus(-G(x)) + k E_y softplus(G(y)),  G = log p~ - log q - log k,  k draws y ~ q for each x

The first three are the Fisher divergence up to a constant (denoising: from the noised data, times n^2); a constant in
log p~ is of no matter to them. The last one is least where log p~ is log p itself, constant included.

References: Hyvarinen 2005; sliced, Song et al. 2019 (arXiv:1905.07088); denoising, Vincent 2011; noise-contrastive
estimation, Gutmann and Hyvarinen 2010.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..randomness import Rng

Score = Callable[[Tensor], Tensor]


def explicit(score: Score, x: Tensor) -> Tensor:
    """Hyvarinen's loss of rows x (B, *event), (B,); `score` must be differentiable in x."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        s = score(x)
        parts = [
            torch.autograd.grad(s.flatten(1)[:, i].sum(), x, create_graph=True)[0].flatten(1)[:, i]
            for i in range(s[0].numel())
        ]
        return torch.stack(parts).sum(0) + 0.5 * s.flatten(1).square().sum(1)


def sliced(score: Score, x: Tensor, rng: Rng, slices: int = 1, reduced: bool = True) -> Tensor:
    """The sliced loss of rows x (B, *event), (B,), unbiased for the explicit one.

    Args:
        score: differentiable in x.
        x: rows.
        rng: of the directions.
        slices: directions for each row.
        reduced: |s|^2 itself rather than (v.s)^2, whose mean it is: less variance.
    """
    with torch.enable_grad():
        x = x.detach().repeat(slices, *[1] * (x.ndim - 1)).requires_grad_()
        v, s = rng.normal(tuple(x.shape), x.dtype), score(x)
        along = (v * s).flatten(1).sum(1)
        (bend,) = torch.autograd.grad(along.sum(), x, create_graph=True)
        size = s.flatten(1).square().sum(1) if reduced else along.square()
        return ((v * bend).flatten(1).sum(1) + 0.5 * size).unflatten(0, (slices, -1)).mean(0)


def denoising(score: Score, x: Tensor, noise: float, rng: Rng) -> Tensor:
    """The denoising loss of rows x (B, *event), (B,), with noise of that deviation."""
    e = rng.normal(tuple(x.shape), x.dtype)
    with torch.enable_grad():
        s = score((x + noise * e).detach().requires_grad_())
    return 0.5 * (noise * s + e).flatten(1).square().sum(1)


def contrast(on_data: Tensor, on_noise: Tensor) -> Tensor:
    """The logistic loss of data against noise, a scalar; arguments log p~ - log q: (B,) at data, (k B,) at noise."""
    k = len(on_noise) / len(on_data)
    shift = math.log(k)
    return F.softplus(shift - on_data).mean() + k * F.softplus(on_noise - shift).mean()
