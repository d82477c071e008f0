"""GAN: a generator and a critic that compares its draws with the data.

    u = m + d v,  v = G(z, c),  z ~ N(0, I)
    critic      L_D = E softplus(-(D(v_real) - D(v_fake))) + gamma / 2 (E |grad D(v_real)|^2 + E |grad D(v_fake)|^2)
    generator   L_G = E softplus(-(D(v_fake) - D(v_real)))

The relativistic pairing has no bad local minima and both gradient penalties make its play converge locally. Offers
sample; it has no density. Fitted by two players which share the draws of a step. Rows with gaps: the critic sees
v * mask and mask, and the draws wear the masks of the rows that they are compared with.

m and d are the mean and the deviation of each coordinate, measured on the first batches: a critic whose slope is
penalised would not see the small ones otherwise. The penalties are computed on a quarter of the rows.

References: R3GAN (Huang 2024, arXiv:2501.05441); relativistic pairing (Jolicoeur-Martineau 2018, arXiv:1807.00734);
R1 (Mescheder 2018, arXiv:1801.04406); masked fakes (Li 2019, arXiv:1902.09599).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pofx.model import Batch, Card, Given, Model, Player, Rng
from pofx.nn.conditioner import Conditioner, drop
from pofx.nn.convnet import ConvCritic, ConvDecoder
from pofx.nn.moments import Moments
from pofx.nn.scalar import LeakyMLP

LEAST_DEVIATION = 0.25  # below it a coordinate is mostly noise, which the critic should not look for
PENALISED = 4  # one row in so many bears the penalty
LARGEST_MLP = 256  # entries; above it the networks of a picture are convolutional


class GAN(Model):
    """A generator fitted against a critic.

    Args:
        latent: size of z; None: between 8 and 32, by the number of entries, and 64 for pictures above 256 entries.
        width: features of both networks; None: 128 for vectors, 256 for pictures up to 256 entries, which plain layers
            learn fastest, and 32 channels of convolutions above that.
        depth: layers of plain networks after the first (None: 3, or 2 for pictures), or residual blocks at each size
            of convolutional ones (None: 1).
        gamma: weight of both gradient penalties; None: 0.1 for vectors, 0.2 or 1 for small and other pictures.
        lr: of both players. betas: of both players' AdamW.
    """

    card = Card(
        density="none",
        sampling="fast, one pass",
        training="a game of two; penalties keep it stable",
        latents="R^L",
        architecture="free",
        branch=("implicit", "direct"),
        incomplete="fakes wear the masks of the rows they are compared with",
        summary="a generator that a critic cannot tell from the data",
        reference="Goodfellow et al. 2014, arXiv:1406.2661; Huang et al. 2024, arXiv:2501.05441",
        euclidean=True,
    )
    loss_unit = "critic loss"
    validate_by = "samples"
    batch_size = 64

    def __init__(
        self,
        *,
        latent: int | None = None,
        width: int | None = None,
        depth: int | None = None,
        gamma: float | None = None,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.0, 0.99),
    ) -> None:
        super().__init__()
        self.latent, self.width, self.depth, self.gamma = latent, width, depth, gamma
        self.lr, self.betas = lr, (betas[0], betas[1])

    def _build(self) -> None:
        shape, size = self.space.shape, self.space.size
        grid = self.space.layout == "grid" and len(shape) == 3
        self.picture = grid and size > LARGEST_MLP
        self.z_size = self.latent or (64 if self.picture else max(8, min(32, size)))
        self.penalty_weight = self.gamma if self.gamma is not None else (1.0 if self.picture else 0.2 if grid else 0.1)
        width = self.width or (32 if self.picture else 256 if grid else 128)
        c = 64 if self.given else 0
        if self.picture:
            self.generator: nn.Module = ConvDecoder(self.z_size, shape, width, c, self.depth or 1)
            self.critic: nn.Module = ConvCritic((2 * shape[0], *shape[1:]), width, c, self.depth or 1)
        else:
            depth = self.depth or (2 if grid else 3)
            self.generator = LeakyMLP(self.z_size, size, width, depth, c)
            self.critic = LeakyMLP(2 * size, 1, width, depth, c)
        self.moments = Moments(shape, LEAST_DEVIATION)
        specs = {k: s.spec for k, s in self.given.items()}
        self.generator_given = Conditioner(specs, c) if specs else None
        self.critic_given = Conditioner(specs, c) if specs else None
        self._shared: tuple[Tensor, dict[str, Tensor]] | None = None

    def _players(self) -> list[Player]:
        return [
            Player("critic", _weights(self.critic, self.critic_given), self._critic_loss, 1, self.lr, self.betas),
            Player(
                "generator",
                _weights(self.generator, self.generator_given),
                self._generator_loss,
                1,
                self.lr,
                self.betas,
            ),
        ]

    def _critic_loss(self, batch: Batch, rng: Rng) -> Tensor:
        self.moments.measure(batch.x.float(), batch.observed)
        self._shared = self._play(batch, rng)
        fake, keep = self._shared
        real, fake = self.moments(batch.x.float()), fake.detach()
        c = self._condition_of(self.critic_given, batch.given, len(batch), keep)
        on_real, on_fake = self._judge_both(real, fake, c, batch.observed)
        return F.softplus(on_fake - on_real).mean() + 0.5 * self.penalty_weight * self._penalty(real, fake, c, batch)

    def _penalty(self, real: Tensor, fake: Tensor, c: Tensor | None, batch: Batch) -> Tensor:
        """Both squared slopes, by the first rows alone: their order is random, and a second derivative is dear."""
        few = -(-len(real) // PENALISED)
        both = torch.cat([real[:few], fake[:few]]).requires_grad_()
        c, observed = (None if t is None else torch.cat([t[:few], t[:few]]) for t in (c, batch.observed))
        with torch.enable_grad():
            return 2 * squared_slope(self._judge(both, c, observed), both)

    def _generator_loss(self, batch: Batch, rng: Rng) -> Tensor:
        # the critic's move left the generator alone, so the graph of the step's draws still holds
        fake, keep = self._shared or self._play(batch, rng)
        self._shared = None
        c = self._condition_of(self.critic_given, batch.given, len(batch), keep)
        on_real, on_fake = self._judge_both(self.moments(batch.x.float()), fake, c, batch.observed)
        return F.softplus(on_real - on_fake).mean()

    def _judge_both(
        self, real: Tensor, fake: Tensor, c: Tensor | None, observed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The critic of both in one pass, for its rows do not see each other."""
        twice = (None if t is None else torch.cat([t, t]) for t in (c, observed))
        return self._judge(torch.cat([real, fake]), *twice).split(len(real))

    def _play(self, batch: Batch, rng: Rng) -> tuple[Tensor, dict[str, Tensor]]:
        """The draws of a step, one for each row, and which givens both networks may see."""
        rows = len(batch)
        keep = drop(batch.given, rows, rng) if batch.given else {}
        return self._generate(rng.normal((rows, self.z_size)), batch.given, keep), keep

    def _generate(self, z: Tensor, given: Given, keep: Mapping[str, Tensor] | None = None) -> Tensor:
        c = self._condition_of(self.generator_given, given, len(z), keep)
        return self.generator(z, c).reshape(len(z), *self.space.shape)

    def _judge(self, v: Tensor, c: Tensor | None, observed: Tensor | None) -> Tensor:
        mask = torch.ones_like(v) if observed is None else observed.to(v.dtype)
        seen = v if observed is None else torch.where(observed, v, 0.0)
        both = torch.cat([seen, mask], 1)
        return self.critic(both if self.picture else both.flatten(1), c).flatten()

    @staticmethod
    def _condition_of(
        conditioner: Conditioner | None, given: Given, rows: int, keep: Mapping[str, Tensor] | None
    ) -> Tensor | None:
        return None if conditioner is None else conditioner(given, rows, keep)

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        v = self._generate(rng.normal((count, self.z_size)), given)
        return self.moments.inverse(v).to(self.space.torch_dtype)


def squared_slope(f: Tensor, u: Tensor) -> Tensor:
    """The mean over rows of |grad_u f|^2, for f (B,) of u (B, *event); it can be differentiated again."""
    (slope,) = torch.autograd.grad(f.sum(), u, create_graph=True)
    return slope.flatten(1).square().sum(1).mean()


def _weights(*parts: nn.Module | None) -> list[nn.Parameter]:
    return [p for part in parts if part is not None for p in part.parameters()]
