"""Integer flow: an invertible network of rounded shifts carries whole numbers to simpler whole numbers.

    log P(x) = sum over levels l of log P_l(z_l | z_{l+1}, ..., c),     z = f(x; c),   z_b <- z_b + round(t(z_a, c))

A bijection of a countable set has no Jacobian: the mass of x is the mass of z. The levels of a picture are its
sublattices, from fine to coarse; of a vector, halves. After its couplings each level but the last is told by the
coarser ones, as a mixture of logistics on whole numbers.

An entry with K levels wraps around, z in 0 .. K-1, so that f is a bijection of the valid x and the masses add up to 1.
With `wrap=False` (integer discrete flows as published) z is any whole number: some mass falls on x that cannot be, the
masses of valid x add up to less, and log P is a lower bound of the law of the draws, from which invalid x are rejected.
So it is for counts, which are bounded below only.

Offers sample, log_prob (exact, or that bound) and encode (z, exactly invertible by `inverse`: for lossless coding).
Fitted by maximum likelihood, gradients straight through the rounding. Refuses categories and unrounded reals.

References: integer discrete flows (Hoogeboom 2019, arXiv:1905.07376); discrete flows (Tran 2019, arXiv:1905.10347);
IDF++ (van den Berg 2020, arXiv:2006.12459).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from pofx.kinds.base import Space, Variable
from pofx.kinds.likelihood import Likelihood
from pofx.model import Batch, Card, Cursor, Given, Model, Player, Predictive, Quality, Rng, Unsupported, Value
from pofx.nn.conditioner import conditioner, drop
from pofx.nn.integers import Body, Shift, lattice, sides

SMALL = 400  # entries up to which a picture's pixels fit into an MLP
TRIES = 100  # rounds in which invalid draws are drawn anew
CHUNK = 4096  # rows that are drawn together


class IntegerFlow(Model):
    """A flow between whole numbers.

    Args:
        wrap: entries with K levels wrap around (mass 1); False lets them leave their range, as published.
        layers: couplings of each level.
        levels: cuts into finer and coarser entries; None: until one entry is left, 0: none.
        body: of the couplings and priors: "mlp", "conv" (pictures only), or None to choose by size.
        width, depth: of the bodies; width None: 128, or 64 channels.
        components: of the mixtures.
        dropout: None: 0.2 for pictures, 0.1 for all else.
        lr, weight_decay: of the optimiser.
    """

    card = Card(
        density="exact, fast (a lower bound where whole numbers have no upper or lower end to wrap at)",
        sampling="fast",
        training="maximum likelihood, straight through roundings",
        latents="Z^D, one for one",
        architecture="invertible: rounded shifts",
        branch=("explicit", "tractable", "flow"),
        incomplete="complete rows only (unbiased where gaps are completely at random)",
        tier="experimental",
        summary="a bijection of whole numbers, for lossless coding",
        reference="Hoogeboom et al. 2019, arXiv:1905.07376",
    )

    likelihoods: list[Likelihood]

    def __init__(
        self,
        *,
        wrap: bool = True,
        layers: int = 2,
        levels: int | None = None,
        body: str | None = None,
        width: int | None = None,
        depth: int = 1,
        components: int = 5,
        dropout: float | None = None,
        lr: float = 2e-3,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__()
        if body not in (None, "mlp", "conv"):
            raise ValueError(f"integer_flow: body is {body!r}; expected None, 'mlp' or 'conv'.")
        self.wrap, self.layers, self.levels, self.body, self.width = wrap, layers, levels, body, width
        self.depth, self.components, self.dropout, self.lr = depth, components, dropout, lr
        self.weight_decay = weight_decay

    @property
    def name(self) -> str:
        return "integer_flow"

    @property
    def leaks(self) -> bool:
        """Whether some mass falls on x that cannot be."""
        return bool(((self.low > -torch.inf) & (self.modulus == 0)).any())

    def _build(self) -> None:
        space = self.space
        variables = [space.variable(i) for i in range(space.size)]
        for v in variables:
            _refuse(v)
        columns = torch.tensor([_numbers(v, self.wrap) for v in variables], dtype=torch.float64).T
        for name, column in zip(("step", "offset", "low", "high", "modulus", "mean", "scale"), columns, strict=True):
            self.register_buffer(name, column.clone(), persistent=False)
        picture = space.picture
        convolve = picture and (self.body == "conv" or (self.body is None and space.size > SMALL))
        if self.body == "conv" and not picture:
            raise ValueError(f"integer_flow: body='conv' wants pictures, got x of shape {space.shape}; use body='mlp'.")
        self._size = self.width or (64 if convolve else 128)
        self._dropout = (0.2 if picture else 0.1) if self.dropout is None else self.dropout
        self.c_dim = 64 if self.given else 0
        self.conditioner = conditioner(self.given, self.c_dim)
        units = torch.arange(space.size)
        units = units.reshape(space.shape).permute(2, 0, 1) if picture else units
        self.stages, self.priors, self.likelihoods = nn.ModuleList(), nn.ModuleList(), []
        for every, ends, rest in lattice(units, self.levels):
            self._add_level(*((t if convolve else t.flatten(1) if t.ndim == 3 else t) for t in (every, ends, rest)))

    def _add_level(self, every: Tensor, ends: Tensor, rest: Tensor) -> None:
        moments = (self.mean, self.scale, self.modulus)
        couplings = [Shift(self._body(kept, changed, 1), *moments) for kept, changed in sides(every, self.layers)]
        self.stages.append(nn.ModuleList(couplings))
        self.priors.append(self._body(rest, ends, 3 * self.components))
        variables = tuple(_latent(*self._moments(int(i))) for i in ends.flatten())
        self.likelihoods.append(Likelihood(Space((len(variables),), variables), self.components, longest=0))

    def _body(self, kept: Tensor, changed: Tensor, numbers: int) -> Body:
        kept = kept if kept.ndim == 3 else kept.flatten()
        return Body(kept, changed, numbers, self._size, self.depth, self.c_dim, self._dropout)

    def _moments(self, entry: int) -> tuple[int, float, float]:
        return int(self.modulus[entry]), float(self.mean[entry]), float(self.scale[entry])

    def _players(self) -> list[Player]:
        return [Player("flow", list(self.parameters()), self._loss, lr=self.lr, weight_decay=self.weight_decay)]

    def _loss(self, batch: Batch, rng: Rng) -> Tensor:
        keep = drop(self.given, len(batch), rng) if self.given and self.training else {}
        if batch.observed is not None:
            whole = batch.observed.flatten(1).all(1).nonzero()[:, 0]
            if len(whole) == 0:
                return self._nothing(len(batch))
            batch, keep = batch.take(whole), {k: v[whole] for k, v in keep.items()}
        return -self._log_mass(batch.x, self._condition_on(batch.given, len(batch), keep)).mean()

    def _nothing(self, rows: int) -> Tensor:
        """The loss where no row is complete: nothing to validate on, but too little to train on."""
        if self.training:
            raise Unsupported(
                f"integer_flow: none of {rows} rows is complete, and it learns from complete rows only; complete them "
                "first, or take a family that learns from gaps (mixture, vae, autoregressive, masked_diffusion)."
            )
        return next(self.parameters()).sum() * 0

    def _condition_on(self, given: Given, rows: int, keep: dict[str, Tensor] | None = None) -> Tensor | None:
        return None if self.conditioner is None else self.conditioner(given, rows, keep)

    def _whole(self, x: Tensor) -> Tensor:
        """x (B, *event) as whole numbers (B, D), float64."""
        return (x.flatten(1).double() / self.step).round() - self.offset

    def _back(self, k: Tensor) -> Tensor:
        x = (k + self.offset) * self.step
        return x.reshape(-1, *self.space.shape).to(self.space.torch_dtype)

    def _stage(self, level: int) -> list[Shift]:
        return [cast(Shift, s) for s in cast(nn.ModuleList, self.stages[level])]

    def _prior(self, level: int, z: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """Parameters of the entries that end at a level, and which these are."""
        body = cast(Body, self.priors[level])
        return body(((z - self.mean) / self.scale).float(), c).flatten(1).float(), body.changed

    def _log_mass(self, x: Tensor, c: Tensor | None) -> Tensor:
        z, total = self._whole(x), torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for level, likelihood in enumerate(self.likelihoods):
            for shift in self._stage(level):
                z = shift(z, c)
            params, ends = self._prior(level, z, c)
            total = total + likelihood.log_prob(params, z[:, ends]).double().sum(1)
        return total

    def forward_map(self, x: Tensor, given: Given | None = None) -> Tensor:
        """z (B, D) of x (B, *event): whole numbers in float64, from which `inverse` gives x back exactly."""
        _, flat = self._flat(x)
        z, c = self._whole(flat), self._condition_on(self._flat_given(given, (len(flat),))[1], len(flat))
        with torch.no_grad():
            for level in range(len(self.likelihoods)):
                for shift in self._stage(level):
                    z = shift(z, c)
        return z

    def inverse(self, z: Tensor, given: Given | None = None) -> Tensor:
        """x (B, *event) of z (B, D), in the batch that was mapped: a rounding may depend on a sum's last digit."""
        c = self._condition_on(self._flat_given(given, (len(z),))[1], len(z))
        with torch.no_grad():
            for level in reversed(range(len(self.likelihoods))):
                for shift in reversed(self._stage(level)):
                    z = shift.inverse(z, c)
        return self._back(z)

    def code_steps(self, rows: int, given: Given | None = None) -> Cursor:
        """A cursor over z, from the coarsest level to the finest; after the last one, `event()` is their x."""
        return _Levels(self, rows, self._condition_on(self._flat_given(given, (rows,))[1], rows))

    def _draw(self, count: int, c: Tensor | None, rng: Rng) -> Tensor:
        """Whole numbers (count, D), valid or not."""
        z = torch.zeros(count, self.space.size, dtype=torch.float64, device=self.device)
        for level in reversed(range(len(self.likelihoods))):
            params, ends = self._prior(level, z, c)
            z = z.index_copy(1, ends, self.likelihoods[level].sample(params, rng))
            for shift in reversed(self._stage(level)):
                z = shift.inverse(z, c)
        return z

    def _valid(self, k: Tensor) -> Tensor:
        return ((k >= self.low) & (k <= self.high)).all(1)

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        parts = []
        for rows in torch.arange(count, device=self.device).split(CHUNK):
            c = self._condition_on({n: v[rows] for n, v in given.items()}, len(rows))
            k = self._draw(len(rows), c, rng)
            for _ in range(TRIES if self.leaks else 0):
                again = (~self._valid(k)).nonzero()[:, 0]
                if not len(again):
                    break
                k[again] = self._draw(len(again), None if c is None else c[again], rng)
            parts.append(torch.minimum(torch.maximum(k, self.low), self.high))
        return self._back(torch.cat(parts) if parts else torch.zeros(0, self.space.size).to(self.low))

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        if observed is not None:
            raise Unsupported("integer_flow: the mass of some entries alone is not known; autoregressive has it.")
        mass = self._log_mass(x, self._condition_on(given, len(x)))
        mass = mass.masked_fill(~self._valid(self._whole(x)), -torch.inf)
        return Value(mass, Quality.LOWER if self.leaks else Quality.EXACT)

    def _encode(self, x: Tensor, given: Given) -> torch.distributions.Distribution:
        z = self.forward_map(x, given or None)
        return torch.distributions.Independent(torch.distributions.Normal(z, torch.full_like(z, 1e-6)), 1)


class _Levels(Cursor):
    """Level by level: entries that end at one are told by the coarser ones, then its couplings are undone."""

    def __init__(self, model: IntegerFlow, rows: int, c: Tensor | None) -> None:
        self.model, self.c, self.t = model, c, 0
        self.z = torch.zeros(rows, model.space.size, dtype=torch.float64, device=model.device)
        ends = [cast(Body, model.priors[level]).changed.tolist() for level in range(len(model.likelihoods))]
        self.places = [(level, k) for level in reversed(range(len(ends))) for k in range(len(ends[level]))]
        self.order = [ends[level][k] for level, k in self.places]

    def start(self) -> Predictive:
        level, k = self.places[self.t]
        if k == 0:
            with torch.no_grad():
                self.params, _ = self.model._prior(level, self.z, self.c)
        return Predictive(self.model.likelihoods[level], self.params).entry(k)

    def next(self, x_i: Tensor) -> Predictive | None:
        level, _ = self.places[self.t]
        self.z[:, self.order[self.t]] = x_i.double()
        self.t += 1
        if self.t == len(self.places) or self.places[self.t][0] != level:
            with torch.no_grad():
                for shift in reversed(self.model._stage(level)):
                    self.z = shift.inverse(self.z, self.c)
        return self.start() if self.t < len(self.places) else None

    def event(self) -> Tensor:
        """x `(B, *event)` once all of z is told."""
        return self.model._back(self.z)

    def reorder(self, rows: Tensor) -> None:
        self.z, self.params = self.z[rows], self.params[rows]
        self.c = None if self.c is None else self.c[rows]


def _refuse(v: Variable) -> None:
    if v.support == "category" or v.density:
        what = (
            "a category, whose codes have no order" if v.support == "category" else "a real number without a rounding"
        )
        raise Unsupported(
            f"integer_flow: {v.name!r} is {what}; it wants whole numbers (levels, counts, rounded columns). "
            "Take masked_diffusion or autoregressive, which take any support."
        )


def _numbers(v: Variable, wrap: bool) -> tuple[float, ...]:
    """step, offset, lowest and highest whole number, K where it wraps (else 0), mean and scale in whole numbers."""
    if v.discrete:
        step, offset, high = 1.0, 0.0, v.levels - 1.0
    else:
        step, offset = v.resolution, round((v.low or 0.0) / v.resolution)
        high = round((v.high - v.low) / v.resolution) if v.support == "bounded" else float("inf")  # type: ignore[operator]
    low = 0.0 if v.discrete or v.low is not None else float("-inf")
    modulus = high + 1 if wrap and high < float("inf") else 0.0
    return step, offset, low, high, modulus, v.mean / step - offset, max(v.scale / step, 0.1)


def _latent(modulus: int, mean: float, scale: float) -> Variable:
    if modulus:
        return Variable("z", "ordinal", modulus, mean=mean, scale=scale)
    return Variable("z", resolution=1.0, mean=mean, scale=scale)
