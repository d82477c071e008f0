"""Continuous flow: a differential equation carries the data to a normal distribution, and back.

    du/dt = f(u, t, c),   t = 0 data, t = 1 noise        log p(u_0) = log N(u_1; 0, I) + int_0^1 div f dt
    matching      E |f(u_t, t) - (e - u)|^2,   u_t = (1 - t) u + t e     f = E[e - u | u_t],   E[u | u_t] = u_t - t f
    likelihood    -log p(u) + kinetic int_0^1 |f|^2 dt, through the solver's steps

Matching never solves the equation while it is trained. Its f is (2t - 1) u_t / n^2 + F(u_t / n, t) / n with n^2 =
(1-t)^2 + t^2: with F = 0 the exact velocity of standard normal data, and F has a target of unit variance at every t.
Pairs (u, e) are independent, or nearest within the batch, which straightens paths; then f is no mean over independent
noise, so `denoise` is not offered. Where there are givens, only rows of equal givens exchange their noise, so that e
stays N(0, I) for every c. Likelihood is FFJORD: f = F(u, t), the divergence exact or by Hutchinson's estimator.

One grid of steps serves sampling, encoding and density. Offers sample, log_prob (an estimate: the solver's error, and
Hutchinson's noise, which is stated), encode (z as a narrow normal), score, and denoise (independent matching).

References: neural ODE (Chen 2018, arXiv:1806.07366); FFJORD (Grathwohl 2018, arXiv:1810.01367); RNODE (Finlay 2020,
arXiv:2002.02798); flow matching (Lipman 2022, arXiv:2210.02747); OT-CFM (Tong 2023, arXiv:2302.00482).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pofx.engines.bound import Range
from pofx.engines.ode import METHODS, log_likelihood, odeint
from pofx.engines.transport import assignment, groups
from pofx.model import Batch, Card, Given, Model, Player, Predictive, Quality, Rng, Unsupported, Value
from pofx.nn.conditioner import Condition, conditioner, drop
from pofx.nn.velocity import SHORT, Form, Velocity, octaves
from pofx.wrappers import Point

LOG_2PI = math.log(2 * math.pi)
LEVELS = (1e-3, 80.0)  # t / (1 - t) that the network tells apart
FEW = 8  # entries up to which trace=None is exact
NEAR = 0.01  # t at which `score` asks, where the divergence is not exact


class ContinuousFlow(Model):
    """A flow whose layers are the steps of an ODE solver.

    Args:
        objective: "matching" (of velocities) or "likelihood" (through the solver).
        pairing: of data and noise, matching only: "independent" or "optimal-transport" (within the batch).
        times: of matching: "uniform", "logit-normal", or "even" in log(1 + (1-t)^2 / t^2), which weighs as log p does.
        trace: "exact" or "hutchinson"; None: exact up to 8 entries.
        probes: of Hutchinson's estimator, for each draw of `log_prob`.
        kinetic: weight of the path's energy, likelihood only.
        body: "vector", "picture", "volume", "series" or "set"; None: the one that suits the layout (`nn/velocity.py`).
        width, depth, blocks, dropout: of the network, see `Velocity`.
        frequencies: octaves of Fourier features; None: for matching 4, or as many up to 8 as resolve
            levels; for likelihood none.
        solver: "euler", "heun", "rk4" or "dopri5", with fixed steps.
        solver_steps: of sampling and density. train_steps: of the likelihood objective.
        lr, weight_decay: of AdamW; lr None: 4e-3, but 1e-3 for vectors of more than 16 entries.
    """

    card = Card(
        density="estimate: an ODE, exact up to its solver",
        sampling="slow, tens of steps",
        training="stable regression of velocities, or maximum likelihood through a solver",
        latents="R^D",
        architecture="free",
        branch=("explicit", "tractable", "flow"),
        incomplete="matching: observed-loss, missing entries are pure noise with a mask beside them; likelihood: "
        "complete rows only",
        tier="experimental",
        summary="a velocity field that carries noise to the data",
        reference="Grathwohl et al. 2018, arXiv:1810.01367; Lipman et al. 2022, arXiv:2210.02747",
        euclidean=True,
    )
    sampler = Quality.ESTIMATE

    def __init__(
        self,
        *,
        objective: str = "matching",
        pairing: str = "independent",
        times: str = "even",
        trace: str | None = None,
        probes: int = 4,
        kinetic: float = 0.0,
        body: str | None = None,
        width: int | None = None,
        depth: int | None = None,
        blocks: int = 1,
        dropout: float = 0.0,
        frequencies: int | None = None,
        solver: str = "rk4",
        solver_steps: int = 10,
        train_steps: int = 6,
        lr: float | None = None,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__()
        _check(objective=(objective, ("matching", "likelihood")))
        _check(pairing=(pairing, ("independent", "optimal-transport")))
        _check(times=(times, ("uniform", "logit-normal", "even")), trace=(trace, (None, "exact", "hutchinson")))
        _check(solver=(solver, tuple(METHODS)))
        self.objective, self.pairing, self.times, self.trace = objective, pairing, times, trace
        self.probes, self.kinetic, self.body, self.width, self.depth = probes, kinetic, body, width, depth
        self.blocks, self.dropout, self.frequencies, self.solver = blocks, dropout, frequencies, solver
        self.solver_steps, self.train_steps, self.lr, self.weight_decay = solver_steps, train_steps, lr, weight_decay

    @property
    def name(self) -> str:
        return "continuous_flow"

    @property
    def loss_unit(self) -> str:  # type: ignore[override]
        """Matching's loss is no likelihood."""
        return "nats" if self.objective == "likelihood" else "squared velocity"

    def offers(self) -> frozenset[str]:
        lacks = set() if self._means else {"denoise"}
        return super().offers() - lacks - ({"score"} if not (self._exact or self._means) else set())

    @property
    def _means(self) -> bool:
        """Whether f gives E[u | u_t] for independent noise."""
        return self.objective == "matching" and self.pairing == "independent"

    @property
    def _exact(self) -> bool:
        return self.trace == "exact" or (self.trace is None and self.space.size <= FEW)

    def _build(self) -> None:
        matching = self.objective == "matching"
        form = Form.of(self.space, self.body)
        picture = len(self.space.shape) == 3
        self.batch_size = 64 if picture or form.body == "set" else 512 if matching and self.space.size <= SHORT else 128  # type: ignore[misc]
        waves = octaves(self.space.meta.get("finest")) if matching else 0
        frequencies = waves if self.frequencies is None else self.frequencies
        self.conditioner = conditioner(self.given, form.features(self.width))
        patch = 1 if picture and form.body == "picture" else None
        maps, tokens = (self.conditioner.channels, self.conditioner.attended) if self.conditioner else (0, False)
        settings = (self.width, self.depth, self.blocks, self.dropout, frequencies, patch, maps, tokens)
        self.net = Velocity(form, *settings)
        s = torch.linspace(0, 1, self.solver_steps + 1, dtype=torch.float64)
        # matched velocities change over lengths of order t, so the steps shrink towards the data
        self.register_buffer("grid", s**2 if matching else s, persistent=False)

    def _players(self) -> list[Player]:
        lr = self.lr or (4e-3 if self.net.form.body == "picture" or self.space.size <= SHORT else 1e-3)
        loss = self._matching if self.objective == "matching" else self._negative_likelihood
        return [Player("field", list(self.parameters()), loss, lr=lr, weight_decay=self.weight_decay)]

    def _velocity(self, u: Tensor, t: Tensor, c: Condition | None, observed: Tensor | None = None) -> Tensor:
        """f at u (B, *event) and t (B,)."""
        if self.objective == "likelihood":
            return self.net(u, u, t.exp(), c, observed)
        level = (t / (1 - t)).clamp(*LEVELS)
        s = _wide(t, u)
        n2 = (1 - s).square() + s.square()
        n = n2.sqrt()
        return (2 * s - 1) / n2 * u + self.net(u / n, u / (1 - s).clamp_min(1e-12), level, c, observed) / n

    def _field(self, c: Condition | None) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda t, u: self._velocity(u, t.expand(len(u)), c)

    def _condition_vector(self, given: Given, rows: int, keep: Mapping[str, Tensor] | None = None) -> Condition | None:
        shape = self.space.shape
        size = (shape[1], shape[2]) if len(shape) == 3 else None
        return None if self.conditioner is None else self.conditioner.whole(given, rows, keep, size)

    def _matching(self, batch: Batch, rng: Rng) -> Tensor:
        """E |f - (e - u)|^2, summed over the entries; at several times a row where it validates."""
        keep = drop(batch.given, len(batch), rng) if self.given and self.training else None
        c = self._condition_vector(batch.given, len(batch), keep)
        parts = [self._error(batch, c, rng) for _ in range(1 if self.training else 4)]
        return torch.stack(parts).mean()

    def _error(self, batch: Batch, c: Condition | None, rng: Rng) -> Tensor:
        u, observed = batch.x.float(), batch.observed
        t, e = self._times(len(u), rng), rng.normal(tuple(u.shape))
        if self.pairing == "optimal-transport" and observed is None:
            e = e[assignment(u, e, groups(list(batch.given.values()), len(u)).to(u.device))]
        s = _wide(t, u)
        u_t = (1 - s) * u + s * e
        if observed is not None:
            blank = ((1 - s).square() + s.square()).sqrt() * rng.normal(tuple(u.shape))
            u_t = torch.where(observed, u_t, blank)
        r2 = (self._velocity(u_t, t, c, observed) - (e - u)).square()
        return (r2 if observed is None else torch.where(observed, r2, 0.0)).sum() / len(u)

    def _times(self, rows: int, rng: Rng) -> Tensor:
        """Times (B,), one in each stratum of the global batch."""
        slots = torch.arange(rows, device=rng.device, dtype=torch.float64)
        first, total = (rng.rows.start, rng.rows.total) if rng.rows else (0, rows)
        position = (rng.uniform((1,), torch.float64) + (slots + first) / total) % 1
        if self.times == "uniform":
            return position.float()
        if self.times == "logit-normal":
            return torch.special.ndtri(position.clamp(1e-9, 1 - 1e-9)).sigmoid().float()
        level = Range(*LEVELS).sigma(position)
        return (level / (1 + level)).float()

    def _negative_likelihood(self, batch: Batch, rng: Rng) -> Tensor:
        keep = drop(batch.given, len(batch), rng) if self.given and self.training else {}
        if batch.observed is not None:
            whole = batch.observed.flatten(1).all(1).nonzero()[:, 0]
            if len(whole) == 0:
                return self._nothing(len(batch))
            batch, keep = batch.take(whole), {k: v[whole] for k, v in keep.items()}
        speeds: list[Tensor] = []
        f = self._field(self._condition_vector(batch.given, len(batch), keep))

        def watched(t: Tensor, u: Tensor) -> Tensor:
            slope = f(t, u)
            speeds.append(slope.flatten(1).square().sum(1))
            return slope

        divergence = "exact" if self._exact else "hutchinson"
        found = log_likelihood(
            watched, batch.x.float(), _log_normal, divergence=divergence, probes=1, rng=rng, method="rk4",
            steps=self.train_steps,
        )  # fmt: skip
        weights = found.value.new_tensor(METHODS["rk4"].b).repeat(self.train_steps) / self.train_steps
        energy = (torch.stack(speeds, 1) * weights).sum(1)  # the solver's own rule for the integral of |f|^2
        return -found.value.mean() + (self.kinetic * energy.mean() if self.training else 0.0)

    def _nothing(self, rows: int) -> Tensor:
        """The loss where no row is complete: nothing to validate on, but too little to train on."""
        if self.training:
            raise Unsupported(
                f"continuous_flow: none of {rows} rows is complete, and objective='likelihood' learns from complete "
                "rows only; take objective='matching', or complete the rows first."
            )
        return next(self.parameters()).sum() * 0

    def _denoise(self, u_t: Tensor, alpha_t: Tensor, sigma_t: Tensor, given: Given) -> Tensor:
        rows = len(u_t)
        a, s = (torch.as_tensor(v).float().reshape(-1).expand(rows) for v in (alpha_t, sigma_t))
        t = s / (a + s)
        u = u_t.float() / _wide(a + s, u_t)
        return (u - _wide(t, u) * self._velocity(u, t, self._condition_vector(given, rows))).to(u_t.dtype)

    def _score(self, u: Tensor, given: Given) -> Tensor:
        if self._exact:
            return super()._score(u, given)
        t = torch.full((len(u),), NEAR, device=u.device)
        v = self._velocity(u.float() * (1 - NEAR), t, self._condition_vector(given, len(u)))
        # E[e | u_t] = u_t + (1 - t) f, and the score of u_t / (1 - t) is -(1 - t) E[e | u_t] / t
        return (-((1 - NEAR) ** 2) * (u.float() + v) / NEAR).to(u.dtype)

    def _carried(self, u: Tensor, c: Condition | None, back: bool = False) -> Tensor:
        """u at the data's end carried to the noise's; or `back`."""
        times = self.grid.flip(0) if back else self.grid
        return odeint(self._field(c), u, method=self.solver, times=times).x

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        return self._decode(rng.normal((count, self.space.size)), given).sample(rng)

    def _encode(self, x: Tensor, given: Given) -> torch.distributions.Distribution:
        z = self._carried(x.float(), self._condition_vector(given, len(x))).flatten(1)
        return torch.distributions.Independent(torch.distributions.Normal(z, torch.full_like(z, 1e-6)), 1)

    def _decode(self, z: Tensor, given: Given) -> Predictive:
        noise = z.float().reshape(-1, *self.space.shape)
        u = self._carried(noise, self._condition_vector(given, len(z)), back=True)
        return Predictive(Point(self.space, "continuous_flow"), u.flatten(1))

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        if observed is not None:
            raise Unsupported("continuous_flow: the density of some entries alone is not known; pass complete rows.")
        f = self._field(self._condition_vector(given, len(x)))
        kind, probes = ("exact", 1) if self._exact else ("hutchinson", self.probes * draws)
        settings = {"method": self.solver, "times": self.grid, "rng": rng}
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):  # second derivatives of every step
            found = log_likelihood(f, x.float(), _log_normal, divergence=kind, probes=probes, **settings)
        diagnostics = {"evaluations": found.evaluations, "trace": kind}
        return Value(found.value, Quality.ESTIMATE, None if kind == "exact" else found.stderr, diagnostics)


def _wide(t: Tensor, u: Tensor) -> Tensor:
    """One number a row, (B, 1, ...)."""
    return t.reshape(-1, *[1] * (u.ndim - 1))


def _log_normal(z: Tensor) -> Tensor:
    flat = z.flatten(1)
    return -0.5 * (flat.square().sum(1) + flat.shape[1] * LOG_2PI)


def _check(**options: tuple[str | None, tuple[str | None, ...]]) -> None:
    for name, (got, expected) in options.items():
        if got not in expected:
            raise ValueError(f"continuous_flow: {name} is {got!r}; expected one of {expected}.")
