"""Particles: resample where the weights are uneven.

    effective number = 1 / sum_k w_k^2,      w = softmax(log w)

References: systematic resampling (Kitagawa 1996); Doucet and Johansen 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pofx.randomness import Rng


def resampled(log_w: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
    """Resample the n particles of each row where less than half of them count, systematically.

    Args:
        log_w: log weights (B, n), not necessarily normalised.
        rng: the stream.

    Returns:
        The flat numbers (B n,) of the particles kept, and their log weights (B, n), 0 in rows that were resampled.
    """
    b, n = log_w.shape
    w = log_w.softmax(1)
    uneven = 1 / w.square().sum(1, keepdim=True) < n / 2
    places = (torch.arange(n, device=w.device) + rng.uniform((b, 1), torch.float64)) / n
    chosen = torch.searchsorted(w.cumsum(1).contiguous(), places.contiguous()).clamp_max(n - 1)
    same = torch.arange(n, device=w.device).expand(b, n)
    kept = torch.where(uneven, chosen, same) + n * torch.arange(b, device=w.device)[:, None]
    return kept.flatten(), torch.where(uneven, torch.zeros_like(log_w), log_w)
