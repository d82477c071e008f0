"""Masked diffusion: entries vanish one after the other; a network that sees the rest says what they were.

    q(x_t | x): every entry is hidden with probability t                       p(x_i | x_seen): the network
    log p(x) >= int_0^1 dt/t E_q sum_{i hidden} log p(x_i | x_seen)  =  E_{k ~ U{1..D}} D/k E_{|S|=k} sum_{i in S} log p
    log p(x)  = log mean over all orders s of prod_j p(x_{s_j} | x_{s_1}, ..., x_{s_{j-1}})

Both sides of the bound's equality are the loss: hidden sets S of one size k are equally likely, and the integral over t
gives each size the weight 1/k, whatever the schedule. The network sees neither t nor k, for the mask says it all. Only
the mask is noise, so each entry has the distribution that its support wants (kinds/likelihood.py): categories, levels,
rounded and real columns side by side.

Offers sample (entries shown one at a time in a random order, which is the model itself; or several a step, an
approximation), log_prob (of at most 6 entries exact, by a sum over all subsets; else the bound), condition (missing
entries shown in a random order after the observed ones: an estimate, since the D! orders need not agree). Fitted by the
bound; missing entries stay hidden and have no loss.

References: D3PM (Austin 2021, arXiv:2107.03006); order-agnostic diffusion (Hoogeboom 2021, arXiv:2110.02037); MDLM
(Sahoo 2024, arXiv:2406.07524); MD4 (Shi 2024, arXiv:2406.04329); a deep NADE (Uria 2014, arXiv:1310.1757).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pofx.kinds.likelihood import Likelihood, from_grid
from pofx.model import Batch, Card, Conditional, Given, Model, Player, Quality, Rng, Value
from pofx.nn.bidirectional import Bidirectional
from pofx.nn.conditioner import conditioner, drop
from pofx.nn.entries import Entries, Size
from pofx.nn.unet import UNet

SMALL = 256  # entries up to which a picture gets a narrow network
ONE_HOT = 32  # a pixel with at most this many levels enters as one of K
SUBSETS = 6  # entries up to which log p is a sum over all 2^D subsets
LONGEST_WALK = 128  # entries up to which `unmask_steps=None` shows them one at a time
CHUNK = 512  # rows that pass through the network together


class MaskedDiffusion(Model):
    """Discrete diffusion with an absorbing mask; the same model is an any-order autoregressive one.

    Args:
        width: features of the body; None: 16 or 32 channels for small and other pictures, 64 for all else.
        depth: sizes of the U-Net or layers of the transformer; None: by the Space.
        blocks: residual blocks at each size of the U-Net.
        dropout: None: none for pictures, 0.1 for all else.
        components: of the mixture for real and long ordinal entries.
        longest: an ordinal with at most this many levels is a softmax; None: see Likelihood.
        unmask_steps: in which a draw is made; None: one entry at a time, up to 128 steps.
        levels: hidden sets for each draw of `log_prob`, of sizes spread over 1 .. D.
        lr, weight_decay: of the optimiser; lr None: 3e-3 for pictures, 2e-3 for all else.
    """

    card = Card(
        density="exact up to 6 entries, else a lower bound, slow",
        sampling="slow: one entry at a time, or a few steps of many",
        training="stable: weighted prediction of hidden entries",
        latents="none: partly hidden x",
        architecture="free, bidirectional: U-Net (pictures), transformer (all else)",
        branch=("explicit", "approximate", "bound"),
        incomplete="loss over the observed entries; missing ones stay hidden",
        summary="hide some entries at random, learn to say what they were, and show them one after the other",
        reference="Austin et al. 2021, arXiv:2107.03006; Shi et al. 2024, arXiv:2406.04329",
    )

    body: Any  # UNet for pictures, Bidirectional for all else

    def __init__(
        self,
        *,
        width: int | None = None,
        depth: int | None = None,
        blocks: int = 1,
        dropout: float | None = None,
        components: int = 8,
        longest: int | None = None,
        unmask_steps: int | None = None,
        levels: int = 8,
        lr: float | None = None,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__()
        if unmask_steps is not None and unmask_steps < 1:
            raise ValueError(f"masked_diffusion: got unmask_steps={unmask_steps}; expected at least 1, or None.")
        if levels < 1:
            raise ValueError(f"masked_diffusion: got levels={levels}; expected at least 1.")
        self.width, self.depth, self.blocks, self.dropout = width, depth, blocks, dropout
        self.components, self.longest, self.unmask_steps, self.levels = components, longest, unmask_steps, levels
        self.lr, self.weight_decay = lr, weight_decay

    @property
    def name(self) -> str:
        return "masked_diffusion"

    @property
    def sampler(self) -> Quality:  # type: ignore[override]
        """Exact where entries are shown one at a time, for then the draws are the model's own."""
        return Quality.EXACT if self._walk == self.space.size else Quality.ESTIMATE

    def _build(self) -> None:
        space = self.space
        self.picture = space.picture and space.shared
        self.batch_size = 64 if self.picture else 128  # type: ignore[misc]
        self.likelihood = Likelihood(space, self.components, self.longest)
        moments = [[getattr(space.variable(i), k) for i in range(space.size)] for k in ("mean", "scale")]
        self.register_buffer("mean", torch.tensor(moments[0], dtype=torch.float64), persistent=False)
        self.register_buffer("scale", torch.tensor(moments[1], dtype=torch.float64), persistent=False)
        self.conditioner = conditioner(self.given, 64)
        self.body = self._convolutions() if self.picture else self._transformer()

    @property
    def _c_dim(self) -> int:
        return 64 if self.given else 0

    @property
    def _walk(self) -> int:
        """Steps of a draw of all entries."""
        return min(self.unmask_steps or LONGEST_WALK, self.space.size)

    def _convolutions(self) -> nn.Module:
        height, wide, channels = self.space.shape
        depth = self.depth or max(1, min(4, round(math.log2(max(height, wide) / 4)) + 1))
        features = self._features(torch.zeros(1, height, wide, channels), torch.ones(1, height, wide, channels) > 0)
        out = channels * self.likelihood.widths()[0]
        width, dropout = self.width or (16 if self.space.size <= SMALL else 32), self.dropout or 0.0
        return UNet(features.shape[1], out, width, depth, self.blocks, self._c_dim, dropout=dropout)

    def _transformer(self) -> nn.Module:
        space = self.space
        variables = [space.variable(i) for i in range(space.size)]
        entries = Entries(
            space.shape,
            tuple(v.levels if v.discrete else 0 for v in variables),
            tuple(v.support not in ("category", "binary") for v in variables),
            tuple((g.entries, g.width) for g in self.likelihood.groups),
            space.shared,
            tuple(range(space.size)),
            space.layout == "sequence" and space.shared,
        )
        return Bidirectional(entries, Size(self.width, self.depth, None, self.dropout, self._c_dim))

    def _players(self) -> list[Player]:
        lr = self.lr or (3e-3 if self.picture else 2e-3)
        return [Player("model", list(self.parameters()), self._loss, lr=lr, weight_decay=self.weight_decay)]

    def _loss(self, batch: Batch, rng: Rng) -> Tensor:
        keep = drop(self.given, len(batch), rng) if self.given and self.training else None
        c = self._condition_vector(batch.given, len(batch), keep)
        observed = torch.ones_like(batch.x, dtype=torch.bool) if batch.observed is None else batch.observed
        known = observed.flatten(1)
        terms = [self._term(batch.x, known, position, c, rng) for position in self._positions(len(batch), rng)]
        return -torch.stack(terms).mean()

    def _positions(self, rows: int, rng: Rng) -> Iterator[Tensor]:
        """Positions in [0, 1) of a hidden set's size, one in each stratum of the global batch; more to validate."""
        slots = torch.arange(rows, device=rng.device, dtype=torch.float64)
        first, total = (rng.rows.start, rng.rows.total) if rng.rows else (0, rows)
        for _ in range(1 if self.training else self.levels):
            yield (rng.uniform((1,), torch.float64) + (slots + first) / total) % 1

    def _term(self, x: Tensor, entries: Tensor, position: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        """The bound's term (B,) for one hidden set: n / k sum of log p over k of the n `entries` (B, D) to be told.

        Whatever is neither hidden nor one of `entries` stays hidden too.
        """
        n = entries.sum(1)
        k = (position * n).long().clamp(max=(n - 1).clamp_min(0)) + 1
        hidden = entries & (_rank(rng.uniform(tuple(entries.shape)), entries) < k.unsqueeze(1))
        log_p = self._entries(x, entries & ~hidden, c)
        return torch.where(hidden, log_p, torch.zeros_like(log_p)).sum(1) * n / k

    def _condition_vector(self, given: Given, rows: int, keep: Mapping[str, Tensor] | None = None) -> Tensor | None:
        return None if self.conditioner is None else self.conditioner(given, rows, keep)

    def _params(self, x: Tensor, seen: Tensor, c: Tensor | None) -> Tensor:
        """Parameters of every entry given those that are seen (B, D)."""
        if self.picture:
            return from_grid(self.body(self._features(x, seen.reshape(x.shape)), c)).float()
        flat = x.flatten(1)
        return self.body(flat, (flat.double() - self.mean) / self.scale, seen, c).float()

    def _entries(self, x: Tensor, seen: Tensor, c: Tensor | None) -> Tensor:
        """log p (B, D) of every entry given those that are seen, nats."""
        return self.likelihood.log_prob(self._params(x, seen, c), x).flatten(1).double()

    def _features(self, x: Tensor, seen: Tensor) -> Tensor:
        """A picture (B, H, W, C) as features (B, C F, H, W): standardised, one of K where K is small, whether seen."""
        v = self.space.variables[0]
        parts = [((x.double() - v.mean) / v.scale).float().unsqueeze(-1)]
        if v.discrete and v.levels <= ONE_HOT:
            parts.append(nn.functional.one_hot(x.long(), v.levels).float())
        features = torch.cat([*parts, torch.ones_like(parts[0])], -1)
        features = torch.where(seen.unsqueeze(-1), features, torch.zeros_like(features))
        return features.flatten(-2).permute(0, 3, 1, 2)

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        c = self._condition_vector(given, len(x))
        known = torch.ones_like(x, dtype=torch.bool) if observed is None else observed
        known = known.flatten(1)
        if self.space.size <= SUBSETS:
            quality = Quality.EXACT if observed is None else Quality.ESTIMATE
            return Value(self._in_chunks(lambda r: self._any_order(x[r], known[r], _rows(c, r)), len(x)), quality)
        bound = self._bound(x, known, c, draws * self.levels, rng)
        quality = Quality.LOWER if observed is None else Quality.ESTIMATE
        return Value(bound.value, quality, bound.stderr, bound.diagnostics)

    def _bound(self, x: Tensor, entries: Tensor, c: Tensor | None, sets: int, rng: Rng) -> Value:
        """A bound on log p of `entries` (B, D), the rest hidden, from hidden sets of sizes in `sets` strata."""
        terms = []
        for j in range(sets):
            position = (j + rng.uniform((len(x),), torch.float64)) / sets
            terms.append(self._term(x, entries, position, c, rng))
        stack = torch.stack(terms)
        # differences of neighbours: the spread within the strata, not the trend across them
        spread = (stack[1:] - stack[:-1]).square().sum(0) / (2 * max(1, sets - 1))
        stderr = (spread / sets).sqrt() if sets > 1 else None
        return Value(stack.mean(0), Quality.LOWER, stderr, {"hidden sets": sets})

    def _any_order(self, x: Tensor, entries: Tensor, c: Tensor | None) -> Tensor:
        """log p (B,) of `entries` (B, D), exact: the mean over their orders, by a sum over subsets.

        P(S) = 1/|S| sum_{i in S} P(S - i) p(x_i | x_{S - i}) is the mean over the orders of S.
        """
        d = self.space.size
        bits = torch.arange(d, device=x.device)
        log_p = [x.new_zeros(len(x), dtype=torch.float64)]
        given: list[Tensor] = []
        for s in range(2**d):
            members = [i for i in range(d) if s >> i & 1]
            if members:
                parts = torch.stack([log_p[s ^ 1 << i] + given[s ^ 1 << i][:, i] for i in members])
                log_p.append(torch.logsumexp(parts, 0) - math.log(len(members)))
            given.append(self._entries(x, ((s >> bits & 1) > 0).expand(len(x), -1), c) if s < 2**d - 1 else log_p[0])
        code = (entries.long() << bits).sum(1)
        return torch.stack(log_p, 1).gather(1, code.unsqueeze(1)).squeeze(1)

    def _in_chunks(self, f: Any, rows: int) -> Tensor:
        parts = [f(r) for r in torch.arange(rows, device=self.device).split(CHUNK)]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64, device=self.device)

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        x = torch.zeros(count, *self.space.shape, dtype=self.space.torch_dtype, device=self.device)
        seen = torch.zeros(count, self.space.size, dtype=torch.bool, device=self.device)
        return self._completed(x, seen, self._condition_vector(given, count), rng)

    def _completed(self, x: Tensor, seen: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        """x (B, *event) with what is not seen (B, D) drawn."""
        parts = [self._shown(x[r], seen[r], _rows(c, r), rng) for r in torch.arange(len(x)).split(CHUNK)]
        return torch.cat([x[:0], *parts])

    def _shown(self, x: Tensor, seen: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        """Hidden entries shown in a random order of each row's own, in at most `_walk` steps."""
        m = (~seen).sum(1, keepdim=True)
        most = int(m.max()) if len(x) else 0
        rank = _rank(rng.uniform(tuple(seen.shape)), ~seen)
        steps = min(self._walk, most)
        for j in range(steps):
            now = ~seen & (rank < -(-m * (j + 1) // steps))
            drawn = self.likelihood.sample(self._params(x, seen, c), rng)
            x = torch.where(now.reshape(x.shape), drawn, x)
            seen = seen | now
        return x

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        mask, c = observed.flatten(1), self._condition_vector(given, len(x))

        def sample(n: int, rng: Rng) -> Tensor:
            rows = torch.arange(len(x), device=x.device).repeat(n)
            with torch.no_grad():
                drawn = self._completed(x[rows], mask[rows], _rows(c, rows), rng)
            return torch.where(observed, x, drawn.reshape(n, *x.shape))

        return Conditional(sample, None, Quality.ESTIMATE)


def _rank(noise: Tensor, among: Tensor) -> Tensor:
    """The places (B, D) of the entries `among` in an order by noise, from 0; all others come after them."""
    return torch.where(among, noise, 2.0).argsort(1).argsort(1)


def _rows(c: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if c is None else c[rows]
