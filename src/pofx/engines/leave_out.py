"""Leave out: a normal law of rows with gaps, and what it says of every entry from the other known entries of its row.

    P = inv(S_oo)   (zeros elsewhere)      r = (u - m)_o          E[u | u_o] = m + S P r
    without the entries G of u_o:          E[u_G | rest] = u_G - inv(P_GG) (P r)_G
                                           E[u | rest] = E[u | u_o] - B_G (u_G - E[u_G | rest]),   B = S P

One inverse for each row gives all leave-one-out predictions (the identity behind PRESS). m and S are fitted by EM.
References: Little and Rubin 2002, section 11.2; Rasmussen and Williams 2006, equations 5.10 to 5.12.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 2**23  # numbers in a block of rows x P x P


@dataclass(frozen=True)
class Known:
    """What a normal law says of rows u `(N, P)` given their known entries `seen`.

    mean: E[u | u_o], u itself where known. variance: of each entry, 0 where known. whole: all covariances `(N, P, P)`.
    precision, gain: P and B of the file's head. centre: m.
    """

    u: Tensor
    seen: Tensor
    mean: Tensor
    variance: Tensor
    whole: Tensor
    precision: Tensor
    gain: Tensor
    centre: Tensor

    def without(self, group: list[int]) -> Tensor:
        """E of all entries `(N, P)` given the known entries outside the group."""
        rows, mean = self.seen[:, group[0]].nonzero().squeeze(1), self.mean.clone()
        if not len(rows):
            return mean
        inner = self.precision[rows][:, group][:, :, group]
        pull = (self.precision[rows][:, group] @ self._gap(rows).unsqueeze(2)).squeeze(2)
        off = (torch.linalg.inv(inner) @ pull.unsqueeze(2)).squeeze(2)  # u_G - E[u_G | rest]
        mean[rows] -= (self.gain[rows][:, :, group] @ off.unsqueeze(2)).squeeze(2)
        at = torch.tensor(group)
        mean[rows[:, None], at] = self.u[rows[:, None], at] - off
        others = self.seen[rows].clone()
        others[:, group] = False
        mean[rows] = torch.where(others, self.u[rows], mean[rows])
        return mean

    def _gap(self, rows: Tensor) -> Tensor:
        return torch.where(self.seen[rows], self.u[rows] - self.centre, torch.zeros_like(self.u[rows]))


def known(u: Tensor, seen: Tensor, m: Tensor, s: Tensor) -> Known:
    """The law N(m, s) given the known entries of each row; u `(N, P)` float64, seen `(N, P)` bool."""
    o = seen.to(u.dtype)
    both = o.unsqueeze(2) * o.unsqueeze(1)
    block = s * both + torch.diag_embed(1 - o)
    precision = torch.linalg.inv(block) * both
    gain = s @ precision
    gap = torch.where(seen, u - m, torch.zeros_like(u))
    mean = torch.where(seen, u, m + (gain @ gap.unsqueeze(2)).squeeze(2))
    hidden = (1 - o).unsqueeze(2) * (1 - o).unsqueeze(1)
    whole = (s - gain @ s) * hidden
    whole = (whole + whole.transpose(1, 2)) / 2
    return Known(u, seen, mean, whole.diagonal(dim1=1, dim2=2).clamp_min(0), whole, precision, gain, m)


def normal_em(
    u: Tensor,
    seen: Tensor,
    weight: Tensor,
    iterations: int = 60,
    shrinkage: float = 1e-3,
    tolerance: float = 1e-4,
    time_left: Callable[[], bool] = lambda: True,
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of rows with gaps by EM, the covariance shrunk a little towards its diagonal."""
    count = (seen * weight.unsqueeze(1)).sum(0).clamp_min(1e-9)
    m = (torch.where(seen, u, torch.zeros_like(u)) * weight.unsqueeze(1)).sum(0) / count
    s, share = torch.eye(u.shape[1], dtype=u.dtype), weight / weight.sum()
    for _ in range(iterations):
        mean, extra = u.clone(), torch.zeros_like(s)
        for rows in blocks(len(u), u.shape[1]):
            law = known(u[rows], seen[rows], m, s)
            mean[rows] = law.mean
            extra += torch.einsum("n,nij->ij", share[rows], law.whole)
        m = share @ mean
        fresh = (mean - m).T @ ((mean - m) * share.unsqueeze(1)) + extra
        fresh = (1 - shrinkage) * fresh + shrinkage * torch.diag(fresh.diagonal() + 1e-6)
        moved, s = float((fresh - s).abs().max()), fresh
        if moved < tolerance or not time_left():
            break
    return m, s


def blocks(rows: int, width: int) -> tuple[Tensor, ...]:
    """Row numbers in blocks that keep (rows, width, width) small."""
    return torch.arange(rows).split(max(1, BLOCK // max(width * width, 1)))
