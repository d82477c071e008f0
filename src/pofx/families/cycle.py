"""Cycle: two sets without pairs, a generator each way, and each undoes the other.

    u = G(v),  v = F(u);      u a row of x in its chart, v a row of what it is given, in its own
    critics      D_u: u against G(v),   D_v: v against F(u)
    generators   L = game(D_u, G(v)) + game(D_v, F(u)) + cycle (E|F(G(v)) - v| + E|G(F(u)) - u|)
                     + identity (E|G(u) - u| + E|F(v) - v|)

Fitted by four players on `Data(paired=False)`: the rows of both sides come in orders of their own. Offers sample, one x
for each row given and the same one each time: a map, not a law, and no density. `model.back` is the model of the other
way. Without a given it draws among rows that it keeps of the other side. Both generators lower one L, whose slopes are
computed once.

Nothing in L says which u belongs to which v: a map that turns every v into some other u and back has the same loss. The
right one is found because networks prefer maps that change little, and critics of small places see the manner only.

References: CycleGAN (Zhu 2017, arXiv:1703.10593); DiscoGAN (Kim 2017, arXiv:1703.05192); least squares (Mao 2016,
arXiv:1611.04076); R1 (Mescheder 2018, arXiv:1801.04406).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pofx.engines.adversarial import LOSSES, PENALTIES, critic_loss, generator_loss, penalty
from pofx.kinds.relax import Chart
from pofx.model import Batch, Card, Given, Model, Player, Rng, Unsupported
from pofx.nn.scalar import LeakyCritic
from pofx.nn.ways import PatchCritic, Way, moved

KEPT = 256  # rows of each side that stand for it where nothing is given
PENALISED = 4  # one row in so many bears the penalty


class Play(NamedTuple):
    """The rows of a step and what either generator makes of them."""

    u: Tensor
    v: Tensor
    made_u: Tensor
    made_v: Tensor


class Cycle(Model):
    """Two generators and two critics on two unpaired sets.

    Args:
        loss: of the game: "non-saturating", "least-squares", "hinge", "wasserstein" or "relativistic".
        penalty: on the critics' slopes: "r1", "r1+r2", "gradient" or "none".
        gamma: weight of the penalty.
        cycle: weight of the way there and back, in standard deviations of an entry.
        identity: weight of leaving alone what already is of the right side, where both have one shape.
        patches: a picture's critic scores small places; False: the whole picture at once, by plain layers.
        width: channels of the generators' convolutions; None: 32 for pictures, 64 for vectors.
        depth: residual convolutions, or plain layers; None: 3.
        lr, betas: of all players' AdamW.

    Raises:
        Unsupported: it is not given exactly one thing. ValueError: an unknown word.
    """

    card = Card(
        density="none",
        sampling="fast, one pass; a map of the given, without chance",
        training="a game of four; the way there and back holds it together",
        latents="none: the other side is the code",
        architecture="free",
        branch=("implicit", "direct"),
        incomplete="refuses",
        summary="two sets turned into each other without pairs",
        reference="Zhu et al. 2017, arXiv:1703.10593",
        euclidean=True,
        paired=False,
    )
    loss_unit = "critic loss"
    validate_by = "none"  # the nearest law of all is no proof of the right map; a map that does nothing can be near
    batch_size = 8

    def __init__(
        self,
        *,
        loss: str = "non-saturating",
        penalty: str = "r1",
        gamma: float = 0.1,
        cycle: float = 1.0,
        identity: float = 0.0,
        patches: bool = True,
        width: int | None = None,
        depth: int | None = None,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.5, 0.99),
    ) -> None:
        super().__init__()
        for word, got, known in (("loss", loss, LOSSES), ("penalty", penalty, PENALTIES)):
            if got not in known:
                raise ValueError(f"cycle: {word} is {got!r}; expected one of {known}.")
        self.loss, self.penalty, self.gamma, self.cycle, self.identity = loss, penalty, gamma, cycle, identity
        self.patches, self.width, self.depth = patches, width, depth
        self.lr, self.betas = lr, (betas[0], betas[1])

    def _build(self) -> None:
        if len(self.given) != 1:
            what = f"given {sorted(self.given)}" if self.given else "given nothing"
            raise Unsupported(
                f"cycle turns one set into another: it is {what}, expected one name; "
                "open_data(x, given={'y': y}, paired=False)."
            )
        ((self.source, space),) = self.given.items()
        if not space.shape:
            raise Unsupported(f"cycle: given {self.source!r} is one value a row; expected a set of rows with a shape.")
        self.other = Chart(space)
        here, there = self.space.shape, self.other.space.shape
        self.pictures = self.space.picture and self.other.space.picture and here[1:] == there[1:]
        width, depth = self.width or (32 if self.pictures else 64), self.depth or 3
        self.there = Way(there, here, self.pictures, width, depth)
        self.back_again = Way(here, there, self.pictures, width, depth)
        self.critic, self.critic_back = (self._critic(shape, width) for shape in (here, there))
        self.register_buffer("kept_x", torch.zeros(KEPT, *here))
        self.register_buffer("kept_given", torch.zeros(KEPT, *there))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._shared: Play | None = None
        self._slopes: tuple[Tensor, tuple[Tensor, ...]] | None = None

    def _critic(self, shape: tuple[int, ...], width: int) -> nn.Module:
        if self.pictures and self.patches:
            return PatchCritic(shape[0], width, 2 if max(shape[1:]) >= 16 else 1)
        return LeakyCritic(torch.Size(shape).numel(), 2 * width, 2)

    def way_back(self, chart: Chart) -> Model:
        """The model of the other way, given x in the units of a chart's data."""
        return Back(self, chart)

    @property
    def back(self) -> Model:
        """The model of the other way: what was given, given `x`."""
        return self.way_back(self.chart)

    def _players(self) -> list[Player]:
        parts = {
            "critic": (self.critic, self._critic_loss),
            "critic back": (self.critic_back, self._critic_back_loss),
            "there": (self.there, self._there_loss),
            "back": (self.back_again, self._back_loss),
        }
        return [
            Player(name, list(net.parameters()), loss, 1, self.lr, self.betas) for name, (net, loss) in parts.items()
        ]

    def _played(self, batch: Batch, rng: Rng) -> Play:
        """The play of this step, made once by whoever needs it first."""
        if self._shared is None:
            u, v = batch.x.float(), self.other.encode(batch.given[self.source], rng).float()
            self._keep(u, v)
            self._shared = Play(u, v, self.there(v), self.back_again(u))
        return self._shared

    def _keep(self, u: Tensor, v: Tensor) -> None:
        if not self.training:
            return
        places = (self.seen + torch.arange(len(u), device=u.device))[-KEPT:] % KEPT
        self.kept_x[places], self.kept_given[places] = u[-KEPT:], v[-KEPT:]
        self.seen += len(u)

    def _critic_loss(self, batch: Batch, rng: Rng) -> Tensor:
        self._shared = None
        play = self._played(batch, rng)
        return self._judged(self.critic, play.u, play.made_u.detach(), rng)

    def _critic_back_loss(self, batch: Batch, rng: Rng) -> Tensor:
        play = self._played(batch, rng)
        return self._judged(self.critic_back, play.v, play.made_v.detach(), rng)

    def _judged(self, critic: nn.Module, real: Tensor, fake: Tensor, rng: Rng) -> Tensor:
        on_real, on_fake = _scores(critic, torch.cat([real, fake])).chunk(2)
        few = -(-len(real) // PENALISED)
        share = rng.uniform((few, *[1] * (real.ndim - 1))) if self.penalty == "gradient" else real[:0]

        def mean(rows: Tensor) -> Tensor:  # of the places of a row, so that their number does not weigh
            return _scores(critic, rows).mean(1)

        slope = penalty(self.penalty, mean, real[:few], fake[:few], share)
        return critic_loss(self.loss, on_real.flatten(), on_fake.flatten()) + self.gamma * slope

    def _there_loss(self, batch: Batch, rng: Rng) -> Tensor:
        there, back = list(self.there.parameters()), list(self.back_again.parameters())
        value = self._both(self._played(batch, rng))
        slopes = torch.autograd.grad(value, [*there, *back])
        self._shared, self._slopes = None, (value.detach(), slopes[len(there) :])
        return moved(there, value, slopes[: len(there)])

    def _back_loss(self, batch: Batch, rng: Rng) -> Tensor:
        if self._slopes is None:
            self._there_loss(batch, rng)
        assert self._slopes is not None
        (value, slopes), self._slopes = self._slopes, None
        return moved(list(self.back_again.parameters()), value, slopes)

    def _both(self, play: Play) -> Tensor:
        """L, which both generators lower."""
        u, v, made_u, made_v = play
        loss = self._fooled(self.critic, u, made_u) + self._fooled(self.critic_back, v, made_v)
        gap = (self.back_again(made_u) - v).abs().mean() + (self.there(made_v) - u).abs().mean()
        loss = loss + self.cycle * gap
        if self.identity and self.there.alike:
            loss = loss + self.identity * ((self.there(u) - u).abs().mean() + (self.back_again(v) - v).abs().mean())
        return loss

    def _fooled(self, critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        on_real = _scores(critic, real).flatten() if self.loss == "relativistic" else None
        return generator_loss(self.loss, on_real, _scores(critic, fake).flatten())

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        v = self.other.encode(given[self.source]).float() if given else self._some(self.kept_given, count, rng)
        return self.there(v).to(self.space.torch_dtype)

    def _some(self, kept: Tensor, count: int, rng: Rng) -> Tensor:
        return kept[rng.integers(max(1, min(KEPT, int(self.seen))), (count,))]


class Back(Model):
    """The other way of a Cycle, whose weights it shares: y given x.

    Args:
        way: the Cycle.
        chart: of x.
    """

    card = Cycle.card

    def __init__(self, way: Cycle, chart: Chart) -> None:
        super().__init__()
        self.way = way
        self.space, self.given = way.given[way.source], {"x": chart.data_space}
        self.__dict__["before"] = chart  # not a submodule: it is the other model's

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        way = self.way
        u = self.before.encode(given["x"]).float() if given else way._some(way.kept_x, count, rng)
        return way.other.decode(way.back_again(u), rng)


def _scores(critic: nn.Module, rows: Tensor) -> Tensor:
    """(B, places)."""
    return critic(rows if isinstance(critic, PatchCritic) else rows.flatten(1), None).reshape(len(rows), -1)
