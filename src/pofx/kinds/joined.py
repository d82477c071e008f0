"""Joined: x and what it is given as the columns of one matrix (x, c), for families that learn them as one law.

A given that is absent, and an entry that is missing, is a hole in the mask of that matrix. Offers `Joined`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pofx.kinds.base import Space, Variable
from pofx.kinds.relax import Chart


class Joined:
    """The columns of x, then those of each given.

    Args:
        space: of x.
        given: name -> Space.
    """

    def __init__(self, space: Space, given: Mapping[str, Space]) -> None:
        self.space, self.given = space, dict(given)
        self.variables: list[Variable] = [s.variable(i) for s in (space, *given.values()) for i in range(s.size)]

    def whole(self, x: Tensor, given: Mapping[str, Tensor], observed: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(x, c) `(B, D + C)` float64 and the mask of what is known, None where all is."""
        flat = x.reshape(len(x), self.space.size).double()
        mask = torch.ones_like(flat, dtype=torch.bool) if observed is None else observed.reshape(flat.shape)
        for name, space in self.given.items():
            has = name in given
            c = given[name].reshape(len(x), space.size).double() if has else flat.new_zeros(len(x), space.size)
            flat, mask = torch.cat([flat, c], 1), torch.cat([mask, torch.full_like(c, has, dtype=torch.bool)], 1)
        return flat, None if bool(mask.all()) else mask

    def given_only(self, rows: int, given: Mapping[str, Tensor], device: torch.device) -> Tensor:
        """The mask `(rows, D + C)` that knows the givens that are there, and nothing of x."""
        sizes = [(self.space.size, False), *((s.size, k in given) for k, s in self.given.items())]
        return torch.cat([torch.full((rows, n), has, device=device) for n, has in sizes], 1)

    def event(self, whole: Tensor) -> Tensor:
        """x `(B, *event)` in its own dtype, of rows (x, c)."""
        return whole[:, : self.space.size].reshape(-1, *self.space.shape).to(self.space.torch_dtype)

    def from_chart(self, u: Tensor, chart: Chart) -> Tensor:
        """Chart coordinates as rows `(B, D)` in the order of the entries, float64."""
        return (chart.unturned(u) if self._turned(chart) else u).flatten(1).double()

    def to_chart(self, flat: Tensor, like: Tensor, chart: Chart) -> Tensor:
        """Rows `(B, D)` as chart coordinates of the shape and dtype of `like`."""
        flat = chart.turned(flat) if self._turned(chart) else flat
        return flat.reshape(like.shape).to(like.dtype)

    def _turned(self, chart: Chart) -> bool:
        return not self.space.standard and chart.channels_first


def numbers_of(variables: list[Variable]) -> Chart:
    """The chart of some variables, whose fields say where the numbers among them stand (`smooth` names these)."""
    return Chart(Space((len(variables),), tuple(variables)))
