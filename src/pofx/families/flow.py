"""Flow: an invertible network carries the data to a normal distribution, and back.

    log p(u | c) = log N(f(u; c); 0, I) + log |det df/du|          u = f^-1(z; c),  z ~ N(0, I)

f is a curve for every entry by itself, set from the quantiles of the first rows, and then a chain of layers, each of
monotone maps (shift, affine, rational-quadratic spline) steered by other entries: in a coupling by those that are kept;
autoregressively by those before it (density in one pass, sampling entry by entry, each hidden unit computed once, or by
Jacobi iteration); or inversely (sampling in one pass). A small picture gets couplings of its pixels, a large one a
map in raster order, steered by masked convolutions, or couplings in checkerboards, squeezes and splits (Glow).

Offers sample, log_prob (exact), encode (z as a narrow normal) and score. No decode: x given z is a point, under which
a step of Gibbs sampling would never move. Fitted by maximum likelihood, from the complete rows.
References: NICE (Dinh 2014, arXiv:1410.8516); RealNVP (Dinh 2016, arXiv:1605.08803); IAF (Kingma 2016,
arXiv:1606.04934); MAF (Papamakarios 2017, arXiv:1705.07057); Glow (Kingma 2018, arXiv:1807.03039); neural spline flows
(Durkan 2019, arXiv:1906.04032).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pofx.engines.jacobi import jacobi
from pofx.model import Batch, Card, Given, Model, Player, Predictive, Quality, Unsupported, Value
from pofx.nn.bijections import ActNorm, Bijection, Chain, Inverted, Mixing, Reverse
from pofx.nn.conditioner import conditioner, drop
from pofx.nn.couplings import Coupling
from pofx.nn.images import Multiscale, Raster, RasterBody, Squeeze
from pofx.nn.marginals import Marginal
from pofx.nn.splines import Additive, Affine, Monotone, Spline
from pofx.nn.triangular import Autoregressive, MaskedBody
from pofx.randomness import Rng
from pofx.wrappers import Point

LOG_2PI = math.log(2 * math.pi)
SMALL = 400  # entries up to which a picture's pixels fit into an MLP
FEW = 64  # entries up to which a vector is autoregressive
MARGINAL = 24  # bins of the curve of one entry


class Flow(Model):
    """Normalising flow.

    Args:
        transform: of one entry: "spline", "affine" or "additive".
        coupling: "coupling", "autoregressive", "inverse" (vectors only), or None to choose by the space.
        mixing: between layers: "linear" (trained, P L U), "permutation" (fixed), "reverse" (vectors only), or None to
            choose by the coupling.
        body: of couplings: "mlp", "conv" (pictures only), or None to choose by size.
        layers: layers (at each scale of a picture); None chooses by the space.
        width, depth: of the body, in features and residual blocks (masked bodies: layers).
        bins: of each spline, on [-bound, bound].
        marginals: bins of each entry's own curve; 0: none; None chooses by the space.
        inverse: of an autoregressive layer: "sequential", or "jacobi" until no entry moves by more than `tolerance`.
        dropout: in the bodies; None chooses by the space.
        rows: of a training step; None chooses by the space.
        lr, weight_decay: of the optimiser; lr None chooses by the coupling.
    """

    card = Card(
        density="exact, fast",
        sampling="fast",
        training="maximum likelihood",
        latents="R^D",
        architecture="invertible",
        branch=("explicit", "tractable", "flow"),
        incomplete="complete rows only (unbiased where gaps are completely at random)",
        summary="an invertible network between the data and a normal distribution",
        reference="Durkan et al. 2019, arXiv:1906.04032",
        euclidean=True,
    )

    def __init__(
        self,
        *,
        transform: str = "spline",
        coupling: str | None = None,
        mixing: str | None = None,
        body: str | None = None,
        layers: int | None = None,
        width: int | None = None,
        depth: int = 2,
        bins: int = 8,
        bound: float = 4.0,
        marginals: int | None = None,
        inverse: str = "sequential",
        tolerance: float = 1e-5,
        dropout: float | None = None,
        rows: int | None = None,
        lr: float | None = None,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__()
        _check(transform=(transform, ("spline", "affine", "additive")), body=(body, (None, "mlp", "conv")))
        _check(coupling=(coupling, (None, "coupling", "autoregressive", "inverse")))
        _check(mixing=(mixing, (None, "linear", "permutation", "reverse")), inverse=(inverse, ("sequential", "jacobi")))
        self.transform, self.coupling, self.mixing, self.body, self.layers = transform, coupling, mixing, body, layers
        self.width, self.depth, self.bins, self.bound = width, depth, bins, bound
        self.marginals, self.inverse, self.tolerance, self.rows = marginals, inverse, tolerance, rows
        self.dropout, self.lr, self.weight_decay = dropout, lr, weight_decay

    @property
    def batch_size(self) -> int:  # type: ignore[override]
        """Rows of a training step."""
        if self.rows or len(self.space.shape) != 3:
            return self.rows or 512
        return 16 if self.pictures and self.masked else 128

    def _build(self) -> None:
        shape = self.space.shape
        picture = len(shape) == 3
        if self.body == "conv" and not picture:
            raise ValueError(f"flow: body='conv' wants pictures (C, H, W), got x of shape {shape}; use body='mlp'.")
        convolve = self.body == "conv" or (self.body is None and self.space.size > SMALL)
        self.pictures = picture and convolve and self.space.size > 1
        self.masked = self.space.size > 1 and self._form(picture) != "coupling"
        if self.coupling == "inverse" and self.pictures:
            raise ValueError(f"flow: coupling='inverse' wants a vector or body='mlp', got x of shape {shape}.")
        self._wide = self.width or self._breadth()
        self.c_dim = 64 if self.given else 0
        self.conditioner = conditioner(self.given, self.c_dim)
        raster = self.pictures and self.masked
        bins = (0 if picture and not raster else MARGINAL) if self.marginals is None else self.marginals
        self.marginal = Marginal(self.space.size, bins) if bins or raster else None
        if raster:
            self.bijection: Bijection = self._raster(shape)
        else:
            build = self._scales if self.pictures else self._vector
            self.bijection = Chain([*([self.marginal] if self.marginal else []), build(shape)])

    def _breadth(self) -> int:
        """Features of a body: CPU seconds are best spent on many steps of a small one."""
        if self.pictures:
            return 16 if self.masked else 32
        return 128 if self.space.size > 2 or self.masked else 64

    def _form(self, picture: bool) -> str:
        """The coupling, chosen by the space where it is not said: few entries, or a large picture, in their order."""
        few, large = self.space.size <= FEW and not picture, self.pictures and self.body is None
        return self.coupling or ("autoregressive" if few or large else "coupling")

    def _raster(self, shape: tuple[int, ...]) -> Bijection:
        monotone = self._monotone()
        blocks = self.layers or 2
        body = RasterBody(shape[0], monotone.numbers, self._wide, blocks, self.c_dim, self._dropped())
        assert self.marginal is not None
        return Raster(shape, body, monotone, self.marginal, self._jacobi)

    def _monotone(self) -> Monotone:
        if self.transform == "spline":
            return Spline(self.bins, self.bound)
        return Affine() if self.transform == "affine" else Additive()

    def _dropped(self) -> float:
        return (
            (0.2 if len(self.space.shape) == 3 and not self.pictures else 0.0) if self.dropout is None else self.dropout
        )

    def _coupling(self, keep: Tensor) -> Coupling:
        return Coupling(keep, self._wide, self.depth, self._monotone(), self.c_dim, self._dropped())

    def _mix(self, channels: int) -> Bijection:
        return Mixing(channels, self.mixing != "permutation")

    def _vector(self, shape: tuple[int, ...]) -> Bijection:
        """Couplings of complementary halves; a picture's halves are the two colours of a checkerboard."""
        d = math.prod(shape)
        if self.masked:
            return self._autoregressive(d)
        black = _checkerboard(shape).flatten() if len(shape) == 3 else torch.arange(d) % 2 == 0
        chain: list[Bijection] = [self._coupling(torch.zeros(d, dtype=torch.bool))]
        for i in range((self.layers or (6 if d > 2 else 8)) if d > 1 else 0):
            if i and i % 2 == 0 and d > 2:
                chain.append(self._mix(d))
            chain += [self._coupling(black if i % 2 == 0 else ~black), ActNorm(d)]
        return Chain([*chain, ActNorm(d)] if d == 1 else chain)

    def _autoregressive(self, d: int) -> Bijection:
        """Masked layers, each in another order."""
        chain: list[Bijection] = []
        solver = self._jacobi if self.inverse == "jacobi" else None
        for i in range(self.layers or 4):
            if i:
                chain.append(Reverse() if self.mixing == "reverse" or d == 2 else self._mix(d))
            monotone = self._monotone()
            body = MaskedBody(d, monotone.numbers, self._wide, self.depth, self.c_dim, self._dropped())
            layer = Autoregressive(body, monotone, solver)
            chain += [Inverted(layer) if self.coupling == "inverse" else layer, ActNorm(d)]
        return Chain(chain)

    def _jacobi(self, update: Callable[[Tensor, Tensor], Tensor], start: Tensor, most: int) -> Tensor:
        return jacobi(update, start, most, self.tolerance).value

    def _scales(self, shape: tuple[int, ...]) -> Bijection:
        C, H, W = shape
        chain: list[Bijection] = []
        levels: list[Bijection] = []
        shapes: list[tuple[int, int, int]] = []
        keep = _checkerboard(shape)
        for i in range(self.layers or 4):
            mixing = [self._mix(C)] if C > 1 and i and i % 2 == 0 else []
            chain += [*mixing, self._coupling(keep if i % 2 == 0 else ~keep), ActNorm(C)]
        while True:
            a, b = (2 if n % 2 == 0 and max(H, W) > 4 else 1 for n in (H, W))
            if a * b == 1:
                levels, shapes = ([*levels, Chain(chain)], [*shapes, (C, H, W)]) if chain else (levels, shapes)
                return Multiscale(levels, shapes)
            C, H, W = C * a * b, H // a, W // b
            chain += [Squeeze(a, b), *self._channels(C, H, W)]
            if C > 1 and max(H, W) > 4 and (H % 2 == 0 or W % 2 == 0):
                levels, shapes, chain = [*levels, Chain(chain)], [*shapes, (C, H, W)], []
                C = C - C // 2

    def _channels(self, C: int, H: int, W: int) -> list[Bijection]:
        keep, chain = (torch.arange(C) < C // 2)[:, None, None].expand(C, H, W), []
        for i in range(self.layers or 4):
            chain += [self._mix(C), self._coupling(keep if i % 2 == 0 else ~keep), ActNorm(C)]
        return chain

    def _players(self) -> list[Player]:
        params = [p for p in self.parameters() if p.requires_grad]
        return [
            Player(
                "flow",
                params,
                self._loss,
                lr=self.lr or (5e-3 if self.masked else 1e-3),
                weight_decay=self.weight_decay,
            )
        ]

    def _loss(self, batch: Batch, rng: Rng) -> Tensor:
        keep = drop(self.given, len(batch), rng) if self.given else {}
        if batch.observed is not None:
            whole = batch.observed.flatten(1).all(1).nonzero()[:, 0]
            if len(whole) == 0:
                return self._nothing(batch)
            batch, keep = batch.take(whole), {k: v[whole] for k, v in keep.items()}
        if self.marginal is not None:
            self.marginal.measure(batch.x)
        return -self._log_density(batch.x, self._condition_on(batch.given, len(batch), keep)).mean()

    def _nothing(self, batch: Batch) -> Tensor:
        """The loss where no row is complete: nothing to validate on, but too little to train on."""
        if self.training:
            raise Unsupported(
                f"flow: none of {len(batch)} rows is complete, and it learns from complete rows only; complete them "
                "first, or take a family that learns from gaps (mixture, vae, autoregressive)."
            )
        return next(self.parameters()).sum() * 0

    def _condition_on(self, given: Given, rows: int, keep: dict[str, Tensor] | None = None) -> Tensor | None:
        return None if self.conditioner is None else self.conditioner(given, rows, keep)

    def _enter(self, u: Tensor) -> Tensor:
        u = u.to(next(self.parameters()).dtype)
        return u if self.pictures else u.flatten(1)

    def _log_density(self, u: Tensor, c: Tensor | None) -> Tensor:
        z, log_det = self.bijection(self._enter(u), c)
        return log_det - 0.5 * (z.square().sum(1) + self.space.size * LOG_2PI)

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        return self._decode(rng.normal((count, self.space.size)), given).sample(rng)

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        if observed is not None:
            raise Unsupported("flow: the density of some entries alone is not known; mixture and gaussian have it.")
        return Value(self._log_density(x, self._condition_on(given, len(x))), Quality.EXACT)

    def _encode(self, x: Tensor, given: Given) -> torch.distributions.Distribution:
        z, _ = self.bijection(self._enter(x), self._condition_on(given, len(x)))
        return torch.distributions.Independent(torch.distributions.Normal(z, torch.full_like(z, 1e-6)), 1)

    def _decode(self, z: Tensor, given: Given) -> Predictive:
        u = self.bijection.inverse(z.to(next(self.parameters()).dtype), self._condition_on(given, len(z)))
        return Predictive(Point(self.space, "flow"), u.flatten(1))


def _checkerboard(shape: tuple[int, ...]) -> Tensor:
    """Half of the entries of a picture: neighbours in a channel, and the same pixel in the next channel, differ."""
    C, H, W = (torch.arange(n) for n in shape)
    return (C[:, None, None] + H[:, None] + W) % 2 == 0


def _check(**options: tuple[str | None, tuple[str | None, ...]]) -> None:
    for name, (got, expected) in options.items():
        if got not in expected:
            raise ValueError(f"flow: {name} is {got!r}; expected one of {expected}.")
