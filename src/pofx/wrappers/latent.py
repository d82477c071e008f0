"""InLatent: a model of the codes of an autoencoder. Latent diffusion, and VQ-VAE with an autoregressive prior.

    p(x | c) = E_{z ~ p(z | c)} p(x | z)           p(z | c) learnt on draws of q(z | x), after the autoencoder
    log p(x | c) >= E_q log 1/K sum_k w_k,         w = p(x | z) p(z | c) / q(z | x),   z ~ q(z | x)

What is given goes to the prior alone: the autoencoder says how x looks, the prior what there is. Continuous codes are
standardised between the two, z = mean + spread * v, with log p(z) = log p(v) - sum log spread. Where log p(z) is itself
a noisy bound (diffusion), its exponential is no unbiased weight, and the mean of log w over the draws is the bound.
An autoencoder without a density (its q is a point in a continuous space) gives none here either: only draws.

Fitted in two stages by one `fit`: the autoencoder, then the prior on fresh draws of q for every batch.
References: two-stage VAE (Dai and Wipf 2019, arXiv:1903.05789); VQ-VAE (van den Oord 2017, arXiv:1711.00937); latent
diffusion (Rombach 2022, arXiv:2112.10752).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from pofx.data import Batch, Data
from pofx.engines.estimators import drawn
from pofx.kinds.base import Space
from pofx.model import Card, Given, Model, Player, Predictive, Quality, Report, Unsupported, Value
from pofx.randomness import Rng
from pofx.wrappers.base import Staged, mapped
from pofx.wrappers.relaxed import adapted

ENOUGH = 4096  # rows from which the codes are standardised
COPIES = 8  # codes of a row, at most, that a prior in closed form is fitted to
CHUNK = 1 << 21  # entries decoded at a time


class InLatent(Staged):
    """A prior over the codes of an autoencoder, as one Model of x.

    Args:
        autoencoder: not yet built; it offers encode and decode and has a `latent_space`: vae, hvae, vqvae, autoencoder.
        prior: not yet built; any family that can learn the codes.
        share: of the budget that the autoencoder is fitted in.
    """

    incomplete: ClassVar[str] = "refuses: the codes of a row with gaps are not known to the prior"

    def __init__(self, autoencoder: Model, prior: Model, *, share: float = 0.5) -> None:
        super().__init__()
        if not 0 < share < 1:
            raise ValueError(f"share: got {share}; expected a number between 0 and 1.")
        if autoencoder.card.euclidean:
            raise ValueError(f"InLatent: {autoencoder.name} has no decoder; use vae, hvae, vqvae or autoencoder.")
        self.outer, self.inner, self.share = autoencoder, prior, share

    @property
    def autoencoder(self) -> Model:
        """The model of x given z."""
        return self.outer

    @property
    def prior(self) -> Model:
        """The model of z."""
        return self.inner.core

    @property
    def name(self) -> str:
        return f"{self.outer.name}+{self.inner.name}"

    @property
    def card(self) -> Card:  # type: ignore[override]
        """What the two parts make together."""
        return Card(
            density="none" if "none" in (self.outer.card.density, self.inner.card.density) else "lower bound",
            sampling=self.inner.card.sampling,
            training=f"two stages: {self.outer.card.training}; {self.inner.card.training}",
            latents=self.outer.card.latents,
            architecture=f"{self.outer.name} with {self.inner.name} inside",
            branch=("explicit", "approximate", "variational"),
            incomplete=self.incomplete,
            summary=f"a {self.inner.name} model of the codes of a {self.outer.name}",
            reference="Rombach et al. 2022, arXiv:2112.10752",
            given=self.inner.card.given,
        )

    @property
    def stages(self) -> tuple[tuple[str, float], ...]:
        """The part of each stage, and its share of the budget."""
        return (self.outer.name, self.share), (self.inner.name, 1 - self.share)

    @property
    def _part(self) -> Model:
        return self.inner if self.stage else self.outer

    @property
    def closed(self) -> bool:
        return self._part.closed

    @property
    def loss_unit(self) -> str:  # type: ignore[override]
        """The unit of the loss of the part that is being fitted."""
        return self._part.loss_unit

    @property
    def batch_size(self) -> int:  # type: ignore[override]
        """The rows of a step that this part likes."""
        return self._part.batch_size

    @property
    def validate_by(self) -> str:  # type: ignore[override]
        """How this part is validated."""
        return self._part.validate_by

    @property
    def sampler(self) -> Quality:  # type: ignore[override]
        """The quality of the prior's draws."""
        return self.inner.sampler

    def offers(self) -> frozenset[str]:
        both = self.outer.offers() & self.inner.offers() & {"log_prob"}
        return both | (self.inner.offers() & {"sample"}) | {"encode", "decode"}

    def _build(self) -> None:
        seed = torch.initial_seed() % 2**31
        self.outer.build(self.space, {}, seed)
        space: Space | None = getattr(self.outer, "latent_space", None)
        if space is None or not {"encode", "decode"} <= self.outer.offers():
            raise ValueError(f"InLatent: {self.outer.name} needs encode, decode and a latent_space.")
        self.inner = adapted(self.inner.core, space).build(space, self.given, seed + 1)
        self.smooth = space.standard
        for name, value in (("centre", 0.0), ("spread", 1.0)):
            self.register_buffer(name, torch.full(space.shape, value))
        self._focus()

    def begin(self, stage: int, data: Data, rng: Rng) -> None:
        """Turn to a stage; before the prior's, the codes are standardised."""
        self.stage = stage
        self._focus()
        if stage == 1 and self.smooth:
            rows = data.part("train").x
            rows = rows[rng.permutation(len(rows))[:ENOUGH].to(rows.device)]
            z = self._codes(rows, rng).double()
            self.centre.copy_(z.mean(0))
            self.spread.copy_(z.std(0).clamp_min(1e-3))

    def _focus(self) -> None:
        self.outer.requires_grad_(self.stage == 0)
        self.inner.requires_grad_(self.stage == 1)
        self.train(self.training)

    def train(self, mode: bool = True) -> InLatent:
        super().train(mode)
        if self.stage:
            self.outer.eval()  # its dropout would blur the codes
        return self

    def _players(self) -> list[Player]:
        enter = self._coded if self.stage else self._alone
        return [mapped(p, enter) for p in self._part.players()]

    def _alone(self, batch: Batch, rng: Rng) -> Batch:
        return Batch(batch.x, {}, batch.observed, batch.index)

    def _coded(self, batch: Batch, rng: Rng) -> Batch:
        return Batch(self._inward(self._codes(batch.x, rng)), batch.given, None, batch.index)

    def _fit_closed(self, data: Data, rng: Rng, report: Report) -> None:
        if self.stage == 0:
            return self.outer.fit_closed(data.without_given(), rng, report)
        copies = max(1, min(COPIES, 4 * ENOUGH // len(data)))
        z = torch.cat([self._inward(self._codes(data.x, rng)) for _ in range(copies)])
        given = {k: v.repeat(copies, *[1] * (v.ndim - 1)) for k, v in data.given.items()}
        split = {k: torch.cat([v + i * len(data) for i in range(copies)]) for k, v in data.split.items()}
        space = self.inner.space
        return self.inner.fit_closed(Data(z, space, given, data.given_spaces, None, split, data.name), rng, report)

    def _codes(self, x: Tensor, rng: Rng) -> Tensor:
        """One draw of q(z | x) for each row, in the autoencoder's own units."""
        with torch.no_grad():
            return torch.cat([drawn(self.outer.encode(rows), rng) for rows in x.split(1024)])

    def _inward(self, z: Tensor) -> Tensor:
        """Codes as the prior sees them."""
        v = (z - self.centre) / self.spread if self.smooth else z
        return v.to(self.inner.space.torch_dtype)

    def _outward(self, v: Tensor) -> Tensor:
        return v * self.spread + self.centre if self.smooth else v

    def log_code(self, z: Tensor, given: Given | None = None) -> Tensor:
        return self.prior_value(z, given, 0).value.double()

    def prior_value(self, z: Tensor, given: Given | None = None, rng: Rng | int | None = None) -> Value:
        """log p(z | c) of codes `(B, *latent)` in the autoencoder's units, `(B,)`, and its quality."""
        value = self.inner.log_prob(self._inward(z), given, rng=Rng(rng, z.device))
        return value.shifted(-self.spread.log().sum() if self.smooth else self.spread.new_zeros(()))

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        v = self.inner.sample(1, given, rng)[0] if given else self.inner.sample(count, None, rng)
        parts = [self.outer.decode(self._outward(rows)).sample(rng) for rows in v.split(1024)]
        return torch.cat(parts) if parts else torch.zeros(0, *self.space.shape, dtype=self.space.torch_dtype)

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        if observed is not None:
            raise Unsupported(f"{self.name}: the density of some entries alone is not known; vae has a bound on it.")
        q = self.outer.encode(x)
        most = max(1, CHUNK // max(1, len(x) * self.space.size))
        parts = [self._log_weights(x, q, given, min(most, draws - k), rng) for k in range(0, draws, most)]
        log_w, quality = torch.cat([w for w, _ in parts]), parts[0][1]
        words: dict[str, Any] = {"draws": draws}
        if quality is Quality.EXACT:
            share = log_w.softmax(0)
            stderr = (share * draws).std(0) / math.sqrt(draws) if draws > 1 else None
            words["effective draws"] = float((1 / share.detach().square().sum(0)).mean())
            return Value(torch.logsumexp(log_w, 0) - math.log(draws), Quality.LOWER, stderr, words)
        stderr = log_w.std(0) / math.sqrt(draws) if draws > 1 else None
        return Value(log_w.mean(0), quality + Quality.LOWER, stderr, words)

    def _log_weights(self, x: Tensor, q: Any, given: Given, K: int, rng: Rng) -> tuple[Tensor, Quality]:
        """log w of K draws `(K, B)`, and the quality of the prior's term."""
        z = drawn(q, rng, (K,))
        flat = z.flatten(0, 1)
        many = {k: v.repeat(K, *[1] * (v.ndim - 1)) for k, v in given.items()}
        log_x = self.outer.decode(flat).log_prob(x.repeat(K, *[1] * (x.ndim - 1))).flatten(1).sum(1).double()
        prior = self.prior_value(flat, many or None, rng)
        log_w = (log_x + prior.value.double()).reshape(K, -1) - q.log_prob(z).double()
        return log_w, prior.quality

    def _encode(self, x: Tensor, given: Given) -> torch.distributions.Distribution:
        return self.outer.encode(x)

    def _decode(self, z: Tensor, given: Given) -> Predictive:
        return self.outer.decode(z)
