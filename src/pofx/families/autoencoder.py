"""Autoencoder: a few numbers from which x can be told, and no distribution.

    z = f(x~),    loss = -log p(x | z) + penalty |z|^2 / 2             x~ = x, or x corrupted

p(x | z) is what the support of each entry wants, so the loss of a reconstruction is in nats. Corrupted by noise on the
chart or by hiding entries, the autoencoder learns what entries say about each other (a denoising autoencoder). There is
no p(z): it neither draws nor weighs; `InLatent` with a prior for its codes does draw.

Offers encode (a point) and decode. Fitted by gradients; hidden entries and gaps are seen as gaps.
References: denoising, Vincent 2008 (ICML, doi:10.1145/1390156.1390294); masked, He 2021 (arXiv:2111.06377); a small
penalty makes codes that a second model can learn (Ghosh 2019, arXiv:1903.12436).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pofx.engines.estimators import Point
from pofx.kinds.base import Variable
from pofx.kinds.relax import Chart
from pofx.model import Batch, Card, Given, Likelihood, Model, Player, Predictive, Space
from pofx.nn.autoencode import Decoder, Encoder
from pofx.nn.conditioner import conditioner, drop
from pofx.randomness import Rng

SMALL = 1024  # entries up to which a picture's pixels fit into an MLP
CORRUPTIONS = (None, "noise", "hide")


class Autoencoder(Model):
    """Plain, denoising or masked autoencoder.

    Args:
        latents: numbers in z; None chooses by the space.
        corruption: of what the encoder sees while training: None, "noise" or "hide".
        strength: standard deviation of the noise on the chart, where x has unit scale; or share of entries hidden.
        penalty: weight of |z|^2 / 2.
        width, depth: features and residual blocks of the bodies; width None chooses by the space.
        body: "mlp", "conv" (pictures only), or None to choose by size.
        components: of the mixture for each real or long ordinal entry.
        longest: an ordinal with at most this many levels is a softmax.
        dropout: in both bodies.
        lr, weight_decay: of the optimiser.
    """

    card = Card(
        density="none",
        sampling="none",
        training="reconstruction",
        latents="R^L, without a law",
        architecture="encoder and decoder",
        branch=("implicit", "representation"),
        incomplete="reconstruction of the observed entries",
        summary="a few numbers from which x can be told; a representation only",
        reference="Vincent et al. 2008, doi:10.1145/1390156.1390294",
    )

    def __init__(
        self,
        *,
        latents: int | None = None,
        corruption: str | None = None,
        strength: float = 0.3,
        penalty: float = 1e-3,
        width: int | None = None,
        depth: int = 2,
        body: str | None = None,
        components: int | None = None,
        longest: int | None = None,
        dropout: float = 0.0,
        lr: float = 2e-3,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__()
        if body not in (None, "mlp", "conv"):
            raise ValueError(f"autoencoder: body is {body!r}; expected 'mlp', 'conv' or None.")
        if corruption not in CORRUPTIONS:
            raise ValueError(f"autoencoder: corruption is {corruption!r}; expected one of {CORRUPTIONS}.")
        if strength < 0 or (corruption == "hide" and strength >= 1):
            raise ValueError(f"autoencoder: strength is {strength}; expected at least 0, and below 1 to hide entries.")
        self.latents, self.corruption, self.strength, self.penalty = latents, corruption, strength, penalty
        self.width, self.depth, self.body = width, depth, body
        self.components, self.longest, self.dropout = components, longest, dropout
        self.lr, self.weight_decay = lr, weight_decay

    def _build(self) -> None:
        space, c_dim = self.space, 64 if self.given else 0
        picture = space.picture
        if self.body == "conv" and not picture:
            raise ValueError(f"autoencoder: body='conv' wants pictures, got x of shape {space.shape}; use 'mlp'.")
        self.enter = Chart(space)
        components = self.components or (2 if space.shared else 5)
        self.likelihood = Likelihood(space, components, 8 if self.longest is None and space.shared else self.longest)
        self.conditioner = conditioner(self.given, c_dim)
        self.L = self.latents or max(1, min(16, space.size // 2))
        convolve = self.body == "conv" or (self.body is None and space.size > SMALL)
        conv = picture and convolve and self.enter.channels_first and space.shared
        width = self.width or (32 if conv else 64 if space.size <= 2 else 192 if space.size <= 400 else 512)
        sides = (space.shape[0], space.shape[1]) if conv else None
        halved = all(space.variable(i).levels == 2 for i in range(1 if space.shared else space.size))
        self.encoder = Encoder(self.enter.space.shape, self.L, width, self.depth, conv, c_dim, self.dropout)
        self.decoder = Decoder(self.L, self.likelihood.size, width, self.depth, sides, c_dim, self.dropout, halved)

    @property
    def latent_space(self) -> Space:
        """What one z is, for a model of it."""
        return Space((self.L,), (Variable("z"),), dtype="float32")

    def _players(self) -> list[Player]:
        params = list(self.parameters())
        return [Player("autoencoder", params, self._loss, lr=self.lr, weight_decay=self.weight_decay)]

    def _loss(self, batch: Batch, rng: Rng) -> Tensor:
        keep = drop(self.given, len(batch), rng) if self.given else None
        c = self._condition_on(batch.given, len(batch), keep)
        u, mask = self._seen(batch)
        if self.training:
            u, mask = self._corrupted(u, mask, rng)
        z = self.encoder(u, mask, c)
        log_p = self._log_likelihood(batch.x, batch.observed, z, c)
        return 0.5 * self.penalty * z.square().sum(1).mean() - log_p.mean()

    def _corrupted(self, u: Tensor, mask: Tensor | None, rng: Rng) -> tuple[Tensor, Tensor | None]:
        if self.corruption == "noise":
            return u + self.strength * rng.normal(tuple(u.shape)).to(u.dtype), mask
        if self.corruption == "hide":
            shown = (~rng.bernoulli(self.strength, tuple(u.shape))).to(u.dtype)
            return u, shown if mask is None else shown * mask
        return u, mask

    def _seen(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """x on the chart, and which of its coordinates are observed."""
        mask = None if batch.observed is None else self.enter.mask(batch.observed).to(self._dtype)
        return self.enter.encode(batch.x).to(self._dtype), mask

    def _condition_on(self, given: Given, rows: int, keep: dict[str, Tensor] | None = None) -> Tensor | None:
        return None if self.conditioner is None else self.conditioner(given, rows, keep)

    def _log_likelihood(self, x: Tensor, observed: Tensor | None, z: Tensor, c: Tensor | None) -> Tensor:
        """log p(x_o | z), `(B,)`."""
        if observed is not None:  # whatever stands in a gap must not reach the sum, not even as inf
            x = torch.where(observed, x, torch.zeros_like(x))
        log_p = self.likelihood.log_prob(self.decoder(z, c), x)
        log_p = log_p if observed is None else torch.where(observed, log_p, torch.zeros_like(log_p))
        return log_p.flatten(1).sum(1)

    def _encode(self, x: Tensor, given: Given) -> torch.distributions.Distribution:
        u, mask = self._seen(Batch(x))
        return Point(self.encoder(u, mask, self._condition_on(given, len(x))), discrete=False)

    def _decode(self, z: Tensor, given: Given) -> Predictive:
        return Predictive(self.likelihood, self.decoder(z.to(self._dtype), self._condition_on(given, len(z))))

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.decoder.parameters()).dtype
