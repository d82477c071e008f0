"""Measurements: y = A(x), the same for every row, for the inverse problems that people name.

    mask         y = the entries kept               grey         y = a fixed mean of the channels
    blur         y = x * Gaussian kernel            compressive  y = random signs of all entries, fewer than there are
    downsample   y = means of blocks                quantise     y = x rounded to coarse levels

Each is a callable (B, *event) -> (B, *measured), differentiable (quantise lets the gradient through as it is). Pictures
are (B, H, W, C). A user's own function serves as well.

References: compressive sensing (Candes 2006); straight-through gradients (Bengio 2013, arXiv:1308.3432).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..randomness import Rng

Operator = Callable[[Tensor], Tensor]
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, eq=False)
class Mask:
    """The entries where `keep` (*event) is True, (B, kept)."""

    keep: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, self.keep.flatten()]


@dataclass(frozen=True)
class Blur:
    """A Gaussian blur of pictures with a standard deviation in pixels; the border is mirrored."""

    sigma: float = 1.5

    def __call__(self, x: Tensor) -> Tensor:
        reach = max(1, min(round(3 * self.sigma), min(x.shape[1:3]) - 1))
        t = torch.arange(-reach, reach + 1, dtype=x.dtype)
        k = torch.softmax(-0.5 * (t / self.sigma) ** 2, 0)
        h = F.pad(x.permute(0, 3, 1, 2).flatten(0, 1).unsqueeze(1), (reach,) * 4, mode="reflect")
        h = F.conv2d(F.conv2d(h, k.reshape(1, 1, -1, 1)), k.reshape(1, 1, 1, -1))
        return h.reshape(len(x), x.shape[3], *x.shape[1:3]).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class Downsample:
    """Means of blocks of factor x factor pixels."""

    factor: int = 4

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[1] % self.factor or x.shape[2] % self.factor:
            raise ValueError(f"downsample: {tuple(x.shape[1:3])} pixels do not divide into blocks of {self.factor}.")
        return F.avg_pool2d(x.permute(0, 3, 1, 2), self.factor).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class Grey:
    """The luminance of colour pictures, (B, H, W, 1)."""

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 3:
            raise ValueError(f"grey: got {x.shape[-1]} channels, expected 3.")
        return (x * torch.tensor(LUMA, dtype=x.dtype)).sum(-1, keepdim=True)


@dataclass(frozen=True)
class Compressive:
    """Sums of all entries with random signs over sqrt(D), (B, rows); the signs are a function of the seed."""

    rows: int
    seed: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        signs = 2.0 * Rng(self.seed).bernoulli(0.5, (flat.shape[1], self.rows)).to(x.dtype) - 1
        return flat @ signs / flat.shape[1] ** 0.5


@dataclass(frozen=True)
class Quantise:
    """x rounded to multiples of a step; backwards it is the identity."""

    step: float

    def __call__(self, x: Tensor) -> Tensor:
        return x + (torch.round(x / self.step) * self.step - x).detach()
