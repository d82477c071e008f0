"""Conditioner: named givens, each of which may be missing alone, as one vector, as a map and as tokens.

    c = MLP(sum_i e_i(given_i)),    e_i(missing) = a learned null vector
    map = [given pictures at the body's size, and where they are known]
    tokens = [features of given texts], each with its place

Every body takes the vector. One that computes on a grid takes the map beside its input, and one that attends takes
the tokens. Offers `Conditioner`, `conditioner`, which is None where nothing is given, and `drop`, the masks of
independent and joint dropout that train the null vectors.

References: classifier-free guidance (Ho 2022, arXiv:2207.12598); pictures as channels beside the noise (Saharia 2021,
arXiv:2104.07636); attention to a caption (Rombach 2021, arXiv:2112.10752).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..randomness import Rng

Spec = tuple[Any, ...]
MAPPED = 16  # features of a picture after its first convolution on the way to the vector


class Specified(Protocol):
    """Something that says what a Conditioner makes of it, as a Space does."""

    @property
    def spec(self) -> Spec: ...


class Condition(NamedTuple):
    """What bodies may take of the givens of B rows.

    Args:
        vector: (B, width).
        map: (B, channels, H, W), or None.
        tokens: (B, T, width), or None.
    """

    vector: Tensor
    map: Tensor | None = None
    tokens: Tensor | None = None


class _Part(nn.Module):
    """One given to (B, width), with a null vector for the rows that lack it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.randn(width) / width**0.5)

    def forward(self, value: Tensor | None, batch: int, keep: Tensor | None) -> Tensor:
        null = self.null.expand(batch, -1)
        if value is None:
            return null
        e = self.embedded(value, batch)
        return e if keep is None else torch.where(keep[:, None].to(e.device), e, null)

    def embedded(self, value: Tensor, batch: int) -> Tensor:
        """(B, width) of values that are all known."""
        raise NotImplementedError

    def _checked(self, value: Tensor, batch: int, want: int) -> Tensor:
        flat = value.reshape(value.shape[0], -1) if value.ndim else value.reshape(1, 1)
        if flat.shape != (batch, want):
            raise ValueError(f"given: got shape {tuple(value.shape)}, expected {batch} rows of {want} numbers.")
        return flat


class _Category(_Part):
    """A code by its own vector."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__(width)
        self.embed = nn.Embedding(levels, width)

    def embedded(self, value: Tensor, batch: int) -> Tensor:
        return self.embed(self._checked(value, batch, 1)[:, 0].long())


class _Numbers(_Part):
    """Standardised numbers, by a matrix."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, size: int, mean: Sequence[float] = (0.0,), scale: Sequence[float] = (1.0,)) -> None:
        super().__init__(width)
        self.size = size
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64), persistent=False)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64), persistent=False)
        self.embed = nn.Linear(size, width)

    def standardised(self, value: Tensor, batch: int) -> Tensor:
        """(B, size)."""
        flat = self._checked(value, batch, self.size)
        return ((flat.double() - self.mean) / self.scale).to(self.null.dtype)

    def embedded(self, value: Tensor, batch: int) -> Tensor:
        return self.embed(self.standardised(value, batch))


class _Picture(_Numbers):
    """Pictures (..., H, W, C), by convolutions; leading axes, as of frames, are channels."""

    def __init__(self, width: int, shape: Sequence[int], mean: Sequence[float], scale: Sequence[float]) -> None:
        super().__init__(width, math.prod(shape), mean, scale)
        self.shape = tuple(shape)
        self.channels = math.prod(shape) // (shape[-3] * shape[-2])
        self.embed = nn.Sequential(  # type: ignore[assignment]
            nn.Conv2d(self.channels, MAPPED, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(MAPPED, 2 * MAPPED, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(32 * MAPPED, width),
        )

    def pictures(self, value: Tensor, batch: int) -> Tensor:
        """Standardised, (B, channels, H, W)."""
        x = self.standardised(value, batch).reshape(batch, -1, *self.shape[-3:])
        return x.permute(0, 1, 4, 2, 3).flatten(1, 2)

    def embedded(self, value: Tensor, batch: int) -> Tensor:
        return self.embed(self.pictures(value, batch))

    def map(self, value: Tensor | None, batch: int, keep: Tensor | None, size: tuple[int, int]) -> Tensor:
        """The pictures at another size, 0 where they are missing, and 1 beside them where they are not."""
        if value is None:
            return self.null.new_zeros(batch, self.channels + 1, *size)
        x = self.pictures(value, batch)
        if x.shape[2:] != size:
            smaller = x.shape[2] > size[0] or x.shape[3] > size[1]
            x = F.interpolate(x, size, mode="bilinear", antialias=smaller)
        known = x.new_ones(batch) if keep is None else keep.to(x.device, x.dtype)
        known = known[:, None, None, None]
        return torch.cat([x * known, known.expand(-1, 1, *size)], 1)


class _Tokens(_Part):
    """A sequence of codes, by two layers of attention; the vector is the mean over the places."""

    def __init__(self, width: int, length: int, levels: int) -> None:
        super().__init__(width)
        self.length = length
        self.embed = nn.Embedding(levels, width)
        self.place = nn.Parameter(torch.randn(length, width) * 0.1)
        heads = next(h for h in (4, 2, 1) if width % h == 0)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def tokens(self, value: Tensor | None, batch: int, keep: Tensor | None) -> Tensor:
        """(B, length, width); the null vector in every place of the rows that lack it."""
        null = self.null.expand(batch, self.length, -1)
        if value is None:
            return null
        h = self.layers(self.embed(self._checked(value, batch, self.length).long()) + self.place)
        return h if keep is None else torch.where(keep[:, None, None].to(h.device), h, null)

    def forward(self, value: Tensor | None, batch: int, keep: Tensor | None) -> Tensor:
        return self.tokens(value, batch, keep).mean(1)


KINDS = {"category": _Category, "real": _Numbers, "picture": _Picture, "tokens": _Tokens}


def conditioner(given: Mapping[str, Specified], width: int) -> Conditioner | None:
    """A Conditioner of givens (name -> their Space) to vectors of this width; None where nothing is given."""
    return Conditioner({name: space.spec for name, space in given.items()}, width) if given else None


class Conditioner(nn.Module):
    """Givens (name -> tensor) to one vector (B, width), and to a map and tokens for the bodies that take them.

    Args:
        sizes: name -> ("category", K) for codes 0 .. K - 1 of shape (B,) or (B, 1); ("real", d) for d numbers a row
            (any trailing shape with d numbers), or ("real", d, means, scales), which standardises them first;
            ("picture", shape, means, scales) for (B, ..., H, W, C); ("tokens", length, K) for codes (B, length).
        width: size of the vector.
    """

    def __init__(self, sizes: Mapping[str, Spec], width: int) -> None:
        super().__init__()
        self.sizes, self.width = dict(sizes), width
        for name, spec in self.sizes.items():
            if spec[0] not in KINDS:
                raise ValueError(f"sizes[{name!r}]: got kind {spec[0]!r}, expected one of {tuple(KINDS)}.")
        # a list, not a dict of modules: torch forbids some names there, and the names are the user's
        self.parts = nn.ModuleList(KINDS[spec[0]](width, *spec[1:]) for spec in self.sizes.values())
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    @property
    def channels(self) -> int:
        """Of the map."""
        return sum(part.channels + 1 for part in self.parts if isinstance(part, _Picture))

    @property
    def attended(self) -> bool:
        """Whether there are tokens."""
        return any(isinstance(part, _Tokens) for part in self.parts)

    def forward(self, given: Mapping[str, Tensor], batch: int, keep: Mapping[str, Tensor] | None = None) -> Tensor:
        """The condition vector (batch, width).

        A name that is absent from `given` is null in all rows; rows where `keep[name]` (bool, (batch,)) is False are
        null too. Raises ValueError for a name that is not in `sizes` and for a wrong shape.
        """
        return self.whole(given, batch, keep).vector

    def whole(
        self,
        given: Mapping[str, Tensor],
        batch: int,
        keep: Mapping[str, Tensor] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Condition:
        """The vector, the map at this size (H, W), and the tokens."""
        unknown = set(given) - set(self.sizes)
        if unknown:
            raise ValueError(f"given: got {sorted(unknown)}, expected names among {list(self.sizes)}.")
        keep, maps, tokens = keep or {}, [], []
        h = next(self.mix.parameters()).new_zeros(batch, self.width)
        for name, part in zip(self.sizes, self.parts, strict=True):
            value, kept = given.get(name), keep.get(name)
            if isinstance(part, _Tokens):  # read once: the vector is their mean
                tokens.append(part.tokens(value, batch, kept))
                h = h + tokens[-1].mean(1)
                continue
            h = h + part(value, batch, kept)
            if isinstance(part, _Picture) and size is not None:
                maps.append(part.map(value, batch, kept, size))
        vector = self.mix(h / max(1, len(self.parts)) ** 0.5)
        return Condition(vector, torch.cat(maps, 1) if maps else None, torch.cat(tokens, 1) if tokens else None)


def drop(names: Iterable[str], batch: int, rng: Rng, p: float = 0.1, p_all: float = 0.1) -> dict[str, Tensor]:
    """Keep masks (batch,) for training: each given is dropped with p by itself, all together with p_all."""
    together = rng.bernoulli(p_all, (batch,))
    return {name: ~(rng.bernoulli(p, (batch,)) | together) for name in names}
