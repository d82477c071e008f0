"""Restore: what was x before it was blurred, shrunk, hidden or mixed?

    y = A(x) + n e,   x ~ p(x | y) = p(x) p(y | x) / p(y);     several draws, their mean and their spread

A is a named measurement (engines/operators.py) or any differentiable function of a batch of x. Routes, best first: the
denoiser guided by y through its own posterior covariance; where few numbers were measured, the model's draws weighed by
p(y | x); a chain over the latents of a decoder; a chain on the score. What is drawn is as sharp as the data; the mean
of many draws has the smallest squared error and is not. Four draws or more come in pairs of opposite noise: each is a
draw like any other, and their mean converges faster.

A decoder has noise of its own, m its mean and V its variance. Round one z, with J = dA/dx and F = n^2 I + J V J',

    y | z ~ N(A(m), F),    x = x' + V J' F^-1 (y + n e - A(x')),   x' ~ p(x | z)

which is exact where the noise is normal, V constant and A linear. Where V = 0, as of a GAN or a flow, x is m.

References: PiGDM (Song 2023); MMPS (Rozet 2024, arXiv:2405.13712); latent chains (Hoffman 2017); Whang 2021
(arXiv:2003.08089); Matheron's rule (Wilson 2020, arXiv:2002.09309).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx.drawing.pairs import restored_figure
from pofx.engines.diffusion import Denoiser, ancestral, prior
from pofx.engines.inverse import REACH, log_measurement, posterior_denoiser, wander
from pofx.engines.inverse import solve as conjugate
from pofx.engines.mcmc import hmc
from pofx.engines.paths import VE
from pofx.kinds import KINDS
from pofx.kinds.relax import Chart
from pofx.model import Model, Predictive, Quality, Unsupported
from pofx.randomness import Opposed, Rng
from pofx.tasks.base import Answer, at_least_one, given_for, route, solve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "What was x before it was measured so?"
UNIT = "the data's own"
STEPS, SOLVE = 48, 6  # noise levels, and conjugate gradients at each
NOISES, DENSE = 64, 256  # draws that tell the variance of a decoder; so many numbers are solved for without iterations
POOL, MEASURED, FEWEST = 20_000, 12, 4  # draws that are weighed, of at most so many numbers; how many must explain y
Measure = Callable[[Tensor], Tensor]


def restore(
    model: Model,
    y: Any,
    measure: Measure,
    noise: float,
    given: Mapping[str, Any] | None = None,
    *,
    draws: int = 8,
    rng: Rng | torch.Generator | int | None = None,
    route: str | None = None,
) -> Answer:
    """Draw x given a measurement y of it.

    Args:
        model: fitted.
        y: measurements `(N, *measured)`, an array or a tensor, in the units of x.
        measure: A, from x `(N, *event)` to `(N, *measured)`, differentiable; x is float, in the data's own units (a
            column of levels by their places 0, 1, ...).
        noise: n, the standard deviation of each number of y; above 0.
        given: name -> one value, or N values.
        draws: of each row.
        rng: a seed or generator.
        route: a route by name; None takes the best.

    Returns:
        An Answer whose value is a list of `draws` objects of the user's type; `raw` `(draws, N, *event)`; diagnostics:
        `mean` and `spread` `(N, *event)`, and `misfit`, the root mean square of (y - A(x)) / n, near 1 where the draws
        explain y as well as they should.

    Raises:
        Unsupported: the data has categories, or the model has no route. ValueError: y does not fit A, or noise is 0.
    """
    y = torch.as_tensor(y, dtype=torch.float64)
    at_least_one("restore", draws=draws)
    if not noise > 0:
        raise ValueError(f"restore: got noise = {noise}; expected the standard deviation of y, above 0.")
    shape = tuple(measure(torch.zeros(1, *model.space.shape, dtype=torch.float64)).shape[1:])
    if tuple(y.shape[1:]) != shape or not bool(torch.isfinite(y).all()):
        raise ValueError(f"restore: got y of shape {tuple(y.shape)} (finite?); expected finite numbers (N, {shape}).")
    _in_chart(model, measure)  # codes of categories are no numbers to measure
    c = given_for(model, given, len(y))
    many = {k: v.repeat(draws, *[1] * (v.ndim - 1)) for k, v in c.items()}
    every = y.repeat(draws, *[1] * (y.ndim - 1))
    pairs = draws // 2 if draws >= 4 else 0
    noises = Opposed(Rng(rng), draws * len(y), pairs * len(y))
    ask = {"y": every, "measure": measure, "noise": noise, "given": many, "rng": noises}
    found = solve("restore", ROUTES, model, route, **ask)
    return _drawn(model, found, y, measure, noise, draws, pairs)


def by_guidance(model: Model, y: Tensor, measure: Measure, noise: float, given: dict[str, Tensor], rng: Rng) -> Answer:
    """The denoiser, guided by y through its own posterior covariance."""
    u = wander(_guide(model, y, measure, noise, given), (len(y), *model.chart.space.shape), VE(), STEPS, rng)
    return Answer(None, UNIT, Quality.ESTIMATE, raw=model.chart.decode(u, rng))


def by_coarse_guidance(
    model: Model, y: Tensor, measure: Measure, noise: float, given: dict[str, Tensor], rng: Rng
) -> Answer:
    """The same in few first-order steps, whose draws lie nearer their mean than they should."""
    guide, shape = _guide(model, y, measure, noise, given), (len(y), *model.chart.space.shape)
    u = ancestral(guide, prior(VE(), shape, rng), VE(), STEPS // 2, rng)
    return Answer(None, UNIT, Quality.ESTIMATE, raw=model.chart.decode(u, rng))


def _guide(model: Model, y: Tensor, measure: Measure, noise: float, given: dict[str, Tensor]) -> Denoiser:
    """E[u | u_t, y]."""

    def denoise(u: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return model.denoise(u, alpha, sigma, given)

    seen, within = _in_chart(model, measure), _range(model.chart)
    return posterior_denoiser(denoise, seen, y.float(), noise=noise, iterations=SOLVE, within=within)


def by_draws(model: Model, y: Tensor, measure: Measure, noise: float, given: dict[str, Tensor], rng: Rng) -> Answer:
    """The model's own draws, weighed by p(y | x): exact as their number grows, and hopeless for many numbers."""
    if y[0].numel() > MEASURED:
        raise Unsupported(f"{y[0].numel()} numbers were measured, and no draw explains more than {MEASURED}")
    with torch.no_grad():
        if given:
            x = model.sample(POOL // 10, given, rng)  # (M, N, *event)
            weights = torch.stack([log_measurement(measure, y, noise)(one.double()) for one in x], 1)
        else:
            x = torch.cat([model.sample(POOL // 10, None, rng) for _ in range(10)])
            seen = torch.cat([measure(part.double()).flatten(1).double() for part in x.split(2000)])
            weights = -0.5 * (torch.cdist(y.flatten(1), seen) / noise).square()
    weights = weights.softmax(1)
    effective = float((1 / weights.square().sum(1)).median())
    if effective < FEWEST:
        raise Unsupported(f"of {weights.shape[1]} draws hardly {effective:.0f} explain a y")
    which = rng.categorical(weights.clamp_min(1e-300).log())
    found = x[which, torch.arange(len(y))] if given else x[which]
    return Answer(None, UNIT, Quality.ESTIMATE, raw=found, diagnostics={"effective draws": effective})


def by_latents(model: Model, y: Tensor, measure: Measure, noise: float, given: dict[str, Tensor], rng: Rng) -> Answer:
    """A Hamiltonian chain over z, with y seen through the decoder's own noise; x is then drawn given z and y."""
    with torch.no_grad():
        z = _best(model, y, measure, noise, given, rng)

    def around(z: Tensor) -> Measure:
        """log p(z) p(y | z) up to a constant, for z near these."""
        with torch.no_grad():
            seen = _Decoded(model.decode(z, given or None), measure, noise, rng)

        def log_p(value: Tensor) -> Tensor:
            x = model.decode(value, given or None).mean()
            if value.requires_grad and not x.requires_grad:
                raise Unsupported("its decoder has no gradient")
            return seen.log_normal(y - measure(x)) + model.log_code(value, given or None)

        return log_p

    z = _climbed(around(z), z)
    chain = hmc(around(z), z, steps=10, rng=rng, step_size=0.02, leapfrog=6, warmup=20)
    with torch.no_grad():
        law = model.decode(chain.x, given or None)
        x = _Decoded(law, measure, noise, rng).draw(y, rng)
    words = {"accept": float(chain.accept.mean())}
    return Answer(None, UNIT, Quality.ESTIMATE, raw=model.chart.decode(model.chart.encode(x)), diagnostics=words)


class _Decoded:
    """What a decoder p(x | z) says of y, linear round its mean m. Its variance V is told by draws.

    Args:
        law: p(x | z) of each row.
        measure, noise: A and n.
        rng: of the draws.
    """

    def __init__(self, law: Predictive, measure: Measure, noise: float, rng: Rng) -> None:
        def drawn() -> Tensor:
            x = law.sample(rng).double()
            return torch.cat([x.flatten(1), measure(x).flatten(1)], 1)

        self.law, self.measure, self.noise = law, measure, noise
        with torch.no_grad():
            self.mean, told = law.mean(), _variance(drawn)
        with torch.enable_grad():
            self.at = self.mean.clone().requires_grad_()
            self.seen = measure(self.at)
        many = self.mean[0].numel()
        self.variance = told[:, :many].reshape(self.mean.shape)
        self.still = not bool(self.variance.any())
        # of F's diagonal: numbers in unlike units are solved for at once
        self.root = (noise**2 + told[:, many:]).sqrt().reshape(self.seen.shape)
        few = not self.still and self.root[0].numel() <= DENSE
        self.own = torch.linalg.eigh(self._matrix()) if few else None  # of J V J'

    def log_normal(self, r: Tensor) -> Tensor:
        """log p(y | z) up to a constant, `(B,)`, of r = y - A(m); its slope is that through r."""
        twice = (self._solved(r.detach()) * r).flatten(1).sum(1)
        return 0.5 * twice.detach() - twice

    def draw(self, y: Tensor, rng: Rng) -> Tensor:
        """x ~ p(x | z, y)."""
        x = self.law.sample(rng).double()
        if self.still:
            return x
        return x + self._back(self._solved(y + self.noise * rng.normal(tuple(y.shape), y.dtype) - self.measure(x)))

    def _solved(self, r: Tensor) -> Tensor:
        """F^-1 r."""
        if self.still:
            return r / self.noise**2
        if self.own is not None:
            values, vectors = self.own
            inside = vectors.mT @ r.flatten(1).unsqueeze(2)
            return (vectors @ (inside / (values.clamp_min(0) + self.noise**2).unsqueeze(2))).reshape(r.shape)

        def product(w: Tensor) -> tuple[Tensor, Tensor]:
            v = w / self.root
            return (self.noise**2 * v + self._across(v)) / self.root, w

        return conjugate(product, r / self.root, r, 2 * SOLVE) / self.root

    def _across(self, w: Tensor) -> Tensor:
        """J V J' w."""
        with torch.no_grad():
            return torch.func.jvp(self.measure, (self.mean,), (self._back(w),))[1].double()

    def _matrix(self) -> Tensor:
        """J V J', `(B, M, M)`."""
        B, M = len(self.root), self.root[0].numel()
        units = torch.eye(M, dtype=torch.float64).reshape(M, 1, *self.root.shape[1:]).expand(M, *self.root.shape)
        return torch.stack([self._across(e).reshape(B, M) for e in units], 1)

    def _back(self, w: Tensor) -> Tensor:
        """V J' w."""
        return self.variance * torch.autograd.grad(self.seen, self.at, w.to(self.seen.dtype), retain_graph=True)[0]


def _variance(drawn: Callable[[], Tensor]) -> Tensor:
    """Of each entry, over NOISES draws; 0 where they are one point."""
    first = drawn()
    gaps, squares = torch.zeros_like(first), torch.zeros_like(first)
    for _ in range(NOISES - 1):
        gap = drawn() - first
        gaps, squares = gaps + gap, squares + gap.square()
    return ((squares - gaps.square() / NOISES) / (NOISES - 1)).clamp_min(0)


def by_score(model: Model, y: Tensor, measure: Measure, noise: float, given: dict[str, Tensor], rng: Rng) -> Answer:
    """A Langevin chain on the score and the slope of log p(y | x), colder and colder."""
    chart, seen = model.chart, _in_chart(model, measure)
    with torch.no_grad():
        u = chart.encode(model.sample(1, given, rng)[0] if given else model.sample(len(y), None, rng))
    for step in (0.02, 0.01, 0.005, 0.002, 0.001):
        for _ in range(40):
            with torch.enable_grad():
                v = u.detach().requires_grad_()
                (pull,) = torch.autograd.grad(log_measurement(seen, y.float(), noise)(v).sum(), v)
            slope = (model.score(u, given).detach() + pull).clamp(-30, 30)
            u = u + step * slope + (2 * step) ** 0.5 * rng.normal(tuple(u.shape)).to(u.dtype)
    return Answer(None, UNIT, Quality.ESTIMATE, raw=chart.decode(u, rng))


def _in_chart(model: Model, measure: Measure) -> Measure:
    """A as a function of u."""
    chart = model.chart
    try:
        chart.unrounded(torch.zeros(1, *chart.space.shape))
    except ValueError as error:
        raise Unsupported(str(error)) from error

    def measured(u: Tensor) -> Tensor:
        return measure(chart.unrounded(u)).float()

    return measured


def _range(chart: Chart) -> tuple[Tensor, Tensor]:
    """The least and the greatest u of every entry; where it has no end, REACH deviations out."""
    low, high = ((end - chart.mean) / chart.scale for end in (chart.low, chart.high))
    free = chart.bounded > 0
    ends = (torch.where(free, -torch.inf, low).clamp_min(-REACH), torch.where(free, torch.inf, high).clamp_max(REACH))
    low, high = (chart.turned(end[None]).reshape(chart.space.shape).float() for end in ends)
    return low, high


def _best(model: Model, y: Tensor, measure: Measure, noise: float, given: dict[str, Tensor], rng: Rng) -> Tensor:
    """For each row the z, of 64 posteriors of the model's own draws, whose decoding explains y best."""
    best: Tensor | None = None
    least = torch.full((len(y),), torch.inf, dtype=torch.float64)
    for _ in range(64):
        x = model.sample(1, given, rng)[0] if given else model.sample(len(y), None, rng)
        q = model.encode(x, given or None)
        if q.support.is_discrete:  # type: ignore[union-attr]
            raise Unsupported("its latents are codes, and a chain wants numbers")
        z = q.mean
        miss = -log_measurement(measure, y, noise)(model.decode(z, given or None).mean())
        better = miss < least
        z_best = z if best is None else best
        best = torch.where(better.reshape(-1, *[1] * (z.ndim - 1)), z, z_best)
        least = torch.minimum(miss, least)
    assert best is not None
    return best


def _climbed(log_p: Measure, z: Tensor, steps: int = 120) -> Tensor:
    """z at a summit of log p, from where a chain need not search."""
    with torch.enable_grad():
        z = z.detach().clone().requires_grad_()
        adam = torch.optim.Adam([z], lr=0.05)
        for _ in range(steps):
            adam.zero_grad()
            (-log_p(z).sum()).backward()
            adam.step()
    return z.detach()


def _drawn(model: Model, found: Answer, y: Tensor, measure: Measure, noise: float, draws: int, pairs: int) -> Answer:
    raw: Tensor = found.raw.reshape(draws, len(y), *model.space.shape)  # type: ignore[union-attr]
    x = raw.double()
    with torch.no_grad():
        misfit = float(((y - torch.stack([measure(one) for one in x])) / noise).square().mean().sqrt())
    words = {**found.diagnostics, "mean": x.mean(0), "spread": _spread(x, pairs), "misfit": misfit}
    value = [KINDS[model.space.kind].restore(one, model.space) for one in raw]
    asked = {"y": y, "noise": noise, "draws": draws}
    return Answer(value, UNIT, found.quality, found.route, "restore", raw, None, words, model, asked)


def _spread(x: Tensor, pairs: int) -> Tensor:
    """The standard deviation over draws (draws, N, *event), of which the last `pairs` are opposites of the first.

    Var x = Var m + E h^2 with m half the sum and h half the difference of a pair, however the two depend.
    """
    if len(x) == 1 or pairs < 2:
        return x.std(0) if len(x) > 1 else torch.zeros_like(x[0])
    first, last = x[:pairs], x[-pairs:]
    return (((first + last) / 2).var(0) + ((first - last) / 2).square().mean(0)).sqrt()


def figure(answer: Answer) -> Figure:
    """What was measured where it is a picture, draws of what it may have been, their mean and their spread."""
    assert answer.model is not None and answer.raw is not None
    y, mean, spread = answer.question["y"], answer.diagnostics["mean"], answer.diagnostics["spread"]
    return restored_figure(y.cpu(), answer.raw.cpu(), mean.cpu(), spread.cpu(), answer.model.space)


ROUTES = (
    route(by_guidance, "denoise", sources="Rozet et al. 2024 (arXiv:2405.13712)"),
    route(by_draws, "sample", sources="Gordon et al. 1993 (weighed draws)"),
    route(by_latents, "encode", "decode", "sample", sources="Whang et al. 2021 (arXiv:2003.08089)"),
    route(by_score, "score", "sample", sources="Song and Ermon 2019 (arXiv:1907.05600)"),
    route(by_coarse_guidance, "denoise", sources="Rozet et al. 2024 (arXiv:2405.13712)"),
)
