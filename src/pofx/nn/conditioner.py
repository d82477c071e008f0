"""Conditioner: named givens, each of which may be missing alone, to one vector.

    c = MLP(sum_i e_i(given_i)),    e_i(missing) = a learned null vector

Offers `Conditioner` and `drop`, the masks of independent and joint dropout that train the null vectors.

References: classifier-free guidance (Ho 2022, arXiv:2207.12598).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..randomness import Rng

Spec = tuple[Any, ...]


class _Part(nn.Module):
    """One given to (B, width), with a null vector for the rows that lack it."""

    mean: Tensor
    scale: Tensor

    def __init__(
        self, width: int, kind: str, size: int, mean: Sequence[float] = (0.0,), scale: Sequence[float] = (1.0,)
    ) -> None:
        super().__init__()
        self.kind, self.size = kind, size
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64), persistent=False)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64), persistent=False)
        self.null = nn.Parameter(torch.randn(width) / width**0.5)
        self.embed = nn.Embedding(size, width) if kind == "category" else nn.Linear(size, width)

    def forward(self, value: Tensor | None, batch: int, keep: Tensor | None) -> Tensor:
        null = self.null.expand(batch, -1)
        if value is None:
            return null
        e = self.embed(self._prepare(value, batch))
        return e if keep is None else torch.where(keep[:, None].to(e.device), e, null)

    def _prepare(self, value: Tensor, batch: int) -> Tensor:
        flat = value.reshape(value.shape[0], -1) if value.ndim else value.reshape(1, 1)
        want = 1 if self.kind == "category" else self.size
        if flat.shape != (batch, want):
            raise ValueError(f"given: got shape {tuple(value.shape)}, expected {batch} rows of {want} numbers.")
        if self.kind == "category":
            return flat[:, 0].long()
        return ((flat.double() - self.mean) / self.scale).to(self.null.dtype)


class Conditioner(nn.Module):
    """Givens (name -> tensor) to one vector (B, width).

    Args:
        sizes: name -> ("category", K) for codes 0 .. K - 1 of shape (B,) or (B, 1), or ("real", d) for d numbers a
            row (any trailing shape with d numbers), or ("real", d, means, scales), which standardises them first.
        width: size of the vector.
    """

    def __init__(self, sizes: Mapping[str, Spec], width: int) -> None:
        super().__init__()
        self.sizes, self.width = dict(sizes), width
        for name, spec in self.sizes.items():
            if spec[0] not in ("category", "real"):
                raise ValueError(f"sizes[{name!r}]: got kind {spec[0]!r}, expected 'category' or 'real'.")
        # a list, not a dict of modules: torch forbids some names there, and the names are the user's
        self.parts = nn.ModuleList(_Part(width, *spec) for spec in self.sizes.values())
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, given: Mapping[str, Tensor], batch: int, keep: Mapping[str, Tensor] | None = None) -> Tensor:
        """The condition vector (batch, width).

        A name that is absent from `given` is null in all rows; rows where `keep[name]` (bool, (batch,)) is False are
        null too. Raises ValueError for a name that is not in `sizes` and for a wrong shape.
        """
        unknown = set(given) - set(self.sizes)
        if unknown:
            raise ValueError(f"given: got {sorted(unknown)}, expected names among {list(self.sizes)}.")
        h = next(self.mix.parameters()).new_zeros(batch, self.width)
        for name, part in zip(self.sizes, self.parts, strict=True):
            h = h + part(given.get(name), batch, (keep or {}).get(name))
        return self.mix(h / max(1, len(self.parts)) ** 0.5)


def drop(names: Iterable[str], batch: int, rng: Rng, p: float = 0.1, p_all: float = 0.1) -> dict[str, Tensor]:
    """Keep masks (batch,) for training: each given is dropped with p by itself, all together with p_all."""
    together = rng.bernoulli(p_all, (batch,))
    return {name: ~(rng.bernoulli(p, (batch,)) | together) for name in names}
