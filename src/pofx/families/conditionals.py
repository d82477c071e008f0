"""Conditionals: the law of every column given all the others, each learnt for itself, and a chain over the gaps.

    f_j(x_-j) = E[x_j | x_-j]        a stack of a line, a kernel and a forest
    p(x_j | x_-j)                    f_j and the errors of the rows in the same leaf of a tree (engines/donors.py)
    x_m ~ p(x_m | x_o)               a draw by laws of x_o alone, then every gap redrawn given all else, several times

Rows with gaps are learnt from in several completions, which the same chain redraws: so a value that one gap may have
goes with the values that the others then have, and what rows have in common is found although each lacks some of it.
Offers condition and sample (from nothing known), estimates both: laws learnt one by one need not have a common joint,
so there is no log_prob. Fitted in closed form; a table without gaps wants one round.
References: Heckerman et al. 2000 (dependency networks); van Buuren 2018 (fully conditional specification);
Stekhoven and Buehlmann 2012 (MissForest); Doove et al. 2014 (draws from leaves); Breiman 1996 (stacking).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pofx.data import Data
from pofx.engines.donors import Donors
from pofx.engines.leave_out import blocks, known, normal_em
from pofx.kinds.base import Variable
from pofx.kinds.joined import Joined
from pofx.model import Card, Conditional, Given, Model, Quality, Report, Unsupported
from pofx.randomness import Rng

SURE = 6.0  # power of the share that a row knows, by which it counts where it is told how wide draws must be
WIDEST = 300  # coordinates; each is a regression on all others
NUMBERS = 2**22  # in completions that are redrawn together
ROOM = 5e7  # numbers that the rows of the first laws may take
MEANS = 16  # draws at least behind a mean, which averages the means of every gap given all else


@dataclass
class _Training:
    """What is learnt from: rows u `(N, P)`, what they know `(N, D)`, how often each occurs; steps done, time left."""

    u: Tensor
    seen: Tensor
    weight: Tensor
    rng: Rng
    report: Report
    step: int = 0
    time_left: bool = True

    def tell(self, loss: float) -> None:
        self.time_left = self.report({"step": self.step, "loss": loss})
        self.step += 1


class Conditionals(Model):
    """Every column given all others, by stacked regressions and donors, and a chain over what is missing.

    Args:
        trees: of each forest.
        least: rows that lend to a gap at least; None takes 20, or 1 for columns whose draws that makes much better.
        rounds: of redrawing every gap, in learning and in asking.
        versions: completions of the rows that are learnt from.
        rows: training rows at most.
    """

    card = Card(
        density="none (laws learnt one by one)",
        sampling="slow, chain",
        training="least squares, held-out stacking",
        latents="none",
        architecture="ridge, kernel and randomised trees",
        branch=("implicit", "chain"),
        incomplete="learns from the gaps, which it redraws: any known entries predict any other",
        summary="the law of every column given all others: fills the gaps of tables",
        reference="Heckerman et al. 2000; van Buuren 2018",
    )
    diagram = (
        ("known entries", "completions", "a normal law"),
        ("completions", "line, kernel, forest", "all but x_j"),
        ("line, kernel, forest", "E[x_j | the rest]", "stacked"),
        ("E[x_j | the rest]", "x_j", "an error of a row in the same leaf"),
        ("x_j", "completions", "each column in its turn, some rounds"),
    )
    sampler = Quality.ESTIMATE
    centre: Tensor
    scale: Tensor
    ends: Tensor
    m: Tensor
    s: Tensor

    def __init__(
        self, *, trees: int = 64, least: int | None = None, rounds: int = 3, versions: int = 20, rows: int = 4000
    ) -> None:
        super().__init__()
        if trees < 2 or (least is not None and least < 1) or rounds < 1 or versions < 1 or rows < 8:
            raise ValueError(
                f"conditionals: got trees={trees}, least={least}, rounds={rounds}, versions={versions}, rows={rows}; "
                f"expected at least 2, 1, 1, 1 and 8."
            )
        self.trees, self.least, self.rounds, self.versions, self.rows = trees, least, rounds, versions, rows

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
        self.register_buffer("ends", torch.zeros(2, at, dtype=torch.float64))  # least and greatest of each coordinate
        self.register_buffer("s", torch.eye(at, dtype=torch.float64))
        self.laws = nn.ModuleList([Donors(self.trees, self.least) for _ in self.variables])
        self.first = nn.ModuleList([Donors(self.trees, self.least) for _ in self.variables])
        self.levels = [_levels(v) for v in self.variables]

    # fitting
    def _fit_closed(self, data: Data, rng: Rng, report: Report) -> None:
        whole, seen, weight = self._training_rows(data, rng)
        t = _Training(self._standardised(whole, seen, weight), seen, weight, rng, report)
        self.m, self.s = normal_em(t.u, self._spread(seen), weight, time_left=report)
        if bool(seen.all()):
            self._rounds(t, t.u.unsqueeze(0), 1)
            for first, law in zip(self.first, self.laws, strict=True):
                first.load_state_dict(law.state_dict())
        else:
            self._learn_first(t)
            self._rounds(t, self._started(t.u, seen, self.versions, rng), self.rounds)

    def _learn_first(self, t: _Training) -> None:
        """The laws that the chain begins with: each number given the others, gaps of which have their normal means.

        Those means are made without x_j, so that nothing of it is in what foretells it. Once time is up, quickly.
        """
        means, shown = torch.empty(len(self.groups), *t.u.shape, dtype=torch.float64), self._spread(t.seen)
        for part in blocks(len(t.u), t.u.shape[1]):
            law = known(t.u[part], shown[part], self.m, self.s)
            for j, group in enumerate(self.groups):
                means[j, part] = law.without(group)
        for j in (j for j, group in enumerate(self.groups) if len(group) == 1):
            rows = t.seen[:, j]
            x, y, own = (
                self._others(means[j, rows], j).numpy(),
                t.u[rows][:, self.groups[j]].numpy(),
                t.weight[rows].numpy(),
            )
            discrete, quick = self.variables[j].discrete, not t.time_left
            t.tell(self.first[j].learn(x[None], y, own, own, discrete, t.rng, quick))  # type: ignore[operator]

    def _rounds(self, t: _Training, now: Tensor, rounds: int) -> None:
        """Learn every column and redraw its gaps in completions `(K, N, P)`, some times; the last in full, in time."""
        for k in range(rounds):
            last, losses = k + 1 == rounds or not t.time_left, []
            for j in t.rng.permutation(len(self.groups)).tolist():
                losses.append(self._learn(t, j, now, quick=not (last and t.time_left)))
                self._redraw(j, now, t.seen, t.rng)
                t.tell(sum(losses) / len(losses))
            if last:
                break

    def _learn(self, t: _Training, j: int, now: Tensor, quick: bool) -> float:
        """Column j given all others, in the rows that know it; the error on rows not seen.

        Where a row lacks other entries, these were drawn with x_j known and foretell it too well: it hardly counts.
        """
        rows = t.seen[:, j]
        x, y, own = self._others(now[:, rows], j).numpy(), t.u[rows][:, self.groups[j]].numpy(), t.weight[rows].numpy()
        sure = self._spread(t.seen)[rows].double().mean(1).numpy() ** SURE
        return self.laws[j].learn(x, y, own, own * sure, self.variables[j].discrete, t.rng, quick)  # type: ignore[operator]

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

    # coordinates: a number standardised, a category as the indicators of its levels
    def _standardised(self, whole: Tensor, seen: Tensor, weight: Tensor) -> Tensor:
        self.centre, self.scale = torch.zeros_like(self.centre), torch.ones_like(self.scale)
        u, known_u = self._coordinates(whole), self._spread(seen)
        for at in (g[0] for g in self.groups if len(g) == 1):
            value, own = u[known_u[:, at], at], weight[known_u[:, at]]
            if len(value):
                self.centre[at] = (value * own).sum() / own.sum()
                self.scale[at] = (((value - self.centre[at]).square() * own).sum() / own.sum()).sqrt().clamp_min(1e-9)
        u = (u - self.centre) / self.scale
        low, high = (torch.where(known_u, u, sign * torch.inf) for sign in (1, -1))
        self.ends = torch.stack([low.amin(0), high.amax(0)]).nan_to_num(0.0, 0.0, 0.0)
        return torch.where(known_u, u, torch.zeros_like(u))

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

    def _others(self, u: Tensor, j: int) -> Tensor:
        """All coordinates but those of column j."""
        first, last = self.groups[j][0], self.groups[j][-1] + 1
        return torch.cat([u[..., :first], u[..., last:]], -1)

    # the chain
    def _normal(self, u: Tensor, seen: Tensor, n: int, rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """n completions `(n, N, P)` by the normal law, its means and its deviations `(N, P)`."""
        every, shown = torch.empty(n, *u.shape, dtype=torch.float64), self._spread(seen)
        mean, deviation = torch.empty_like(u), torch.empty_like(u)
        root = torch.linalg.cholesky(self.s + 1e-6 * torch.eye(len(self.s), dtype=torch.float64))
        for rows in blocks(len(u), u.shape[1]):
            law = known(u[rows], shown[rows], self.m, self.s)
            z = rng.normal((n, *law.mean.shape), torch.float64) @ root.T  # then moved by as much as z_o is off
            every[:, rows] = law.mean + torch.where(shown[rows], 0.0, z - torch.einsum("npq,knq->knp", law.gain, z))
            mean[rows], deviation[rows] = law.mean, law.variance.sqrt()
        return every, mean, deviation

    def _started(self, u: Tensor, seen: Tensor, n: int, rng: Rng) -> Tensor:
        """n completions to begin with: categories by the normal law; numbers by the first laws, joined by its ranks."""
        every, mean, deviation = self._normal(u, seen, n, rng)
        for j, group in enumerate(self.groups):
            gap, at = (~seen[:, j]).nonzero(), torch.tensor(group)
            if len(group) > 1:
                every[:, gap, at] = nn.functional.one_hot(every[:, gap, at].argmax(2), len(group)).double()
            elif len(gap):
                level = torch.special.ndtr((every[:, gap, at] - mean[gap, at]) / deviation[gap, at].clamp_min(1e-9))
                features = self._others(mean[gap.squeeze(1)], j).repeat(n, 1)
                drawn = self.first[j].draw(features, rng, level.flatten())[1]  # type: ignore[operator]
                every[:, gap, at] = drawn.clamp(*self.ends[:, group[0]]).reshape(n, -1, 1)
        return every

    def _redraw(self, j: int, now: Tensor, seen: Tensor, rng: Rng) -> Tensor | None:
        """Draw the gaps of column j given all else, in completions `(n, N, P)`; their means, `(n, gaps, M)`."""
        gap, group = (~seen[:, j]).nonzero(), torch.tensor(self.groups[j])
        if not len(gap):
            return None
        features = self._others(now[:, gap.squeeze(1)], j).flatten(0, 1)
        if len(group) > 1:
            said = self.laws[j](features)
            code = rng.categorical(said.clamp_min(0.5 / self.rows).log())
            drawn = nn.functional.one_hot(code, len(group)).double()
        else:
            said, drawn = self.laws[j].draw(features, rng)  # type: ignore[operator]
            drawn = drawn.clamp(*self.ends[:, group[0]])
        now[:, gap, group] = drawn.reshape(len(now), len(gap), -1)
        return said.reshape(len(now), len(gap), -1)

    def _chain(self, whole: Tensor, seen: Tensor, n: int, rng: Rng) -> tuple[Tensor, Tensor]:
        """n completions of rows, `(n, N, P)`, and the mean of what was said of their gaps in the later rounds."""
        most = max(1, NUMBERS // (n * self.m.numel()))
        if len(whole) > most:
            parts = [self._chain(w, s, n, rng) for w, s in zip(whole.split(most), seen.split(most), strict=True)]
            return torch.cat([u for u, _ in parts], 1), torch.cat([mean for _, mean in parts])
        u = torch.where(self._spread(seen), self._coordinates(whole), torch.zeros(()).double())
        now = self._started(u, seen, n, rng)
        mean = torch.zeros_like(u)
        for k in range(self.rounds + 1):
            for j, group in enumerate(self.groups):
                said = self._redraw(j, now, seen, rng)
                if said is not None and k > self.rounds // 2:
                    gap = (~seen[:, j]).nonzero()
                    mean[gap, torch.tensor(group)] += said.mean(0) / (self.rounds - self.rounds // 2)
        return now, mean

    # hooks
    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        whole, mask = self.joined.whole(x, given, observed)
        seen = torch.ones_like(whole, dtype=torch.bool) if mask is None else mask
        said: list[Tensor] = []  # means of the last chain: where its draws are many, a mean rests on them

        def sample(n: int, rng: Rng) -> Tensor:
            u, means = self._chain(whole, seen, n, rng)
            said[:] = [means] if n >= MEANS else said
            event = self.joined.event(self._numbers(u, whole, seen).flatten(0, 1)).reshape(n, *x.shape)
            return torch.where(observed, x, event.to(x.dtype))

        def mean() -> Tensor:
            u = said[0] if said else self._chain(whole, seen, MEANS, Rng(0))[1]
            out = self._numbers(u.clamp(*self.ends).unsqueeze(0), whole, seen, nearest=False)[0]
            return torch.where(observed, x.double(), out[:, : self.space.size].reshape(x.shape))

        return Conditional(sample, None, Quality.ESTIMATE, mean)

    def _numbers(self, u: Tensor, whole: Tensor, seen: Tensor, nearest: bool = True) -> Tensor:
        """Rows `(N, D)` with their gaps as coordinates `(n, N, P)` have them; `(n, N, D)`."""
        out = whole.expand(len(u), *whole.shape).clone()
        for j, group in enumerate(self.groups):
            own = u[:, :, group]
            found = self._number(j, own[:, :, 0], nearest) if len(group) == 1 else own.argmax(2).double()
            out[:, :, j] = torch.where(seen[:, j], whole[:, j], found)
        return out

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        nothing = torch.zeros(count, *self.space.shape, dtype=self.space.torch_dtype)
        whole, mask = self.joined.whole(nothing, given, torch.zeros_like(nothing, dtype=torch.bool))
        seen = torch.ones_like(whole, dtype=torch.bool) if mask is None else mask
        return self.joined.event(self._numbers(self._chain(whole, seen, 1, rng)[0], whole, seen)[0])


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
