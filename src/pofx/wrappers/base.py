"""Wrapped: a model around one inner model, which it describes. Staged: one whose parts are fitted in turn."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pofx.data import Batch, Data
from pofx.kinds.relax import Chart
from pofx.model import Card, Model, Player, Quality
from pofx.randomness import Rng


class Wrapped(Model):
    """A model that behaves as its inner model unless it says otherwise. Set `inner`, `space` and `given`."""

    inner: Model

    @property
    def card(self) -> Card:  # type: ignore[override]
        """The inner model's card."""
        return self.inner.card

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def chart(self) -> Chart:
        return self.inner.chart

    @property
    def closed(self) -> bool:
        return self.inner.closed

    @property
    def loss_unit(self) -> str:  # type: ignore[override]
        """The inner model's unit of its loss."""
        return self.inner.loss_unit

    @property
    def batch_size(self) -> int:  # type: ignore[override]
        """The rows of a step that the inner model likes."""
        return self.inner.batch_size

    @property
    def validate_by(self) -> str:  # type: ignore[override]
        """How the inner model is validated."""
        return self.inner.validate_by

    @property
    def sampler(self) -> Quality:  # type: ignore[override]
        """The quality of the inner model's draws."""
        return self.inner.sampler


class Staged(Model):
    """A model whose parts are fitted one after the other by one `fit`; players, unit and the rest are of the stage."""

    stage: int = 0

    @property
    def stages(self) -> tuple[tuple[str, float], ...]:
        """What is fitted in each stage, and its share of the budget."""
        raise NotImplementedError

    def begin(self, stage: int, data: Data, rng: Rng) -> None:
        """Turn to a stage; what comes before it is fitted."""
        raise NotImplementedError


def mapped(player: Player, change: Callable[[Batch, Rng], Batch]) -> Player:
    """The same player, who sees changed rows."""

    def loss(batch: Batch, rng: Rng) -> Tensor:
        return player.loss(change(batch, rng), rng)

    return Player(player.name, player.params, loss, player.every, player.lr, player.betas, player.weight_decay)
