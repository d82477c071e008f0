"""Ending: the length of a sequence of codes is part of x, as END and then PAD with probability 1.

    P(x_t = PAD | END among x_1 .. x_{t-1}) = 1             P(x_t = PAD | no END yet) = 0

so that log p(x) = log p(x_1, ..., x_T = END) is a probability over sequences of every length up to the longest (one
that fills all D places has no END: it is the law of a sequence cut at D). A family that walks through x in order asks
`Ending.of(space)` and is exact; a family in another order learns END and PAD as codes among others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pofx.kinds.base import Space


@dataclass(frozen=True)
class Ending:
    """The two codes that end a sequence; PAD is the last code of all.

    Args:
        end, pad: codes.
    """

    end: int
    pad: int

    @classmethod
    def of(cls, space: Space) -> Ending | None:
        """The ending of a Space, None where its sequences do not end."""
        if space.layout != "sequence" or "end" not in space.meta:
            return None
        return cls(int(space.meta["end"]), int(space.meta["pad"]))

    def after(self, codes: Tensor) -> Tensor:
        """Which entries come after END, `(B, D)` bool, of codes `(B, D)`."""
        ended = ((codes == self.end) | (codes == self.pad)).int().cumsum(1) > 0
        return torch.cat([torch.zeros_like(ended[:, :1]), ended[:, :-1]], 1)

    def masses(self, logits: Tensor, after: Tensor) -> Tensor:
        """Log masses (..., K) with PAD alone where `after` (...), and no PAD elsewhere."""
        pad = torch.arange(logits.shape[-1], device=logits.device) == self.pad
        logits = logits.masked_fill(pad & ~after.unsqueeze(-1), -torch.inf)
        logits = logits.masked_fill(~pad & after.unsqueeze(-1), -torch.inf)
        return logits.masked_fill(pad & after.unsqueeze(-1), 0.0)

    def lengths(self, codes: Tensor) -> Tensor:
        """Symbols before END, `(B,)`."""
        ended = (codes == self.end) | (codes == self.pad)
        return (ended.int().cumsum(1) == 0).sum(1)
