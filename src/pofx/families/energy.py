"""Energy: low energy where the data is; sampling and log Z by Markov chains.

    v = (u - m) / d,    p(u | c) = exp(-f(v, c)) N(v; 0, s^2 I) / (Z(c) prod d)
    "pcd"   grad loss = E_data grad f - E_chain grad f,   chains that live on from step to step
    "dsm"   loss = noise^2 / 2 E | grad log p~(v + noise e) + e / noise |^2,   the data with noise, without chains

m and d are the mean and the deviation of every coordinate, measured on the first batches: one step size then suits the
chains in all of them. The base N(0, s^2 I) makes p normalisable, since f grows at most linearly. Offers score (closed),
sample (chains from the buffer, or tempered ones from the base) and log_prob, an estimate: log Z is sandwiched between
forward and reverse annealing, once, at the first question. One category may be given to log_prob; with other givens it
is unnormalised. Fitted by persistent contrastive divergence: a few Hamiltonian moves a step, of the chains whose turn
it is, each with the given of the row that it began beside.

References: PCD (Tieleman 2008); energies of networks (Du and Mordatch 2019, arXiv:1903.08689); denoising score matching
(Vincent 2011); bidirectional Monte Carlo (Grosse 2015, arXiv:1511.02543).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pofx.engines.ais import LogZ, ais, reverse_ais
from pofx.engines.mcmc import transition
from pofx.kinds.base import Space
from pofx.model import Batch, Card, Given, Model, Player, Quality, Rng, Unsupported, Value
from pofx.nn.conditioner import Conditioner, drop
from pofx.nn.convnet import ConvCritic
from pofx.nn.moments import Moments
from pofx.nn.scalar import ScalarMLP

OBJECTIVES = ("pcd", "dsm")
LARGEST_MLP = 256  # entries; above it a picture's energy is convolutional
SMALL = 16  # entries, up to which a narrower network and fewer chains that move more do better
FAR, NEAR = 100.0, 0.1  # how unlike givens are, in nats, and deviations of real ones: chains with like givens start
LOG_Z_SWEEPS = 30
LOG_Z_SEED = 20  # log Z is a property of the model: the same question gives the same number


class Energy(Model):
    """An unnormalised density.

    Args:
        objective: "pcd" or "dsm".
        width, depth: features and residual blocks of the energy; width None: 64 for few entries, else 128.
        base_std: s, in standard deviations of each coordinate.
        chains: persistent chains, which take turns; None: 128 for few entries, else 256.
        moves: Hamiltonian transitions of a chain at its turn; None: 2 for few entries, else 1.
        leapfrog: steps of one transition.
        restart: share of the chains that start again from the base at their turn.
        shrink: weight of E f^2, which holds the level of f.
        noise: of "dsm", in standard deviations of each coordinate.
        sweeps: transitions of a chain that `sample` runs.
        temperatures, particles: of the annealing for log Z.
        lr, betas, weight_decay: of AdamW; lr None: 2e-3 for few entries, else 5e-4.
    """

    card = Card(
        density="estimate (log Z by annealing)",
        sampling="slow, Markov chains",
        training="contrastive, with chains",
        latents="none",
        architecture="free",
        branch=("explicit", "approximate", "energy"),
        incomplete="refuses",
        summary="a learnt energy; whatever is asked, chains answer",
        reference="Tieleman 2008; Du and Mordatch 2019, arXiv:1903.08689",
        euclidean=True,
    )
    loss_unit = "energy difference"
    validate_by = "samples"
    batch_size = 64
    sampler = Quality.ESTIMATE

    def __init__(
        self,
        *,
        objective: str = "pcd",
        width: int | None = None,
        depth: int = 2,
        base_std: float = 1.5,
        chains: int | None = None,
        moves: int | None = None,
        leapfrog: int = 8,
        restart: float = 0.005,
        shrink: float = 1e-3,
        noise: float = 0.2,
        sweeps: int = 4,
        temperatures: int = 200,
        particles: int = 64,
        lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        if objective not in OBJECTIVES:
            raise ValueError(f"objective: got {objective!r}, expected one of {OBJECTIVES}.")
        if objective == "dsm":  # its loss falls as it improves, and without chains samples are slow
            self.validate_by = "loss"  # type: ignore[misc]
        self.objective, self.width, self.depth, self.base_std = objective, width, depth, base_std
        self.chains, self.moves, self.leapfrog, self.restart = chains, moves, leapfrog, restart
        self.shrink, self.noise, self.sweeps = shrink, noise, sweeps
        self.temperatures, self.particles = temperatures, particles
        self.lr, self.betas, self.weight_decay = lr, (betas[0], betas[1]), weight_decay

    def _build(self) -> None:
        shape, size = self.space.shape, self.space.size
        few, c = size <= SMALL, 64 if self.given else 0
        self.rate = self.lr or (2e-3 if few else 5e-4)
        width, self.turns = self.width or (64 if few else 128), self.moves or (2 if few else 1)
        conv = self.space.layout == "grid" and len(shape) == 3 and size > LARGEST_MLP
        self.body: nn.Module = (
            ConvCritic(shape, max(8, width // 4), c) if conv else ScalarMLP(size, width, self.depth, c)
        )
        self.flatten = not conv
        self.conditioner = Conditioner({k: s.spec for k, s in self.given.items()}, c) if self.given else None
        only = list(self.given.values())[0] if len(self.given) == 1 else None
        self.levels = only.variables[0].levels if only is not None and only.shape == () and only.discrete else 0
        count = (
            max(1, min(self.chains or (128 if few else 256), 2**24 // max(1, size))) if self.objective == "pcd" else 1
        )
        self.moments = Moments(shape)
        self.register_buffer("states", self.base_std * torch.randn(count, *shape))
        self.register_buffer("visits", torch.zeros(count, dtype=torch.int64))
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64))
        for i, known in enumerate(self.given.values()):  # by number, since the names are the user's
            self.register_buffer(f"given_{i}", torch.zeros(count, *known.shape, dtype=known.torch_dtype))
            self.register_buffer(f"keep_{i}", torch.zeros(count, dtype=torch.bool))
        self.register_buffer("step_size", torch.tensor(0.1))
        self.register_buffer("log_z", torch.full((self.levels + 1, 3), torch.nan, dtype=torch.float64))

    # the energy, of v

    def energy(self, v: Tensor, given: Given | None = None, keep: Mapping[str, Tensor] | None = None) -> Tensor:
        """f(v, c) for v (B, *event), (B,), without the base."""
        c = None if self.conditioner is None else self.conditioner(given or {}, len(v), keep)
        return self.body(v.flatten(1) if self.flatten else v, c)

    def _log_base(self, v: Tensor) -> Tensor:
        s = self.base_std
        return -0.5 * (v.flatten(1) / s).square().sum(1) - self.space.size * math.log(s * math.sqrt(2 * math.pi))

    def _log_tilde(self, given: Given, keep: Mapping[str, Tensor] | None = None) -> Callable[[Tensor], Tensor]:
        return lambda v: self._log_base(v) - self.energy(v, given, keep)

    def _base(self, count: int, rng: Rng) -> Tensor:
        return self.base_std * rng.normal((count, *self.space.shape))

    # training

    def _players(self) -> list[Player]:
        loss = self._contrast if self.objective == "pcd" else self._match
        return [
            Player(
                "energy", list(self.parameters()), loss, lr=self.rate, betas=self.betas, weight_decay=self.weight_decay
            )
        ]

    def _start(self, batch: Batch, rng: Rng) -> tuple[Tensor, dict[str, Tensor]]:
        """v of the rows, and which givens the energy may see."""
        if batch.observed is not None:
            raise Unsupported("energy: it needs complete rows; fill the gaps first.")
        self.log_z.fill_(torch.nan)
        u = batch.x.float()
        self.moments.measure(u)
        return self.moments(u), drop(batch.given, len(batch), rng) if batch.given else {}

    def _contrast(self, batch: Batch, rng: Rng) -> Tensor:
        v, keep = self._start(batch, rng)
        chain, its_given, its_keep = self._move_chains(batch, keep, rng)
        on_data, on_chain = self.energy(v, batch.given, keep), self.energy(chain, its_given, its_keep)
        level = on_data.square().mean() + on_chain.square().mean()
        contrast = on_data.mean() - on_chain.mean()
        # chains far above the data lag behind the wells being dug: these wait, and are flattened, until the chains come
        waits = contrast.detach() < -(2 + 0.12 * self.space.size)
        return torch.where(waits, 0.0, 1.0) * contrast + self.shrink * level

    def _match(self, batch: Batch, rng: Rng) -> Tensor:
        v, keep = self._start(batch, rng)
        e = rng.normal(tuple(v.shape))
        with torch.enable_grad():
            noisy = (v + self.noise * e).requires_grad_()
            log_p = self._log_tilde(batch.given, keep)(noisy).sum()
            (score,) = torch.autograd.grad(log_p, noisy, create_graph=True)
        return 0.5 * (self.noise * score + e).flatten(1).square().sum(1).mean()

    def _move_chains(
        self, batch: Batch, keep: Mapping[str, Tensor], rng: Rng
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The chains whose turn it is, moved, with their givens: as many as there are rows."""
        rows = min(len(batch), len(self.states))
        slot = (self.turn + torch.arange(rows, device=self.states.device)) % len(self.states)
        fresh = rng.bernoulli(self.restart, (len(batch),))[:rows] | (self.visits[slot] == 0)
        start = self._base(len(batch), rng)[:rows]
        v = torch.where(fresh.reshape(-1, *[1] * len(self.space.shape)), start, self.states[slot])
        self._adopt(slot[fresh], {k: g[:rows][fresh] for k, g in batch.given.items()}, keep, fresh)
        given, kept = self._givens(slot)
        v = self._run(self._log_tilde(given, kept), v, self.turns, rng, adapt=True)
        self.states[slot], self.visits[slot] = v, self.visits[slot] + 1
        self.turn.copy_((self.turn + rows) % len(self.states))
        return v, given, kept

    def _adopt(self, slot: Tensor, given: Given, keep: Mapping[str, Tensor], fresh: Tensor) -> None:
        """Chains that begin take the givens of the rows beside them, and keep them for life."""
        for i, name in enumerate(self.given):
            known, kept = getattr(self, f"given_{i}"), getattr(self, f"keep_{i}")
            kept[slot] = keep[name][: len(fresh)][fresh] if name in given else False
            if name in given:
                known[slot] = given[name].reshape(-1, *known.shape[1:]).to(known.dtype)

    def _givens(self, slot: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The givens of some chains, and which of them each chain sees."""
        given = {name: getattr(self, f"given_{i}")[slot] for i, name in enumerate(self.given)}
        return given, {name: getattr(self, f"keep_{i}")[slot] for i, name in enumerate(self.given)}

    def _run(self, log_p: Callable[[Tensor], Tensor], v: Tensor, moves: int, rng: Rng, adapt: bool = False) -> Tensor:
        step = self.step_size.clone()
        for _ in range(moves):
            v, accept = transition(log_p, v, step.expand(len(v)), self.leapfrog, rng)
            step = step * torch.exp(0.1 * (accept.mean() - 0.7)) if adapt else step
        if adapt:
            self.step_size.copy_(step)
        return v.detach()

    # answers

    def _score(self, u: Tensor, given: Given) -> Tensor:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            return torch.autograd.grad(self._log_tilde(given)(self.moments(u)).sum(), u)[0]

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        v = self._sample_chains(count, given, rng, self.sweeps)
        return self.moments.inverse(v).to(self.space.torch_dtype)

    def _sample_chains(self, count: int, given: Given, rng: Rng, sweeps: int) -> Tensor:
        v, log_p = self._chain_starts(count, given, rng), self._log_tilde(given)
        if v is None:
            v = self._temper(self._base(count, rng), log_p, rng)
        return self._run(log_p, v, sweeps, rng)

    def _chain_starts(self, count: int, given: Given, rng: Rng) -> Tensor | None:
        """States of chains with the likest givens; None where there are no chains and all must start from the base."""
        lived = self.visits > 0
        if not bool(lived.any()):
            return None
        if not given:
            slots = lived.nonzero().squeeze(1)
            turns = rng.permutation(len(slots)).repeat(-(-count // len(slots)))[:count]  # none twice before all once
            return self.states[slots[turns]]
        far = torch.where(lived, 0.0, torch.inf).expand(count, -1)
        for i, (name, space) in enumerate(self.given.items()):
            if name in given:
                far = far + self._distance(i, given[name], space)
        return self.states[rng.categorical(-far)]

    def _distance(self, i: int, asked: Tensor, space: Space) -> Tensor:
        """How far given i of every chain is from what is asked for, (rows, chains): FAR where it is another code."""
        known, kept = getattr(self, f"given_{i}").flatten(1 if space.shape else 0), getattr(self, f"keep_{i}")
        if space.shape == () and space.discrete:
            return torch.where((known[None] == asked.reshape(-1, 1)) & kept, 0.0, FAR)
        known = known.reshape(len(known), -1).float()
        scale = known[kept].std(0).clamp_min(1e-6) if int(kept.sum()) > 1 else 1.0
        gap = torch.cdist(asked.reshape(len(asked), -1).float() / scale, known / scale)
        return torch.where(kept, (gap / NEAR).square(), FAR)

    def _temper(self, u: Tensor, log_p: Callable[[Tensor], Tensor], rng: Rng) -> Tensor:
        """From the base to p along base^(1 - b) p^b, its step tuned on the way."""

        def between(b: float) -> Callable[[Tensor], Tensor]:
            return lambda v: (1 - b) * self._log_base(v) + b * log_p(v)

        step = torch.full((len(u),), 0.5 * self.base_std)
        for k in range(self.temperatures):
            b = (k + 1) / self.temperatures
            u, accept = transition(between(b), u, step, self.leapfrog, rng)
            step = step * torch.exp(0.3 * (accept.mean() - 0.7))
        return u

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        if observed is not None:
            raise Unsupported("energy: the density of the observed part alone is not known; pass complete rows.")
        log_p = self._log_tilde(given)(self.moments(x.float())).double()
        log_p = log_p - self.moments.deviation.double().log().sum()
        if given and not self.levels:
            return Value(log_p, Quality.UNNORMALISED)
        low, high, stderr = self.partition().unbind(-1)
        row = next(iter(given.values())).reshape(-1).long() + 1 if given else torch.zeros(len(x), dtype=torch.long)
        # half the distance of the ends is an error too; where they are the wrong way round the draws have missed a part
        # of p, so that only the forward end is to be believed
        middle = torch.maximum(low, 0.5 * (low + high))
        error = torch.hypot(stderr, 0.5 * (high - low))[row]
        return Value(log_p - middle[row], Quality.ESTIMATE, error, {"log_z": (low.tolist(), high.tolist())})

    def partition(self) -> Tensor:
        """(log Z low, high, standard error), float64, one row for no given and one for each code; computed once."""
        if bool(self.log_z.isnan().any()):
            with torch.no_grad():
                self.log_z.copy_(self._annealed(Rng(LOG_Z_SEED, self.states.device)))
        return self.log_z

    def _annealed(self, rng: Rng) -> Tensor:
        rows, n = self.levels + 1, self.particles
        log_p = self._each_given(n)
        mixed = max(LOG_Z_SWEEPS, self.sweeps)  # the reverse bound wants draws that have forgotten their start
        draws = [self._sample_chains(n, self._code(code, n), rng, mixed) for code in range(rows)]
        model = torch.stack(draws, 1).flatten(0, 1)
        settings: dict[str, Any] = {"rows": rows, "leapfrog": self.leapfrog, "step_size": float(self.step_size)}
        low: LogZ = ais(
            log_p, self._log_base, lambda count: self._base(count, rng), n, self.temperatures, rng, **settings
        )
        high: LogZ = reverse_ais(log_p, self._log_base, model, self.temperatures, rng, **settings)
        return torch.stack([low.value, high.value, torch.hypot(low.stderr, high.stderr)], -1).double()

    def _code(self, code: int, count: int) -> dict[str, Tensor]:
        """The given of row `code` of log Z: none, then each code."""
        return {next(iter(self.given)): torch.full((count,), code - 1)} if code else {}

    def _each_given(self, particles: int) -> Callable[[Tensor], Tensor]:
        """log p~ of particles in the order (particle, code), each with its own code."""
        if not self.levels:
            return self._log_tilde({})
        name, rows = next(iter(self.given)), self.levels + 1

        def log_p(u: Tensor) -> Tensor:
            code = torch.arange(rows, device=u.device).repeat(len(u) // rows) - 1
            return self._log_tilde({name: code.clamp_min(0)}, {name: code >= 0})(u)

        return log_p
