"""AdaIN: features take the means and deviations of others', and a picture is told from them, coarse to fine.

    adain(f, g)      = dev(g) (f - mean(f)) / dev(f) + mean(g)              channel by channel, over the places
    recoloured(f, g) = T (f - mean(f)) + mean(g),   T cov(f) T = cov(g)     of few channels: colours, which go together
    h_l = up(h_{l+1}) + (A_l r_l)(1 + tanh(B_l t_l)) + n (C_l r_l),   h_l <- h_l + V_l relu(U_l relu(h_l))
    y_l = up(y_{l+1}) + O_l h_l

t_l are the features wanted at level l (0 the finest), r_l what a first picture lacks of them, n noise. No layer but B
has a constant, so nothing is painted where nothing lacks: r = 0 gives y = 0, whatever the weights.

References: Huang and Belongie 2017 (arXiv:1703.06868); covariances, Li 2017 (arXiv:1705.08086); coarse
to fine, Lai 2017 (arXiv:1704.03915).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .mlp import zero_

LEAST = 1e-4  # variance below which a channel counts as flat


def adain(content: Tensor, style: Tensor) -> Tensor:
    """Content `(B, C, H, W)` with the mean and deviation of each channel of the style `(B, C, h, w)`."""
    (m, s), (m_to, s_to) = (_moments(f) for f in (content, style))
    return (content - m) * (s_to / s) + m_to


def _moments(f: Tensor) -> tuple[Tensor, Tensor]:
    mean = f.mean((2, 3), keepdim=True)  # three times as fast as var_mean
    return mean, ((f - mean).square().mean((2, 3), keepdim=True) + LEAST).sqrt()


def recoloured(content: Tensor, style: Tensor) -> Tensor:
    """Content `(B, C, H, W)` with the means and the covariance of the style `(B, C, h, w)`, moved the least."""
    (m, s), (m_to, s_to) = (_spread(f) for f in (content, style))
    root, inverse = _power(s, 0.5), _power(s, -0.5)
    change = inverse @ _power(root @ s_to @ root, 0.5) @ inverse
    flat = content.flatten(2)
    return (change.to(flat) @ (flat - m) + m_to).reshape(content.shape)


def _spread(f: Tensor) -> tuple[Tensor, Tensor]:
    """Means `(B, C, 1)` and covariance `(B, C, C)`, in float64 so that one's own inverse undoes it."""
    flat = f.flatten(2)
    mean = flat.mean(2, keepdim=True)
    rest = (flat - mean).double()
    return mean, rest @ rest.mT / flat.shape[2] + LEAST * torch.eye(f.shape[1], dtype=torch.float64, device=f.device)


def _power(covariance: Tensor, power: float) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(LEAST**2).pow(power)[:, None]) @ vectors.mT


class Touch(nn.Module):
    """What is added at one level: the features that lack, seen beside those wanted.

    Args:
        channels: of the features. width: of the picture as it is painted.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.lacking = nn.Conv2d(channels, 2 * width, 1, bias=False)
        self.gate = nn.Conv2d(channels, width, 1)
        self.first = nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate", bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate", bias=False)
        self.colours = zero_(nn.Conv2d(width, 3, 1, bias=False))

    def forward(self, h: Tensor, wanted: Tensor, lack: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """h `(B, width, H, W)` and features `(B, channels, H, W)` -> h and colours `(B, 3, H, W)`."""
        seen, scattered = self.lacking(lack).chunk(2, 1)
        h = h + seen * (1 + torch.tanh(self.gate(wanted))) + noise * scattered
        h = h + self.second(functional.relu(self.first(functional.relu(h))))
        return h, self.colours(h)


class Painter(nn.Module):
    """Features wanted and lacking at each level, finest first -> what to add to the picture.

    Args:
        channels: of the features at every level. levels: at most so many. width: channels of the layers.
    """

    def __init__(self, channels: int, levels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.touches = nn.ModuleList(Touch(channels, width) for _ in range(levels))

    def forward(self, wanted: Sequence[Tensor], lack: Sequence[Tensor], noise: Tensor) -> Tensor:
        """Lists of `(B, channels, H_l, W_l)`, noise `(B, 1, H_0, W_0)` -> `(B, 3, H_0, W_0)`."""
        coarsest = wanted[-1]
        h = coarsest.new_zeros(len(coarsest), self.width, *coarsest.shape[-2:])
        y = h[:, :3]
        for level in reversed(range(len(wanted))):
            size = wanted[level].shape[-2:]
            h, y = (functional.interpolate(p, size=size, mode="bilinear", align_corners=False) for p in (h, y))
            h, more = self.touches[level](h, wanted[level], lack[level], noise[..., : size[0], : size[1]])
            y = y + more
        return y
