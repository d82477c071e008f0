"""Replay: chains that live on from step to step, each with the givens of a row of data.

    at a step: the chains whose turn it is -> each beside the row with the likest givens, which it takes on -> moved
               -> put back;                                           with probability `restart` a chain begins anew

Chains and data must have the same givens: the level of log p~(x | c) is free for each c, and where a c is commoner
among the chains, lowering its level lowers the loss without end. Also says which chains to start from when somebody
asks for draws: those whose givens are most like the ones asked for. The states may be real numbers or codes.

References: persistent chains (Tieleman 2008); replay buffers (Du and Mordatch 2019, arXiv:1903.08689).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ..randomness import Rng

FAR, NEAR = 100.0, 0.1  # how unlike givens are, in nats, and deviations of real ones


@dataclass(frozen=True)
class Kept:
    """What a chain keeps of one given: its shape, its dtype, and whether it is a code."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    code: bool


@dataclass(frozen=True)
class Turn:
    """The chains of one step: their slots, states (R, *shape), givens, and which givens each of them sees."""

    slot: Tensor
    x: Tensor
    given: dict[str, Tensor]
    keep: dict[str, Tensor]


class Replay(nn.Module):
    """A buffer of chains.

    Args:
        count: chains.
        shape, dtype: of one state.
        given: name -> what is kept of that given.
    """

    states: Tensor
    visits: Tensor
    turn: Tensor

    def __init__(
        self, count: int, shape: tuple[int, ...], given: Mapping[str, Kept], dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.given = dict(given)
        self.register_buffer("states", torch.zeros(count, *shape, dtype=dtype))
        self.register_buffer("visits", torch.zeros(count, dtype=torch.int64))
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64))
        for i, kept in enumerate(self.given.values()):  # by number, since the names are the user's
            self.register_buffer(f"given_{i}", torch.zeros(count, *kept.shape, dtype=kept.dtype))
            self.register_buffer(f"keep_{i}", torch.zeros(count, dtype=torch.bool))

    def take(
        self, start: Tensor, given: Mapping[str, Tensor], keep: Mapping[str, Tensor], restart: float, rng: Rng
    ) -> Turn:
        """The chains whose turn it is, as many as there are rows of `start` (or fewer).

        Args:
            start: (B, *shape), where chains begin that are new or begin anew.
            given, keep: of the B rows, and which of them each row shows; the i-th chain takes on those of row i.
            restart: probability of beginning anew.
            rng: of that.
        """
        rows = min(len(start), len(self.states))
        slot = (self.turn + torch.arange(rows, device=self.states.device)) % len(self.states)
        if self.given:
            given, keep = ({k: v[:rows] for k, v in both.items()} for both in (given, keep))
            slot = self._paired(slot, given, keep)
            self._adopt(slot, given, keep)
        fresh = rng.bernoulli(restart, (len(start),))[:rows] | (self.visits[slot] == 0)
        x = torch.where(fresh.reshape(-1, *[1] * (start.ndim - 1)), start[:rows], self.states[slot])
        return Turn(slot, x, *self.givens(slot))

    def put(self, turn: Turn, x: Tensor) -> None:
        """Keep the moved states (R, *shape), and pass the turn on."""
        self.states[turn.slot], self.visits[turn.slot] = x, self.visits[turn.slot] + 1
        self.turn.copy_((self.turn + len(turn.slot)) % len(self.states))

    def _paired(self, slot: Tensor, given: Mapping[str, Tensor], keep: Mapping[str, Tensor]) -> Tensor:
        """The slots in the order of the rows, so that each chain is beside a row with givens like its own."""
        far = torch.zeros(len(slot), len(slot), device=slot.device)
        for i, (name, kept) in enumerate(self.given.items()):
            if name not in given:
                continue
            shown, its = keep[name][:, None], getattr(self, f"keep_{i}")[slot]
            gap = torch.where(shown, self._distance(i, given[name], kept.code)[:, slot], 0.0)
            far = far + torch.where(shown == its, gap.clamp_max(FAR), FAR)
        return slot[torch.from_numpy(linear_sum_assignment(far.cpu().numpy())[1]).to(slot.device)]

    def _adopt(self, slot: Tensor, given: Mapping[str, Tensor], keep: Mapping[str, Tensor]) -> None:
        """Chains take on the givens of the rows beside them."""
        for i, name in enumerate(self.given):
            known, kept = getattr(self, f"given_{i}"), getattr(self, f"keep_{i}")
            kept[slot] = keep[name] if name in given else False
            if name in given:
                known[slot] = given[name].reshape(-1, *known.shape[1:]).to(known.dtype)

    def givens(self, slot: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The givens of some chains, and which of them each chain sees."""
        given = {name: getattr(self, f"given_{i}")[slot] for i, name in enumerate(self.given)}
        return given, {name: getattr(self, f"keep_{i}")[slot] for i, name in enumerate(self.given)}

    @property
    def lived(self) -> Tensor:
        """Which chains have moved at all, bool (count,)."""
        return self.visits > 0

    def starts(self, count: int, given: Mapping[str, Tensor], rng: Rng) -> Tensor | None:
        """`count` states of chains with the likest givens; None where no chain has lived."""
        if not bool(self.lived.any()):
            return None
        if not given:
            slots = self.lived.nonzero().squeeze(1)
            turns = rng.permutation(len(slots)).repeat(-(-count // len(slots)))[:count]  # none twice before all once
            return self.states[slots[turns]]
        far = torch.where(self.lived, 0.0, torch.inf).expand(count, -1)
        for i, (name, kept) in enumerate(self.given.items()):
            if name in given:
                far = far + self._distance(i, given[name], kept.code)
        return self.states[rng.categorical(-far)]

    def _distance(self, i: int, asked: Tensor, code: bool) -> Tensor:
        """How far given i of every chain is from what is asked for, (rows, chains): FAR where it is another code."""
        known, kept = getattr(self, f"given_{i}"), getattr(self, f"keep_{i}")
        if code:
            return torch.where((known[None] == asked.reshape(-1, 1)) & kept, 0.0, FAR)
        known = known.reshape(len(known), -1).float()
        scale = known[kept].std(0).clamp_min(1e-6) if int(kept.sum()) > 1 else 1.0
        gap = torch.cdist(asked.reshape(len(asked), -1).float() / scale, known / scale)
        return torch.where(kept, (gap / NEAR).square(), FAR)
