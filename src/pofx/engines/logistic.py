"""Discretised logistic mixture over the channels of one pixel, each channel's mean linear in the channels before it.

    P(k_1, ..., k_C) = sum_m pi_m prod_c P_m(k_c | k_{<c}),      P_m = F(x_c + d) - F(x_c - d)
    x = 2 k / (L - 1) - 1,      d = 1 / (L - 1)
    F(x) = sigmoid((x - m_c) / s_c),      m_c = mu_c + sum_{b < c} tanh(a_cb) x_b

The lowest and the highest level take the tails, so the levels sum to one. The channels share one m, which is summed
over the whole pixel: P(k_c | k_{<c}) is the mixture whose weights the channels so far have updated.

References: PixelCNN++ (Salimans 2017, arXiv:1701.05517, section 2.1 and 2.2).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST = -7.0  # of log s


class PixelMixture:
    """The distribution of one pixel.

    Args:
        channels: C.
        levels: L of every channel, at least 2.
        components: of the mixture.
    """

    def __init__(self, channels: int, levels: int, components: int) -> None:
        self.channels, self.levels, self.components = channels, levels, components
        self.size = components * (1 + 2 * channels + channels * (channels - 1) // 2)

    def log_prob(self, params: Tensor, k: Tensor, observed: Tensor | None = None) -> Tensor:
        """log P of each channel given those before it.

        Args:
            params: (..., size).
            k: levels (..., C).
            observed: bool (..., C); a missing channel tells the later ones nothing, and its own number is of no use.

        Returns:
            (..., C), nats.
        """
        log_w, mu, log_s, a = self._split(params)
        x = self._scaled(k, params.dtype)
        x = x if observed is None else torch.where(observed, x, torch.zeros_like(x))
        parts = []
        for c in range(self.channels):
            log_p = self._log_mass(k[..., c : c + 1], self._mean(mu, a, x, c), log_s[..., c, :])
            parts.append(torch.logsumexp(log_w + log_p, -1))
            log_p = log_p if observed is None else torch.where(observed[..., c : c + 1], log_p, torch.zeros_like(log_p))
            log_w = (log_w + log_p).log_softmax(-1)
        return torch.stack(parts, -1).masked_fill((k < 0) | (k >= self.levels) | (k != k.round()), -torch.inf)

    def log_masses(self, params: Tensor, k: Tensor, channel: int) -> Tensor:
        """log P of every level of one channel given the channels before it: params (B, size), k (B, C) -> (B, L)."""
        log_w, mu, log_s, a = self._split(params)
        x = self._scaled(k, params.dtype)
        for c in range(channel):
            log_w = log_w + self._log_mass(k[:, c : c + 1], self._mean(mu, a, x, c), log_s[:, c])
        levels = torch.arange(self.levels, device=k.device)[None, :, None]
        log_p = self._log_mass(levels, self._mean(mu, a, x, channel)[:, None], log_s[:, channel, None])
        return torch.logsumexp(log_w.log_softmax(-1)[:, None] + log_p, -1)

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log pi (..., M), mu and log s (..., C, M), a (..., pairs, M)."""
        pairs = self.channels * (self.channels - 1) // 2
        parts = params.unflatten(-1, (-1, self.components)).split([1, self.channels, self.channels, pairs], -2)
        spread = torch.linspace(-1, 1, self.components, device=params.device, dtype=params.dtype)
        log_pi = parts[0].squeeze(-2).log_softmax(-1)
        return log_pi, parts[1] + spread, (parts[2] - 1.5).clamp_min(LEAST), torch.tanh(parts[3])

    def _mean(self, mu: Tensor, a: Tensor, x: Tensor, c: int) -> Tensor:
        mean, first = mu[..., c, :], c * (c - 1) // 2
        for b in range(c):
            mean = mean + a[..., first + b, :] * x[..., b : b + 1]
        return mean

    def _scaled(self, k: Tensor, dtype: torch.dtype) -> Tensor:
        return (2 * k.to(dtype) / (self.levels - 1)) - 1

    def _log_mass(self, k: Tensor, mean: Tensor, log_s: Tensor) -> Tensor:
        """log P_m of levels k, which broadcasts against mean and log_s (..., M)."""
        s, half = log_s.exp(), 1 / (self.levels - 1)
        z = (self._scaled(k, mean.dtype) - mean) / s
        up, down = z + half / s, z - half / s
        below, above = F.logsigmoid(up), F.logsigmoid(-down)
        inner = below + above + torch.log(-torch.expm1(-2 * half / s))  # log(sigmoid(up) - sigmoid(down))
        return torch.where(k <= 0, below, torch.where(k >= self.levels - 1, above, inner))
