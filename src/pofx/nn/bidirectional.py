"""Bidirectional body: a row of D entries of which some are seen -> outputs of every entry given the seen ones.

    h = transformer(start, token_1, ..., token_D),    y_j = W_j h_j + b_j

A token is what `Embedding` makes of an entry, its value or the vector of what is hidden. One more token, `start`, gives
the attention something to look at where nothing is seen. In a stream (text) only the distance of two tokens counts.

References: BERT (Devlin 2018, arXiv:1810.04805); registers (Darcet 2023, arXiv:2309.16588).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .entries import Embedding, Entries, Outlets, Size
from .transformer import Transformer

SHORT = 512  # a discrete entry with at most this many levels has a vector for each of them


class Bidirectional(nn.Module):
    """(B, D) entries and which of them are seen -> (B, sum over groups).

    Args:
        entries: what one x is.
        size: of the transformer.
    """

    def __init__(self, entries: Entries, size: Size) -> None:
        super().__init__()
        width, depth, dropout, _ = size.over(width=64, depth=3, dropout=0.1)
        short = [k if k <= SHORT else 0 for k in entries.levels]
        self.embed = Embedding(short, entries.numeric, width, entries.shared, missing=True, source=not entries.stream)
        self.start = nn.Parameter(torch.zeros(width))
        self.body = Transformer(width, depth, 4, size.c_dim, dropout, rotary=entries.stream)
        self.outlets = Outlets(entries, width)

    def forward(self, x: Tensor, z: Tensor, seen: Tensor, c: Tensor | None = None) -> Tensor:
        """Outputs of every entry.

        Args:
            x, z: the entries as stored and standardised (B, D); what is not seen is not read.
            seen: bool (B, D).
            c: the condition (B, c_dim) or None.
        """
        x, z = (torch.where(seen, v, torch.zeros_like(v)) for v in (x, z))
        tokens = self.embed(x, z, seen)
        h = self.body(torch.cat([self.start.expand(len(x), 1, -1), tokens], 1), c)
        return self.outlets(h[:, 1:])
