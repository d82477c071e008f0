"""GAN: a generator and a critic that compares its draws with the data.

    u = m + d v,  v = G(z, c),  z ~ N(0, I)          (or G(z, sign z, c), which may jump: data in separate clusters)
    critic      L_D = E softplus(-(D(v_real) - D(v_fake))) + gamma / 2 (E |grad D(v_real)|^2 + E |grad D(v_fake)|^2)
    generator   L_G = E softplus(-(D(v_fake) - D(v_real)))

The relativistic pairing has no bad local minima and both gradient penalties make its play converge locally; other games
and penalties are arguments (`engines.adversarial` has their formulas). Offers sample, decode (a point: no likelihood,
so no density follows), encode and condition (by inverting G, see `engines.inversion`, or by a network fitted beside).
Fitted by two players which share the draws of a step. Rows with gaps: the critic sees v * mask and mask, and the draws
wear the masks of the rows that they are compared with.

m and d are the mean and the deviation of each coordinate, measured on the first batches: a critic whose slope is
penalised would not see the small ones otherwise. The penalties are computed on a quarter of the rows.

References: R3GAN (Huang 2024, arXiv:2501.05441); relativistic pairing (Jolicoeur-Martineau 2018, arXiv:1807.00734);
R1 (Mescheder 2018, arXiv:1801.04406); WGAN-GP (Gulrajani 2017, arXiv:1704.00028); spectral norm and projection (Miyato
2018, arXiv:1802.05957, 1802.05637); packs (Lin 2017, arXiv:1712.04086); augmentation (Zhao 2020, arXiv:2006.10738);
masked fakes (Li 2019, arXiv:1902.09599); DCGAN (Radford 2015, arXiv:1511.06434); a critic's features as a measure of
likeness (Larsen 2015, arXiv:1512.09300; Wang 2017, arXiv:1711.11585).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from pofx.engines.adversarial import LOSSES, PENALTIES, critic_loss, generator_loss, map_distance, penalty
from pofx.engines.inversion import Inverted, invert, starts
from pofx.model import Batch, Card, Conditional, Given, Model, Player, Predictive, Quality, Rng
from pofx.nn.augment import MOVES, OF_PICTURES, augmented
from pofx.nn.conditioner import Conditioner, conditioner, drop
from pofx.nn.convnet import ConvCritic, ConvDecoder, ConvEncoder
from pofx.nn.dcgan import DCCritic, DCGenerator
from pofx.nn.moments import Moments
from pofx.nn.scalar import LeakyCritic, LeakyMLP
from pofx.nn.unet import Translator
from pofx.wrappers import Point

LEAST_DEVIATION = 0.25  # below it a coordinate is mostly noise, which the critic should not look for
PENALISED = 4  # one row in so many bears the penalty
LARGEST_MLP = 256  # entries; above it the networks of a picture are convolutional
BODIES = ("mlp", "dcgan", "residual")
WAVED = 4  # a vector of at most so many entries is seen through waves too
OCTAVES = 5
POOL = 512  # draws among which an inversion looks for its starts; a quarter of them where each row has its own given
ENCODED, DRAWN = 3, 4  # starts of an encoding, and at most of a completion


class GAN(Model):
    """A generator fitted against a critic.

    Args:
        loss: "relativistic", "non-saturating", "hinge" or "wasserstein".
        penalty: "r1+r2", "r1", "gradient" (slopes of 1 between real and fake), "none"; None: what the loss is known
            with (relativistic: r1+r2; non-saturating: r1; wasserstein: gradient), and none beside spectral norms.
        gamma: weight of the penalty; None: 10 for "gradient", else 0.1 for vectors, 0.2 or 1 for small and other
            pictures.
        settle: critic steps in which gamma is halved (gamma / (1 + k / settle) at step k), which finds modes first
            and sharpens later; 0 keeps gamma; None: 300 for vectors of at most 4 entries, else 0.
        spectral: every layer of the critic has spectral norm 1; None: for the hinge loss alone.
        critic_steps: of the critic for each of the generator; None: 5 for "wasserstein", else 1.
        body: "mlp", "dcgan", "residual"; None: convolutional residual networks for pictures above 256 entries, plain
            layers for all else.
        pack: rows that the critic judges together; above 1 it sees that draws resemble each other.
        augment: how real rows and fakes are moved alike, for little data: some of "translation", "cutout" and
            "brightness" (pictures) and "jitter"; "all" for the first three.
        projection: the critic meets the given by a projection of its features; False (plain layers): beside x.
        fidelity: weight of E|x - G(z, given)| beside the game, in standard deviations of an entry, for givens that
            say nearly all of x (pix2pix has 100 with pictures in [-1, 1]).
        perceptual: weight of E|f(x) - f(G(z, given))| / E|f(x)| over the layers f of a convolutional critic: a draw
            should have the features of its row rather than its numbers.
        encoder: fit a network beside which gives z of x in one pass, by regression on draws.
        cells: the generator sees the signs of z beside z, so that its draws may fall into separate clusters; None: for
            vectors of at most 4 entries.
        waves: the critic (plain layers) sees each entry through so many octaves of sines and cosines too, which shows
            fine structure; None: 6 for vectors of at most 4 entries, else 0.
        latent: size of z; None: between 8 and 32, by the number of entries, and 64 for pictures above 256 entries.
        width: features of both networks; None: 128 for vectors, 64 for those of at most 4 entries, 256 for pictures up
            to 256 entries, which plain layers learn fastest, and 32 channels of convolutions above that.
        depth: layers of plain networks after the first (None: 3, or 2 for pictures), or residual blocks at each size
            of convolutional ones (None: 1).
        lr: of all players. betas: of both players' AdamW.
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
        loss: str = "relativistic",
        penalty: str | None = None,
        gamma: float | None = None,
        settle: float | None = None,
        spectral: bool | None = None,
        critic_steps: int | None = None,
        body: str | None = None,
        pack: int = 1,
        augment: str | Sequence[str] = (),
        projection: bool = True,
        fidelity: float = 0.0,
        perceptual: float = 0.0,
        encoder: bool = False,
        cells: bool | None = None,
        waves: int | None = None,
        latent: int | None = None,
        width: int | None = None,
        depth: int | None = None,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.0, 0.99),
    ) -> None:
        super().__init__()
        _check("loss", loss, LOSSES)
        _check("penalty", penalty, (None, *PENALTIES))
        _check("body", body, (None, *BODIES))
        if pack < 1 or (critic_steps is not None and critic_steps < 1):
            raise ValueError(f"gan: got pack={pack}, critic_steps={critic_steps}; expected at least 1.")
        self.loss, self.penalty, self.gamma, self.settle, self.spectral = loss, penalty, gamma, settle, spectral
        self.critic_steps, self.body, self.pack, self.augment = critic_steps, body, pack, _moves(augment)
        self.projection, self.fidelity, self.encoder = projection, fidelity, encoder
        self.perceptual, self.cells, self.waves = perceptual, cells, waves
        self.latent, self.width, self.depth = latent, width, depth
        self.lr, self.betas = lr, (betas[0], betas[1])

    def _build(self) -> None:
        shape, size = self.space.shape, self.space.size
        grid = self.space.picture
        if self.body in ("dcgan", "residual") and not grid:
            raise ValueError(f"gan: body={self.body!r} wants pictures (C, H, W), got x of shape {shape}; use 'mlp'.")
        if set(self.augment) & set(OF_PICTURES) and not grid:
            raise ValueError(f"gan: augment={self.augment} wants pictures, got x of shape {shape}; vectors: 'jitter'.")
        self.net = self.body or ("residual" if grid and size > LARGEST_MLP else "mlp")
        self.picture = self.net != "mlp"
        if self.perceptual and not self.picture:
            raise ValueError("gan: perceptual wants layers that see pictures; say body='dcgan' or 'residual'.")
        self.z_size = self.latent or (64 if size > LARGEST_MLP else max(8, min(32, size)))
        self._settings(grid)
        c = 64 if self.given else 0
        self.generator_given, self.critic_given = conditioner(self.given, c), conditioner(self.given, c)
        self.maps = self.generator_given.channels if self.generator_given and self.picture else 0
        width = self.width or (32 if self.picture else 256 if grid else 64 if self.space.size <= WAVED else 128)
        self.generator = self._generator(width, c, grid)
        self.critic = self._critic(width, c, grid)
        self.moments = Moments(shape, LEAST_DEVIATION)
        self.reader = self._reader(width, c) if self.encoder else None
        self.reader_given = conditioner(self.given, c) if self.encoder else None
        self.register_buffer("turns", torch.zeros((), dtype=torch.int64))  # steps that the critic has made
        self._shared: tuple[Tensor, dict[str, Tensor]] | None = None

    def _settings(self, grid: bool) -> None:
        """What stands for the arguments that are None."""
        spectral = self.loss == "hinge" if self.spectral is None else self.spectral
        known = {"relativistic": "r1+r2", "wasserstein": "gradient"}.get(self.loss, "r1")
        self.has_spectral, self.kind = spectral, self.penalty or ("none" if spectral else known)
        usual = 10.0 if self.kind == "gradient" else 1.0 if self.picture else 0.2 if grid else 0.1
        self.penalty_weight = usual if self.gamma is None else self.gamma
        low = not grid and self.space.size <= WAVED
        self.octaves = (OCTAVES if low else 0) if self.waves is None else self.waves
        self.signs = low if self.cells is None else self.cells
        self.batch_size = 256 if low else 64  # type: ignore[misc]
        self.settling = (300.0 if low and self.kind != "gradient" else 0.0) if self.settle is None else self.settle

    def _generator(self, width: int, c: int, grid: bool) -> nn.Module:
        seen = self.z_size * (1 + self.signs)
        if self.net == "mlp":
            return LeakyMLP(seen, self.space.size, width, self.depth or (2 if grid else 3), c)
        if self.maps:
            return Translator(seen, self.space.shape, self.maps, width, c)
        if self.net == "dcgan":
            return DCGenerator(seen, self.space.shape, width, c)
        return ConvDecoder(seen, self.space.shape, width, c, self.depth or 1)

    def _critic(self, width: int, c: int, grid: bool) -> nn.Module:
        shape = (self.pack * (2 * self.space.shape[0] + self.maps), *self.space.shape[1:])
        c *= self.pack
        if self.net == "mlp":
            size, depth = 2 * self.pack * self.space.size, self.depth or (2 if grid else 3)
            critic: nn.Module = LeakyCritic(size, width, depth, c, self.projection, size // 2, self.octaves)
        elif self.net == "dcgan":
            critic = DCCritic(shape, width, c)
        else:
            critic = ConvCritic(shape, width, c, self.depth or 1)
        for layer in list(critic.modules()) if self.has_spectral else []:
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                spectral_norm(layer)
        return critic

    def _reader(self, width: int, c: int) -> nn.Module:
        if self.net == "mlp":
            return LeakyMLP(self.space.size, 2 * self.z_size, width, 2, c)
        return ConvEncoder(self.space.shape, 2 * self.z_size, width, c)

    def _players(self) -> list[Player]:
        critic, generator = (_weights(self.critic, self.critic_given), _weights(self.generator, self.generator_given))
        steps = self.critic_steps or (5 if self.loss == "wasserstein" else 1)
        players = [
            Player("critic", critic, self._critic_loss, 1, self.lr, self.betas),
            Player("generator", generator, self._generator_loss, steps, self.lr, self.betas),
        ]
        if self.reader is not None:
            reader = _weights(self.reader, self.reader_given)
            players.append(Player("encoder", reader, self._encoder_loss, 1, self.lr, (0.9, 0.99)))
        return players

    def _critic_loss(self, batch: Batch, rng: Rng) -> Tensor:
        batch = self._packable(batch)
        self.moments.measure(batch.x.float(), batch.observed)
        self._shared = self._play(batch, rng)
        fake, keep = self._shared
        real, fake = self._seen(self.moments(batch.x.float()), batch, keep, rng), fake.detach()
        fake, c = self._seen(fake, batch, keep, rng), self._packed_given(batch, keep)
        on_real, on_fake = self._judge(torch.cat([real, fake]), _twice(c)).chunk(2)
        weight = self.penalty_weight / (1 + self.turns / self.settling) if self.settling else self.penalty_weight
        self.turns += self.training  # in place, after the weight was made of it
        return critic_loss(self.loss, on_real, on_fake) + weight * self._penalty(real, fake, c, rng)

    def _penalty(self, real: Tensor, fake: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        """Of the first rows alone: their order is random, and a second derivative is dear."""
        few = -(-len(real) // PENALISED)
        share = rng.uniform((len(real), *[1] * (real.ndim - 1)))[:few] if self.kind == "gradient" else real[:0]
        c = None if c is None else c[:few]

        def critic(rows: Tensor) -> Tensor:
            return self._judge(rows, _twice(c) if self.kind == "r1+r2" else c)

        return penalty(self.kind, critic, real[:few], fake[:few], share)

    def _generator_loss(self, batch: Batch, rng: Rng) -> Tensor:
        batch = self._packable(batch)
        # the critic's move left the generator alone, so the graph of the step's draws still holds
        fake, keep = self._shared or self._play(batch, rng)
        self._shared = None
        x, near = self.moments(batch.x.float()), 0.0
        if self.fidelity:
            gap = (x - fake).abs() if batch.observed is None else (x - fake).abs() * batch.observed
            near = self.fidelity * gap.mean()
        seen, c = self._seen(fake, batch, keep, rng), self._packed_given(batch, keep)
        if self.loss != "relativistic" and not self.perceptual:
            return generator_loss(self.loss, None, self._judge(seen, c)) + near
        seen, c = torch.cat([self._seen(x, batch, keep, rng), seen]), _twice(c)
        if not self.perceptual:
            return generator_loss(self.loss, *self._judge(seen, c).chunk(2)) + near
        maps = self.critic.maps(seen)  # type: ignore[operator]
        near = near + self.perceptual * map_distance(maps)
        scores = self.critic.score(maps, c).flatten()  # type: ignore[operator]
        return generator_loss(self.loss, *scores.chunk(2)) + near

    def _encoder_loss(self, batch: Batch, rng: Rng) -> Tensor:
        """-log q(z | G(z)), nats an entry of z."""
        keep = drop(batch.given, len(batch), rng) if batch.given else {}
        z = rng.normal((len(batch), self.z_size))
        with torch.no_grad():
            v = self._generate(z, batch.given, keep)
        q = self._read(v, self._condition_of(self.reader_given, batch.given, len(batch), keep))
        return -q.log_prob(z).mean() / self.z_size

    def _packable(self, batch: Batch) -> Batch:
        """The rows that fill whole packs."""
        rows = len(batch) - len(batch) % self.pack
        if rows == 0:
            raise ValueError(f"gan: got {len(batch)} rows in a batch, expected at least pack={self.pack}.")
        return batch if rows == len(batch) else batch.take(torch.arange(rows, device=batch.x.device))

    def _play(self, batch: Batch, rng: Rng) -> tuple[Tensor, dict[str, Tensor]]:
        """The draws of a step, one for each row, and which givens both networks may see."""
        rows = len(batch)
        keep = drop(batch.given, rows, rng) if batch.given else {}
        return self._generate(rng.normal((rows, self.z_size)), batch.given, keep), keep

    def _generate(self, z: Tensor, given: Given, keep: Mapping[str, Tensor] | None = None) -> Tensor:
        seen = torch.cat([z, z.sign()], 1) if self.signs else z
        if self.maps:
            assert self.generator_given is not None
            c = self.generator_given.whole(given, len(z), keep, self._size)
            return self.generator(seen, c.vector, c.map)
        made = self.generator(seen, self._condition_of(self.generator_given, given, len(z), keep))
        return made.reshape(len(z), *self.space.shape)

    @property
    def _size(self) -> tuple[int, int]:
        return self.space.shape[-2], self.space.shape[-1]

    def _seen(self, v: Tensor, batch: Batch, keep: Mapping[str, Tensor], rng: Rng) -> Tensor:
        """What the critic sees of rows v: observed entries beside the mask and given pictures, moved, in packs."""
        observed = batch.observed
        mask = torch.ones_like(v) if observed is None else observed.to(v.dtype)
        parts = [v if observed is None else torch.where(observed, v, 0.0), mask]
        if self.maps:
            assert self.critic_given is not None
            parts += [m for m in [self.critic_given.whole(batch.given, len(v), keep, self._size).map] if m is not None]
        both = torch.cat(parts, 1)
        both = augmented(both, self.augment, rng, v.shape[1]) if self.augment else both
        if not self.picture:  # values first and masks after them, so that all values of a pack have waves
            values, masks = (t.reshape(len(v) // self.pack, -1) for t in both.chunk(2, 1))
            return torch.cat([values, masks], 1)
        return both.reshape(len(v) // self.pack, -1, *v.shape[2:])

    def _packed_given(self, batch: Batch, keep: Mapping[str, Tensor]) -> Tensor | None:
        c = self._condition_of(self.critic_given, batch.given, len(batch), keep)
        return None if c is None else c.reshape(len(c) // self.pack, -1)

    def _judge(self, seen: Tensor, c: Tensor | None) -> Tensor:
        """D of packs."""
        return self.critic(seen, c).flatten()

    @staticmethod
    def _condition_of(
        conditioner: Conditioner | None, given: Given, rows: int, keep: Mapping[str, Tensor] | None = None
    ) -> Tensor | None:
        return None if conditioner is None else conditioner(given, rows, keep)

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        return self._made(rng.normal((count, self.z_size)), given).to(self.space.torch_dtype)

    def _made(self, z: Tensor, given: Given) -> Tensor:
        """u of z."""
        return self.moments.inverse(self._generate(z, given))

    def _decode(self, z: Tensor, given: Given) -> Predictive:
        return Predictive(Point(self.space, "gan"), self._made(z.float(), given).flatten(1))

    def _encode(self, x: Tensor, given: Given) -> torch.distributions.Distribution:
        if self.reader is not None:
            v = self.moments(x.float())
            return self._read(v, self._condition_of(self.reader_given, given, len(x)))
        found = self._invert(x, torch.ones_like(x, dtype=torch.bool), given, ENCODED, None)
        rows, best = torch.arange(len(x), device=x.device), found.best
        spread = found.root[best, rows].square().sum(-1).sqrt()  # of each entry of z
        return _normal(found.mean[best, rows], spread)

    def _read(self, v: Tensor, c: Tensor | None) -> torch.distributions.Independent:
        mean, raw = self.reader(v if self.picture else v.flatten(1), c).chunk(2, -1)  # type: ignore[misc]
        return _normal(mean, raw.clamp(-8.0, 2.0).exp())

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        def sample(n: int, rng: Rng) -> Tensor:
            found = self._invert(x, observed, given, min(n, DRAWN), rng)
            z = found.draw(rng.integers(len(found.mean), (n, len(x))), rng).float()
            many = {k: v.repeat(n, *[1] * (v.ndim - 1)) for k, v in given.items()}
            with torch.no_grad():
                made = self._made(z.flatten(0, 1), many).reshape(n, *x.shape)
            return torch.where(observed, x, made.to(x.dtype))

        return Conditional(sample, None, Quality.ESTIMATE)

    def _invert(self, x: Tensor, observed: Tensor, given: Given, count: int, rng: Rng | None) -> Inverted:
        def generate(z: Tensor, rows: Tensor) -> Tensor:
            return self._made(z, {k: v[rows] for k, v in given.items()}).flatten(1)

        y, o = x.float().flatten(1), observed.flatten(1)
        pool = Rng(0, x.device).normal((POOL // 4 if given else POOL, self.z_size))
        pool = pool.expand(len(x), *pool.shape) if given else pool
        with torch.no_grad():
            first = starts(generate, y, o, pool, count, rng)
        return invert(generate, y, o, first)


def _normal(mean: Tensor, deviation: Tensor) -> torch.distributions.Independent:
    return torch.distributions.Independent(torch.distributions.Normal(mean, deviation, validate_args=False), 1)


def _twice(t: Tensor | None) -> Tensor | None:
    return None if t is None else torch.cat([t, t])


def _weights(*parts: nn.Module | None) -> list[nn.Parameter]:
    return [p for part in parts if part is not None for p in part.parameters()]


def _moves(augment: str | Sequence[str]) -> tuple[str, ...]:
    words = [w for w in augment.replace(",", " ").split() if w != "none"] if isinstance(augment, str) else augment
    moves = OF_PICTURES if tuple(words) == ("all",) else tuple(words)
    for move in moves:
        _check("augment", move, MOVES)
    return moves


def _check(name: str, got: str | None, expected: tuple[str | None, ...]) -> None:
    if got not in expected:
        raise ValueError(f"gan: {name} is {got!r}; expected one of {expected}.")
