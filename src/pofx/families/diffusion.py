"""Diffusion: learn to remove noise of every strength; sampling removes it step by step.

    u_t = alpha u + sigma e,   n^2 = alpha^2 + sigma^2,   v = log(1 + alpha^2 / sigma^2)
    D(u_t) = (alpha / n^2) u_t + (sigma / n) F(u_t / n, sigma / alpha)                          E[u | u_t]
    log p(u) >= C(u) - 1/2 int dv E |r|^2,   r = (u - D) sqrt(1 + 1/sigma^2)  at alpha = 1

With alpha = 1 this is EDM's preconditioning for unit variance, and |r|^2 is EDM's weighted loss; levels uniform in v
make that loss the variational bound itself. Offers sample (Heun on EDM's grid), log_prob (the bound), denoise and
score (of the data with the least noise). Fitted by the bound, one level a row, levels stratified over the batch. F sees
smoothed Fourier features of u_t, since the edges of relaxed levels are finer than a network alone resolves.

References: EDM (Karras 2022, arXiv:2206.00364); VDM (Kingma 2021, arXiv:2107.00630).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pofx.engines.bound import Range, variational_bound
from pofx.engines.diffusion import VE, sample
from pofx.model import Batch, Card, Given, Model, Player, Quality, Rng, Unsupported, Value
from pofx.nn.conditioner import Conditioner, drop
from pofx.nn.mlp import MLP
from pofx.nn.unet import UNet, fourier


class Diffusion(Model):
    """A denoiser of all noise levels, as a distribution.

    Args:
        width: features of the network; None: 16 or 32 channels for small and other pictures, 256 for vectors.
        depth: sizes of the U-Net or blocks of the MLP; None: by the Space.
        blocks: residual blocks at each size of the U-Net.
        dropout: probability inside each block.
        frequencies: octaves of Fourier features of each entry, from 2 radians per standard deviation.
        sigma_min, sigma_max: range of noise levels, in standard deviations of the data.
        rho: curvature of the sampler's grid of levels.
        solver_steps: levels of the sampler; it asks the network 2 solver_steps - 1 times.
        levels: noise levels for each draw of `log_prob`.
        focus: share of the training rows whose level is drawn around the middle of the range, where pictures form.
        lr: of AdamW; None: 4e-3, but 1e-3 for vectors of more than 16 entries. weight_decay: of AdamW.
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
    batch_size = 64
    sampler = Quality.ESTIMATE

    def __init__(
        self,
        *,
        width: int | None = None,
        depth: int | None = None,
        blocks: int = 1,
        dropout: float = 0.0,
        frequencies: int = 8,
        sigma_min: float = 1e-3,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        solver_steps: int = 18,
        levels: int = 4,
        focus: float = 0.0,
        lr: float | None = None,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__()
        self.width, self.depth, self.blocks, self.dropout = width, depth, blocks, dropout
        self.frequencies, self.sigma_min, self.sigma_max, self.rho = frequencies, sigma_min, sigma_max, rho
        self.solver_steps, self.levels, self.focus = solver_steps, levels, focus
        self.lr, self.weight_decay = lr, weight_decay

    def _build(self) -> None:
        shape = self.space.shape
        self.picture = self.space.layout == "grid" and len(shape) == 3
        small = self.picture and self.space.size <= 256
        width = self.width or ((16 if small else 32) if self.picture else 256)
        self.features = 4 * width if self.picture else width
        self.features += self.features % 2
        entries = 2 + 2 * self.frequencies  # the entry, its mask, sines and cosines
        c = self.features
        if self.picture:
            depth = self.depth or max(1, min(4, round(math.log2(max(shape[1:]) / 4)) + 1))
            channels = shape[0] * entries
            self.net: nn.Module = UNet(channels, shape[0], width, depth, self.blocks, c, dropout=self.dropout)
        else:
            size = self.space.size
            self.net = MLP(size * entries, size, width, self.depth or 4, c, self.dropout, zero=True)
        self.clock = nn.Sequential(nn.Linear(c, c), nn.SiLU(), nn.Linear(c, c))
        self.conditioner = Conditioner({k: s.spec for k, s in self.given.items()}, c) if self.given else None
        self.register_buffer("omega", 2.0 ** torch.arange(1, self.frequencies + 1), persistent=False)

    @property
    def span(self) -> Range:
        """The range of noise levels."""
        return Range(self.sigma_min, self.sigma_max)

    @property
    def _rate(self) -> float:
        # a wide table's few heavy columns make the loss of small noise jump: a quick learner never settles
        return self.lr or (4e-3 if self.picture or self.space.size <= 16 else 1e-3)

    def _players(self) -> list[Player]:
        return [
            Player("denoiser", list(self.parameters()), self._loss, lr=self._rate, weight_decay=self.weight_decay),
        ]

    def _loss(self, batch: Batch, rng: Rng) -> Tensor:
        """The negative bound, nats: at one level a row while training, at `levels` levels when validating."""
        if not self.training and batch.observed is None:
            return -self._bound(batch.x, batch.given, self.levels, rng).value.mean()
        u, observed, rows = batch.x.float(), batch.observed, len(batch)
        sigma = self._training_levels(rows, rng)
        s = sigma.reshape(-1, *[1] * (u.ndim - 1))
        u_t = u + s * rng.normal(tuple(u.shape))
        if observed is not None:
            blank = (1 + s**2).sqrt() * rng.normal(tuple(u.shape))
            u, u_t = torch.where(observed, u, 0.0), torch.where(observed, u_t, blank)
        keep = drop(batch.given, rows, rng) if self.training else None
        d = self._network(u_t, torch.ones_like(sigma), sigma, batch.given, observed, keep)
        r2 = (u - d).square() * (1 + 1 / s**2)
        r2 = r2 if observed is None else torch.where(observed, r2, 0.0)
        return 0.5 * self.span.width * r2.sum() / rows - self.span.constant(u).mean().float()

    def _training_levels(self, rows: int, rng: Rng) -> Tensor:
        """Levels uniform in v, one in each stratum of the global batch; a share of them log-normal as in EDM."""
        slots = torch.arange(rows, device=rng.device, dtype=torch.float64)
        first, total = (rng.rows.start, rng.rows.total) if rng.rows else (0, rows)
        shift = rng.uniform((1,), torch.float64)
        sigma = self.span.sigma((shift + (slots + first) / total) % 1)
        if self.focus:
            middle = torch.exp(1.2 * rng.normal((rows,), torch.float64) - 1.2)
            sigma = torch.where(rng.bernoulli(self.focus, (rows,)), middle, sigma)
        return sigma.clamp(self.sigma_min, self.sigma_max).float()

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
        n = torch.hypot(alpha, sigma)
        level = (sigma / alpha).clamp(self.sigma_min, self.sigma_max)
        wide = [t.reshape(-1, *[1] * (u_t.ndim - 1)) for t in (alpha, sigma, n)]
        c = fourier(level.log() / 4, self.features, 0.5, 60.0)
        c = self.clock(c)
        if self.conditioner is not None:
            c = c + self.conditioner(given, len(u_t), keep)
        f = self._body(u_t / wide[2], u_t / wide[0].clamp_min(1e-12), level, c, observed)
        return wide[0] / wide[2] ** 2 * u_t + wide[1] / wide[2] * f

    def _body(self, scaled: Tensor, u: Tensor, level: Tensor, c: Tensor, observed: Tensor | None) -> Tensor:
        mask = torch.ones_like(scaled) if observed is None else observed.to(scaled.dtype)
        # sin(w u) of the clean u shrinks by exp(-w^2 level^2 / 2) under the noise: finer waves vanish, not alias
        shrink = torch.exp(-0.5 * (self.omega * level[:, None]).square())
        shrink = shrink.reshape(*shrink.shape, *[1] * (u.ndim - 1))
        angle = u[:, None] * self.omega.reshape(-1, *[1] * (u.ndim - 1))
        waves = [torch.nan_to_num(shrink * wave) for wave in (angle.sin(), angle.cos())]
        parts = torch.cat([scaled[:, None], mask[:, None], *waves], 1)
        if self.picture:
            return self.net(parts.flatten(1, 2), c)
        return self.net(parts.flatten(1), c).reshape(scaled.shape)

    def _denoise(self, u_t: Tensor, alpha_t: Tensor, sigma_t: Tensor, given: Given) -> Tensor:
        rows = len(u_t)
        alpha, sigma = (torch.as_tensor(t).float().reshape(-1).expand(rows) for t in (alpha_t, sigma_t))
        return self._network(u_t.float(), alpha, sigma, given).to(u_t.dtype)

    def _score(self, u: Tensor, given: Given) -> Tensor:
        s = self.sigma_min
        d = self._denoise(u, torch.ones(len(u)), torch.full((len(u),), s), given)
        return (d - u) / s**2

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        path = VE(self.sigma_min, self.sigma_max, self.rho)

        def denoise(u: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
            return self._denoise(u, alpha, sigma, given)

        u = sample(denoise, (count, *self.space.shape), path, rng, steps=self.solver_steps)
        return u.to(self.space.torch_dtype)

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        if observed is not None:
            raise Unsupported("diffusion: the density of the observed part alone is not known; pass complete rows.")
        return self._bound(x, given, draws * self.levels, rng)

    def _bound(self, x: Tensor, given: Given, levels: int, rng: Rng) -> Value:
        def denoise(u: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
            return self._denoise(u, alpha, sigma, given)

        span = {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        bound = variational_bound(denoise, x.float(), rng, draws=max(2, levels), **span)
        return Value(bound.value, Quality.LOWER, bound.stderr, {"levels": levels})
