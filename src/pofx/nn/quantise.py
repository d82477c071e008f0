"""Codebook: vectors to the nearest of K codes, which follow the vectors that chose them.

    k(h) = argmin_k |h - e_k|^2           e_k <- running mean of the h with k(h) = k
    z_q  = h + stop(e_k - h)              the gradient passes straight through

The codes are buffers, not parameters. The first batch seeds them; a code that hardly any vector chooses any more is
moved onto a vector of the batch. In a data-parallel fit all processes share the sums.

References: VQ-VAE, with the running means of its appendix A.1 (van den Oord 2017, arXiv:1711.00937); straight through
(Bengio 2013, arXiv:1308.3432); restarts of dead codes (Dhariwal 2020, arXiv:2005.00341).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..randomness import Rng

DEAD = 0.03  # of the use that all codes would have if they shared it, below which a code is dead


class Codebook(nn.Module):
    """K codes of d numbers.

    Args:
        K: codes.
        d: numbers of a code.
        decay: of the running means, a step.
    """

    codes: Tensor
    count: Tensor
    total: Tensor

    def __init__(self, K: int, d: int, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("codes", torch.randn(K, d))
        self.register_buffer("count", torch.zeros(K))
        self.register_buffer("total", torch.zeros(K, d))

    def nearest(self, h: Tensor) -> Tensor:
        """The codes' numbers 0 .. K - 1 `(...,)` of vectors `(..., d)`."""
        codes = self.codes.to(h.dtype)
        # |h|^2 is the same for every code
        return (codes.square().sum(-1) - 2 * h @ codes.T).argmin(-1)

    def vectors(self, k: Tensor) -> Tensor:
        """e_k, `(..., d)`."""
        return self.codes[k]

    @torch.no_grad()
    def follow(self, h: Tensor, rng: Rng) -> Tensor:
        """Move the codes after vectors `(N, d)` of a training batch; returns their codes `(N,)`."""
        h = h.detach().to(self.codes.dtype)
        some = _of_first(h[rng.integers(len(h), (len(self.codes),)).to(h.device)])
        if not bool(self.count.any()):  # spread out, so that no two codes are the same vector
            self.codes.copy_(some + 1e-3 * h.std() * _of_first(rng.normal(tuple(some.shape)).to(h)))
        k = self.nearest(h)
        one = nn.functional.one_hot(k, len(self.codes)).to(h.dtype)
        count, total = _summed(one.sum(0)), _summed(one.T @ h)
        start = 0.0 if not bool(self.count.any()) else self.decay
        self.count.mul_(start).add_(count, alpha=1 - start)
        self.total.mul_(start).add_(total, alpha=1 - start)
        used = self.count > DEAD * self.count.mean()
        # one at a time would be gentler, but a young codebook has many dead codes
        self.total.copy_(torch.where(used.unsqueeze(-1), self.total, some * self.count.mean()))
        self.count.copy_(torch.where(used, self.count, self.count.mean()))
        self.codes.copy_(self.total / self.count.unsqueeze(-1).clamp_min(1e-6))
        return k


def perplexity(k: Tensor, K: int) -> float:
    """exp of the entropy of the codes `(...,)` in use: K where all are used alike, 1 where one is.

    >>> perplexity(torch.tensor([0, 1, 2, 3]), 8)
    4.0
    """
    share = torch.bincount(k.flatten(), minlength=K).double() / max(1, k.numel())
    return round(float(torch.exp(-torch.special.xlogy(share, share).sum())), 6)


def _parallel() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _summed(t: Tensor) -> Tensor:
    """The sum over all processes."""
    if _parallel():
        torch.distributed.all_reduce(t)
    return t


def _of_first(t: Tensor) -> Tensor:
    """What the first process has."""
    if _parallel():
        torch.distributed.broadcast(t, 0)
    return t
