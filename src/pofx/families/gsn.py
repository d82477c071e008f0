"""Generative stochastic network: a Markov chain is learnt, and its stationary law is the model.

    x~_t ~ C(x~ | x_t),   x_{t+1} ~ p(x | x~_t)           loss  mean_k -log p(x | x~_k),  x~_1, x~_2, ... a chain from x
    p(x | x~) = sum_m pi_m(x~) prod_i p(x_i | m, x~)
    C: a code is replaced by any of its levels with probability `noise`; a number moves by `spread` N(0, 1) in the chart

If p(x | x~) is the posterior under the data and C, the data's law is stationary: (x, x~) is a Gibbs chain. The network
tells it as a mixture of `modes` products of the distributions that the entries want (kinds/likelihood.py), for one
product would mix the parts of all that x could have been. With `walkback` steps the network also sees what its own
chain makes of x, and learns to come back: false modes, to which no corrupted row ever leads, go.

Offers sample (each draw the end of a chain of its own, or several of one chain; an estimate) and condition (observed
entries clamped in the chain; an estimate). `mixing` says how fast chains forget where they were. No density: the
stationary law has no formula. Fitted by the loss above; missing entries are noise and have no loss.

References: generalised denoising auto-encoders and walk-back (Bengio 2013, arXiv:1305.6663); GSN (Bengio 2013,
arXiv:1306.1091); GSNs (Alain 2015, arXiv:1503.05571).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pofx.engines.mcmc import autocorrelation, effective_size
from pofx.kinds.likelihood import Likelihood, from_grid
from pofx.kinds.relax import Chart
from pofx.model import Batch, Card, Conditional, Given, Model, Player, Quality, Rng
from pofx.nn.conditioner import conditioner, drop
from pofx.nn.mlp import MLP
from pofx.nn.unet import UNet

Posterior = tuple[Tensor, Tensor]  # log weights (B, M) of the modes, and their parameters (B, M, size)
SMALL = 256  # entries up to which a picture gets a narrow network
SHORT = 32  # an ordinal with more levels moves like a number


@dataclass(frozen=True)
class Mixing:
    """How chains mix, per coordinate of the chart that changes at all.

    Attributes:
        chains, steps: chains, and states of each after burn-in.
        effective: effective number of independent draws of each coordinate among chains x steps, at most that.
        autocorrelation: (lags + 1, coordinates), from lag 0.
        rhat: potential scale reduction of each coordinate (Gelman and Rubin 1992): above 1.1 the chains disagree.
    """

    chains: int
    steps: int
    effective: Tensor
    autocorrelation: Tensor
    rhat: Tensor


class GSN(Model):
    """A denoiser that draws, run as a Markov chain.

    Args:
        noise: probability that a code is replaced.
        spread: of the noise on numbers, in standard deviations of each.
        walkback: corruptions of each training row, each of what the chain made of the last.
        burn_in: steps of a chain before its first draw.
        thinning: steps between two draws of one chain.
        modes: products in the mixture p(x | x~); None: 4 for pictures, 8 for all else.
        chains: that share the draws where nothing is given; None: a chain for every draw.
        width, depth: of the network: a U-Net for pictures, else an MLP; None: by the Space.
        dropout: probability inside each block.
        components: of the mixture for real and long ordinal entries.
        lr, weight_decay: of the optimiser.
    """

    card = Card(
        density="none",
        sampling="a chain: slow to start, then a step a draw",
        training="stable: denoising",
        latents="none: corrupted x",
        architecture="free",
        branch=("implicit", "chain"),
        incomplete="loss over the observed entries; missing ones enter as noise",
        tier="experimental",
        summary="a Markov chain that corrupts x and guesses it back",
        reference="Bengio et al. 2013, arXiv:1306.1091; Alain et al. 2015, arXiv:1503.05571",
    )
    loss_unit = "nats to denoise"
    sampler = Quality.ESTIMATE

    def __init__(
        self,
        *,
        noise: float = 0.3,
        spread: float = 0.3,
        walkback: int = 2,
        burn_in: int = 100,
        thinning: int = 10,
        modes: int | None = None,
        chains: int | None = None,
        width: int | None = None,
        depth: int | None = None,
        dropout: float = 0.0,
        components: int = 8,
        lr: float = 2e-3,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__()
        if not 0 < noise <= 1 or spread <= 0 or walkback < 1 or burn_in < 1 or thinning < 1:
            raise ValueError(
                f"gsn: got noise={noise}, spread={spread}, walkback={walkback}, burn_in={burn_in}, "
                f"thinning={thinning}; expected 0 < noise <= 1, spread > 0, and at least 1 of each of the others."
            )
        self.noise, self.spread, self.walkback, self.burn_in = noise, spread, walkback, burn_in
        self.thinning, self.modes, self.chains, self.width, self.depth = thinning, modes, chains, width, depth
        self.dropout, self.components, self.lr, self.weight_decay = dropout, components, lr, weight_decay

    def _build(self) -> None:
        space = self.space
        self.picture = space.picture and space.shared
        self.batch_size = 64 if self.picture else 128  # type: ignore[misc]
        self.likelihood, self.coordinates = Likelihood(space, self.components), Chart(space)
        variables = [space.variable(i) for i in range(space.size)]
        short = [v.levels if v.discrete and (v.support != "ordinal" or v.levels <= SHORT) else 0 for v in variables]
        self.register_buffer("levels", torch.tensor(short), persistent=False)
        moves = self.coordinates.mask((self.levels == 0).reshape(1, *space.shape))
        self.register_buffer("moves", moves, persistent=False)
        self.many = self.modes or (4 if self.picture else 8)
        # modes that start alike would stay alike
        self.offset = nn.Parameter(0.3 * torch.randn(self.many, self.likelihood.size))
        c_dim = 64 if self.given else 0
        self.conditioner = conditioner(self.given, c_dim)
        self.net = self._convolutions(c_dim) if self.picture else self._perceptron(c_dim)

    def _convolutions(self, c_dim: int) -> nn.Module:
        height, wide, channels = self.space.shape
        depth = self.depth or max(1, min(4, round(math.log2(max(height, wide) / 4)) + 1))
        out = self.many * (1 + channels * self.likelihood.widths()[0])
        width = self.width or (16 if self.space.size <= SMALL else 32)
        return UNet(self._told(), out, width, depth, 1, c_dim, dropout=self.dropout)

    def _perceptron(self, c_dim: int) -> nn.Module:
        width, depth, out = self.width or 256, self.depth or 3, self.many * (1 + self.likelihood.size)
        return MLP(self._told(), out, width, depth, c_dim, self.dropout, zero=True)

    def _told(self) -> int:
        """Features (channels) that the network is told."""
        levels = int(self.levels[0])
        if self.picture:
            return self.space.shape[2] * (1 + levels * (levels > 2))
        return self.coordinates.space.size

    def _players(self) -> list[Player]:
        return [Player("denoiser", list(self.parameters()), self._loss, lr=self.lr, weight_decay=self.weight_decay)]

    def _loss(self, batch: Batch, rng: Rng) -> Tensor:
        x, observed = batch.x, batch.observed
        keep = drop(batch.given, len(x), rng) if self.given and self.training else None
        c = self._condition_vector(batch.given, len(x), keep)
        y, total = x, torch.zeros((), device=x.device)
        for k in range(self.walkback):
            y = y if observed is None else torch.where(observed, y, self._start(len(x), rng))
            posterior = self._posterior(*self._corrupt(y, rng), c)
            total = total - self._log_posterior(posterior, x, observed).mean() / self.walkback
            if k < self.walkback - 1:
                with torch.no_grad():
                    y = self._drawn(posterior, rng)
        return total

    def _log_posterior(self, posterior: Posterior, x: Tensor, observed: Tensor | None) -> Tensor:
        """log p(x | x~) (B,) of the observed entries."""
        log_pi, params = posterior
        log_p = self.likelihood.log_prob(params, x.unsqueeze(1).expand(-1, params.shape[1], *x.shape[1:]))
        log_p = log_p if observed is None else torch.where(observed.unsqueeze(1), log_p, torch.zeros_like(log_p))
        return torch.logsumexp(log_pi + log_p.flatten(2).sum(2), 1)

    def _drawn(self, posterior: Posterior, rng: Rng) -> Tensor:
        """x ~ p(x | x~)."""
        log_pi, params = posterior
        mode = rng.categorical(log_pi)
        return self.likelihood.sample(params[torch.arange(len(mode), device=mode.device), mode], rng)

    def _condition_vector(self, given: Given, rows: int, keep: Mapping[str, Tensor] | None = None) -> Tensor | None:
        return None if self.conditioner is None else self.conditioner(given, rows, keep)

    def _corrupt(self, x: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """x~ ~ C(x~ | x): its codes `(B, *event)` and its chart coordinates `(B, *chart_event)`."""
        x = torch.where(rng.bernoulli(self.noise, tuple(x.shape)) & self._short(x), self._any_code(x, rng), x)
        u = self.coordinates.encode(x)
        return x, torch.where(self.moves, u + self.spread * rng.normal(tuple(u.shape)), u)

    def _short(self, x: Tensor) -> Tensor:
        return (self.levels > 0).reshape(self.space.shape).expand_as(x)

    def _any_code(self, x: Tensor, rng: Rng) -> Tensor:
        levels = self.levels.reshape(self.space.shape)
        return (rng.uniform(tuple(x.shape), torch.float64) * levels).floor().to(x.dtype)

    def _posterior(self, x: Tensor, u: Tensor, c: Tensor | None) -> Posterior:
        """p(x | x~) from the codes and the chart coordinates of x~."""
        m, levels = self.many, int(self.levels[0])
        if not self.picture:
            raw = self.net(u.flatten(1), c).float()
            weights, params = raw[:, :m], raw[:, m:].unflatten(1, (m, -1))
        else:
            if levels > 2:
                codes = nn.functional.one_hot(x.long(), levels).float().flatten(-2).permute(0, 3, 1, 2)
                u = torch.cat([u, codes], 1)
            raw = self.net(u, c).float()
            weights = raw[:, :m].mean((2, 3))
            params = from_grid(raw[:, m:].unflatten(1, (m, -1)).flatten(0, 1)).unflatten(0, (-1, m))
        return weights.log_softmax(1), params + self.offset

    def _start(self, rows: int, rng: Rng) -> Tensor:
        """Where chains begin: any code, any number of the chart's normal."""
        u = rng.normal((rows, *self.coordinates.space.shape))
        x = self.coordinates.decode(u, rng)
        return torch.where(self._short(x), self._any_code(x, rng), x)

    def _step(self, x: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        """The next state of each chain."""
        return self._drawn(self._posterior(*self._corrupt(x, rng), c), rng)

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        rows = count if given or not self.chains else min(self.chains, count)
        x, c = self._start(rows, rng), self._condition_vector(given, rows)
        for _ in range(self.burn_in):
            x = self._step(x, c, rng)
        draws = [x]
        while rows * len(draws) < count:
            for _ in range(self.thinning):
                x = self._step(x, c, rng)
            draws.append(x)
        return torch.cat(draws)[:count]

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        vector = self._condition_vector(given, len(x))

        def sample(n: int, rng: Rng) -> Tensor:
            rows = torch.arange(len(x), device=x.device).repeat(n)
            mask, values, c = observed[rows], x[rows], None if vector is None else vector[rows]
            state = torch.where(mask, values, self._start(len(rows), rng))
            with torch.no_grad():
                for _ in range(self.burn_in):
                    state = torch.where(mask, values, self._step(state, c, rng))
            return state.reshape(n, *x.shape)

        return Conditional(sample, None, Quality.ESTIMATE)

    def mixing(
        self,
        chains: int = 16,
        steps: int = 200,
        lags: int = 50,
        given: Given | None = None,
        rng: Rng | torch.Generator | int | None = None,
    ) -> Mixing:
        """Run `chains` chains from noise, drop the burn-in, and say how fast the next `steps` states mix.

        Args:
            given: name -> one value of that given for each chain, `(chains, *given_event)`.
        """
        rng = self._rng(rng)
        flat = self._flat_given(given, (chains,))[1]
        x, c, states = self._start(chains, rng), self._condition_vector(flat, chains), []
        with torch.no_grad():
            for k in range(self.burn_in + steps):
                x = self._step(x, c, rng)
                if k >= self.burn_in:
                    states.append(self.coordinates.encode(x).flatten(1).double())
        trace = torch.stack(states)
        trace = trace[..., trace.std((0, 1)) > 0]
        effective = effective_size(trace).clamp_max(float(chains * steps))
        return Mixing(chains, steps, effective, autocorrelation(trace, lags), _rhat(trace))


def _rhat(trace: Tensor) -> Tensor:
    """sqrt of (variance within chains + between their means) / within, of a trace (n, B, d)."""
    n = len(trace)
    within = trace.var(0).mean(0).clamp_min(1e-12)
    return ((n - 1) / n + trace.mean(0).var(0) / within).sqrt()
