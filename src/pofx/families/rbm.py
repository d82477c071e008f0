"""RBM: visible codes and hidden bits that see each other but not their own kind.

    p(x, h | c) = exp(b(c).s + a(c).h + (s - m).W (h - 1/2)) / Z(c),    s = units of the codes x,  h in {0, 1}^H
    grad loss = E_chain grad log p~ - E_data grad log p~,    log p~(x) = log sum_h, in closed form
    "cd": chains of k Gibbs sweeps from the data      "pcd": chains that live on from step to step

An entry with K levels has K - 1 softmax units, so binary pictures, pictures of few levels and tables of categories are
spoken natively; real columns and more than 32 levels are refused. m is the mean of s: centring makes the gradients of W
and of the biases nearly independent. The biases follow the givens. Offers sample, log_prob, condition, encode (the
posterior of h is exactly a product) and decode. With at most 18 hidden units all 2^H patterns are summed, and then log
p, log p of an observed part, draws and conditional draws are exact. With more of them log Z is sandwiched by annealing
once, at the first question, and draws come from Gibbs chains: estimates. Rows with gaps are trained on by clamped Gibbs
sweeps (Monte-Carlo EM).

References: Smolensky 1986; CD (Hinton 2002); PCD (Tieleman 2008); AIS for RBMs (Salakhutdinov and Murray 2008);
centring (Melchior 2016, arXiv:1311.1354); softmax units (Salakhutdinov, Mnih and Hinton 2007).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent

from pofx.engines.boltzmann import Boltzmann, Codes
from pofx.engines.mcmc import diagnostics
from pofx.engines.replay import Kept, Replay
from pofx.model import (
    Batch,
    Card,
    Conditional,
    Given,
    Likelihood,
    Model,
    Player,
    Predictive,
    Quality,
    Rng,
    Unsupported,
    Value,
)
from pofx.nn.conditioner import conditioner, drop
from pofx.nn.moments import Moments

OBJECTIVES = ("cd", "pcd")
MOST_LEVELS = 32
MOST_HIDDEN, MOST_CODES = 18, 1 << 14  # whose patterns are summed
MOST_TERMS = 1 << 30  # of the sums for givens that are not codes
LOG_Z_SEED, LOG_Z_SWEEPS = 20, 1000
WATCHED = 64  # chains and units whose mixing is recorded


class RBM(Model):
    """Restricted Boltzmann machine.

    Args:
        hidden: H; None: 12 for few units, else 128. At most 18 make every answer exact.
        objective: "pcd" or "cd".
        moves: k, Gibbs sweeps of a chain at its turn.
        chains: persistent chains, which take turns.
        restart: share of the chains that begin anew at their turn.
        sweeps: Gibbs sweeps of a chain that `sample` or `condition` runs.
        temperatures, particles: of the annealing for log Z.
        lr, betas, weight_decay: of AdamW.
    """

    card = Card(
        density="exact with few hidden units, else an estimate (log Z by annealing)",
        sampling="slow, Gibbs chains",
        training="contrastive, with Gibbs chains",
        latents="{0, 1}^H",
        architecture="bipartite",
        branch=("explicit", "approximate", "energy"),
        incomplete="Monte-Carlo EM: gaps filled by clamped Gibbs sweeps",
        summary="visible codes and hidden bits, each a product given the other",
        reference="Hinton 2002; Tieleman 2008; Salakhutdinov and Murray 2008",
    )
    loss_unit = "energy difference"
    validate_by = "samples"
    sampler = Quality.ESTIMATE

    def __init__(
        self,
        *,
        hidden: int | None = None,
        objective: str = "pcd",
        moves: int = 1,
        chains: int = 256,
        restart: float = 0.0,
        sweeps: int = 100,
        temperatures: int = 1000,
        particles: int = 64,
        lr: float = 5e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 1e-3,
    ) -> None:
        super().__init__()
        if objective not in OBJECTIVES:
            raise ValueError(f"objective: got {objective!r}, expected one of {OBJECTIVES}.")
        self.hidden, self.objective, self.moves, self.chains = hidden, objective, moves, chains
        self.restart, self.sweeps = restart, sweeps
        self.temperatures, self.particles = temperatures, particles
        self.lr, self.betas, self.weight_decay = lr, (betas[0], betas[1]), weight_decay

    def _build(self) -> None:
        variables = [self.space.variable(i) for i in range(self.space.size)]
        odd = [v for v in variables if not v.discrete or v.levels > MOST_LEVELS]
        if odd:
            what = f"has {odd[0].levels} levels" if odd[0].discrete else f"is {odd[0].support}"
            raise Unsupported(f"rbm: {odd[0].name!r} {what}; it speaks codes of at most {MOST_LEVELS} levels: bin it.")
        self.codes = Codes([v.levels for v in variables])
        self.likelihood = Likelihood(self.space, longest=MOST_LEVELS)
        S = self.codes.size
        self.H = self.hidden or (12 if S <= 16 else 128)
        self.exact = self.H <= MOST_HIDDEN
        if self.exact:
            self.sampler = Quality.EXACT  # type: ignore[misc]
        self.W = nn.Parameter(0.3 * torch.randn(S, self.H) / max(S, self.H, 1) ** 0.5)
        self.b, self.a = nn.Parameter(torch.zeros(S)), nn.Parameter(torch.zeros(self.H))
        self.conditioner = conditioner(self.given, 64)
        self.tilt = nn.Linear(64, S + self.H, bias=False) if self.given else None
        if self.tilt is not None:
            nn.init.zeros_(self.tilt.weight)
        self.moments = Moments((S,))
        kept = {
            k: Kept(s.shape, s.torch_dtype, s.shape == () and s.variables[0].discrete) for k, s in self.given.items()
        }
        self.replay = Replay(self.chains if self.objective == "pcd" else 1, (S,), kept)
        only = list(self.given.values())[0] if len(self.given) == 1 else None
        self.levels = only.variables[0].levels if only is not None and only.shape == () and only.discrete else 0
        self.register_buffer("log_z", torch.full((self.levels + 1, 3), torch.nan, dtype=torch.float64))

    # the machine

    def machine(self, given: Given | None = None, rows: int = 1, keep: Mapping[str, Tensor] | None = None) -> Boltzmann:
        """The machine with its plain biases: (S,) and (H,) without givens, else one for each of the rows."""
        m = self.moments.mean
        b, a = self._marginal() + self.b - 0.5 * self.W.sum(1), self.a - m @ self.W
        if self.conditioner is not None and self.tilt is not None:
            tilt = self.tilt(self.conditioner(given or {}, rows, keep))
            b, a = b + tilt[:, : len(b)], a + tilt[:, len(b) :]
        return Boltzmann(self.codes, self.W, b, a)

    def _marginal(self) -> Tensor:
        """Unit biases (S,) of independent entries with the frequencies of the data; zero before they are measured."""
        p = self.moments.mean.clamp(1e-3, 1 - 1e-3)
        total = torch.zeros(len(self.codes.levels), device=p.device).index_add_(0, self.codes.entry.to(p.device), p)
        rest = (1 - total).clamp_min(1e-3)[self.codes.entry.to(p.device)]
        return (p / rest).log() * (self.moments.batches > 0)

    def _units(self, x: Tensor) -> Tensor:
        return self.codes.units(x.flatten(1).long())

    def _event(self, s: Tensor) -> Tensor:
        return self.codes.codes(s).reshape(-1, *self.space.shape).to(self.space.torch_dtype)

    def _base(self, count: int, rng: Rng) -> Tensor:
        return self.codes.sample(self._marginal().expand(count, -1), rng)

    # training

    def _players(self) -> list[Player]:
        own = [p for p in self.parameters() if p.requires_grad]
        return [Player("rbm", own, self._loss, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)]

    def _loss(self, batch: Batch, rng: Rng) -> Tensor:
        keep = drop(batch.given, len(batch), rng) if batch.given else {}
        s = self._filled(batch, keep, rng)
        self.log_z.fill_(torch.nan)
        chain, its_given, its_keep = self._move_chains(s, batch.given, keep, rng)
        on_data = self.machine(batch.given, len(s), keep).log_tilde(s)
        return self.machine(its_given, len(chain), its_keep).log_tilde(chain).mean() - on_data.mean()

    @torch.no_grad()
    def _filled(self, batch: Batch, keep: Mapping[str, Tensor], rng: Rng) -> Tensor:
        """Units of the rows; gaps filled by Gibbs sweeps that leave the observed entries as they are."""
        if batch.observed is None:
            s = self._units(batch.x)
            self.moments.measure(s)
            return s
        seen = self.codes.of_units(batch.observed.flatten(1))
        s = self._units(torch.where(batch.observed, batch.x, torch.zeros_like(batch.x)))
        self.moments.measure(s, seen)
        start = torch.where(seen, s, self._base(len(s), rng))
        return self.machine(batch.given, len(s), keep).gibbs(start, 2 + self.moves, rng, seen)

    @torch.no_grad()
    def _move_chains(
        self, s: Tensor, given: Given, keep: Mapping[str, Tensor], rng: Rng
    ) -> tuple[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]:
        """Moved chains and their givens: from the data, or those whose turn it is."""
        if self.objective == "cd":
            return self.machine(given, len(s), keep).gibbs(s, self.moves, rng), given, keep
        turn = self.replay.take(self._base(len(s), rng), given, keep, self.restart, rng)
        x = self.machine(turn.given, len(turn.x), turn.keep).gibbs(turn.x, self.moves, rng)
        self.replay.put(turn, x)
        return x, turn.given, turn.keep

    # answers

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        if not self.exact:
            return self._event(self._chains(count, given, self.sweeps, rng))
        machine, s = self.machine(given, count).double(), torch.zeros(count, self.codes.size)
        hidden = torch.zeros(1, len(self.codes.levels), dtype=torch.bool, device=self.W.device)
        for own, rows in _groups(machine, given, count):
            s[rows] = own.complete(torch.zeros_like(s[:1]), hidden, len(rows), rng)[:, 0]
        return self._event(s)

    def _chains(
        self, count: int, given: Given, sweeps: int, rng: Rng, clamp: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Units (count, S) after Gibbs sweeps from chains with like givens; `clamp`: units, and which are fixed."""
        s, fixed = self.replay.starts(count, given, rng), None
        s = self._base(count, rng) if s is None else s
        if clamp is not None:
            fixed = clamp[1]
            s = torch.where(fixed, clamp[0], s)
        machine, trace = self.machine(given, count), []
        for _ in range(sweeps):
            s = machine.gibbs(s, 1, rng, fixed)
            trace.append(torch.cat([machine.log_tilde(s)[:WATCHED, None], s[:WATCHED, :WATCHED]], 1))
        if clamp is None and sweeps >= 4:
            self.record["mixing"] = diagnostics(torch.stack(trace))
        return s

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        if observed is not None and not self.exact:
            raise Unsupported(
                f"rbm: log p of an observed part is a sum over 2^{self.H} patterns; hidden <= {MOST_HIDDEN}."
            )
        machine = self.machine(given, len(x)).double()
        if observed is None:
            log_p = machine.log_tilde(self._units(x).double())
        else:
            log_p = torch.zeros(len(x), dtype=torch.float64, device=x.device)
            s, seen = self._units(torch.where(observed, x, torch.zeros_like(x))), observed.flatten(1)
            for own, rows in _groups(machine, given, len(x)):
                log_p[rows] = own.log_part(s[rows], seen[rows])
        return self._normalised(log_p, machine, given)

    def _normalised(self, log_p: Tensor, machine: Boltzmann, given: Given) -> Value:
        """log p~ less log Z, with its quality."""
        if given and not self.levels:
            groups = list(_groups(machine, given, len(log_p)))
            if not self.exact or (len(groups) * self.codes.size << self.H) > MOST_TERMS:
                return Value(log_p, Quality.UNNORMALISED)
            for own, rows in groups:
                log_p[rows] -= own.log_z()
            return Value(log_p)
        low, high, stderr = self.partition().unbind(-1)
        row = next(iter(given.values())).reshape(-1).long() + 1 if given else torch.zeros(len(log_p), dtype=torch.long)
        if self.closed_z:
            return Value(log_p - low[row])
        # ends the wrong way round: the draws have missed a part of p, and only the forward end is to be believed
        middle = torch.maximum(low, 0.5 * (low + high))
        error = torch.hypot(stderr, 0.5 * (high - low))[row]
        return Value(log_p - middle[row], Quality.ESTIMATE, error, {"log_z": (low.tolist(), high.tolist())})

    @property
    def closed_z(self) -> bool:
        """Whether log Z is a sum that is done in full."""
        return self.exact or math.prod(self.codes.levels) <= MOST_CODES

    @torch.no_grad()
    def partition(self) -> Tensor:
        """(log Z low, high, standard error), float64, one row for no given and one for each code; computed once."""
        if bool(self.log_z.isnan().any()):
            rng = Rng(LOG_Z_SEED, self.W.device)
            rows = [
                self._summed(code) if self.closed_z else self.sandwich(code, rng) for code in range(self.levels + 1)
            ]
            self.log_z.copy_(torch.stack(rows))
        return self.log_z

    def _summed(self, code: int) -> Tensor:
        machine = self.machine(self._code(code, 1)).double().row(0)
        log_z = machine.log_z() if self.exact else machine.log_z_by_codes()
        return torch.stack([log_z, log_z, torch.zeros_like(log_z)])

    @torch.no_grad()
    def sandwich(self, code: int = 0, rng: Rng | int | None = 0) -> Tensor:
        """(lower, upper, standard error) of log Z, annealed both ways: for no given, or given the code `code - 1`."""
        rng, n = Rng(rng), self.particles
        machine, start = self.machine(self._code(code, n), n), self._marginal()
        low = machine.anneal(self._base(n, rng), start, self.temperatures, rng, 1)
        drawn = self._chains(n, self._code(code, n), LOG_Z_SWEEPS, rng)  # forgetful of where they started
        high = machine.anneal(drawn, start, self.temperatures, rng, 1, reverse=True)
        return torch.cat([low.value, high.value, torch.hypot(low.stderr, high.stderr)]).double()

    def _code(self, code: int, count: int) -> dict[str, Tensor]:
        """The given of row `code` of log Z: none, then each code."""
        return {next(iter(self.given)): torch.full((count,), code - 1)} if code else {}

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        seen = observed.flatten(1)
        s = self._units(torch.where(observed, x, torch.zeros_like(x)))
        machine = self.machine(given, len(x)).double()

        @torch.no_grad()
        def sample(n: int, rng: Rng) -> Tensor:
            if self.exact:
                new = s.expand(n, -1, -1).clone()
                for own, rows in _groups(machine, given, len(x)):
                    new[:, rows] = own.complete(s[rows], seen[rows], n, rng)
            else:
                many = {k: v.repeat(n, *[1] * (v.ndim - 1)) for k, v in given.items()}
                clamp = s.repeat(n, 1), self.codes.of_units(seen).repeat(n, 1)
                new = self._chains(n * len(x), many, self.sweeps, rng, clamp)
            return torch.where(observed, x, self._event(new.flatten(0, -2)).reshape(n, *x.shape))

        def log_prob(full: Tensor) -> Value:
            whole, part = (self._log_prob(full, given, o, 1, Rng(0)) for o in (None, observed))
            return Value(whole.value - part.value)

        return Conditional(sample, log_prob if self.exact else None, Quality.EXACT if self.exact else Quality.ESTIMATE)

    def _encode(self, x: Tensor, given: Given) -> torch.distributions.Distribution:
        logits = self.machine(given, len(x)).hidden(self._units(x))
        return Independent(Bernoulli(logits=logits, validate_args=False), 1)

    def _decode(self, z: Tensor, given: Given) -> Predictive:
        logits = self.codes.logits(self.machine(given, len(z)).visible(z.to(self.W.dtype)))
        valid = torch.isfinite(logits[0])  # entries have as many codes as they have levels
        return Predictive(self.likelihood, self.likelihood.from_entries(logits[:, valid]))


def _groups(machine: Boltzmann, given: Given, rows: int) -> Iterator[tuple[Boltzmann, Tensor]]:
    """The machine of each distinct given, and the rows (of `rows`) that have it."""
    if not given:
        yield machine.row(0), torch.arange(rows)
        return
    told = torch.cat([v.reshape(rows, -1).double() for v in given.values()], 1)
    _, group = torch.unique(told, dim=0, return_inverse=True)
    for g in range(int(group.max()) + 1):
        own = (group == g).nonzero().squeeze(1)
        yield machine.row(int(own[0])), own
