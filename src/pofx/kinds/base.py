"""Space: what one x is, and Kind: how x enters from and returns to the user's world.

One x is one tensor of shape `event`, one number per variable, in the data's own coordinates: pixel levels, token ids,
metres. An ordinal or category variable stores its code 0 .. K-1; `values[code]` is what the user calls it. A real
variable stores its value and its `resolution` (the rounding of the column; 0 means a true density).

    log p of a row = sum over entries of  log P(bin of width resolution)   (discrete, or resolution > 0)
                                       or log density                      (resolution = 0)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SUPPORTS = ("real", "bounded", "ordinal", "category", "binary")
LAYOUTS = ("vector", "grid", "sequence", "set")


@dataclass(frozen=True)
class Variable:
    """One variable: its support, and what its numbers mean.

    Args:
        name: what the user calls it.
        support: "real", "bounded" (low < x < high), "ordinal", "category" or "binary" (K = `levels` codes 0 .. K-1).
        levels: K, for the discrete supports.
        values: the user's value for each code; None means that the code is the value.
        low, high: the bounds of a bounded variable; of a real one with a resolution, low is its least value (0 for a
            count), below which it has no probability.
        resolution: the rounding of a real variable; 0 for a true density.
        mean, scale: location and spread in the data as read, in the variable's own units.
        integer: a real variable that only takes whole numbers (it comes back as an integer).
    """

    name: str = "x"
    support: str = "real"
    levels: int = 0
    values: tuple[Any, ...] | None = None
    low: float | None = None
    high: float | None = None
    resolution: float = 0.0
    mean: float = 0.0
    scale: float = 1.0
    integer: bool = False

    def __post_init__(self) -> None:
        if self.support not in SUPPORTS:
            raise ValueError(f"Variable {self.name!r}: support is {self.support!r}; expected one of {SUPPORTS}.")
        if self.discrete and self.levels < 1:
            raise ValueError(f"Variable {self.name!r}: a {self.support} variable needs levels >= 1, got {self.levels}.")
        if self.discrete and self.values is not None and len(self.values) != self.levels:
            raise ValueError(f"Variable {self.name!r}: got {len(self.values)} values for {self.levels} levels.")
        if not 0 <= self.resolution < math.inf:
            raise ValueError(f"Variable {self.name!r}: resolution is {self.resolution}; expected a number >= 0.")
        if self.support == "bounded" and not (self.low is not None and self.high is not None and self.low < self.high):
            raise ValueError(
                f"Variable {self.name!r}: a bounded variable needs low < high, got {self.low}, {self.high}."
            )
        if not (self.scale > 0 and math.isfinite(self.scale) and math.isfinite(self.mean)):
            raise ValueError(
                f"Variable {self.name!r}: mean {self.mean} and scale {self.scale} must be finite, scale > 0."
            )

    @property
    def discrete(self) -> bool:
        """Whether x is a code 0 .. levels - 1."""
        return self.support in ("ordinal", "category", "binary")

    @property
    def density(self) -> bool:
        """Whether log p of this variable is a density rather than the mass of a bin."""
        return not self.discrete and self.resolution == 0


@dataclass(frozen=True)
class Space:
    """What one x is: its shape, its variables, their layout.

    Args:
        shape: the event shape; (D,) for a vector, (H, W, C) for a picture, (C, H, W) inside a chart.
        variables: one for every entry (in flat order), or exactly one that all entries share.
        layout: "vector", "grid", "sequence" or "set".
        kind: the name of the kind that reads, restores and draws x.
        dtype: the torch dtype in which x is stored, as a word.
        meta: whatever the kind needs to give x back as it came (JSON types only).
    """

    shape: tuple[int, ...]
    variables: tuple[Variable, ...]
    layout: str = "vector"
    kind: str = "array"
    dtype: str = "float64"
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.variables) not in (1, self.size):
            raise ValueError(f"Space of shape {self.shape}: got {len(self.variables)} variables; 1 or {self.size}.")
        if self.layout not in LAYOUTS:
            raise ValueError(f"Space: layout is {self.layout!r}; expected one of {LAYOUTS}.")

    @property
    def size(self) -> int:
        """The number of entries of one x."""
        return math.prod(self.shape)

    @property
    def shared(self) -> bool:
        """Whether all entries have the same variable."""
        return len(self.variables) == 1

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype in which x is stored."""
        return getattr(torch, self.dtype)

    @property
    def standard(self) -> bool:
        """Whether x already is a standardised Euclidean vector, as inside a chart."""
        return all(v.density and v.support == "real" and v.mean == 0 and v.scale == 1 for v in self.variables)

    @property
    def discrete(self) -> bool:
        """Whether every entry is a code, so that log p is a log probability."""
        return all(v.discrete for v in self.variables)

    @property
    def mass(self) -> bool:
        """Whether log p is a log probability (of a bin), not a log density."""
        return not any(v.density for v in self.variables)

    def nearest(self, x: Tensor) -> Tensor:
        """Numbers `(*batch, *event)` as the data holds them: the nearest codes that there are, the rest as it is."""
        tops = [v.levels - 1.0 if v.discrete else math.inf for v in self.variables]
        top = torch.tensor(tops, dtype=torch.float64, device=x.device)
        top = top if self.shared else top.reshape(self.shape)
        codes = torch.minimum(x.double().round().clamp_min(0), top)
        return torch.where(top.isfinite(), codes, x.double()).to(self.torch_dtype)

    @property
    def picture(self) -> bool:
        """Whether x is a picture (H, W, C), or (C, H, W) inside a chart."""
        return self.layout == "grid" and len(self.shape) == 3

    @property
    def planes(self) -> int:
        """Frames of a clip (T, H, W, C) or planes of a solid (D, H, W), which are channels in the chart; else 1."""
        if self.layout != "grid":
            return 1
        if len(self.shape) == 4:
            return self.shape[0]
        return self.shape[-1] if self.meta.get("form") == "voxels" else 1

    @property
    def spec(self) -> tuple[Any, ...]:
        """What a Conditioner makes of a given in this Space, as a tuple.

        ("category", K), ("picture", shape, means, scales) with shape (..., H, W, C), ("tokens", length, K), or
        ("real", size, means, scales).
        """
        first = self.variables[0]
        if self.shape == () and first.discrete:
            return "category", first.levels
        if self.layout == "sequence" and self.shared and len(self.shape) == 1 and first.support == "category":
            return "tokens", self.size, first.levels
        moments = tuple(v.mean for v in self.variables), tuple(v.scale for v in self.variables)
        if self.layout == "grid" and len(self.shape) >= 3 and self.shared:
            return "picture", self.shape, *moments
        return "real", self.size, *moments

    def variable(self, entry: int) -> Variable:
        """The variable of a flat entry."""
        return self.variables[0] if self.shared else self.variables[entry]

    def sub(self, entries: list[int]) -> Space:
        """The vector Space of some flat entries."""
        variables = tuple(self.variable(i) for i in entries)
        return Space((len(entries),), variables, dtype=self.dtype)

    def unit(self) -> str:
        """The unit of log p, in words.

        >>> Space((2,), (Variable(),)).unit()
        'nats (density)'
        """
        if self.discrete:
            return "nats"
        if self.mass:
            return "nats (probability at the stated resolution)"
        return "nats (density)"

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` turns back into the same Space."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Space:
        """The Space of a saved JSON object."""
        variables = tuple(
            Variable(**{**v, "values": None if v["values"] is None else tuple(v["values"])}) for v in saved["variables"]
        )
        return cls(**{**saved, "shape": tuple(saved["shape"]), "variables": variables})

    def replace(self, **changes: Any) -> Space:
        """A copy with some fields changed."""
        return replace(self, **changes)


def category(levels: int, name: str = "label", values: tuple[Any, ...] | None = None) -> Space:
    """The Space of one category, as a label: scalar event, codes 0 .. levels - 1."""
    support = "binary" if levels == 2 else "category"
    return Space((), (Variable(name, support, levels, values),), dtype="int64")


def real(*shape: int, name: str = "x") -> Space:
    """The Space of a real vector, as a density.

    >>> real(3).size
    3
    """
    return Space(tuple(shape), (Variable(name),), "vector" if len(shape) < 2 else "grid")


@dataclass(frozen=True)
class Raw:
    """What a kind reads: rows with their Space, before they are split.

    Shapes: x `(N, *event)`, observed `(N, *event)` bool or None (all observed), given `(N, *given_event)`. Windows of
    a stream say where each starts, `start` `(N,)`: neighbours overlap, so that they are split in their order.
    """

    x: Tensor
    space: Space
    given: dict[str, Tensor] = field(default_factory=dict)
    given_spaces: dict[str, Space] = field(default_factory=dict)
    observed: Tensor | None = None
    notes: tuple[str, ...] = ()
    start: Tensor | None = None


def numbered(path: str | Path, count: int, endings: tuple[str, ...]) -> list[Path]:
    """Where so many rows are written: one to `path`, several to path-0, path-1, ...; without an ending into a folder.

    Raises:
        ValueError: the path ends in none of `endings`, of which the first is taken in a folder.
    """
    path = Path(path)
    if path.suffix and path.suffix.lower() not in endings:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(endings)}, or a folder.")
    if not path.suffix:
        path.mkdir(parents=True, exist_ok=True)
        return [path / f"{k:04d}{endings[0]}" for k in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{k}") for k in range(count)]


class Kind(ABC):
    """One kind of data: how it is read, encoded, restored and drawn. One file in `kinds/` is one kind."""

    name: str
    layout: str = "vector"
    endings: tuple[str, ...] = ()  # of the files that `write` makes
    together = True  # whether all rows go into one file
    trivial = "independent"  # the baseline that a model of this kind must beat, by its name in `pofx.baselines`
    measures = False  # whether what comes next are numbers, which have quantiles

    @abstractmethod
    def reads(self, source: object) -> bool:
        """Whether this kind understands a source (a path, an array, a frame)."""

    @abstractmethod
    def read(self, *source: Any, **options: Any) -> Raw:
        """Rows and their Space: `read(source, given=(), ...)`, with the options of the kind named one by one."""

    @abstractmethod
    def encode(self, rows: Any, space: Space) -> tuple[Tensor, Tensor]:
        """A user's rows as `(x, observed)` of a known Space, both `(N, *event)`; ValueError where they do not fit."""

    @abstractmethod
    def restore(self, x: Tensor, space: Space) -> Any:
        """x `(N, *event)` as the user's own type."""

    def blank(self, rows: Any, observed: Tensor, space: Space) -> Any:
        """Rows of the user's own type with their missing entries marked as such; ValueError where it has no mark."""
        raise ValueError(f"{self.name}: a missing entry has no mark in this type.")

    @abstractmethod
    def draw(self, axes: Any, x: Tensor, space: Space) -> None:
        """Draw some x `(N, *event)` into one matplotlib axes."""

    def write(self, rows: Any, path: str | Path, space: Space) -> list[Path]:
        """Rows of the user's own type as files that end in one of `endings`; gives their paths, see `numbered`."""
        raise ValueError(f"{self.name}: there is no file of this kind.")

    def rows(self, source: Any, space: Space) -> Any:
        """The rows of a file, as a user would hold them, for a model of a known Space."""
        return self.read(source).x

    def past(self, rows: Any, space: Space) -> tuple[Tensor, Tensor]:
        """What is known of the beginning of each x, `(x, observed)` `(N, *event)`; ValueError where x has no order."""
        raise ValueError(f"{self.name}: what comes next is asked of series, text, audio, music and video.")

    def complete(self, rows: Any, x: Tensor, observed: Tensor, space: Space) -> Any:
        """The user's rows with their missing entries taken from x; observed entries stay bit-identical."""
        return self.restore(x, space)
