"""Bidirectional body: a row of D entries of which some are seen -> outputs of every entry given the seen ones.

    token_j = [seen_j] (value(x_j) + source(j)) + target(j),    h = transformer(start, tokens),    y_j = W_j h_j + b_j

The values enter as in `AnyOrder`: a vector for each code of a short discrete entry, waves for a number. One more token,
`start`, gives the attention something to look at where nothing is seen.

References: BERT (Devlin 2018, arXiv:1810.04805); registers (Darcet 2023, arXiv:2309.16588).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .anyorder import AnyOrder


class Bidirectional(AnyOrder):
    """The arguments are those of `AnyOrder`; `forward` takes a mask in place of an order."""

    def forward(self, x: Tensor, z: Tensor, order: Tensor, c: Tensor | None = None) -> Tensor:
        """Outputs (B, sum over groups) of every entry.

        Args:
            x, z: codes and standardised numbers (B, D); what is not seen is not read.
            order: which entries are seen, bool (B, D).
            c: the condition (B, c_dim) or None.
        """
        seen = order.unsqueeze(-1)
        e = self.embed(torch.where(order, x, torch.zeros_like(x)), torch.where(order, z, torch.zeros_like(z)))
        tokens = torch.where(seen, e, torch.zeros_like(e)) + self.target
        h = self.body(torch.cat([self.start.expand(len(x), 1, -1), tokens], 1), c)[:, 1:]
        parts = [
            outlet(h if len(entries) == self.size else h[:, entries]).flatten(1)
            for outlet, (entries, _) in zip(self.outlets, self.groups, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
