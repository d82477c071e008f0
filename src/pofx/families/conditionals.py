"""Conditionals: the law of every column given any of the others, each learnt for itself.

    f_j(x_o) = E[x_j | x_o]          a stack of a line, a kernel and a forest, for any set o of known entries
    p(x_j | x_o)                     the values of the rows about which f_j said nearly the same (donors)
    p(x_m | x_o)                     these margins, joined by a normal copula with the correlations of x_m given x_o

A regressor wants all columns. Those that a row lacks are filled by a normal law with what the row knows *without the
entry that is asked for*; from the second stage on by the predictions of the stage before, again without that entry. So
a row in training looks as a row with a gap will look, and nothing is fed back: there is no chain to converge.
Categories are drawn first, one after the other, each known to the next; then all numbers together.
Offers condition and sample (from nothing known, then sweeps that redraw a third of each row), estimates both: laws
learnt one by one need not have a common joint, so there is no log_prob. Fitted in closed form; gaps are taken as they
are, and where there are few, some entries are hidden while learning.
References: Heckerman et al. 2000 (dependency networks); van Buuren 2018 (fully conditional specification);
Stekhoven and Buehlmann 2012 (MissForest); Little 1988 (donors); Breiman 1996 (stacking).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pofx.data import Data
from pofx.engines.donors import Donors
from pofx.engines.leave_out import Known, blocks, known, normal_em
from pofx.engines.regressors import Stack
from pofx.kinds.base import Variable
from pofx.kinds.joined import Joined
from pofx.model import Card, Conditional, Given, Model, Quality, Report, Unsupported
from pofx.randomness import Rng

WIDEST = 300  # coordinates; each is a regression on all others
ROOM = 5e7  # numbers that the rows of all contexts may take
GAPS = 0.2  # share of entries that are hidden while learning, where the rows lack fewer


@dataclass(frozen=True)
class Said:
    """What is said of the missing entries of some rows: means `(N, P)`, their normal law, spreads `(N, P)`."""

    mean: Tensor
    law: Known

    @property
    def spread(self) -> Tensor:
        """The standard deviation of each coordinate under the normal law."""
        return self.law.variance.sqrt()


class Conditionals(Model):
    """Every column given any others, by stacked regressions and donors.

    Args:
        stages: how often the fillings are improved.
        trees: of each forest.
        least: rows of a leaf.
        donors: rows that lend their values to a gap.
        rows: training rows at most.
        hide: share of the known entries hidden while learning; None brings the share of gaps to a fifth.
        sweeps: of redrawing a third of each row, for samples.
    """

    card = Card(
        density="none (laws learnt one by one)",
        sampling="slow, chain",
        training="least squares, held-out stacking",
        latents="none",
        architecture="ridge, kernel and randomised trees",
        branch=("implicit", "chain"),
        incomplete="learns from the gaps: any known entries predict any other",
        summary="the law of every column given any of the others: fills the gaps of tables",
        reference="Heckerman et al. 2000; van Buuren 2018",
    )
    diagram = (
        ("known entries", "gaps filled by a normal law"),
        ("gaps filled by a normal law", "line, kernel, forest"),
        ("line, kernel, forest", "E[x_j | known]", "stacked"),
        ("E[x_j | known]", "gaps filled by a normal law", "second stage"),
        ("E[x_j | known]", "x_j", "a donor's value"),
    )
    sampler = Quality.ESTIMATE
    centre: Tensor
    scale: Tensor
    m: Tensor
    s: Tensor

    def __init__(
        self,
        *,
        stages: int = 2,
        trees: int = 64,
        least: int = 2,
        donors: int = 40,
        rows: int = 4000,
        hide: float | None = None,
        sweeps: int = 5,
    ) -> None:
        super().__init__()
        if stages < 1 or trees < 2 or least < 1 or donors < 2 or rows < 8 or sweeps < 0:
            raise ValueError(
                f"conditionals: got stages={stages}, trees={trees}, least={least}, donors={donors}, rows={rows}, "
                f"sweeps={sweeps}; expected at least 1, 2, 1, 2, 8 and 0."
            )
        if hide is not None and not 0 <= hide < 1:
            raise ValueError(f"conditionals: hide is {hide}; expected a share in [0, 1), or None.")
        self.stages, self.trees, self.least, self.donors = stages, trees, least, donors
        self.rows, self.hide, self.sweeps = rows, hide, sweeps

    def _build(self) -> None:
        self.joined = Joined(self.space, self.given)
        self.variables, self.groups, at = self.joined.variables, [], 0
        for v in self.variables:
            self.groups.append(list(range(at, at + _width(v))))
            at += _width(v)
        if at > WIDEST:
            raise Unsupported(f"conditionals: {at} coordinates (categories count by level); at most {WIDEST}.")
        for name, values in (("centre", torch.zeros(at)), ("scale", torch.ones(at)), ("m", torch.zeros(at))):
            self.register_buffer(name, values.double())
        self.register_buffer("s", torch.eye(at, dtype=torch.float64))
        self.register_buffer("done", torch.ones((), dtype=torch.int64))
        columns = range(len(self.variables))
        stages = [nn.ModuleList([Stack(self.trees, self.least) for _ in columns]) for _ in range(self.stages)]
        self.stacks = nn.ModuleList(stages)
        self.lenders = nn.ModuleList([Donors(self.donors) for _ in columns])
        self.levels = [_levels(v) for v in self.variables]

    # fitting
    def _fit_closed(self, data: Data, rng: Rng, report: Report) -> None:
        whole, seen, weight = self._training_rows(data, rng)
        u = self._standardised(whole, seen, weight)
        shown = seen & ~self._hidden(seen, rng)
        self.m, self.s = normal_em(u, self._spread(shown), weight, time_left=report)
        base, variance = self._contexts(u, shown)
        now, step = base.clone(), 0
        for stage in range(self.stages):
            losses, said = [], []
            for j, group in enumerate(self.groups):
                rows = seen[:, j]
                features = self._features(now[j][rows], base[j][rows], variance[j][rows], j).numpy()
                target, own = u[rows][:, group], weight[rows]
                fitted = torch.from_numpy(self.stacks[stage][j].fit(features, target.numpy(), own.numpy(), rng))  # type: ignore[index, operator]
                losses.append(float(((fitted - target).square() * own.unsqueeze(1)).sum() / own.sum()))
                said.append(fitted)
                step += 1
            self._lend(u, said, variance, seen, weight, rng)
            self.done = torch.tensor(stage + 1)
            time_left = report({"step": step, "stage": stage + 1, "loss": sum(losses) / len(losses)})
            if stage + 1 == self.stages or not time_left:
                break
            for j in range(len(self.groups)):
                context = shown.clone()
                context[:, j] = True  # its own gap is not filled: it is what is asked
                now[j] = self._filled(stage, now[j], base[j], variance[j], context)

    def _training_rows(self, data: Data, rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """Distinct rows, what they know, and how often each occurs: a row that is there twice must not see itself."""
        train = data.part("train")
        whole, mask = self.joined.whole(train.x.cpu(), train.given, train.observed)
        seen = torch.ones_like(whole, dtype=torch.bool) if mask is None else mask
        keys = np.where(seen.numpy(), whole.numpy(), np.nan)
        keys = np.ascontiguousarray(keys).view(np.dtype((np.void, keys.dtype.itemsize * keys.shape[1]))).ravel()
        _, first, count = np.unique(keys, return_index=True, return_counts=True)
        most = int(min(self.rows, max(ROOM / (len(self.groups) * self.m.numel()), 8)))
        pick = rng.permutation(len(first))[:most]
        at = torch.from_numpy(first)[pick]
        return whole[at], seen[at], torch.from_numpy(count)[pick].double()

    def _hidden(self, seen: Tensor, rng: Rng) -> Tensor:
        """Entries that are hidden while learning, a share of its own for every row."""
        gone = 1 - float(seen.double().mean())
        share = self.hide if self.hide is not None else max(0.0, (GAPS - gone) / (1 - gone))
        if share == 0:
            return torch.zeros_like(seen)
        own = (2 * share * rng.uniform((len(seen), 1), torch.float64)).clamp(max=0.95)
        return rng.uniform(tuple(seen.shape), torch.float64) < own

    def _contexts(self, u: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        """For every column: mean and variance of all coordinates given what is shown without it, `(D, N, P)` each."""
        mean = torch.empty(len(self.groups), *u.shape, dtype=torch.float64)
        variance = torch.empty_like(mean)
        seen = self._spread(shown)
        for rows in blocks(len(u), u.shape[1]):
            law = known(u[rows], seen[rows], self.m, self.s)
            for j, group in enumerate(self.groups):
                mean[j, rows], variance[j, rows] = law.without(group)
        return mean, variance

    def _lend(self, u: Tensor, said: list[Tensor], variance: Tensor, seen: Tensor, weight: Tensor, rng: Rng) -> None:
        for j, group in enumerate(self.groups):
            if len(group) == 1:
                rows, at = seen[:, j], group[0]
                discrete = self.variables[j].discrete
                spread = variance[j][rows][:, at].sqrt()
                self.lenders[j].learn(u[rows][:, at], said[j][:, 0], spread, weight[rows], discrete, rng)  # type: ignore[operator]

    # coordinates: a number standardised, a category as the indicators of its levels
    def _standardised(self, whole: Tensor, seen: Tensor, weight: Tensor) -> Tensor:
        self.centre, self.scale = torch.zeros_like(self.centre), torch.ones_like(self.scale)
        u, known_u = self._coordinates(whole), self._spread(seen)
        for at in (g[0] for g in self.groups if len(g) == 1):
            value, own = u[known_u[:, at], at], weight[known_u[:, at]]
            if len(value):
                self.centre[at] = (value * own).sum() / own.sum()
                self.scale[at] = (((value - self.centre[at]).square() * own).sum() / own.sum()).sqrt().clamp_min(1e-9)
        return torch.where(known_u, (u - self.centre) / self.scale, torch.zeros_like(u))

    def _coordinates(self, whole: Tensor) -> Tensor:
        parts = []
        for j, v in enumerate(self.variables):
            column, levels = whole[:, j], self.levels[j]
            if levels is not None:
                parts.append(levels[column.round().long().clamp(0, len(levels) - 1)].unsqueeze(1))
            elif v.discrete:
                code = column.round().long().clamp(0, v.levels - 1)
                parts.append(nn.functional.one_hot(code, v.levels).double())
            else:
                parts.append(column.unsqueeze(1))
        return (torch.cat(parts, 1) - self.centre) / self.scale

    def _spread(self, seen: Tensor) -> Tensor:
        """A mask of variables `(N, D)` as one of coordinates `(N, P)`."""
        return torch.cat([seen[:, j : j + 1].expand(-1, len(g)) for j, g in enumerate(self.groups)], 1)

    def _number(self, j: int, u: Tensor, nearest: bool) -> Tensor:
        """A coordinate as x: the value, or its code; a mean between two levels lies between their codes."""
        at, levels, v = self.groups[j][0], self.levels[j], self.variables[j]
        value = u * self.scale[at] + self.centre[at]
        if levels is None:
            return v.resolution * (value / v.resolution).round() if nearest and v.resolution else value
        code = torch.from_numpy(np.interp(value.numpy(), levels.numpy(), np.arange(len(levels))))
        return code.round() if nearest else code

    # what is said of the gaps
    def _features(self, now: Tensor, base: Tensor, variance: Tensor, j: int) -> Tensor:
        """What the regressors of column j see: all coordinates, its own as the normal law has it, and its spread."""
        group, features = self.groups[j], now.clone()
        features[:, group] = base[:, group]
        return torch.cat([features, variance[:, group].mean(1, keepdim=True).sqrt()], 1)

    def _filled(self, stage: int, now: Tensor, base: Tensor, variance: Tensor, seen: Tensor) -> Tensor:
        """The gaps as a stage predicts them."""
        out = now.clone()
        for k, group in enumerate(self.groups):
            rows = (~seen[:, k]).nonzero().squeeze(1)
            if len(rows):
                features = self._features(now[rows], base[rows], variance[rows], k)
                out[rows[:, None], torch.tensor(group)] = self.stacks[stage][k](features)  # type: ignore[index, operator]
        return out

    def _say(self, u: Tensor, seen: Tensor) -> Said:
        law = known(u, self._spread(seen), self.m, self.s)
        now = law.mean
        for stage in range(int(self.done)):
            now = self._filled(stage, now, law.mean, law.variance, seen)
        return Said(now, law)

    # hooks
    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        whole, mask = self.joined.whole(x, given, observed)
        seen = torch.ones_like(whole, dtype=torch.bool) if mask is None else mask

        def sample(n: int, rng: Rng) -> Tensor:
            out = torch.cat([self._draw(whole[r], seen[r], n, rng) for r in blocks(len(x), self.m.numel())], 1)
            event = self.joined.event(out.flatten(0, 1)).reshape(n, *x.shape)
            return torch.where(observed, x, event.to(x.dtype))

        def mean() -> Tensor:
            parts = [self._means(whole[r], seen[r]) for r in blocks(len(x), self.m.numel())]
            return torch.where(observed, x.double(), torch.cat(parts)[:, : self.space.size].reshape(x.shape))

        return Conditional(sample, None, Quality.ESTIMATE, mean)

    def _means(self, whole: Tensor, seen: Tensor) -> Tensor:
        """Means as x; of a category its likeliest code."""
        said, out = self._say(self._known_coordinates(whole, seen), seen), whole.clone()
        for j, group in enumerate(self.groups):
            own = said.mean[:, group]
            if len(group) > 1:
                out[:, j] = own.argmax(1).double()
            else:
                _, _, low, high = self.lenders[j].facts.tolist()  # type: ignore[union-attr, operator]
                out[:, j] = self._number(j, own[:, 0].clamp(low, high), nearest=False)
        return out

    def _known_coordinates(self, whole: Tensor, seen: Tensor) -> Tensor:
        u = self._coordinates(whole)
        return torch.where(self._spread(seen), u, torch.zeros_like(u))

    def _draw(self, whole: Tensor, seen: Tensor, n: int, rng: Rng) -> Tensor:
        """n completions of rows (N, D)."""
        words = [j for j, g in enumerate(self.groups) if len(g) > 1 and not bool(seen[:, j].all())]
        rows, known_now = whole.repeat(n, 1), seen.repeat(n, 1)
        for j in words:
            gap = (~known_now[:, j]).nonzero().squeeze(1)
            own = (whole, seen) if j == words[0] else (rows[gap], known_now[gap])  # the first is the same in all draws
            p = self._say(self._known_coordinates(*own), own[1]).mean[:, self.groups[j]]
            p = p.repeat(n, 1)[gap] if j == words[0] else p
            rows[gap, j] = rng.categorical(p.clamp_min(0.5 / self.rows).log()).double()
            known_now[:, j] = True
        own = (rows, known_now) if words else (whole, seen)
        said = self._say(self._known_coordinates(*own), own[1])
        return self._numbers(rows.reshape(n, *whole.shape), seen, said, n, rng)

    def _numbers(self, out: Tensor, seen: Tensor, said: Said, n: int, rng: Rng) -> Tensor:
        """Draw all missing numbers, jointly by ranks: z normal with the law's correlations, then each its quantile."""
        columns = [j for j, g in enumerate(self.groups) if len(g) == 1]
        if not columns:
            return out
        at = torch.tensor([self.groups[j][0] for j in columns])
        share = len(said.mean) // len(seen)  # n where every draw has categories of its own, else 1
        root = _root(said.law.whole[:, at][:, :, at])
        z = rng.normal((n, len(seen), len(at), 1), torch.float64)
        root = root.reshape(share, len(seen), *root.shape[1:])
        level = torch.special.ndtr((root @ z).squeeze(3)).clamp(1e-9, 1 - 1e-9)
        mean, spread = (t.reshape(share, len(seen), -1) for t in (said.mean, said.spread))
        for i, j in enumerate(columns):
            gap = (~seen[:, j]).nonzero().squeeze(1)
            if not len(gap):
                continue
            f, v = mean[:, gap, at[i]].flatten(), spread[:, gap, at[i]].flatten()
            wanted = level[:, gap, i] if share == 1 else level[:, gap, i].reshape(1, -1)
            found = self.lenders[j].quantiles(f, v, wanted.T.contiguous()).T.reshape(n, len(gap))  # type: ignore[operator]
            out[:, gap, j] = self._number(j, found, nearest=True)
        return out

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        nothing = torch.zeros(count, *self.space.shape, dtype=self.space.torch_dtype)
        whole, mask = self.joined.whole(nothing, given, torch.zeros_like(nothing, dtype=torch.bool))
        free = torch.zeros_like(whole, dtype=torch.bool) if mask is None else ~mask
        for sweep in range(self.sweeps + 1):
            hidden = free if sweep == 0 else free & (rng.uniform(tuple(free.shape)) < 1 / 3)
            parts = [self._draw(whole[r], ~hidden[r], 1, rng)[0] for r in blocks(count, self.m.numel())]
            whole = torch.cat(parts) if parts else whole
        return self.joined.event(whole)


def _width(v: Variable) -> int:
    return v.levels if v.support == "category" and v.levels > 2 else 1


def _levels(v: Variable) -> Tensor | None:
    """The numbers that the codes of an ordinal stand for: its values where they are numbers, else the codes."""
    if not v.discrete or _width(v) > 1:
        return None
    values = v.values or tuple(range(v.levels))
    numbers = all(isinstance(k, (int, float)) and not isinstance(k, bool) for k in values)
    levels = torch.tensor(values if numbers else range(v.levels), dtype=torch.float64)
    return levels if len(levels) == 1 or bool((levels.diff() > 0).all()) else torch.arange(v.levels).double()


def _root(covariance: Tensor) -> Tensor:
    """Cholesky roots of the correlations `(N, C, C)`; a known entry, whose covariance is 0, is left by itself."""
    deviation = covariance.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    scale = torch.where(deviation > 1e-7, 1 / deviation.clamp_min(1e-7), torch.zeros_like(deviation))
    correlation = covariance * scale.unsqueeze(2) * scale.unsqueeze(1) * (1 - 1e-4)
    correlation = correlation - torch.diag_embed(correlation.diagonal(dim1=1, dim2=2))
    return torch.linalg.cholesky(correlation + torch.eye(covariance.shape[1], dtype=covariance.dtype))
