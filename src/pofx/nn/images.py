"""What flows on pictures need besides couplings: space to channels, and several scales (real pictures (B, C, H, W)).

    squeeze      (C, H, W) -> (C a b, H / a, W / b)
    multiscale   z = (first half of f_1(u), first half of f_2(second half), ...)

References: RealNVP (Dinh 2016, arXiv:1605.08803); Glow (Kingma 2018, arXiv:1807.03039).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .bijections import Bijection, typed


class Squeeze(Bijection):
    """Space to channels, `(B, C, H, W)` -> `(B, C a b, H / a, W / b)`; a permutation."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        B, C, H, W = u.shape
        z = u.reshape(B, C, H // self.a, self.a, W // self.b, self.b).permute(0, 1, 3, 5, 2, 4)
        return z.reshape(B, C * self.a * self.b, H // self.a, W // self.b), u.new_zeros(B)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        B, C, H, W = z.shape
        u = z.reshape(B, C // (self.a * self.b), self.a, self.b, H, W).permute(0, 1, 4, 2, 5, 3)
        return u.reshape(B, -1, H * self.a, W * self.b)


class Multiscale(Bijection):
    """Levels of a picture: after each but the last, the first half of the channels is done; z `(B, D)` is flat.

    Args:
        levels: one bijection of pictures for each level; the next one acts on the other half of its channels.
        shapes: (C, H, W) of what each level gives.
    """

    def __init__(self, levels: Sequence[Bijection], shapes: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.levels, self.shapes = nn.ModuleList(levels), list(shapes)

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        done: list[Tensor] = []
        log_det = u.new_zeros(len(u))
        for i, level in enumerate(self.levels):
            u, step = level(u, c)
            log_det = log_det + step
            half = u.shape[1] // 2 if i < len(self.levels) - 1 else u.shape[1]
            done.append(u[:, :half].flatten(1))
            u = u[:, half:]
        return torch.cat(done, 1), log_det

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        last = len(self.levels) - 1
        sizes = [math.prod(s) if i == last else s[0] // 2 * s[1] * s[2] for i, s in enumerate(self.shapes)]
        u = z[:, :0].reshape(len(z), 0, *self.shapes[-1][1:])
        for i, part in reversed(list(enumerate(z.split(sizes, 1)))):
            part = part.reshape(len(z), -1, *self.shapes[i][1:])
            u = typed(self.levels)[i].inverse(torch.cat([part, u], 1), c)
        return u
