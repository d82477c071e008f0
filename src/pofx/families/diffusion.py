"""Diffusion: learn to remove noise of every strength; sampling removes it step by step.

    u_t = alpha u + sigma e,   n^2 = alpha^2 + sigma^2,   v = log(1 + alpha^2 / sigma^2)
    D(u_t) = k u_t - g F(u_t / n, sigma / alpha)                                                E[u | u_t]
    log p(u) >= C(u) - 1/2 int dv E |r|^2,   r = (u - D) sqrt(1 + 1/sigma^2)  at alpha = 1

F predicts what `predict` says, and k, g turn it into D: the one place where that matters. With "v" and alpha = 1 this
is EDM's preconditioning for unit variance, and |r|^2 is EDM's weighted loss; levels uniform in v make that loss the
variational bound itself: one model is a hierarchical VAE (the bound) and a continuous flow (the ODE).

Offers sample, log_prob (the bound, or the ODE's estimate), denoise and score (of the data with the least noise). Fitted
by the bound, one level a row, levels stratified over the batch. F sees smoothed Fourier features of u_t, as the edges
of relaxed levels are finer than a network alone resolves. On a table with categories or levels F adds to what each
column says by itself (`engines/columns.py`), and D is a mean over levels.

References: DDPM (Ho 2020, arXiv:2006.11239); VDM (Kingma 2021, arXiv:2107.00630); EDM (Karras 2022, arXiv:2206.00364);
v (Salimans 2022, arXiv:2202.00512); score SDE (Song 2021, arXiv:2011.13456); flow matching (Lipman 2023,
arXiv:2210.02747).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pofx.engines.bound import Range, Schedule, variational_bound
from pofx.engines.columns import Column, Columns
from pofx.engines.diffusion import PATHS, SAMPLERS, ode_log_prob, path_of, sample
from pofx.engines.guidance import repaint
from pofx.model import Batch, Card, Conditional, Given, Model, Player, Quality, Rng, Unsupported, Value
from pofx.nn.conditioner import Condition, conditioner, drop
from pofx.nn.mlp import MLP
from pofx.nn.velocity import SHORT, Clock, Form, Velocity, octaves

FAR = 64  # rows of which one is of large noise


class Diffusion(Model):
    """A denoiser of all noise levels, as a distribution.

    Args:
        path: of the sampler, and of the levels where weighting is "simple": "edm" (alpha = 1), "vp" (cosine),
            "vp-linear", or "linear" (flow matching).
        predict: what the network says: "v" (alpha e - sigma u over n; on the linear path e - u), "eps" or "x".
        weighting: of the loss: "bound" (the likelihood); or with times uniform on the path "simple" (the squared error
            of what is predicted: DDPM's, or flow matching's), or "even" (|u - D|^2 / sigma, between the error of u,
            which hardly sees little noise, and that of the flow, which hardly sees much).
        schedule: of the bound's levels: "even" in v, or "learned": ends that make the bound highest, and in between
            the spacing that makes its variance least; None: learned for tables with categories or levels, else even.
        solver: "heun", "churn" (EDM's stochastic one), "ddim", "ddpm" (ancestral) or "dpm++2m".
        solver_steps: levels of the sampler; heun and churn ask the network 2 solver_steps - 1 times, others once each.
        density: of log_prob: "bound", or "ode" (the probability flow's, an estimate).
        body: "vector", "picture", "volume", "series" or "set"; None: the one that suits the layout (`nn/velocity.py`).
        width: features of the network; None: 16 or 32 channels for small and other grids, 128 for vectors of up to
            16 entries, 256 for others, 64 for points.
        depth: sizes of a U-Net or blocks of the others; None: by the Space.
        blocks: residual blocks at each size of a U-Net.
        patch: side of the cells of pixels that enter it as channels; None: 2 for pictures from 24 pixels on, and for
            volumes and series of more than 1024 places.
        dropout: probability inside each block.
        frequencies: octaves of Fourier features of each entry, from 2 radians per standard deviation; None: 4, or as
            many up to 8 as resolve the levels of a picture or a column.
        sigma_min, sigma_max: range of noise levels, in standard deviations of the data; where it starts, if learned.
        rho: curvature of the "edm" sampler's grid of levels.
        levels: noise levels for each draw of `log_prob`.
        focus: share of the training rows whose level is drawn around the middle of the range, where pictures form; 1
            is EDM's training; None: 0.5 for pictures from 24 pixels on, whose bound would mostly count noise, else 0.
        lr: of AdamW; None: 4e-3, but 2e-3 for larger pictures and tables, 1e-3 for vectors of more than 16 entries.
        weight_decay: of AdamW.

    Raises:
        ValueError: a word that none of these arguments knows.
    """

    card = Card(
        density="lower bound, slow",
        sampling="slow, tens of steps",
        training="stable, weighted denoising",
        latents="R^D at each noise level",
        architecture="free",
        branch=("explicit", "approximate", "bound"),
        incomplete="observed-loss, approximate: missing entries are pure noise with a mask beside them",
        summary="a network that removes noise, asked again and again",
        reference="Karras et al. 2022, arXiv:2206.00364; Kingma et al. 2021, arXiv:2107.00630",
        euclidean=True,
    )
    sampler = Quality.ESTIMATE
    points = True
    columns: Columns | None

    def __init__(
        self,
        *,
        path: str = "edm",
        predict: str = "v",
        weighting: str = "bound",
        schedule: str | None = None,
        solver: str = "heun",
        solver_steps: int = 18,
        density: str = "bound",
        body: str | None = None,
        width: int | None = None,
        depth: int | None = None,
        blocks: int = 1,
        patch: int | None = None,
        dropout: float = 0.0,
        frequencies: int | None = None,
        sigma_min: float = 1e-3,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        levels: int = 4,
        focus: float | None = None,
        lr: float | None = None,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__()
        _check(path=(path, PATHS), predict=(predict, ("v", "eps", "x")), solver=(solver, SAMPLERS))
        _check(weighting=(weighting, ("bound", "simple", "even")), schedule=(schedule, (None, "even", "learned")))
        _check(density=(density, ("bound", "ode")))
        self.path, self.predict, self.weighting, self.schedule = path, predict, weighting, schedule
        self.solver, self.density, self.body = solver, density, body
        self.width, self.depth, self.blocks, self.patch, self.dropout = width, depth, blocks, patch, dropout
        self.frequencies, self.sigma_min, self.sigma_max, self.rho = frequencies, sigma_min, sigma_max, rho
        self.solver_steps, self.levels, self.focus = solver_steps, levels, focus
        self.lr, self.weight_decay = lr, weight_decay
        self.columns = None

    @property
    def loss_unit(self) -> str:  # type: ignore[override]
        return "nats" if self.weighting == "bound" else "squared error"

    def offers(self) -> frozenset[str]:
        # points have no slope, and guidance needs one: a table's gaps are filled by going back and forth
        return super().offers() - ({"score"} if self.columns is not None else {"condition"})

    def _build(self) -> None:
        self.picture = self.space.picture
        said = [Column(kind, start, tuple(values)) for kind, start, values in self.space.meta.get("columns", ())]
        self.columns = Columns(said) if said else None
        self.form = Form.of(self.space, "vector" if said else self.body)
        c = self._column_width if self.columns is not None else self.form.features(self.width)
        self.conditioner = conditioner(self.given, c)
        self.net = self._body() if self.columns is None else self._column_body(self.columns, c)
        learned = (self.schedule or ("learned" if said else "even")) == "learned"
        self.spacing = Schedule(self.sigma_min, self.sigma_max, free=not said) if learned else None

    def _body(self) -> nn.Module:
        waves = octaves(self.space.meta.get("finest")) if self.frequencies is None else self.frequencies
        maps, tokens = (self.conditioner.channels, self.conditioner.attended) if self.conditioner else (0, False)
        settings = (self.width, self.depth, self.blocks, self.dropout, waves, self.patch, maps, tokens)
        return Velocity(self.form, *settings)

    @property
    def _column_width(self) -> int:
        """Features of the condition of a table with levels or categories."""
        width = self.width or 256
        return width // 4 + width // 4 % 2

    def _column_body(self, columns: Columns, c: int) -> nn.Module:
        self.clock = Clock(c)
        wide, out = columns.pieces + self.space.size + len(columns.columns), columns.pieces + len(columns.smooth)
        return MLP(wide, out, self.width or 256, self.depth or 4, c, self.dropout, zero=True)

    @property
    def batch_size(self) -> int:  # type: ignore[override]
        """Rows of a step: more of vectors, which are small."""
        if self.picture or self.form.body == "set":
            return 64
        return 256 if self.columns is not None or self.space.size > SHORT else 512

    @property
    def span(self) -> Range:
        """The range of noise levels."""
        return Range(self.sigma_min, self.sigma_max) if self.spacing is None else self.spacing.range

    @property
    def _rate(self) -> float:
        # a wide vector's few heavy entries make the loss of small noise jump: a quick learner never settles
        fast = self.picture or self.space.size <= SHORT
        return self.lr or (2e-3 if self.columns is not None or self._large else 4e-3 if fast else 1e-3)

    @property
    def _large(self) -> bool:
        return self.picture and max(self.space.shape[1:]) >= 24

    def _players(self) -> list[Player]:
        rest = [p for name, p in self.named_parameters() if not name.startswith("spacing.")]
        players = [Player("denoiser", rest, self._loss, lr=self._rate, weight_decay=self.weight_decay)]
        if self.spacing is not None:
            params = list(self.spacing.parameters())
            players.append(Player("spacing", params, self._spacing_loss, every=8, lr=5e-2, weight_decay=0.0))
        return players

    def _loss(self, batch: Batch, rng: Rng) -> Tensor:
        """What `weighting` says: at one level a row while training, at `levels` levels when validating."""
        if self.columns is not None and self.training:
            self.columns.measure(batch.x.float(), batch.observed)
        if self.weighting != "bound":
            draws = 1 if self.training else self.levels
            return torch.stack([self._simple_loss(batch, rng) for _ in range(draws)]).mean()
        if self.training:
            return self._bound_loss(batch, rng)
        if batch.observed is None:
            return -self._bound(batch.x, batch.given, self.levels, rng).value.mean()
        return torch.stack([self._bound_loss(batch, rng) for _ in range(self.levels)]).mean()

    def _bound_loss(self, batch: Batch, rng: Rng) -> Tensor:
        rows = len(batch)
        sigma, weight = self._training_levels(rows, rng)
        keep = drop(batch.given, rows, rng) if self.training else None
        r2 = self._residual(batch, torch.ones_like(sigma), sigma, rng, keep) * (1 + 1 / sigma**2)
        constant = self.span.constant(batch.x.float(), batch.observed, self._points)
        return 0.5 * self.span.width * (weight * r2).sum() / rows - constant.mean().float()

    def _residual(
        self, batch: Batch, alpha: Tensor, sigma: Tensor, rng: Rng, keep: Mapping[str, Tensor] | None
    ) -> Tensor:
        """|u - D|^2 over the observed entries, (B,), at one alpha and sigma a row."""
        u, observed = batch.x.float(), batch.observed
        a, s = (t.reshape(-1, *[1] * (u.ndim - 1)) for t in (alpha, sigma))
        u_t = a * u + s * rng.normal(tuple(u.shape))
        if observed is not None:
            blank = torch.hypot(a, s) * rng.normal(tuple(u.shape))
            u, u_t = torch.where(observed, u, 0.0), torch.where(observed, u_t, blank)
        r = u - self._network(u_t, alpha, sigma, batch.given, observed, keep)
        r = r if observed is None else torch.where(observed, r, 0.0)
        return r.square().flatten(1).sum(1)

    def _simple_loss(self, batch: Batch, rng: Rng) -> Tensor:
        """The squared error of what the network predicts, at times uniform on the path."""
        path = path_of(self.path, self.sigma_min, self.sigma_max, self.rho)
        t = self._strata(len(batch), rng).clamp(1e-4, 1.0)
        alpha, sigma = path.alpha(t).float(), path.sigma(t).float()
        keep = drop(batch.given, len(batch), rng) if self.training else None
        r2 = self._residual(batch, alpha, sigma, rng, keep)
        even = self.weighting == "even"
        return (r2 / (sigma.clamp_min(0.05) if even else self._reading(alpha, sigma)[1].square())).mean()

    def _strata(self, rows: int, rng: Rng) -> Tensor:
        """Even positions in [0, 1), one in each stratum of the global batch, shifted at random."""
        slots = torch.arange(rows, device=rng.device, dtype=torch.float64)
        first, total = (rng.rows.start, rng.rows.total) if rng.rows else (0, rows)
        return (rng.uniform((1,), torch.float64) + (slots + first) / total) % 1

    def _training_levels(self, rows: int, rng: Rng) -> tuple[Tensor, Tensor]:
        """Levels uniform in v (or where the schedule puts them), and weights; a share of them log-normal as in EDM."""
        place, weight = self._place(self._strata(rows, rng))
        sigma = self.span.sigma(place)
        focus = (0.5 if self._large else 0.0) if self.focus is None else self.focus
        if focus:
            middle = torch.exp(1.2 * rng.normal((rows,), torch.float64) - 1.2)
            sigma, weight = _replaced(rng.bernoulli(focus, (rows,)), middle, sigma, weight)
        # the bound hardly asks for large noise, but draws start there: one row in FAR is of it
        far = 2.0 * (max(2.0, self.span.sigma_max) / 2.0) ** rng.uniform((rows,), torch.float64)
        sigma, weight = _replaced(rng.bernoulli(1 / FAR, (rows,)), far, sigma, weight)
        return sigma.clamp(self.span.sigma_min, self.span.sigma_max).float(), weight.float()

    def _place(self, position: Tensor) -> tuple[Tensor, Tensor]:
        if self.spacing is None:
            return position, torch.ones_like(position)
        with torch.no_grad():
            return self.spacing(position)

    def _spacing_loss(self, batch: Batch, rng: Rng) -> Tensor:
        """What the ends of the schedule cost the bound, and the variance that its spacing leaves."""
        assert self.spacing is not None
        place, weight = self.spacing(self._strata(len(batch), rng))
        sigma = self.spacing.sigma(place.detach()).float()
        r2 = self._residual(batch, torch.ones_like(sigma), sigma, rng, None) * (1 + 1 / sigma**2)
        return self.spacing.loss(r2, weight, batch.x.float(), batch.observed, self._points)

    @property
    def _points(self) -> Tensor | None:
        return None if self.columns is None else self.columns.point

    def _reading(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """k and g of D = k u_t - g F, for what F predicts."""
        if self.columns is not None or self.predict == "x":
            return torch.zeros_like(alpha), -torch.ones_like(alpha)
        if self.predict == "eps":
            alpha = torch.maximum(alpha, sigma / self.sigma_max)  # pure noise says nothing of u
            return 1 / alpha, sigma / alpha
        if self.path == "linear":
            return 1 / (alpha + sigma), sigma / (alpha + sigma)
        n = torch.hypot(alpha, sigma)
        return alpha / n**2, sigma / n

    def _network(
        self,
        u_t: Tensor,
        alpha: Tensor,
        sigma: Tensor,
        given: Given,
        observed: Tensor | None = None,
        keep: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """D(u_t) for u_t (B, *event) and one alpha and sigma a row, float32."""
        wide = (-1, *[1] * (u_t.ndim - 1))
        level = (sigma / alpha).clamp(self.span.sigma_min, self.span.sigma_max)
        scaled = u_t / torch.hypot(alpha, sigma).reshape(wide)
        size = (u_t.shape[2], u_t.shape[3]) if self.picture else None
        c = None if self.conditioner is None else self.conditioner.whole(given, len(u_t), keep, size)
        # u_t / alpha, but finite where alpha is 0
        clean = scaled * (1 + level**2).sqrt().reshape(wide)
        if self.columns is not None:
            return self._of_columns(self.columns, scaled, clean, level, c, observed)
        k, g = (t.reshape(wide) for t in self._reading(alpha, sigma))
        return k * u_t - g * self.net(scaled, clean, level, c, observed)

    def _of_columns(
        self, columns: Columns, scaled: Tensor, v: Tensor, level: Tensor, c: Condition | None, observed: Tensor | None
    ) -> Tensor:
        """D as a mean over the pieces of every column, to whose log probabilities the network adds."""
        if observed is not None:
            scaled, v = torch.where(observed, scaled, 0.0), torch.where(observed, v, 0.0)
        log_p, means = columns.evidence(v, level, observed)
        h = self.clock(level, None if c is None else c.vector)
        mask = torch.ones_like(v) if observed is None else observed.to(v.dtype)
        out = self.net(torch.cat([2 * log_p.exp(), scaled, columns.observed(mask)], 1), h)
        d = columns.mean(columns.normalised(log_p + out[:, : columns.pieces]), means)
        if not columns.smooth:
            return d
        # what pieces cannot say: finer than they are, and small where the noise is
        fine = (level / (1 + level**2).sqrt())[:, None] * out[:, columns.pieces :]
        return d.index_add(1, torch.tensor(columns.smooth, device=d.device), fine)

    def _denoise(self, u_t: Tensor, alpha_t: Tensor, sigma_t: Tensor, given: Given) -> Tensor:
        rows = len(u_t)
        alpha, sigma = (torch.as_tensor(t).float().reshape(-1).expand(rows) for t in (alpha_t, sigma_t))
        return self._network(u_t.float(), alpha, sigma, given).to(u_t.dtype)

    def _score(self, u: Tensor, given: Given) -> Tensor:
        s = self.span.sigma_min
        d = self._denoise(u, torch.ones(len(u)), torch.full((len(u),), s), given)
        return (d - u) / s**2

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        path = path_of(self.path, self.span.sigma_min, self.span.sigma_max, self.rho)
        denoise, shape = self._denoiser(given), (count, *self.space.shape)
        u = sample(denoise, shape, path, rng, method=self.solver, steps=self.solver_steps)
        return u.to(self.space.torch_dtype)

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        """A table's p(x_m | x_o): steps of DDPM that keep what is observed at its noise level, five times each."""
        path = path_of("edm", self.span.sigma_min, self.span.sigma_max, self.rho)

        def sample(n: int, rng: Rng) -> Tensor:
            rows, mask = (t.repeat(n, *[1] * (t.ndim - 1)) for t in (x, observed))
            many = {k: v.repeat(n, *[1] * (v.ndim - 1)) for k, v in given.items()}
            with torch.no_grad():
                u = repaint(self._denoiser(many), mask, rows.float(), path, rng, steps=20, repeats=5)
            return torch.where(mask, rows, u.to(rows.dtype)).reshape(n, *x.shape)

        return Conditional(sample, None, Quality.ESTIMATE)

    def _denoiser(self, given: Given) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        return lambda u, alpha, sigma: self._denoise(u, alpha, sigma, given)

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        if observed is not None:
            raise Unsupported("diffusion: the density of the observed part alone is not known; pass complete rows.")
        return (
            self._flow(x, given, draws, rng)
            if self.density == "ode"
            else self._bound(x, given, draws * self.levels, rng)
        )

    def _flow(self, x: Tensor, given: Given, draws: int, rng: Rng) -> Value:
        """log p by the probability-flow ODE, an estimate: its steps and its probes are finite."""
        if self.columns is not None:
            raise Unsupported("diffusion: levels and categories have no flow; density='bound' knows them.")
        path = path_of("edm", self.span.sigma_min, self.span.sigma_max, self.rho)
        exact, probes = self.space.size <= 8, max(2, 2 * draws)
        found = ode_log_prob(
            self._denoiser(given), x.float(), path, 4 * self.solver_steps, rng, exact=exact, probes=probes
        )
        return Value(found.value.double(), Quality.ESTIMATE, found.stderr.double(), {"evaluations": found.evaluations})

    def _bound(self, x: Tensor, given: Given, levels: int, rng: Rng) -> Value:
        u, span = x.float(), self.span
        ends = {"sigma_min": span.sigma_min, "sigma_max": span.sigma_max}
        draws, points = max(2, levels), self._points
        bound = variational_bound(self._denoiser(given), u, rng, draws=draws, place=self._place, points=points, **ends)
        value = bound.value
        if self.columns is not None:
            value = value + self.columns.log_points(u, span.sigma_min, rng)
        return Value(value, Quality.LOWER, bound.stderr, {"levels": levels})


def _replaced(rows: Tensor, level: Tensor, sigma: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Other levels in some rows, which then weigh 1."""
    return torch.where(rows, level, sigma), torch.where(rows, 1.0, weight)


def _check(**words: tuple[str | None, tuple[str | None, ...]]) -> None:
    for name, (got, known) in words.items():
        if got not in known:
            raise ValueError(f"diffusion: {name} is {got!r}; expected one of {known}.")
