"""VAE: a few latent numbers cause all entries, which are independent given them.

    p(x | c) = E_{z ~ N(0, I)} prod_i p(x_i | z, c)                  q(z | x, c) = N(mu, diag s^2)
    log p(x_o | c) >= E_q log 1/K sum_k w_k,    w = p(x_o | z, c) p(z) / q(z | x_o, c)       K = 1: the ELBO
    loss, K = 1: -E_q log p(x_o | z, c) + beta sum_j max(KL_j, free_bits)

Each p(x_i | z, c) is what the support of x_i wants, with its parameters made by the decoder. The encoder sees x with
its gaps at zero, and the mask; so rows with gaps are trained on by the bound of what was observed (missing at random).

Offers sample, log_prob (a lower bound that more draws tighten, also of some entries alone), encode and decode.
Fitted by gradients through z = mu + s e.
References: Kingma and Welling 2013 (arXiv:1312.6114); IWAE, Burda 2015 (arXiv:1509.00519); free bits, Kingma 2016
(arXiv:1606.04934); beta-VAE, Burgess 2018 (arXiv:1804.03599); MIWAE, Mattei and Frellsen 2019 (arXiv:1812.02633).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from pofx.kinds.likelihood import from_grid
from pofx.kinds.relax import Chart
from pofx.model import Batch, Card, Given, Likelihood, Model, Player, Predictive, Quality, Value
from pofx.nn.conditioner import Conditioner, drop
from pofx.nn.convnet import ConvDecoder, ConvEncoder
from pofx.nn.mlp import MLP
from pofx.randomness import Rng

LOG_2PI = math.log(2 * math.pi)
SMALL = 400  # entries up to which a picture's pixels fit into an MLP
CHUNK = 1 << 22  # decoder outputs held at a time while a bound is computed
ACTIVE = 1e-2  # variance of mu_j over the rows from which latent j counts as used (Burda 2015, section 5.2)


class VAE(Model):
    """Variational autoencoder.

    Args:
        latents: numbers in z; None chooses by the space.
        width, depth: features and residual blocks of encoder and decoder; None chooses by the space.
        body: "mlp", "conv" (pictures only), or None to choose by size.
        beta: weight of the KL term; 1 is the bound itself.
        samples: K of the training objective, 1 for the ELBO, more for IWAE.
        free_bits: KL per latent, in nats, that costs nothing extra (with samples=1).
        components: of the mixture for each real or long ordinal entry; None: 2 where all entries share one variable.
        longest: an ordinal with at most this many levels is a softmax; None: 8 where all entries share one variable,
            because the mixtures have fewer parameters and over-fit pixels less.
        dropout: in both bodies; None chooses by the space.
        lr, weight_decay: of the optimiser.
    """

    card = Card(
        density="lower bound, fast",
        sampling="fast",
        training="variational bound",
        latents="R^L",
        architecture="encoder and decoder",
        branch=("explicit", "approximate", "variational"),
        incomplete="MIWAE: the bound of the observed entries",
        summary="a few latent numbers explain all entries",
        reference="Kingma and Welling 2013, arXiv:1312.6114",
    )

    encoder: nn.Module
    decoder: nn.Module

    def __init__(
        self,
        *,
        latents: int | None = None,
        width: int | None = None,
        depth: int = 2,
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
            raise ValueError(f"vae: got samples={samples}, free_bits={free_bits}; free bits need samples=1.")
        if body not in (None, "mlp", "conv"):
            raise ValueError(f"vae: body is {body!r}; expected 'mlp', 'conv' or None.")
        self.latents, self.width, self.depth, self.body = latents, width, depth, body
        self.beta, self.samples, self.free_bits = beta, samples, free_bits
        self.components, self.longest, self.dropout = components, longest, dropout
        self.lr, self.weight_decay = lr, weight_decay

    def _build(self) -> None:
        space, c_dim = self.space, 64 if self.given else 0
        picture = space.layout == "grid" and len(space.shape) == 3
        if self.body == "conv" and not picture:
            raise ValueError(f"vae: body='conv' wants pictures (H, W, C), got x of shape {space.shape}; use 'mlp'.")
        self.enter = Chart(space)
        components = self.components or (2 if space.shared else 5)
        self.likelihood = Likelihood(space, components, 8 if self.longest is None and space.shared else self.longest)
        self.conditioner = Conditioner({k: s.spec for k, s in self.given.items()}, c_dim) if self.given else None
        self.L = self.latents or max(2, min(20, space.size // 2))
        convolve = self.body == "conv" or (self.body is None and space.size > SMALL)
        self.grid = picture and convolve and self.enter.channels_first and space.shared
        (self._convolutions if self.grid else self._perceptrons)(c_dim)

    def _perceptrons(self, c_dim: int) -> None:
        width = self.width or (64 if self.space.size <= 2 else 192)
        dropout = (0.3 if self.space.layout == "grid" else 0.0) if self.dropout is None else self.dropout
        self.encoder = MLP(2 * self.enter.space.size, 2 * self.L, width, self.depth, c_dim, dropout)
        self.decoder = MLP(self.L, self.likelihood.size, width, self.depth, c_dim, dropout)

    def _convolutions(self, c_dim: int) -> None:
        C, H, W = self.enter.space.shape
        numbers = self.likelihood.size // (H * W)
        self.encoder = ConvEncoder((2 * C, H, W), 2 * self.L, self.width or 32, c_dim)
        self.decoder = ConvDecoder(self.L, (numbers, H, W), self.width or 32, c_dim)

    def _players(self) -> list[Player]:
        nets: list[nn.Module | None] = [self.encoder, self.decoder, self.conditioner]
        params = [p for net in nets if net is not None for p in net.parameters()]
        return [Player("vae", params, self._loss, lr=self.lr, weight_decay=self.weight_decay)]

    def _loss(self, batch: Batch, rng: Rng) -> Tensor:
        keep = drop(self.given, len(batch), rng) if self.given else None
        c = self._condition_on(batch.given, len(batch), keep)
        q = self._posterior(batch.x, batch.observed, c)
        if self.samples > 1:
            log_w = self._log_weights(batch.x, batch.observed, c, q, self.samples, rng, self.beta)
            return math.log(self.samples) - torch.logsumexp(log_w, 0).mean()
        z = q.mean + q.stddev * rng.normal(tuple(q.mean.shape))
        kl = 0.5 * (q.mean.square() + q.variance - 1) - q.stddev.log()
        # rows share their free bits: a latent may be silent in some rows and speak in others
        kl = kl.mean(0).clamp_min(self.free_bits) if self.free_bits else kl.mean(0)
        return self.beta * kl.sum() - self._log_likelihood(batch.x, batch.observed, z, c).mean()

    def _condition_on(self, given: Given, rows: int, keep: dict[str, Tensor] | None = None) -> Tensor | None:
        return None if self.conditioner is None else self.conditioner(given, rows, keep)

    def _posterior(self, x: Tensor, observed: Tensor | None, c: Tensor | None) -> Normal:
        """q(z | x_o, c), one row for each x."""
        u = self.enter.encode(x)
        mask = torch.ones_like(u) if observed is None else self.enter.mask(observed).to(u.dtype)
        u = torch.where(mask > 0, u, torch.zeros_like(u))
        h = torch.cat([u, mask], 1) if self.grid else torch.cat([u.flatten(1), mask.flatten(1)], 1)
        mu, raw = self.encoder(h.to(self._dtype), c).chunk(2, -1)
        return Normal(mu, (raw - 2.0).clamp(-12.0, 6.0).exp(), validate_args=False)

    def _params_of(self, z: Tensor, c: Tensor | None) -> Tensor:
        params = self.decoder(z.to(self._dtype), c)
        return from_grid(params) if self.grid else params

    def _log_likelihood(self, x: Tensor, observed: Tensor | None, z: Tensor, c: Tensor | None) -> Tensor:
        """log p(x_o | z, c), `(B,)`."""
        if observed is not None:  # whatever stands in a gap must not reach the sum, not even as inf
            x = torch.where(observed, x, torch.zeros_like(x))
        log_p = self.likelihood.log_prob(self._params_of(z, c), x)
        log_p = log_p if observed is None else torch.where(observed, log_p, torch.zeros_like(log_p))
        return log_p.flatten(1).sum(1)

    def _log_weights(
        self, x: Tensor, observed: Tensor | None, c: Tensor | None, q: Normal, K: int, rng: Rng, beta: float = 1.0
    ) -> Tensor:
        """log w of K draws, `(K, B)`."""
        e = rng.normal((K * len(x), self.L)).reshape(K, len(x), self.L)
        z = (q.mean + q.stddev * e.to(q.mean.dtype)).flatten(0, 1)
        observed, c = (None if t is None else _repeat(t, K) for t in (observed, c))
        log_p = self._log_likelihood(_repeat(x, K), observed, z, c).reshape(K, -1)
        # log p(z) - log q(z | x): the 2 pi cancel
        log_ratio = 0.5 * (e.square().sum(-1) - z.reshape(e.shape).square().sum(-1)) + q.stddev.log().sum(-1)
        return log_p + beta * log_ratio

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        c = self._condition_on(given, len(x))
        q = self._posterior(x, observed, c)
        most = max(1, CHUNK // max(1, len(x) * self.likelihood.size))
        sizes = [min(most, draws - k) for k in range(0, draws, most)]
        log_w = torch.cat([self._log_weights(x, observed, c, q, K, rng) for K in sizes]).double()
        share = log_w.softmax(0)
        stderr = (share * draws).std(0) / math.sqrt(draws) if draws > 1 else None
        effective = float((1 / share.detach().square().sum(0)).mean())
        active = int((q.mean.var(0) > ACTIVE).sum()) if len(x) > 1 else None
        words = {"draws": draws, "effective draws": effective, "active latents": active, "latents": self.L}
        return Value(torch.logsumexp(log_w, 0) - math.log(draws), Quality.LOWER, stderr, words)

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        z = rng.normal((count, self.L))
        return self.likelihood.sample(self._params_of(z, self._condition_on(given, count)), rng)

    def _encode(self, x: Tensor, given: Given) -> torch.distributions.Distribution:
        return Independent(self._posterior(x, None, self._condition_on(given, len(x))), 1)

    def _decode(self, z: Tensor, given: Given) -> Predictive:
        return Predictive(self.likelihood, self._params_of(z, self._condition_on(given, len(z))))

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.decoder.parameters()).dtype


def _repeat(t: Tensor, K: int) -> Tensor:
    return t.repeat(K, *[1] * (t.ndim - 1))
