"""VQ-VAE: a picture or a row is a few codes of a codebook, and what they decode to.

    z_j(x) = argmin_k |h_j(x) - e_k|^2             p(x) = sum_z p(z) p(x | z) >= p(z(x)) p(x | z(x))
    loss = -log p(x | z(x)) + commitment sum_j |h_j - stop(e_{z_j})|^2           (per number of a code)

z(x) is a point, so the bound needs no q. p(z) is here a product over the places, the shares of the codes there; a model
that knows how codes go together (`InLatent` with an autoregressive prior) gives more likely x and better draws.
Large pictures get a grid of codes from convolutions, everything else as many codes as asked from an MLP.

Offers encode (the codes), decode, sample and log_prob (a lower bound, the same at every draw; also of some entries).
Fitted by gradients that pass straight through the codes; these are running means of the vectors that chose them.
References: van den Oord 2017 (arXiv:1711.00937); restarts of dead codes, Dhariwal 2020 (arXiv:2005.00341).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pofx.engines.estimators import Point
from pofx.kinds.base import Variable
from pofx.kinds.relax import Chart
from pofx.model import Batch, Card, Given, Likelihood, Model, Player, Predictive, Quality, Space, Value
from pofx.nn.autoencode import Decoder, Encoder, GridDecoder, GridEncoder
from pofx.nn.conditioner import conditioner, drop
from pofx.nn.quantise import Codebook, perplexity
from pofx.randomness import Rng

SMALL = 1024  # entries up to which a picture's pixels fit into an MLP
FIRM = 1000.0  # rows that the shares of codes at a place weigh, against half a row for each code


class VQVAE(Model):
    """Autoencoder whose latents are codes.

    Args:
        codes: places, each with one code (not of convolutions, whose grid decides); None chooses by the space.
        levels: K, codes in the book; None chooses by the space.
        code_size: numbers of a code.
        commitment: weight of the distance between an encoder's vector and its code.
        decay: of the codebook's running means, a step.
        width, depth: features and residual blocks of the bodies; width None chooses by the space.
        body: "mlp", "conv" (pictures only), or None to choose by size.
        components: of the mixture for each real or long ordinal entry.
        longest: an ordinal with at most this many levels is a softmax.
        dropout: in the MLPs; None chooses by the space.
        lr, weight_decay: of the optimiser.
    """

    card = Card(
        density="lower bound, fast",
        sampling="fast",
        training="reconstruction through a codebook",
        latents="codes",
        architecture="encoder, codebook and decoder",
        branch=("explicit", "approximate", "variational"),
        incomplete="the bound of the observed entries",
        summary="a few codes of a learnt book explain all entries",
        reference="van den Oord et al. 2017, arXiv:1711.00937",
    )

    encoder: nn.Module
    decoder: nn.Module
    usage: Tensor

    def __init__(
        self,
        *,
        codes: int | None = None,
        levels: int | None = None,
        code_size: int = 8,
        commitment: float = 0.25,
        decay: float = 0.99,
        width: int | None = None,
        depth: int = 2,
        body: str | None = None,
        components: int | None = None,
        longest: int | None = None,
        dropout: float | None = None,
        lr: float = 2e-3,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__()
        if body not in (None, "mlp", "conv"):
            raise ValueError(f"vqvae: body is {body!r}; expected 'mlp', 'conv' or None.")
        if levels is not None and levels < 2:
            raise ValueError(f"vqvae: got levels={levels}; a codebook needs at least 2 codes.")
        self.codes, self.levels, self.code_size, self.commitment = codes, levels, code_size, commitment
        self.decay, self.width, self.depth, self.body = decay, width, depth, body
        self.components, self.longest, self.dropout = components, longest, dropout
        self.lr, self.weight_decay = lr, weight_decay

    def _build(self) -> None:
        space, c_dim = self.space, 64 if self.given else 0
        picture = space.picture
        if self.body == "conv" and not picture:
            raise ValueError(f"vqvae: body='conv' wants pictures (H, W, C), got x of shape {space.shape}; use 'mlp'.")
        self.enter = Chart(space)
        components = self.components or (2 if space.shared else 5)
        self.likelihood = Likelihood(space, components, 8 if self.longest is None and space.shared else self.longest)
        self.conditioner = conditioner(self.given, c_dim)
        convolve = self.body == "conv" or (self.body is None and space.size > SMALL)
        self.grid = picture and convolve and self.enter.channels_first and space.shared
        self.K = self.levels or (256 if space.size > SMALL else 64 if space.size > 16 else 16)
        self.book = Codebook(self.K, self.code_size, self.decay)
        (self._convolutions if self.grid else self._perceptrons)(c_dim)
        self.register_buffer("usage", torch.full((self.n, self.K), 1 / self.K))

    @property
    def _halved(self) -> bool:
        return all(self.space.variable(i).levels == 2 for i in range(1 if self.space.shared else self.space.size))

    def _perceptrons(self, c_dim: int) -> None:
        space = self.space
        self.n = self.codes or max(2, min(16, space.size // 4))
        width = self.width or (64 if space.size <= 2 else 192 if space.size <= 400 else 512)
        dropout = (0.1 if space.layout == "grid" else 0.0) if self.dropout is None else self.dropout
        d, numbers = self.n * self.code_size, self.likelihood.size
        self.encoder = Encoder(self.enter.space.shape, d, width, self.depth, False, c_dim, dropout)
        self.decoder = Decoder(d, numbers, width, self.depth, None, c_dim, dropout, self._halved)

    def _convolutions(self, c_dim: int) -> None:
        shape, width = self.enter.space.shape, self.width or 32
        encoder = GridEncoder(shape, self.code_size, width, c_dim=c_dim)
        self.n = encoder.sizes[-1][0] * encoder.sizes[-1][1]
        channels = self.likelihood.size // (shape[1] * shape[2])
        self.encoder = encoder
        self.decoder = GridDecoder(self.code_size, encoder.sizes, channels, width, c_dim, self._halved)

    @property
    def latent_space(self) -> Space:
        """What the codes of one x are, for a model of them."""
        return Space((self.n,), (Variable("code", "category", self.K),), dtype="int64")

    def _players(self) -> list[Player]:
        return [Player("vqvae", list(self.parameters()), self._loss, lr=self.lr, weight_decay=self.weight_decay)]

    def _loss(self, batch: Batch, rng: Rng) -> Tensor:
        """While training the reconstruction and the commitment; else minus the bound."""
        keep = drop(self.given, len(batch), rng) if self.given else None
        c = self._condition_on(batch.given, len(batch), keep)
        h = self._vectors(batch.x, batch.observed, c)
        if not self.training:
            z = self.book.nearest(h)
            e = self.book.vectors(z).to(h.dtype)
            return -(self._log_likelihood(batch.x, batch.observed, e, c) + self._log_prior(z)).mean()
        z = self.book.follow(h.flatten(0, 1), rng).reshape(h.shape[:2])
        self._count(z)
        e = self.book.vectors(z).to(h.dtype)
        log_p = self._log_likelihood(batch.x, batch.observed, h + (e - h).detach(), c)
        return self.commitment * (h - e).square().sum(1).mean() - log_p.mean()

    def _count(self, z: Tensor) -> None:
        share = nn.functional.one_hot(z, self.K).to(self.usage.dtype).mean(0)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(share)
            share /= torch.distributed.get_world_size()
        self.usage.lerp_(share, 1 - self.decay)

    def _condition_on(self, given: Given, rows: int, keep: dict[str, Tensor] | None = None) -> Tensor | None:
        return None if self.conditioner is None else self.conditioner(given, rows, keep)

    def _vectors(self, x: Tensor, observed: Tensor | None, c: Tensor | None) -> Tensor:
        """h(x), `(B, n, d)`."""
        mask = None if observed is None else self.enter.mask(observed).to(self._dtype)
        return self.encoder(self.enter.encode(x).to(self._dtype), mask, c).reshape(len(x), self.n, self.code_size)

    def _params_of(self, e: Tensor, c: Tensor | None) -> Tensor:
        return self.decoder(e if self.grid else e.flatten(1), c)

    def _log_likelihood(self, x: Tensor, observed: Tensor | None, e: Tensor, c: Tensor | None) -> Tensor:
        """log p(x_o | the vectors e of its codes), `(B,)`."""
        if observed is not None:  # whatever stands in a gap must not reach the sum, not even as inf
            x = torch.where(observed, x, torch.zeros_like(x))
        log_p = self.likelihood.log_prob(self._params_of(e, c), x)
        log_p = log_p if observed is None else torch.where(observed, log_p, torch.zeros_like(log_p))
        return log_p.flatten(1).sum(1)

    def _log_shares(self) -> Tensor:
        """log p of each code at each place, `(n, K)`."""
        return ((FIRM * self.usage + 0.5) / (FIRM + 0.5 * self.K)).log().log_softmax(-1)

    def _log_prior(self, z: Tensor) -> Tensor:
        return self._log_shares().expand(len(z), -1, -1).gather(-1, z.unsqueeze(-1)).flatten(1).sum(1)

    def log_code(self, z: Tensor, given: Given | None = None) -> Tensor:
        return self._log_prior(z)

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        c = self._condition_on(given, len(x))
        z = self.book.nearest(self._vectors(x, observed, c))
        log_p = self._log_likelihood(x, observed, self.book.vectors(z).to(self._dtype), c).double()
        words = {"perplexity": perplexity(z, self.K), "codes in use": len(z.unique()), "codes": self.K}
        return Value(log_p + self._log_prior(z).double(), Quality.LOWER, None, words)

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        z = rng.categorical(self._log_shares().expand(count, -1, -1))
        return self._decode(z, given).sample(rng)

    def _encode(self, x: Tensor, given: Given) -> torch.distributions.Distribution:
        h = self._vectors(x, None, self._condition_on(given, len(x)))
        return Point(self.book.nearest(h), discrete=True)

    def _decode(self, z: Tensor, given: Given) -> Predictive:
        e = self.book.vectors(z.round().long().clamp(0, self.K - 1)).to(self._dtype)
        return Predictive(self.likelihood, self._params_of(e, self._condition_on(given, len(z))))

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.decoder.parameters()).dtype
