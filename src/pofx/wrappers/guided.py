"""Guided and Fixed: a model that is given more than it asks for.

    Fixed(m, c)     p(x | c) with c held fast
    Guided(m, w)    D(none) + sum_i w_i [ D(c_1..i) - D(c_1..i-1) ]         classifier-free guidance

Reference: Ho and Salimans 2021 (arXiv:2207.12598).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pofx.engines.diffusion import SAMPLERS, path_of, sample
from pofx.model import Conditional, Cursor, Given, Model, Predictive, Quality, Unsupported, Value
from pofx.randomness import Rng
from pofx.wrappers.base import Wrapped


class Fixed(Wrapped):
    """p(x | c) with some of c held fast: a Model given less.

    Args:
        inner: a built model.
        values: name -> one value of that given, without a batch axis.
    """

    def __init__(self, inner: Model, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.inner, self.values = inner, dict(values)
        self.space, self.given = inner.space, {k: s for k, s in inner.given.items() if k not in self.values}

    def offers(self) -> frozenset[str]:
        return self.inner.offers()

    def _with(self, given: Given, rows: int) -> dict[str, Tensor]:
        return {**given, **{k: v.expand(rows, *v.shape) for k, v in self.values.items()}}

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        c = self._with(given, count)
        return self.inner.sample(1, c, rng)[0] if c else self.inner.sample(count, None, rng)

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        return self.inner.log_prob(x, self._with(given, len(x)), observed, draws, rng)

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        return self.inner.condition(x, observed, self._with(given, len(x)))

    def _denoise(self, u_t: Tensor, alpha_t: Tensor, sigma_t: Tensor, given: Given) -> Tensor:
        return self.inner.denoise(u_t, alpha_t, sigma_t, self._with(given, len(u_t)))

    def _encode(self, x: Tensor, given: Given) -> torch.distributions.Distribution:
        return self.inner.encode(x, self._with(given, len(x)))

    def _decode(self, z: Tensor, given: Given) -> Predictive:
        return self.inner.decode(z, self._with(given, len(z)))

    def log_code(self, z: Tensor, given: Given | None = None) -> Tensor:
        return self.inner.log_code(z, self._with(given or {}, len(z)))

    def _score(self, u: Tensor, given: Given) -> Tensor:
        return self.inner.score(u, self._with(given, len(u)))

    def _steps(self, rows: int, given: Given) -> Cursor:
        return self.inner.steps(rows, self._with(given, rows))


class Guided(Wrapped):
    """Classifier-free guidance: it draws sharper x given c, and has no density.

    Args:
        inner: a built model with `denoise`, trained with dropped givens.
        scale: name -> weight; 1 is the model itself, 0 ignores that given.
        solver, solver_steps, path: of the draws: see `engines.diffusion.SAMPLERS` and `PATHS`.

    Raises:
        Unsupported: the model has no denoise. ValueError: it is not given what scale names, or an unknown word.
    """

    def __init__(
        self, inner: Model, scale: Mapping[str, float], solver: str = "heun", solver_steps: int = 32, path: str = "edm"
    ) -> None:
        super().__init__()
        self._path = path_of(path)
        if solver not in SAMPLERS:
            raise ValueError(f"Guided: solver is {solver!r}; expected one of {SAMPLERS}.")
        if "denoise" not in inner.offers():
            raise Unsupported(f"Guided needs a model with denoise; {inner.name} offers {sorted(inner.offers())}.")
        unknown = sorted(set(scale) - set(inner.given))
        if unknown:
            raise ValueError(f"Guided: scale names {unknown}; {inner.name} was fitted given {sorted(inner.given)}.")
        self.inner, self.scale = inner, dict(scale)
        self.solver, self.solver_steps, self.path = solver, solver_steps, path
        self.space, self.given = inner.space, inner.given

    @property
    def sampler(self) -> Quality:  # type: ignore[override]
        """A solver stands before the draws."""
        return Quality.ESTIMATE

    def offers(self) -> frozenset[str]:
        return frozenset({"denoise", "sample"})

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        chart = self.chart

        def denoise(u_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
            return self._denoise(u_t, alpha, sigma, given)

        u = sample(denoise, (count, *chart.space.shape), self._path, rng, method=self.solver, steps=self.solver_steps)
        return chart.decode(u, rng)

    def _denoise(self, u_t: Tensor, alpha_t: Tensor, sigma_t: Tensor, given: Given) -> Tensor:
        so_far = {k: v for k, v in given.items() if k not in self.scale}
        last = total = self.inner.denoise(u_t, alpha_t, sigma_t, so_far)
        for name, weight in self.scale.items():
            if name not in given:
                continue
            so_far = {**so_far, name: given[name]}
            guided = self.inner.denoise(u_t, alpha_t, sigma_t, so_far)
            last, total = guided, total + weight * (guided - last)
        return total
