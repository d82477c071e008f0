"""HVAE: groups of latent numbers, each caused by those above it, and by all of them the entries.

    p(x | c) = E_{z_1 .. z_G} prod_i p(x_i | z_1 .. z_G, c)       q(z | x) = prod_l q(z_l | x, z_1 .. z_{l-1})
    log p(x) >= E_q log 1/K sum_k w_k,    w = p(x | z) prod_l p(z_l) / q(z_l | x, z_<l)
    loss = -E_q log p(x | z) + beta sum_l max(KL_l, free_bits)

Inference is top-down and shares the generator's trunk h(z_<l): the encoder's features meet it group by group. z_l is
counted from its own prior, z_l ~ N(0, I), and enters the trunk through a net that also sees h; this is the prior
N(m_l(z_<l), s_l(z_<l)^2) written in its standard deviations, with the posterior relative to it as in NVAE. Large
pictures have groups on grids of growing size, everything else groups of numbers.

Offers sample, log_prob (a lower bound, importance-weighted over the whole hierarchy; also of some entries), encode and
decode; z is all groups in a row, from the top. Fitted by gradients through z_l = mu_l + s_l e.
References: ladder VAE (Sonderby 2016, arXiv:1602.02282); NVAE (Vahdat and Kautz 2020, arXiv:2007.03898); VD-VAE (Child
2020, arXiv:2011.10650).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from pofx.kinds.base import Variable
from pofx.kinds.relax import Chart
from pofx.model import Batch, Card, Given, Likelihood, Model, Player, Predictive, Quality, Space, Value
from pofx.nn.conditioner import conditioner, drop
from pofx.nn.hierarchy import GridTower, VectorTower
from pofx.randomness import Rng

LOG_2PI = math.log(2 * math.pi)
SMALL = 1024  # entries up to which a picture's pixels fit into MLPs
CHUNK = 1 << 22  # decoder outputs held at a time while a bound is computed


class HVAE(Model):
    """Hierarchical variational autoencoder.

    Args:
        groups: of latents (of pictures with convolutions: at each size).
        latents: numbers in each group (with convolutions: channels of each place); None chooses by the space.
        width: features of the trunk; None chooses by the space.
        body: "mlp", "conv" (pictures only), or None to choose by size.
        beta: weight of the KL terms; 1 is the bound itself.
        samples: K of the training objective, 1 for the ELBO, more for IWAE.
        free_bits: KL of each group, in nats, that costs nothing extra (with samples=1).
        components: of the mixture for each real or long ordinal entry.
        longest: an ordinal with at most this many levels is a softmax.
        dropout: in all blocks; None chooses by the space.
        lr, weight_decay: of the optimiser.
    """

    card = Card(
        density="lower bound, fast",
        sampling="fast",
        training="variational bound",
        latents="a hierarchy of R^L",
        architecture="bottom-up encoder, top-down trunk",
        branch=("explicit", "approximate", "variational"),
        incomplete="MIWAE: the bound of the observed entries",
        tier="experimental",
        summary="causes of causes: groups of latent numbers, each under those above it",
        reference="Vahdat and Kautz 2020, arXiv:2007.03898",
    )

    tower: Any  # VectorTower or GridTower

    def __init__(
        self,
        *,
        groups: int | None = None,
        latents: int | None = None,
        width: int | None = None,
        body: str | None = None,
        beta: float = 1.0,
        samples: int = 1,
        free_bits: float = 0.0,
        components: int | None = None,
        longest: int | None = None,
        dropout: float | None = None,
        lr: float = 2e-3,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__()
        if samples < 1 or (samples > 1 and free_bits > 0):
            raise ValueError(f"hvae: got samples={samples}, free_bits={free_bits}; free bits need samples=1.")
        if body not in (None, "mlp", "conv"):
            raise ValueError(f"hvae: body is {body!r}; expected 'mlp', 'conv' or None.")
        self.groups, self.latents, self.width, self.body = groups, latents, width, body
        self.beta, self.samples, self.free_bits = beta, samples, free_bits
        self.components, self.longest, self.dropout = components, longest, dropout
        self.lr, self.weight_decay = lr, weight_decay

    def _build(self) -> None:
        space, c_dim = self.space, 64 if self.given else 0
        picture = space.picture
        if self.body == "conv" and not picture:
            raise ValueError(f"hvae: body='conv' wants pictures (H, W, C), got x of shape {space.shape}; use 'mlp'.")
        self.enter = Chart(space)
        components = self.components or (2 if space.shared else 5)
        self.likelihood = Likelihood(space, components, 8 if self.longest is None and space.shared else self.longest)
        self.conditioner = conditioner(self.given, c_dim)
        convolve = self.body == "conv" or (self.body is None and space.size > SMALL)
        conv = picture and convolve and self.enter.channels_first and space.shared
        halved = all(space.variable(i).levels == 2 for i in range(1 if space.shared else space.size))
        shape, numbers, size = self.enter.space.shape, self.likelihood.size, space.size
        dropout = (0.3 if space.layout == "grid" else 0.0) if self.dropout is None else self.dropout
        if conv:
            groups, latents, width = self.groups or 2, self.latents or 4, self.width or 32
            pixel = numbers // (shape[1] * shape[2])
            self.tower = GridTower(shape, pixel, groups, latents, width, c_dim, dropout, halved)
        else:
            groups, latents = self.groups or (3 if size > 4 else 2), self.latents or max(1, min(10, size // 2))
            width = self.width or (64 if size <= 2 else 192 if size <= 400 else 512)
            self.tower = VectorTower(shape, numbers, groups, latents, width, c_dim, dropout, halved)
        self.L = sum(self.tower.sizes)

    @property
    def latent_space(self) -> Space:
        """What all groups of one x are, for a model of them."""
        return Space((self.L,), (Variable("z"),), dtype="float32")

    def _players(self) -> list[Player]:
        return [Player("hvae", list(self.parameters()), self._loss, lr=self.lr, weight_decay=self.weight_decay)]

    def _loss(self, batch: Batch, rng: Rng) -> Tensor:
        keep = drop(self.given, len(batch), rng) if self.given else None
        c = self._condition_on(batch.given, len(batch), keep)
        q = self._posterior(batch.x, batch.observed, c)
        if self.samples > 1:
            log_w = self._log_weights(batch.x, batch.observed, c, q, self.samples, rng, self.beta)
            return math.log(self.samples) - torch.logsumexp(log_w, 0).mean()
        walk = q.walk(rng.normal((len(batch), self.L)))
        kl = [part.mean().clamp_min(self.free_bits) for part in walk.divergences]
        log_p = self._log_likelihood(batch.x, batch.observed, walk.h, c)
        return self.beta * torch.stack(kl).sum() - log_p.mean()

    def _condition_on(self, given: Given, rows: int, keep: dict[str, Tensor] | None = None) -> Tensor | None:
        return None if self.conditioner is None else self.conditioner(given, rows, keep)

    def _posterior(self, x: Tensor, observed: Tensor | None, c: Tensor | None) -> TopDown:
        """q(z | x_o, c)."""
        mask = None if observed is None else self.enter.mask(observed).to(self._dtype)
        return TopDown(self.tower, self.tower.up(self.enter.encode(x).to(self._dtype), mask, c), c)

    def _log_likelihood(self, x: Tensor, observed: Tensor | None, h: Tensor, c: Tensor | None) -> Tensor:
        """log p(x_o | z) `(B,)`, from the end of the trunk."""
        if observed is not None:  # whatever stands in a gap must not reach the sum, not even as inf
            x = torch.where(observed, x, torch.zeros_like(x))
        log_p = self.likelihood.log_prob(self.tower.out(h, c), x)
        log_p = log_p if observed is None else torch.where(observed, log_p, torch.zeros_like(log_p))
        return log_p.flatten(1).sum(1)

    def _log_weights(
        self, x: Tensor, observed: Tensor | None, c: Tensor | None, q: TopDown, K: int, rng: Rng, beta: float = 1.0
    ) -> Tensor:
        """log w of K draws, `(K, B)`."""
        x, many = _repeat(x, K), q.repeated(K)
        observed = None if observed is None else _repeat(observed, K)
        walk = many.walk(rng.normal((len(x), self.L)))
        log_p = self._log_likelihood(x, observed, walk.h, many.c)
        log_prior = -0.5 * (walk.z.square().sum(-1) + self.L * LOG_2PI)
        return (log_p + beta * (log_prior - walk.log_q)).reshape(K, -1)

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        c = self._condition_on(given, len(x))
        q = self._posterior(x, observed, c)
        most = max(1, CHUNK // max(1, len(x) * self.likelihood.size))
        sizes = [min(most, draws - k) for k in range(0, draws, most)]
        log_w = torch.cat([self._log_weights(x, observed, c, q, K, rng) for K in sizes]).double()
        share = log_w.softmax(0)
        stderr = (share * draws).std(0) / math.sqrt(draws) if draws > 1 else None
        effective = float((1 / share.detach().square().sum(0)).mean())
        nats = [round(float(d.detach().mean()), 3) for d in q.walk().divergences]
        words = {"draws": draws, "effective draws": effective, "latents": self.L, "nats by group": nats}
        return Value(torch.logsumexp(log_w, 0) - math.log(draws), Quality.LOWER, stderr, words)

    def _trunk(self, z: Tensor, c: Tensor | None) -> Tensor:
        h = self.tower.begin(len(z))
        for group, part in enumerate(z.to(self._dtype).split(self.tower.sizes, 1)):
            h = self.tower.merge(group, h, part, c)
        return h

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        return self._decode(rng.normal((count, self.L)), given).sample(rng)

    def _encode(self, x: Tensor, given: Given) -> torch.distributions.Distribution:
        return self._posterior(x, None, self._condition_on(given, len(x)))

    def _decode(self, z: Tensor, given: Given) -> Predictive:
        c = self._condition_on(given, len(z))
        return Predictive(self.likelihood, self.tower.out(self._trunk(z, c), c))

    @property
    def _dtype(self) -> torch.dtype:
        return self.tower.start.dtype


class Walk:
    """One way down: z `(B, L)`, log q(z | x) `(B,)`, KL of each group given those above `(B,)`, and the trunk's end."""

    def __init__(self, rows: Tensor) -> None:
        self.parts: list[Tensor] = []
        self.spreads: list[Tensor] = []
        self.divergences: list[Tensor] = []
        self.log_q: Tensor = rows.new_zeros(len(rows))
        self.h: Tensor = rows

    @property
    def z(self) -> Tensor:
        """All groups in a row."""
        return torch.cat(self.parts, 1)


class TopDown(torch.distributions.Distribution):
    """q(z | x) of B rows, group by group.

    Args:
        tower: the network.
        features: of x, for every group.
        c: the condition vector.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    support = torch.distributions.constraints.real_vector

    def __init__(self, tower: Any, features: list[Tensor], c: Tensor | None) -> None:
        self.tower, self.features, self.c = tower, features, c
        size = torch.Size([sum(tower.sizes)])
        super().__init__(torch.Size([len(features[0])]), size, validate_args=False)

    def repeated(self, K: int) -> TopDown:
        """The same rows K times."""
        return TopDown(
            self.tower, [_repeat(r, K) for r in self.features], None if self.c is None else _repeat(self.c, K)
        )

    def walk(self, e: Tensor | None = None, z: Tensor | None = None) -> Walk:
        """Down the trunk with noise e `(B, L)`, or along a known z, or where neither is given along the means."""
        h = self.tower.begin(len(self.features[0]))
        walk, known = Walk(h), z if z is not None else e
        parts = [None] * len(self.tower.sizes) if known is None else known.to(h.dtype).split(self.tower.sizes, 1)
        for group, (part, r) in enumerate(zip(parts, self.features, strict=True)):
            mu, raw = self.tower.posterior(group, walk.h, r, self.c).chunk(2, -1)
            s = (raw - 1.0).clamp(-12.0, 4.0).exp()
            value = mu if part is None else part if z is not None else mu + s * part
            error = (value - mu) / s
            walk.log_q = walk.log_q - (0.5 * error.square() + s.log() + 0.5 * LOG_2PI).sum(-1)
            walk.divergences.append((0.5 * (mu.square() + s.square() - 1) - s.log()).sum(-1))
            walk.parts.append(value)
            walk.spreads.append(s)
            walk.h = self.tower.merge(group, walk.h, value, self.c)
        return walk

    @property
    def mean(self) -> Tensor:
        """Every group at its mean given the means above it (of q as a whole, an approximation)."""
        return self.walk().z

    @property
    def variance(self) -> Tensor:
        """Of every group given the means above it."""
        return torch.cat(self.walk().spreads, 1).square()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws `(*sample_shape, B, L)`, from torch's own stream as with any torch distribution."""
        n = math.prod(sample_shape)
        many = self.repeated(n) if n != 1 else self
        like = many.features[0]
        noise = torch.empty(n * self.batch_shape[0], *self.event_shape, dtype=like.dtype, device=like.device).normal_()
        with torch.no_grad():
            return many.walk(noise).z.reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z | x) `(..., B)` of any z `(..., B, L)`."""
        lead = z.shape[:-2]
        many = self.repeated(math.prod(lead)) if lead else self
        return many.walk(z=z.reshape(-1, z.shape[-1])).log_q.reshape(*lead, *self.batch_shape)


def _repeat(t: Tensor, K: int) -> Tensor:
    return t.repeat(K, *[1] * (t.ndim - 1))
