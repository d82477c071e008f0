"""AdaIN: a code that says what one picture shows with the statistics of another, and a painter who reads it.

    z = adain(F(x), F(style))                      F_l fixed random filters at several scales (engines/style.py)
    y = b + G(z, z - F(b)),                        b the colours that z holds, G a network that adds what b lacks
    loss = log(1 + S(y, style) / s) + weight C(y, x) + what is outside of 0 .. 1

S and C are those that `stylise` searches with for each picture anew; here a network learns the search once. F(x) in
its own style is F(x), so b is x, nothing lacks and y is x: for any weights. Codes of one picture in several styles can
be mixed, (1 - alpha) F(x) + alpha z among them. The layers are convolutions: the same weights paint any size.

Offers encode (a point; x in its own style where none is given) and decode; it is a map, with no law of x. Fitted by
gradients on `Data(paired=False)`, pictures x and pictures of styles in orders of their own.

References: Huang and Belongie 2017 (arXiv:1703.06868); Johnson 2016 (arXiv:1603.08155, learnt once).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pofx.engines import style as engine
from pofx.engines.estimators import Point
from pofx.model import Batch, Card, Given, Model, Player, Predictive, Rng, Unsupported
from pofx.nn.adain import Painter, adain, recoloured
from pofx.wrappers import Point as Still

STYLE = "style"  # what it is given
GAIN = 0.05  # s: a distance to the style below which falling counts less
OUTSIDE = 10.0


class AdaIN(Model):
    """A network that paints any picture in any style, in one pass.

    Args:
        weight: of the content in the loss: 0 textures alone.
        scales: octaves of the features; smaller pictures have fewer.
        filters: of each octave.
        width: channels of the painter's layers.
        lr: of the optimiser.

    Raises:
        Unsupported: it is not given exactly `style`, or one of the two is no picture in three colours of 256 levels.
    """

    card = Card(
        density="none",
        sampling="none: a map of two pictures, one pass",
        training="statistics of features",
        latents="features of the picture, without a law",
        architecture="convolutions",
        branch=("implicit", "representation"),
        incomplete="refuses",
        summary="any picture in any style, in one pass",
        reference="Huang and Belongie 2017, arXiv:1703.06868",
        paired=False,
    )
    loss_unit = "distance"
    batch_size = 4

    def __init__(
        self, *, weight: float = 0.3, scales: int = 4, filters: int = 32, width: int = 24, lr: float = 6e-3
    ) -> None:
        super().__init__()
        if weight < 0 or min(scales, filters, width) < 1:
            raise ValueError(
                f"adain: got weight {weight}, scales {scales}, filters {filters}, width {width}; "
                "expected at least 0, 1, 1, 1."
            )
        self.weight, self.scales, self.filters, self.width, self.lr = weight, scales, filters, width, lr

    def _build(self) -> None:
        if set(self.given) != {STYLE}:
            raise Unsupported(
                f"adain: given {sorted(self.given) or 'nothing'}, expected {STYLE!r}; "
                "open_data(pictures, given={'style': others}, paired=False)."
            )
        for what, space in (("x", self.space), (STYLE, self.given[STYLE])):
            if not space.picture or space.shape[-1] != 3 or space.dtype != "uint8" or min(space.shape[:2]) < 8:
                raise Unsupported(
                    f"adain: {what} has shape {space.shape} and dtype {space.dtype}; expected bytes (H, W, 3), "
                    "8 pixels a side or more."
                )
        self.__dict__["maps"] = engine.random_filters(self.scales, self.filters)  # not a submodule: nothing is learnt
        self.painter = Painter(self.filters + 3, self.scales, self.width)

    def _players(self) -> list[Player]:
        return [Player("painter", list(self.painter.parameters()), self._loss, lr=self.lr)]

    def _loss(self, batch: Batch, rng: Rng) -> Tensor:
        x, style = _colours(batch.x), _colours(batch.given[STYLE])
        with torch.no_grad():
            seen = self.maps(style)
            wanted, goal = _styled(self.maps(x), seen), [engine.moments(m) for m in seen]
        y = self._painted(wanted, rng)
        distance = engine.gram_distances([engine.moments(m) for m in self.maps(y)], goal)
        shown = engine.structure_distance(engine.structure(y), engine.structure(x))
        outside = (y - y.clamp(0, 1)).square().mean()
        return torch.log1p(distance / GAIN).mean() + self.weight * shown + OUTSIDE * outside

    def _painted(self, wanted: list[Tensor], rng: Rng) -> Tensor:
        """The picture `(B, 3, H, W)`, about 0..1, of its features."""
        first = 2 * wanted[0][:, -3:]  # the colours
        lack = [t - own for t, own in zip(wanted, self.maps(first), strict=True)]
        noise = rng.normal((len(first), 1, *first.shape[-2:]))
        return first + self.painter(wanted, lack, noise.to(first))

    def _encode(self, x: Tensor, given: Given) -> torch.distributions.Distribution:
        own = self.maps(_colours(x))
        found = _styled(own, self.maps(_colours(given[STYLE]))) if given else own
        return Point(torch.cat([t.flatten(1) for t in found], 1), discrete=False)

    def _decode(self, z: Tensor, given: Given) -> Predictive:
        sizes = [tuple(p.shape[-2:]) for p in engine.pyramid(torch.empty(1, 1, *self.space.shape[:2]), self.scales)]
        parts = z.float().split([(self.filters + 3) * h * w for h, w in sizes], 1)
        wanted = [p.unflatten(1, (-1, *size)) for p, size in zip(parts, sizes, strict=True)]
        with torch.no_grad():
            y = self._painted(wanted, Rng(0, z.device))  # the grain is the same for everyone
        levels = (y.clamp(0, 1) * 255).round().permute(0, 2, 3, 1).flatten(1)
        return Predictive(Still(self.space, "adain"), levels)


def _styled(content: list[Tensor], style: list[Tensor]) -> list[Tensor]:
    """AdaIN level by level, colours by their covariance; a small style lends its coarsest level."""
    style = style + [style[-1]] * (len(content) - len(style))
    return [
        torch.cat([adain(f[:, :-3], g[:, :-3]), recoloured(f[:, -3:], g[:, -3:])], 1)
        for f, g in zip(content, style, strict=False)
    ]


def _colours(x: Tensor) -> Tensor:
    """Bytes `(B, H, W, 3)` as `(B, 3, H, W)` in 0..1."""
    return x.permute(0, 3, 1, 2).float() / 255
