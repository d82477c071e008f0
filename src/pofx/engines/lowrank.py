"""Low rank: a normal law of many entries whose covariance is that of some rows, and a diagonal.

    u = m + s (B^T e + sqrt(d) w),   e ~ N(0, I_n),  w ~ N(0, I_D)         covariance  s^2 (B^T B + diag d)
    log p by Woodbury:  (B^T B + d)^-1 = d^-1 - d^-1 B^T M^-1 B d^-1,   M = I + B d^-1 B^T
    given some entries u_o:  e | u_o ~ N(M_o^-1 B_o d_o^-1 (u_o - m_o) / s, M_o^-1)

Everything goes through the n rows, or D where they are fewer; no larger matrix is made. Offers `LowRank`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pofx.randomness import Rng

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class LowRank:
    """Covariance B^T B + diag(d): B `(n, D)`, d `(D,)` > 0."""

    B: Tensor
    d: Tensor

    @classmethod
    def of_rows(cls, rows: Tensor, shrinkage: float, floor: float) -> LowRank:
        """The covariance of centred rows `(n, D)`, of which a share is moved to its diagonal."""
        diagonal = rows.square().mean(0).clamp_min(floor)
        B = rows * math.sqrt((1 - shrinkage) / max(1, len(rows)))
        if len(B) > B.shape[1]:
            B = torch.linalg.qr(B, mode="r").R  # R^T R = B^T B
        return cls(B, shrinkage * diagonal)

    def part(self, seen: Tensor) -> LowRank:
        """The law of some entries, mask `(D,)`."""
        return LowRank(self.B[:, seen], self.d[seen])

    def log_prob(self, gap: Tensor, scale: Tensor) -> Tensor:
        """log density of u - m `(B, D)` with s `(B,)`: `(B,)`, float64."""
        if not gap.shape[1]:
            return gap.new_zeros(len(gap), dtype=torch.float64)
        z = gap / scale[:, None]
        root, turned = self._turned(z)
        square = (z.square() / self.d).sum(1).double() - turned.square().sum(0)
        log_det = self.d.double().log().sum() + 2 * root.diagonal().log().sum()
        D = gap.shape[1]
        return -0.5 * (square + log_det + D * LOG_2PI) - D * scale.double().log()

    def sample(self, n: int, rng: Rng) -> Tensor:
        """Deviations for s = 1, `(n, D)`."""
        e, w = rng.normal((n, len(self.B))).to(self.B), rng.normal((n, len(self.d))).to(self.B)
        return e @ self.B + self.d.sqrt() * w

    def rest(self, gap: Tensor, scale: Tensor, seen: Tensor, n: int, rng: Rng) -> Tensor:
        """Deviations `(n, B, D)` for s = 1 of all entries, given those that the mask `(D,)` sees of u - m `(B, D)`."""
        some = self.part(seen)
        z = gap[:, seen] / scale[:, None]
        root, turned = some._turned(z)
        back = root.T
        mean = torch.linalg.solve_triangular(back, turned, upper=True).T  # (B, n)
        noise = rng.normal((len(root), n * len(gap)), torch.float64)
        spread = torch.linalg.solve_triangular(back, noise, upper=True).T.reshape(n, len(gap), -1)
        e = (mean + spread).to(self.B)
        w = rng.normal((n, len(gap), len(self.d))).to(self.B)
        return e @ self.B + self.d.sqrt() * w

    def expected(self, gap: Tensor, scale: Tensor, seen: Tensor) -> Tensor:
        """The mean of those deviations, `(B, D)`."""
        some = self.part(seen)
        root, turned = some._turned(gap[:, seen] / scale[:, None])
        return torch.linalg.solve_triangular(root.T, turned, upper=True).T.to(self.B) @ self.B

    def _turned(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The Cholesky root L of M, and L^-1 B d^-1 z^T `(n, B)`, float64."""
        scaled = self.B / self.d
        M = (scaled @ self.B.T).double()
        root = torch.linalg.cholesky(M + torch.eye(len(M)).to(M))
        return root, torch.linalg.solve_triangular(root, (scaled @ z.T).double(), upper=False)
