"""Optimal transport between two samples of equal size.

    s = argmin over permutations of sum_i |x_i - y_{s(i)}|^2

Within groups only, where rows have a group: pairs then never cross it, and what is paired stays as independent of the
group as it was. Exact, by the Hungarian method.

References: minibatch optimal transport (Fatras 2019, arXiv:1910.04091); in flow matching (Tong 2023, arXiv:2302.00482;
Pooladian 2023, arXiv:2304.14772); why not across conditions (Cheng 2025, arXiv:2503.10636).
"""

from __future__ import annotations

import torch
from torch import Tensor


def assignment(x: Tensor, y: Tensor, group: Tensor | None = None) -> Tensor:
    """The permutation s (B,) for which sum |x_i - y_{s(i)}|^2 is least, x and y (B, *event), group (B,) of codes."""
    from scipy.optimize import linear_sum_assignment

    order = torch.arange(len(x), device=x.device)
    codes = torch.zeros_like(order) if group is None else group
    for code in codes.unique():
        rows = (codes == code).nonzero().squeeze(1)
        cost = torch.cdist(x[rows].flatten(1).double(), y[rows].flatten(1).double()).square()
        _, columns = linear_sum_assignment(cost.detach().cpu().numpy())
        order[rows] = rows[torch.from_numpy(columns).to(rows.device)]
    return order


def groups(values: list[Tensor], rows: int) -> Tensor:
    """Codes (B,) that are equal where all values (B, ...) of two rows are; one group where there are no values."""
    if not values:
        return torch.zeros(rows, dtype=torch.long)
    table = torch.cat([v.reshape(rows, -1).double() for v in values], 1)
    return table.unique(dim=0, return_inverse=True)[1]
