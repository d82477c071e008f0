"""Jacobi iteration: the fixed point of a triangular map, all entries at once.

    u <- F(u),   where F(u)_i depends on u_1 .. u_{i-1} only

After k rounds the first k entries are exact, so D rounds always suffice; where distant entries hardly matter, far
fewer do. Rows leave as soon as a round moves none of their entries by more than the tolerance.
References: parallel evaluation of feed-forward computation (Song 2021, arXiv:2002.03629); selective Jacobi decoding
(Zhang 2025, arXiv:2505.24791).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FixedPoint:
    """What was found.

    Args:
        value: `(B, D)`.
        rounds: how often all (remaining) entries were computed.
        change: how far the last round moved each row, `(B,)`; 0 where the bound of `most` rounds was reached.
    """

    value: Tensor
    rounds: int
    change: Tensor


def jacobi(update: Callable[[Tensor, Tensor], Tensor], start: Tensor, most: int, tolerance: float = 0.0) -> FixedPoint:
    """Iterate u <- update(u, rows) until no entry moves by more than the tolerance, or `most` rounds.

    Args:
        update: some rows `(b, D)` and their numbers `(b,)` -> the same rows, one round later.
        start: `(B, D)`, any finite numbers; the nearer, the fewer rounds.
        most: rounds after which the result is exact whatever the start: D for a triangular map.
        tolerance: of the change of an entry; 0 goes on until nothing moves.
    """
    u, change = start.clone(), start.new_zeros(len(start))
    rows = torch.arange(len(start), device=start.device)
    for k in range(most):
        new = update(u[rows], rows)
        moved = (new - u[rows]).abs().flatten(1).amax(1)
        u[rows], change[rows] = new, moved
        rows = rows[~(moved <= tolerance)]
        if len(rows) == 0:
            return FixedPoint(u, k + 1, change)
    change[rows] = 0  # exact: every entry stands on exact ones
    return FixedPoint(u, most, change)
