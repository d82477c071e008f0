"""VAE: a few latent numbers cause all entries, which are independent given them.

    p(x | c) = E_{z ~ p(z)} prod_i p(x_i | z, c)             p(z) = N(0, I), or coins: z in {0, 1}^L, each with 1/2
    log p(x_o | c) >= E_q log 1/K sum_k w_k,    w = p(x_o | z, c) p(z) / q(z | x_o, c)       K = 1: the ELBO
    loss, K = 1: -E_q log p(x_o | z, c) + beta sum_j max(KL_j, free_bits)

Each p(x_i | z, c) is what the support of x_i wants, with its parameters made by the decoder. The encoder sees x with
its gaps at zero, and the mask; so rows with gaps are trained on by the bound of what was observed (missing at random).
q is a normal (diagonal or full), a flow (planar or inverse autoregressive; log q is exact), or independent coins.

Offers sample, log_prob (a lower bound that more draws tighten, also of some entries alone), encode and decode.
Fitted by gradients through z = f(e, x); with K > 1 doubly reparametrised (normal q); of coins by DisARM (K = 1) and
VIMCO (K > 1), which are unbiased, so the loss is the bound of the coins themselves and of no relaxation.
References: Kingma and Welling 2013 (arXiv:1312.6114); IWAE, Burda 2015 (arXiv:1509.00519); free bits and IAF, Kingma
2016 (arXiv:1606.04934); beta-VAE, Burgess 2018 (arXiv:1804.03599); MIWAE, Mattei and Frellsen 2019
(arXiv:1812.02633); doubly reparametrised gradients, Tucker 2018 (arXiv:1810.04152).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent

from pofx.engines.estimators import disarm, vimco
from pofx.kinds.base import Variable
from pofx.kinds.relax import Chart
from pofx.model import Batch, Card, Given, Likelihood, Model, Player, Predictive, Quality, Space, Value
from pofx.nn.autoencode import Decoder, Encoder
from pofx.nn.conditioner import conditioner, drop
from pofx.nn.posteriors import KINDS, LOG_2PI, Head, Posterior
from pofx.randomness import Rng

MANY = 400  # entries from which bodies are wide and flat
SMALL = 1024  # entries up to which a picture's pixels fit into an MLP
CHUNK = 1 << 22  # decoder outputs held at a time while a bound is computed
ACTIVE = 1e-2  # variance of mu_j over the rows from which latent j counts as used (Burda 2015, section 5.2)


class VAE(Model):
    """Variational autoencoder.

    Args:
        latents: numbers in z; None chooses by the space.
        prior: p(z), "gaussian" or "bernoulli".
        posterior: q(z | x) of Gaussian latents: "diagonal", "full", "planar" or "iaf".
        layers: of a flow posterior.
        width, depth: features and residual blocks of encoder and decoder; None chooses by the space.
        body: "mlp", "conv" (pictures only), or None to choose by size; "set" (points: an encoder that knows no order).
        beta: weight of the KL term; 1 is the bound itself.
        samples: K of the training objective, 1 for the ELBO, more for IWAE.
        free_bits: KL per latent, in nats, that costs nothing extra (with samples=1).
        components: of the mixture for each real or long ordinal entry; None: 2 where all entries share one variable.
        longest: an ordinal with at most this many levels is a softmax; None: 8 where all entries share one variable,
            because the mixtures have fewer parameters and over-fit pixels less.
        dropout: in both bodies; None chooses by the space.
        lr, weight_decay: of the optimiser; lr None chooses by the space.
    """

    card = Card(
        density="lower bound, fast",
        sampling="fast",
        training="variational bound",
        latents="R^L or {0, 1}^L",
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
        prior: str = "gaussian",
        posterior: str = "diagonal",
        layers: int = 4,
        width: int | None = None,
        depth: int | None = None,
        body: str | None = None,
        beta: float = 1.0,
        samples: int = 1,
        free_bits: float = 0.0,
        components: int | None = None,
        longest: int | None = None,
        dropout: float | None = None,
        lr: float | None = None,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__()
        if samples < 1 or (samples > 1 and free_bits > 0):
            raise ValueError(f"vae: got samples={samples}, free_bits={free_bits}; free bits need samples=1.")
        _check(body=(body, (None, "mlp", "conv", "set")), prior=(prior, ("gaussian", "bernoulli")))
        _check(posterior=(posterior, KINDS))
        if prior == "bernoulli" and posterior != "diagonal":
            raise ValueError(f"vae: got posterior={posterior!r} for Bernoulli latents; they take 'diagonal' only.")
        self.latents, self.prior, self.posterior, self.layers = latents, prior, posterior, layers
        self.width, self.depth, self.body = width, depth, body
        self.beta, self.samples, self.free_bits = beta, samples, free_bits
        self.components, self.longest, self.dropout = components, longest, dropout
        self.lr, self.weight_decay = lr, weight_decay

    def _build(self) -> None:
        space, c_dim = self.space, 64 if self.given else 0
        picture = space.picture
        if self.body == "conv" and not picture:
            raise ValueError(f"vae: body='conv' wants pictures (H, W, C), got x of shape {space.shape}; use 'mlp'.")
        self.enter = Chart(space)
        self.cloud = self.body == "set" and self.enter.space.layout == "set"
        if self.body == "set" and not self.cloud:
            raise ValueError(f"vae: body='set' wants points (P, d), got x of shape {space.shape}; use 'mlp'.")
        components = self.components or (2 if space.shared else 5)
        self.likelihood = Likelihood(space, components, 8 if self.longest is None and space.shared else self.longest)
        self.conditioner = conditioner(self.given, c_dim)
        self.coins = self.prior == "bernoulli"
        self.L = self.latents or max(2, min(20, space.size // 2)) * (2 if self.coins else 1)
        self.head = None if self.coins else Head(self.posterior, self.L, self.layers)
        convolve = self.body == "conv" or (self.body is None and space.size > SMALL)
        self._bodies(picture and convolve and self.enter.channels_first and space.shared, c_dim)

    def _bodies(self, conv: bool, c_dim: int) -> None:
        space, out = self.space, self.L if self.head is None else self.head.numbers
        # many pixels at once: within minutes one wide layer learns more than a deep body
        wide = space.size > MANY and not conv
        width = self.width or (32 if conv else 64 if space.size <= 2 else 512 if wide else 192)
        depth = (0 if wide else 2) if self.depth is None else self.depth
        dropout = (0.3 if space.layout == "grid" and not wide else 0.0) if self.dropout is None else self.dropout
        self.rate = self.lr or (4e-3 if wide and depth == 0 else 2e-3)
        self.batch_size = 64 if wide else 128  # type: ignore[misc]
        sides = (space.shape[0], space.shape[1]) if conv else None
        halved = all(space.variable(i).levels == 2 for i in range(1 if space.shared else space.size))
        self.encoder = Encoder(self.enter.space.shape, out, width, depth, conv, c_dim, dropout, self.cloud)
        self.decoder = Decoder(self.L, self.likelihood.size, width, depth, sides, c_dim, dropout, halved)

    @property
    def latent_space(self) -> Space:
        """What one z is, for a model of it."""
        if self.coins:
            return Space((self.L,), (Variable("z", "binary", 2, mean=0.5, scale=0.5),), dtype="float32")
        return Space((self.L,), (Variable("z"),), dtype="float32")

    def _players(self) -> list[Player]:
        return [Player("vae", list(self.parameters()), self._loss, lr=self.rate, weight_decay=self.weight_decay)]

    def _loss(self, batch: Batch, rng: Rng) -> Tensor:
        keep = drop(self.given, len(batch), rng) if self.given else None
        c = self._condition_on(batch.given, len(batch), keep)
        q = self._posterior(batch.x, batch.observed, c)
        if self.samples > 1:
            return -self._weighted(batch, c, q, rng).mean()
        if isinstance(q, Posterior):
            z, log_q = q.push(rng.normal((len(batch), self.L)))
            kl = (log_q - self._log_prior(z)).unsqueeze(-1) if q.layers else q.divergence()
            fit = self._log_likelihood(batch.x, batch.observed, z, c)
        else:
            kl = math.log(2) - q.base_dist.entropy()
            fit, score = disarm(q.base_dist.logits, lambda z: self._log_likelihood(batch.x, batch.observed, z, c), rng)
            fit = fit + score
        # rows share their free bits: a latent may be silent in some rows and speak in others
        kl = kl.mean(0).clamp_min(self.free_bits * self.L / kl.shape[1]) if self.free_bits else kl.mean(0)
        return self.beta * kl.sum() - fit.mean()

    def _weighted(self, batch: Batch, c: Tensor | None, q: Any, rng: Rng) -> Tensor:
        """log 1/K sum_k w_k `(B,)`, with the gradient that suits q."""
        K = self.samples
        double = isinstance(q, Posterior) and not q.layers and self.beta == 1
        z, log_q = self._draw(q, K, rng)
        log_q = q.frozen().log_prob(z) if double else log_q
        log_w = self._log_weights(batch.x, batch.observed, c, z, log_q, self.beta)
        bound = torch.logsumexp(log_w, 0) - math.log(K)
        if not double:
            return bound + vimco(log_w, log_q) if self.coins else bound
        share = log_w.detach().softmax(0)
        if z.requires_grad:  # the decoder's gradient has weight w~, the encoder's w~^2 (Tucker 2018, equation 8)
            z.register_hook(lambda g: g * share.unsqueeze(-1))
        surrogate = (share * log_w).sum(0)
        return bound.detach() + surrogate - surrogate.detach()

    def _condition_on(self, given: Given, rows: int, keep: dict[str, Tensor] | None = None) -> Tensor | None:
        return None if self.conditioner is None else self.conditioner(given, rows, keep)

    def _posterior(self, x: Tensor, observed: Tensor | None, c: Tensor | None) -> Any:
        """q(z | x_o, c), one row for each x."""
        mask = None if observed is None else self.enter.mask(observed).to(self._dtype)
        raw = self.encoder(self.enter.encode(x).to(self._dtype), mask, c)
        if self.head is None:
            return Independent(Bernoulli(logits=raw, validate_args=False), 1, validate_args=False)
        return self.head(raw)

    def _draw(self, q: Any, K: int, rng: Rng) -> tuple[Tensor, Tensor]:
        """K draws of z `(K, B, L)`, and log q of each `(K, B)`."""
        B = q.batch_shape[0]
        if isinstance(q, Posterior):
            return q.push(rng.normal((K * B, self.L)).reshape(K, B, self.L))
        z = (rng.uniform((K * B, self.L)).reshape(K, B, self.L) < q.mean).to(q.mean.dtype)
        return z, q.log_prob(z)

    def _log_prior(self, z: Tensor) -> Tensor:
        if self.coins:
            return z.new_full(z.shape[:-1], -self.L * math.log(2))
        return -0.5 * (z.square().sum(-1) + self.L * LOG_2PI)

    def log_code(self, z: Tensor, given: Given | None = None) -> Tensor:
        return self._log_prior(z)

    def _params_of(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self.decoder((2 * z - 1 if self.coins else z).to(self._dtype), c)

    def _log_likelihood(self, x: Tensor, observed: Tensor | None, z: Tensor, c: Tensor | None) -> Tensor:
        """log p(x_o | z, c), `(B,)`."""
        if observed is not None:  # whatever stands in a gap must not reach the sum, not even as inf
            x = torch.where(observed, x, torch.zeros_like(x))
        log_p = self.likelihood.log_prob(self._params_of(z, c), x)
        log_p = log_p if observed is None else torch.where(observed, log_p, torch.zeros_like(log_p))
        return log_p.flatten(1).sum(1)

    def _log_weights(
        self, x: Tensor, observed: Tensor | None, c: Tensor | None, z: Tensor, log_q: Tensor, beta: float = 1.0
    ) -> Tensor:
        """log w of the draws z `(K, B, L)`, `(K, B)`."""
        K = len(z)
        observed, c = (None if t is None else _repeat(t, K) for t in (observed, c))
        log_p = self._log_likelihood(_repeat(x, K), observed, z.flatten(0, 1), c).reshape(K, -1)
        return log_p + beta * (self._log_prior(z) - log_q)

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        c = self._condition_on(given, len(x))
        q = self._posterior(x, observed, c)
        most = max(1, CHUNK // max(1, len(x) * self.likelihood.size))
        sizes = [min(most, draws - k) for k in range(0, draws, most)]
        parts = [self._log_weights(x, observed, c, *self._draw(q, K, rng)) for K in sizes]
        log_w = torch.cat(parts).double()
        share = log_w.softmax(0)
        stderr = (share * draws).std(0) / math.sqrt(draws) if draws > 1 else None
        effective = float((1 / share.detach().square().sum(0)).mean())
        active = int((q.mean.var(0) > ACTIVE).sum()) if len(x) > 1 else None
        words = {"draws": draws, "effective draws": effective, "active latents": active, "latents": self.L}
        return Value(torch.logsumexp(log_w, 0) - math.log(draws), Quality.LOWER, stderr, words)

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        shape = (count, self.L)
        z = rng.bernoulli(0.5, shape).float() if self.coins else rng.normal(shape)
        return self.likelihood.sample(self._params_of(z, self._condition_on(given, count)), rng)

    def _encode(self, x: Tensor, given: Given) -> torch.distributions.Distribution:
        return self._posterior(x, None, self._condition_on(given, len(x)))

    def _decode(self, z: Tensor, given: Given) -> Predictive:
        return Predictive(self.likelihood, self._params_of(z, self._condition_on(given, len(z))))

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.decoder.parameters()).dtype


def _repeat(t: Tensor, K: int) -> Tensor:
    return t.repeat(K, *[1] * (t.ndim - 1))


def _check(**options: tuple[str | None, tuple[str | None, ...]]) -> None:
    for name, (got, expected) in options.items():
        if got not in expected:
            raise ValueError(f"vae: {name} is {got!r}; expected one of {expected}.")
