"""Wrapped: a model around one inner model, whose description it passes on."""

from __future__ import annotations

from pofx.kinds.relax import Chart
from pofx.model import Card, Model, Quality


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
