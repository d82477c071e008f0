"""Kernels: fast sums of Gaussian kernels over many centres.

    log s(q) = log sum_i exp(-|q - c_i|^2 / 2)                   q, c already divided by the bandwidth

One matrix product gives a block of exponents (q'c - |q|^2/2 - |c|^2/2, in base 2), then `exp2` and a row sum.
What makes it quick and true:

- Both sides are sorted into boxes; a query box takes centre boxes from near to far and stops once all that is left
  cannot add more than a share of 1e-4 to any of its sums (dual-tree pruning, Gray and Moore 2003).
- Every query box is its own origin, so single precision only sees distances near it: data far from zero lose nothing.
- The rounding of each row is bounded afterwards from its own sum; a row whose bound is above `tolerance` is summed
  again in double precision.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG2E = math.log2(math.e)
SHIFT = 64.0  # the nearest centre's term is raised to 2^64: subnormal numbers are slow, and 2^64 N still fits
PRUNED = 1e-4  # what pruning may take from a sum, as a share
QUERY_BOX, CENTRE_BOX, BOXES = 128, 512, 8  # a block of exponents is 128 x 4096 floats: it stays in the cache


def log_kernel_sum(queries: Tensor, centres: Tensor, tolerance: float = 5e-4) -> Tensor:
    """log sum_i exp(-|q - c_i|^2 / 2) for every query.

    Args:
        queries: `(B, J)` float64, divided by the bandwidth.
        centres: `(N, J)` float64, likewise.
        tolerance: the largest rounding, in nats, that single precision is trusted with.

    Returns:
        `(B,)` float64.
    """
    if not len(queries):
        return queries.new_zeros(0)
    origin = centres.mean(0)
    q, c = queries - origin, centres - origin
    boxes = _Boxes(c)
    out = torch.full((len(q),), torch.nan, dtype=torch.float64, device=q.device)
    for dtype in (torch.float32, torch.float64):
        doubtful = out.isnan().nonzero().squeeze(1)
        if not len(doubtful):
            break
        for rows in doubtful[_sorted_rows(q[doubtful], QUERY_BOX)].split(QUERY_BOX):
            out[rows] = boxes.log_sum(q[rows], tolerance, dtype)
    doubtful = out.isnan().nonzero().squeeze(1)
    out[doubtful] = exact_log_kernel_sum(q[doubtful], c)
    return out


def exact_log_kernel_sum(queries: Tensor, centres: Tensor) -> Tensor:
    """The same in double precision, differences squared where the product form would cancel: `(B,)`."""
    out = queries.new_empty(len(queries))
    size = max(1, 2**22 // max(1, len(centres)))
    for start in range(0, len(queries), size):
        distance = torch.cdist(queries[start : start + size], centres, compute_mode="donot_use_mm_for_euclid_dist")
        out[start : start + size] = torch.logsumexp(-0.5 * distance.square(), 1)
    return out


class _Boxes:
    """Centres sorted into boxes of equal count; the last one is padded with rows of no weight."""

    def __init__(self, centres: Tensor) -> None:
        order = _sorted_rows(centres, CENTRE_BOX)
        short = -len(order) % CENTRE_BOX
        order = torch.cat([order, order[-1:].expand(short)])
        self.points = centres[order].unflatten(0, (-1, CENTRE_BOX))
        self.low, self.high = self.points.amin(1), self.points.amax(1)
        self.lift = torch.zeros(self.points.shape[:2], dtype=centres.dtype, device=centres.device)
        if short:
            self.lift[-1, -short:] = -1e6

    def log_sum(self, q: Tensor, tolerance: float, dtype: torch.dtype) -> Tensor:
        """log of the sum for the rows of one query box; nan where this precision is not to be trusted."""
        low, high = q.amin(0), q.amax(0)
        gap = torch.maximum(self.low - high, low - self.high).clamp_min_(0)
        power, near = (gap.square().sum(1) * (LOG2E / 2)).sort()
        # log2 of what the boxes from k on can still add, at most
        rest = (torch.logcumsumexp(-power.flip(0) / LOG2E, 0).flip(0) * LOG2E + math.log2(CENTRE_BOX)).tolist()
        origin = (low + high) / 2
        local = (q - origin).to(dtype)
        block = torch.mm(_left(local), self._right(near[:BOXES], origin, dtype))
        lift = SHIFT - block.amax(1, keepdim=True)
        total, raised = block.add_(lift).exp2_().sum(1), _left(local, lift)
        for start in range(BOXES, len(near), BOXES):
            if rest[start] <= math.log2(PRUNED) + float((total.log2() - lift.squeeze(1)).min()):
                break
            total += torch.mm(raised, self._right(near[start : start + BOXES], origin, dtype)).exp2_().sum(1)
        log_s = (total.double().log2() - lift.squeeze(1)) / LOG2E
        # centres beyond this distance hold less than 1e-6 of the sum, so only nearer ones can round it
        reach = (2 * (14 + math.log(self.points[..., 0].numel()) - log_s)).sqrt() + local.double().norm(dim=1)
        rounding = 4 * torch.finfo(dtype).eps * reach.square()
        return log_s.masked_fill(~(rounding <= tolerance) | total.isinf(), torch.nan)

    def _right(self, near: Tensor, origin: Tensor, dtype: torch.dtype) -> Tensor:
        local = (self.points[near] - origin).to(dtype).flatten(0, 1)
        half = self.lift[near].to(dtype).flatten() - local.square().sum(1) * (LOG2E / 2)
        return torch.cat([local, half.unsqueeze(1), torch.ones_like(half).unsqueeze(1)], 1).T


def _left(q: Tensor, lift: Tensor | float = 0.0) -> Tensor:
    half = q.square().sum(1, keepdim=True) * (-LOG2E / 2) + lift
    return torch.cat([q * LOG2E, torch.ones_like(half), half], 1)


def _sorted_rows(x: Tensor, size: int) -> Tensor:
    """Row numbers such that every run of `size` rows lies close together: halves along the widest axis."""
    done, todo = [], [torch.arange(len(x), device=x.device)]
    while todo:
        rows = todo.pop()
        if len(rows) <= size:
            done.append(rows)
            continue
        part = x[rows]
        axis = int((part.amax(0) - part.amin(0)).argmax())
        half = size * ((len(rows) + size - 1) // size // 2)  # whole boxes on the first side
        ranked = part[:, axis].argsort()
        todo += [rows[ranked[half:]], rows[ranked[:half]]]
    return torch.cat(done)
