"""Energy: low energy where the data is; sampling and log Z by Markov chains.

    v = (u - m) / d,    p(u | c) = exp(-f(v, c)) q(v) / (Z(c) prod d),    q = N(0, s^2 I)
    "cd", "pcd"   grad loss = E_data grad f - E_chain grad f,   chains from the data, or that live on from step to step
    "dsm", "ssm"  denoising or sliced score matching, without chains
    "nce"         logistic regression of the data against draws of q = N(0, cov v), a constant in f learnt for log Z
    classifier    f(v, y) = -g(v)_y,  f(v) = -logsumexp_y g(v)_y,  p(y | v) = softmax g(v),  loss + cross entropy  (JEM)

m and d are the mean and the deviation of every coordinate, measured on the first batches: one step size then suits the
chains in all of them. The base q makes p normalisable, since f grows at most linearly. Offers score (closed), sample
(chains from the buffer, or tempered ones from the base) and log_prob, an estimate: log Z is sandwiched between forward
and reverse annealing, once, at the first question; of "nce" it is the constant learnt. One category may be given to
log_prob; with other givens it is unnormalised, but for "nce". The chains of "pcd" take turns, each beside a row of
the batch whose givens it takes on.

References: PCD (Tieleman 2008); energies of networks (Du and Mordatch 2019, arXiv:1903.08689); score matching (Vincent
2011; Song 2019, arXiv:1905.07088); NCE (Gutmann and Hyvarinen 2010); JEM (Grathwohl 2019, arXiv:1912.03263);
bidirectional Monte Carlo (Grosse 2015, arXiv:1511.02543).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.engines import matching
from pofx.engines.ais import Tempered, ais, reverse_ais
from pofx.engines.basis import Basis
from pofx.engines.mcmc import LogDensity, Sloped, diagnostics, langevin, slope_of, transition, value_and_slope
from pofx.engines.replay import Kept, Replay
from pofx.model import Batch, Card, Given, Model, Player, Quality, Rng, Unsupported, Value
from pofx.nn.conditioner import conditioner, drop
from pofx.nn.convnet import ConvCritic
from pofx.nn.moments import BATCHES, Moments
from pofx.nn.scalar import ConvLogits, ScalarMLP, chosen, chosen_weights

CHAINED = ("pcd", "cd")
OBJECTIVES = (*CHAINED, "dsm", "ssm", "nce")
KERNELS = ("hmc", "mala", "langevin")
LARGEST_MLP = 256  # entries; above it a picture's energy is convolutional
SMALL = 16  # entries, up to which a narrower network and fewer chains that move more do better
LOG_Z_SWEEPS, LABEL_DRAWS = 30, 1024
LOG_Z_SEED = 20  # log Z is a property of the model: the same question gives the same number
WATCHED = 64  # chains and coordinates whose mixing is recorded
Keep = Mapping[str, Tensor]


class Energy(Model):
    """An unnormalised density.

    Args:
        objective: "pcd", "cd", "dsm", "ssm" or "nce".
        classifier: the energy is that of a classifier of the one category given (JEM).
        width, depth: features and residual blocks of the energy; width None: 64 for few entries, else 128.
        residual: False makes the network a plain MLP of depth + 1 hidden layers.
        base_std: s, in standard deviations of each coordinate.
        kernel: of the chains: "hmc", "mala", or "langevin" (unadjusted, with a bias of order step^2).
        step: of the kernel; those with acceptance start from it and adapt.
        chains: persistent chains, which take turns; None: 128 for few entries, else 256.
        moves: transitions of a chain at its turn; None: for hmc 2 for few entries, else 1; 10 for the others.
        leapfrog: steps of one Hamiltonian transition.
        restart: share of the chains that start again from the base at their turn.
        shrink: weight of E f^2, which holds the level of f.
        noise: deviation of the noise on the data, in deviations of each coordinate; None: 0.2 for "dsm", else 0.
        slices, reduced: of "ssm": directions for each row, and |s|^2 rather than (v.s)^2.
        contrasts: of "nce": draws of the noise for each row.
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
        classifier: bool = False,
        width: int | None = None,
        depth: int = 2,
        residual: bool = True,
        base_std: float = 1.5,
        kernel: str = "hmc",
        step: float = 0.1,
        chains: int | None = None,
        moves: int | None = None,
        leapfrog: int = 8,
        restart: float = 0.005,
        shrink: float = 1e-3,
        noise: float | None = None,
        slices: int = 1,
        reduced: bool = True,
        contrasts: int = 1,
        sweeps: int = 4,
        temperatures: int = 200,
        particles: int = 64,
        lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        for name, got, known in (("objective", objective, OBJECTIVES), ("kernel", kernel, KERNELS)):
            if got not in known:
                raise ValueError(f"{name}: got {got!r}, expected one of {known}.")
        if objective not in CHAINED:  # their losses fall as they improve; without chains samples are slow
            self.validate_by = "loss"  # type: ignore[misc]
        self.objective, self.classifier, self.kernel, self.step = objective, classifier, kernel, step
        self.width, self.depth, self.residual, self.base_std = width, depth, residual, base_std
        self.chains, self.moves, self.leapfrog, self.restart = chains, moves, leapfrog, restart
        self.shrink, self.noise, self.sweeps = shrink, noise, sweeps
        self.slices, self.reduced, self.contrasts = slices, reduced, contrasts
        self.temperatures, self.particles = temperatures, particles
        self.lr, self.betas, self.weight_decay = lr, (betas[0], betas[1]), weight_decay

    def _build(self) -> None:
        shape, size = self.space.shape, self.space.size
        only = list(self.given.values())[0] if len(self.given) == 1 else None
        self.levels = only.variables[0].levels if only is not None and only.shape == () and only.discrete else 0
        if self.classifier and not self.levels:
            raise ValueError(f"energy: classifier=True wants one category given, got {sorted(self.given) or 'none'}.")
        few, self.rate = size <= SMALL, self.lr or (2e-3 if size <= SMALL else 5e-4)
        self.turns = self.moves or ((2 if few else 1) if self.kernel == "hmc" else 10)
        self.blur = (0.2 if self.objective == "dsm" else 0.0) if self.noise is None else self.noise
        c = 64 if self.given and not self.classifier else 0
        self.body: Any = self._network(self.width or (64 if few else 128), c)
        self.conditioner = conditioner(self.given, c) if c else None
        self.base = Basis(shape, self.base_std, fitted=self.objective == "nce" and size <= LARGEST_MLP)
        count = max(1, min(self.chains or (128 if few else 256), 2**24 // size)) if self.objective == "pcd" else 1
        kept = {k: Kept(s.shape, s.torch_dtype, s.spec[0] == "category") for k, s in self.given.items()}
        self.moments, self.replay = Moments(shape), Replay(count, shape, {} if self.classifier else kept)
        self.register_buffer("step_size", torch.tensor(self.step))
        self.register_buffer("log_z", torch.full((self.levels + 1, 3), torch.nan, dtype=torch.float64))

    def _network(self, width: int, c: int) -> nn.Module:
        shape, size, outputs = self.space.shape, self.space.size, self.levels if self.classifier else 1
        self.flatten = not (self.space.picture and size > LARGEST_MLP)
        if self.flatten:
            return ScalarMLP(size, width, self.depth, c, outputs, self.residual)
        channels = max(8, width // 4)
        return ConvLogits(shape, channels, outputs) if self.classifier else ConvCritic(shape, channels, c)

    # the energy, of v

    def logits(self, v: Tensor) -> Tensor:
        """g(v), (B, K), of a classifier."""
        return self.body(v.flatten(1) if self.flatten else v)

    def energy(self, v: Tensor, given: Given | None = None, keep: Keep | None = None) -> Tensor:
        """f(v, c) for v (B, *event), (B,), without the base."""
        if self.classifier:
            return -chosen(self.logits(v), given or {})
        return self.body(v.flatten(1) if self.flatten else v, self._condition_on(given, len(v), keep))

    def _condition_on(self, given: Given | None, n: int, keep: Keep | None) -> Tensor | None:
        return None if self.conditioner is None else self.conditioner(given or {}, n, keep)

    def _log_tilde(self, given: Given, keep: Keep | None = None) -> LogDensity:
        """log p~ of v for some rows' givens; it knows its slope where the network's is written out."""
        held: dict[int, Tensor | None] = {}

        def value(v: Tensor) -> Tensor:
            return self.base.log_prob(v) - self.energy(v, given, keep)

        def condition(v: Tensor) -> Tensor | None:
            if len(v) not in held:
                held[len(v)] = self._condition_on(given, len(v), keep)
            return held[len(v)]

        def both(v: Tensor) -> tuple[Tensor, Tensor]:
            f, slope = self.body.value_and_slope(v.flatten(1), condition(v), weigh)
            log_p = self.base.log_prob(v) + (chosen(f, given) if self.classifier else -f)
            return log_p, self.base.slope(v) + sign * slope.reshape(v.shape)

        def slope(v: Tensor) -> Tensor:
            return self._slope_at(v, condition(v), given)

        weigh, sign = (partial(chosen_weights, given=given), 1) if self.classifier else (None, -1)
        return Sloped(both, value, slope) if isinstance(self.body, ScalarMLP) else value

    def _slope_at(self, v: Tensor, c: Tensor | None, given: Given) -> Tensor:
        """The score of v, with a graph where one is wanted."""
        if self.classifier:
            slope = -self.body.slope(v.flatten(1), None, partial(chosen_weights, given=given))
        else:
            slope = self.body.slope(v.flatten(1), c)
        return self.base.slope(v) - slope.reshape(v.shape)

    def _slope(self, given: Given, keep: Keep) -> Callable[[Tensor], Tensor]:
        """The score for losses: with a graph."""
        if isinstance(self.body, ScalarMLP):
            return lambda v: self._slope_at(v, self._condition_on(given, len(v), keep), given)
        log_p = self._log_tilde(given, keep)
        return lambda v: torch.autograd.grad(log_p(v).sum(), v, create_graph=True)[0]

    # training

    def _players(self) -> list[Player]:
        own = list(self.parameters())
        return [Player("energy", own, self._loss, lr=self.rate, betas=self.betas, weight_decay=self.weight_decay)]

    def _loss(self, batch: Batch, rng: Rng) -> Tensor:
        if batch.observed is not None:
            raise Unsupported("energy: it needs complete rows; fill the gaps first.")
        self.log_z.fill_(torch.nan)
        v = self._standard(batch.x.float())
        if self.classifier:
            label = next(iter(batch.given.values())).long()
            return self._of_objective(v, {}, {}, rng) + F.cross_entropy(self.logits(v), label)
        return self._of_objective(v, batch.given, drop(batch.given, len(v), rng) if batch.given else {}, rng)

    def _standard(self, u: Tensor) -> Tensor:
        """v of the rows; the first batches are measured."""
        counts = self.training and int(self.moments.batches) < BATCHES
        self.moments.measure(u)
        v = self.moments(u)
        if counts and self.base.fitted:
            self.base.measure(v, int(self.moments.batches))
        return v

    def _of_objective(self, v: Tensor, given: Given, keep: Keep, rng: Rng) -> Tensor:
        if self.objective == "dsm":
            return matching.denoising(self._slope(given, keep), v, self.blur, rng).mean()
        if self.blur:
            v = v + self.blur * rng.normal(tuple(v.shape))
        if self.objective == "ssm":
            return matching.sliced(self._slope(given, keep), v, rng, self.slices, self.reduced).mean()
        if self.objective == "nce":
            many = {k: g.repeat(self.contrasts, *[1] * (g.ndim - 1)) for k, g in given.items()}
            kept = {k: g.repeat(self.contrasts) for k, g in keep.items()}
            noise = self.base.sample(len(v) * self.contrasts, rng)
            return matching.contrast(-self.energy(v, given, keep), -self.energy(noise, many, kept))
        return self._contrast(v, given, keep, rng)

    def _contrast(self, v: Tensor, given: Given, keep: Keep, rng: Rng) -> Tensor:
        chain, its_given, its_keep = self._move_chains(v, given, keep, rng)
        if self.conditioner is None:
            on_data, on_chain = self.energy(torch.cat([v, chain])).split([len(v), len(chain)])
        else:
            on_data, on_chain = self.energy(v, given, keep), self.energy(chain, its_given, its_keep)
        level = on_data.square().mean() + on_chain.square().mean()
        contrast = on_data.mean() - on_chain.mean()
        # chains far above the data lag behind the wells being dug: these wait, and are flattened, until the chains come
        waits = contrast.detach() < -(2 + 0.12 * self.space.size)
        return torch.where(waits, 0.0, 1.0) * contrast + self.shrink * level

    @torch.no_grad()
    def _move_chains(self, v: Tensor, given: Given, keep: Keep, rng: Rng) -> tuple[Tensor, Given, Keep]:
        """Moved chains with their givens: from the data, or those whose turn it is, as many as there are rows."""
        if self.objective == "cd":
            return self._run(self._log_tilde(given, keep), v, self.turns, rng, adapt=True), given, keep
        turn = self.replay.take(self.base.sample(len(v), rng), given, keep, self.restart, rng)
        x = self._run(self._log_tilde(turn.given, turn.keep), turn.x, self.turns, rng, adapt=True)
        self.replay.put(turn, x)
        return x, turn.given, turn.keep

    def _run(
        self, log_p: LogDensity, v: Tensor, moves: int, rng: Rng, step: Tensor | None = None, adapt: bool = False
    ) -> Tensor:
        if self.kernel == "langevin":
            return langevin(log_p, v, moves, rng, step_size=self.step).x
        step = self.step_size.clone() if step is None else step
        leapfrog, rate = (self.leapfrog, 0.7) if self.kernel == "hmc" else (1, 0.574)
        for _ in range(moves):
            v, accept = transition(log_p, v, step.expand(len(v)), leapfrog, rng)
            step = step * torch.exp(0.1 * (accept.mean() - rate)) if adapt else step
        if adapt:
            self.step_size.copy_(step)
        return v

    # answers

    def _score(self, u: Tensor, given: Given) -> Tensor:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            return torch.autograd.grad(self._log_tilde(given)(self.moments(u)).sum(), u)[0]

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        v = self._sample_chains(count, given, rng, self.sweeps)
        return self.moments.inverse(v).to(self.space.torch_dtype)

    def _sample_chains(self, count: int, given: Given, rng: Rng, sweeps: int) -> Tensor:
        """v after sweeps of chains with the likest givens, or tempered ones where none has lived."""
        log_p, step, trace = self._log_tilde(given), self.step_size, []
        v = self._labelled(count, given, rng) if self.classifier else self.replay.starts(count, given, rng)
        if v is None:
            path = Tempered(log_p, self.base.density, rng, self.leapfrog, 0.5 * self.base_std)
            v = path.pilot(self.base.sample(count, rng), self.temperatures)
            step = torch.tensor(path.step)
        for _ in range(sweeps):
            v = self._run(log_p, v, 1 if self.kernel == "hmc" else 10, rng, step)
            trace.append(torch.cat([log_p(v)[:WATCHED, None], v.flatten(1)[:WATCHED, :WATCHED]], 1).detach())
        if sweeps >= 4:
            self.record["mixing"] = diagnostics(torch.stack(trace))
        return v

    def _labelled(self, count: int, given: Given, rng: Rng) -> Tensor | None:
        """Chains of a classifier's energy to start from, with a label picked by how much each looks like it."""
        if not given or not bool(self.replay.lived.any()):
            return self.replay.starts(count, {}, rng)
        states = self.replay.states[self.replay.lived]
        looks = self.logits(states).log_softmax(1).T[next(iter(given.values())).long()]  # (count, chains)
        return states[rng.categorical(looks)]

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        if observed is not None:
            raise Unsupported("energy: the density of the observed part alone is not known; pass complete rows.")
        log_p = self._log_tilde(given)(self.moments(x.float())).double()
        log_p = log_p - self.moments.deviation.double().log().sum()
        if self.objective == "nce" and not self.classifier:
            return Value(log_p, Quality.ESTIMATE, None, {"log_z": "learnt with the energy, by contrast with noise"})
        if given and not self.levels:
            return Value(log_p, Quality.UNNORMALISED)
        low, high, stderr = self.partition().unbind(-1)
        row = next(iter(given.values())).reshape(-1).long() + 1 if given else torch.zeros(len(x), dtype=torch.long)
        error = torch.hypot(stderr, 0.5 * (high - low))[row]  # half the distance of the ends is an error too
        return Value(log_p - self._middle()[row], Quality.ESTIMATE, error, {"log_z": (low.tolist(), high.tolist())})

    def _middle(self) -> Tensor:
        """log Z between its ends; the forward one where they are the wrong way round: the draws missed a part of p."""
        low, high, _ = self.partition().unbind(-1)
        return torch.maximum(low, 0.5 * (low + high))

    @torch.no_grad()
    def partition(self) -> Tensor:
        """(log Z low, high, standard error), float64, one row for no given and one for each code; computed once."""
        if bool(self.log_z.isnan().any()):
            rng = Rng(LOG_Z_SEED, self.log_z.device)
            self.log_z.copy_(self._by_shares(rng) if self.classifier else self._annealed(self.levels + 1, rng))
        return self.log_z

    def log_prior(self) -> Tensor:
        """log p(label) = log Z_label - log Z, (K,), that a classifier's energy implies.

        With it `Joint(model, name, model.log_prior())` has exactly softmax g as its p(label | x): every log Z cancels.
        """
        if not self.classifier:
            raise Unsupported("energy: only with classifier=True are the labels part of its density.")
        return self._middle()[1:] - self._middle()[0]

    def posterior(self, u: Tensor) -> Tensor:
        """p(label | u) of a classifier, (B, K), exact: softmax g, without any log Z."""
        if not self.classifier:
            raise Unsupported("energy: p(label | x) without log Z wants classifier=True; else ask Joint.")
        return self.logits(self.moments(u.float())).detach().softmax(1)

    def _by_shares(self, rng: Rng) -> Tensor:
        """Rows of log Z of a classifier: Z_y = Z E_p p(y | v), so one annealing does for all labels."""
        whole = self._annealed(1, rng)
        share = self.logits(self._sample_chains(LABEL_DRAWS, {}, rng, self.sweeps)).double().softmax(1)
        mean = share.mean(0).clamp_min(0.5 / LABEL_DRAWS)
        ends, error = whole[:, :2] + (mean / mean.sum()).log()[:, None], share.std(0) / mean / LABEL_DRAWS**0.5
        return torch.cat([whole, torch.cat([ends, torch.hypot(error, whole[0, 2])[:, None]], 1)])

    def _annealed(self, rows: int, rng: Rng) -> Tensor:
        n, log_p, q = self.particles, self._each_given(rows), self.base.density
        mixed = max(LOG_Z_SWEEPS, self.sweeps)  # the reverse bound wants draws that have forgotten their start
        draws = [self._sample_chains(n, self._code(code, n), rng, mixed) for code in range(rows)]
        model, k = torch.stack(draws, 1).flatten(0, 1), self.temperatures
        settings: dict[str, Any] = {"rows": rows, "leapfrog": self.leapfrog, "step_size": float(self.step_size)}
        low = ais(log_p, q, lambda count: self.base.sample(count, rng), n, k, rng, **settings)
        high = reverse_ais(log_p, q, model, k, rng, **settings)
        return torch.stack([low.value, high.value, torch.hypot(low.stderr, high.stderr)], -1).double()

    def _code(self, code: int, count: int) -> dict[str, Tensor]:
        """The given of row `code` of log Z: none, then each code."""
        return {next(iter(self.given)): torch.full((count,), code - 1)} if code else {}

    def _each_given(self, rows: int) -> LogDensity:
        """log p~ of particles in the order (particle, code), each with its own code."""
        if rows == 1:
            return self._log_tilde({})
        name, known = next(iter(self.given)), dict[int, LogDensity]()

        def of(v: Tensor) -> LogDensity:
            if len(v) not in known:
                code = torch.arange(rows, device=v.device).repeat(len(v) // rows) - 1
                known[len(v)] = self._log_tilde({name: code.clamp_min(0)}, {name: code >= 0})
            return known[len(v)]

        return Sloped(lambda v: value_and_slope(of(v), v), lambda v: of(v)(v), lambda v: slope_of(of(v), v))
