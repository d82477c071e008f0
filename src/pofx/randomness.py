"""Randomness is an argument: `Rng`, the one source of random numbers in pofx.

A stream is a CPU generator; on another device a stream of that device is derived from it, so one seed
gives one answer on one device. During training a batch is a slice of a global batch: `rows` says which,
and every draw whose first axis is the batch is made for the global batch and cut. One process, two
processes and a resumed run therefore see the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The part `start : start + count` of a global batch of `total` rows."""

    start: int
    count: int
    total: int


class Rng:
    """A stream of random numbers on one device.

    Args:
        source: a `torch.Generator` on the CPU, an int seed, another `Rng` (shared, not copied), or None: a fresh seed.
        device: where the numbers are wanted.
        rows: the slice of a global batch that this process holds (training only).
    """

    def __init__(
        self,
        source: Rng | torch.Generator | int | None = None,
        device: torch.device | str = "cpu",
        rows: Rows | None = None,
    ) -> None:
        self.device, self.rows = torch.device(device), rows
        base = _generator(source)
        if self.device.type == base.device.type:
            self.generator = base
        else:
            self.generator = torch.Generator(self.device).manual_seed(_seed_from(base))

    @classmethod
    def derive(cls, *key: int, device: torch.device | str = "cpu", rows: Rows | None = None) -> Rng:
        """The stream named by a tuple of integers, such as (seed, step)."""
        words = np.random.SeedSequence([len(key), *key]).generate_state(2, np.uint32)
        return cls(int(words[0]) << 31 | int(words[1]) >> 1, device, rows)

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers of the given shape."""
        return self._draw(torch.randn, shape, dtype)

    def uniform(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform numbers in [0, 1) of the given shape."""
        return self._draw(torch.rand, shape, dtype)

    def integers(self, high: int, shape: tuple[int, ...]) -> Tensor:
        """Integers 0 .. high - 1 of the given shape."""
        return (self.uniform(shape, torch.float64) * high).long().clamp_(max=high - 1)

    def bernoulli(self, p: float | Tensor, shape: tuple[int, ...]) -> Tensor:
        """True with probability p (a float or a tensor that broadcasts to the shape)."""
        return self.uniform(shape) < p

    def categorical(self, logits: Tensor) -> Tensor:
        """Codes drawn from softmax(logits) over the last axis, by the Gumbel maximum."""
        u = self.uniform(tuple(logits.shape), torch.float64).clamp_min_(1e-300)
        exponential = -torch.log(u)  # the Gumbel maximum is the argmin of exponentials over their rates
        return (logits.double() - torch.log(exponential)).argmax(-1)

    def permutation(self, n: int) -> Tensor:
        """A random order of 0 .. n - 1."""
        return torch.randperm(n, generator=self.generator, device=self.device)

    def seed(self) -> int:
        """A fresh integer seed, for a library that wants one."""
        return _seed_from(self.generator)

    def split(self) -> Rng:
        """A new stream that is independent of this one."""
        return Rng(self.seed(), self.device, self.rows)

    def _draw(self, kind: Callable[..., Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        shape, rows = tuple(shape), self.rows
        if rows is None or rows.total == rows.count or not shape or shape[0] % rows.count:
            return kind(shape, generator=self.generator, device=self.device, dtype=dtype)
        times = shape[0] // rows.count  # several draws per row stay together: (times * rows, ...)
        full = kind((times, rows.total, *shape[1:]), generator=self.generator, device=self.device, dtype=dtype)
        return full[:, rows.start : rows.start + rows.count].reshape(shape)


class Opposed(Rng):
    """A stream whose normal numbers come in pairs of rows, e and -e: means over the pairs converge faster.

    Of `rows` rows the last `pairs` are the opposites of the first; each row by itself is as random as ever. Reference:
    antithetic variates, Hammersley and Morton 1956.
    """

    def __init__(self, source: Rng, rows: int, pairs: int) -> None:
        super().__init__(source)
        self.many, self.pairs = rows, pairs

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers; where the shape has `rows` rows, in pairs."""
        if shape[:1] != (self.many,):
            return super().normal(shape, dtype)
        e = super().normal((self.many - self.pairs, *shape[1:]), dtype)
        return torch.cat([e, -e[: self.pairs]])


def _generator(source: Rng | torch.Generator | int | None) -> torch.Generator:
    if isinstance(source, Rng):
        return source.generator
    if isinstance(source, torch.Generator):
        return source
    if isinstance(source, bool) or not (source is None or isinstance(source, (int, np.integer))):
        raise TypeError(f"rng: got {type(source).__name__}; expected a torch.Generator, an int or None.")
    generator = torch.Generator()
    if source is None:
        generator.seed()
    else:
        generator.manual_seed(int(source))
    return generator


def _seed_from(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))
