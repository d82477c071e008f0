"""KDE: every training row is a component.

    p(x, c) = 1/N sum_i prod_j K_j(x_j | x_ij)                     p(x | c) = p(x, c) / p(c)
    real          K = N(u; u_i, h^2), or the mass of the bin at a resolution
    ordinal       K = (1 - e) [mass of the level's bin under N(u_i, h^2)] + e / L,     e = 1 / (N + 1)
    category      K = 1 - l where equal, l / (L - 1) where not          (Aitchison and Aitken 1976)

Offers sample, log_prob (of observed entries too) and condition, all exact; denoise and score for densities. The given
categories select rows of the class (l = 1e-6), other givens weigh rows by their own kernels.
Fitted by maximum leave-one-out likelihood over the bandwidths h and l, one for each column, with the EM updates
h^2 = mean of r_qi (u_q - u_i)^2 and l = mean of r_qi [x_q != x_i]. Rows with gaps are no centres.
References: Duin 1976 (leave-one-out); Aitchison and Aitken 1976; Li and Racine 2003.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pofx.data import Data
from pofx.engines.bins import LOG_2PI, Columns, log_interval
from pofx.engines.kernels import log_kernel_sum
from pofx.kinds.joined import Joined, numbers_of
from pofx.model import Card, Conditional, Given, Model, Report, Unsupported, Value
from pofx.randomness import Rng

BLOCK = 2**22  # numbers in a block of the kernel matrix
SAME = 1e-6  # l of a given category
NARROWEST = 1e-3  # bandwidth of a density, in standard deviations: repeated values must not make a spike
STEPS = torch.tensor([0.5, 0.7, 0.85, 0.95, 1.0, 1.05, 1.2, 1.4, 2.0], dtype=torch.float64)  # tried for an ordinal's h


class KDE(Model):
    """Kernel density estimation for mixed data.

    Args:
        bandwidth: of every real and ordinal column in standard deviations, or "auto": one for each by leave-one-out.
        queries: rows (at most) whose leave-one-out likelihood is maximised.
        iterations: of the bandwidth updates.
    """

    card = Card(
        density="exact, slow with many rows",
        sampling="fast",
        training="leave-one-out likelihood, a few bandwidths",
        latents="a training row",
        architecture="the training rows",
        branch=("explicit", "tractable"),
        incomplete="complete rows only; an error where there is none",
        summary="a kernel on every training row: no assumption, and the memory of all rows",
        reference="Rosenblatt 1956; Parzen 1962; Duin 1976",
        tier="proven",
    )

    def __init__(self, *, bandwidth: float | str = "auto", queries: int = 512, iterations: int = 25) -> None:
        super().__init__()
        if bandwidth != "auto" and not (isinstance(bandwidth, (int, float)) and bandwidth > 0):
            raise ValueError(f"kde: bandwidth is {bandwidth!r}; expected 'auto' or a number > 0.")
        self.bandwidth, self.queries, self.iterations = bandwidth, queries, iterations

    def _build(self) -> None:
        self.joined = Joined(self.space, self.given)
        self.variables = self.joined.variables
        numbers = numbers_of(self.variables)
        self.columns = Columns.of(numbers)  # of the columns that are no categories
        self.place = {entry: k for k, entry in enumerate(numbers.smooth)}
        self.smooth = [i for i in numbers.smooth if self.variables[i].density]
        self.masses = [i for i in range(len(self.variables)) if i not in self.smooth]
        self.register_buffer("centres", torch.zeros(0, len(self.variables), dtype=torch.float64))
        self.register_buffer("h", torch.ones(len(self.variables), dtype=torch.float64))

    def offers(self) -> frozenset[str]:
        chart = len([i for i in self.smooth if i < self.space.size]) == self.space.size
        return frozenset({"sample", "log_prob", "condition"} | ({"denoise", "score"} if chart else set()))

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
        if prefix + "centres" in state:  # the number of rows is only known from the file
            self.centres = torch.empty_like(state[prefix + "centres"])
        super()._load_from_state_dict(state, prefix, *rest)  # type: ignore[arg-type]

    # fitting
    def _fit_closed(self, data: Data, rng: Rng, report: Report) -> None:
        train = data.part("train")
        whole, mask = self.joined.whole(train.x, train.given, train.observed)
        complete = torch.ones(len(whole), dtype=torch.bool) if mask is None else mask.all(1)
        if not complete.any():
            raise Unsupported(
                "kde: every row has a missing entry, and only complete rows can be centres; impute first."
            )
        self.centres = whole[complete]
        n, d = len(self.centres), max(1, len(self.place))
        silverman = (4 / (d + 2) / n) ** (1 / (d + 4))
        start = silverman if self.bandwidth == "auto" else float(self.bandwidth)
        self.h = torch.tensor([self._start(i, start) for i in range(len(self.variables))], dtype=torch.float64)
        if self.bandwidth == "auto" and n > 2:
            self._choose(rng, report)

    def _start(self, entry: int, h: float) -> float:
        if entry in self.place:
            return h
        return SAME if entry >= self.space.size else 0.1

    def _choose(self, rng: Rng, report: Report) -> None:
        """EM over the bandwidths: which row explains a held-out one, and how far away it is."""
        n = len(self.centres)
        index = rng.permutation(n)[: self.queries]
        rows, before = self.centres[index], -math.inf
        for k in range(self.iterations):
            sums, total = None, 0.0
            for part, log_k in self._blocks(rows, None):
                log_k[torch.arange(len(log_k)), index[part]] = -torch.inf
                log_p = torch.logsumexp(log_k, 1)
                given = self._log_given(rows[part], index[part]) if self.given else 0.0
                total += float((log_p - given).sum()) - len(log_p) * (0.0 if self.given else math.log(n - 1))
                found = self._moments(rows[part], (log_k - log_p.unsqueeze(1)).exp())
                sums = found if sums is None else [a + b for a, b in zip(sums, found, strict=True)]
            assert sums is not None
            self.h = torch.tensor([self._update(i, sums[i], len(rows)) for i in range(len(sums))], dtype=torch.float64)
            total /= len(rows)
            if not report({"step": k + 1, "loss": -total}) or total - before < 1e-3:
                break
            before = total

    def _moments(self, rows: Tensor, R: Tensor) -> list[Tensor]:
        """For each column, what its update needs: a squared distance, a share, or how often levels meet."""
        found = []
        for i, v in enumerate(self.variables):
            if i not in self.place:
                found.append((R * (rows[:, i : i + 1] != self.centres[:, i])).sum())
            elif v.discrete:
                meet = R.new_zeros(len(R), v.levels).index_add_(1, self.centres[:, i].long(), R)
                found.append(R.new_zeros(v.levels, v.levels).index_add_(0, rows[:, i].long(), meet))
            else:
                q, c = self._u(rows, [i]).squeeze(1), self._u(self.centres, [i]).squeeze(1)
                found.append((q.square() * R.sum(1)).sum() - 2 * q @ (R @ c) + (R @ c.square()).sum())
        return found

    def _update(self, i: int, found: Tensor, count: int) -> float:
        v = self.variables[i]
        if i not in self.place:
            share = (float(found) + 0.5) / (count + 1)
            return SAME if i >= self.space.size else min(share, (v.levels - 1) / max(v.levels, 2))
        if v.discrete:
            tried = STEPS * float(self.h[i])
            level = torch.arange(v.levels, dtype=torch.float64)
            gain = torch.stack([(found * self._log_mass(i, level, level, float(h))).sum() for h in tried])
            return max(float(tried[gain.argmax()]), 0.05 / v.scale)
        return max(math.sqrt(max(float(found), 0.0) / count), NARROWEST, v.resolution / v.scale / 8)

    # kernels
    def _u(self, whole: Tensor, entries: list[int]) -> Tensor:
        columns = self.columns.take([self.place[i] for i in entries]).to(whole.device)
        return columns.coordinates(whole[:, entries])

    def _log_mass(self, i: int, x: Tensor, centre: Tensor, h: float) -> Tensor:
        """log K of a column that has masses, for values `(U,)` and centres `(C,)`: `(U, C)`."""
        v = self.variables[i]
        if i not in self.place:
            same = x.unsqueeze(1) == centre
            fits = ((x >= 0) & (x < v.levels) & (x == x.round())).unsqueeze(1)
            equal, other = x.new_tensor([1 - h if v.levels > 1 else 1.0, h / max(v.levels - 1, 1)])
            return (torch.where(same, equal, other) * fits).log()
        columns = self.columns.take([self.place[i]]).to(x.device)
        a, b = columns.edges(x.unsqueeze(1))
        c = columns.coordinates(centre.unsqueeze(1)).squeeze(1)
        log_p = log_interval((a - c) / h, (b - c) / h)
        if v.discrete:
            share = 1 / (len(self.centres) + 1)
            log_p = torch.logaddexp(log_p + math.log1p(-share), torch.tensor(share / v.levels, dtype=x.dtype).log())
        return log_p.masked_fill(~columns.inside(x.unsqueeze(1)), -torch.inf)

    def _log_kernels(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        """log prod_j K_j over the observed columns, `(B, N)`, without the slopes of the coordinates."""
        out = rows.new_zeros(len(rows), len(self.centres))
        if self.smooth:
            h = self.h[self.smooth]
            seen = None if mask is None else mask[:, self.smooth].double()
            out = _log_normals(self._u(rows, self.smooth) / h, self._u(self.centres, self.smooth) / h, h, seen)
        for i in self.masses:
            seen = None if mask is None else mask[:, i]
            if seen is not None and not seen.any():
                continue
            values, which = torch.unique(rows[:, i], return_inverse=True)
            centre, place = torch.unique(self.centres[:, i], return_inverse=True)
            log_k = self._log_mass(i, values, centre, float(self.h[i]))[:, place][which]
            out += log_k if seen is None else log_k.masked_fill(~seen.unsqueeze(1), 0.0)
        return out

    def _blocks(self, rows: Tensor, mask: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Row numbers and their part of the kernel matrix."""
        size = max(1, BLOCK // max(1, len(self.centres)))
        for part in torch.arange(len(rows), device=rows.device).split(size):
            yield part, self._log_kernels(rows[part], None if mask is None else mask[part])

    def _log_sum(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        """log p of the observed columns in the data's units, `(B,)`."""
        out = rows.new_zeros(len(rows))
        if mask is None and not self.masses:
            h = self.h
            out = log_kernel_sum(self._u(rows, self.smooth) / h, self._u(self.centres, self.smooth) / h)
            out = out - h.log().sum() - 0.5 * len(h) * LOG_2PI
        else:
            for part, log_k in self._blocks(rows, mask):
                out[part] = torch.logsumexp(log_k, 1)
        out = out - math.log(len(self.centres))
        if not self.smooth:
            return out
        columns = self.columns.take([self.place[i] for i in self.smooth]).to(rows.device)
        slope = columns.log_slope(self._u(rows, self.smooth))
        inside = columns.inside(rows[:, self.smooth])
        if mask is not None:
            slope, inside = slope * mask[:, self.smooth], inside | ~mask[:, self.smooth]
        return (out + slope.sum(1)).masked_fill(~inside.all(1), -torch.inf)

    def _log_given(self, rows: Tensor, index: Tensor) -> Tensor:
        """log sum of the kernels of the givens over the other rows."""
        log_k = self._log_kernels(rows, self.joined.given_only(len(rows), dict.fromkeys(self.given, rows), self.device))
        log_k[torch.arange(len(log_k)), index] = -torch.inf
        return torch.logsumexp(log_k, 1)

    # hooks
    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        nothing = torch.zeros(count, *self.space.shape, device=self.device)
        if not given:
            pick = rng.integers(len(self.centres), (count,))
        else:
            whole, mask = self.joined.whole(nothing, given, torch.zeros_like(nothing, dtype=torch.bool))
            pick = self._pick(whole, mask, 1, rng).squeeze(0)
        return self.joined.event(self._draw(pick, rng))

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        whole, mask = self.joined.whole(x, given, observed)
        log_p = self._log_sum(whole, mask)
        return Value(
            log_p - self._log_sum(whole, self.joined.given_only(len(x), given, self.device)) if given else log_p
        )

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        whole, mask = self.joined.whole(x, given, observed)

        def sample(n: int, rng: Rng) -> Tensor:
            pick = self._pick(whole, mask, n, rng)
            draw = self.joined.event(self._draw(pick.flatten(), rng)).reshape(n, *x.shape)
            return torch.where(observed, x, draw.to(x.dtype))

        def log_prob(full: Tensor) -> Value:
            joint, _ = self.joined.whole(full, given, None)
            every = torch.ones_like(joint, dtype=torch.bool)
            every[:, self.space.size :] = self.joined.given_only(len(joint), given, self.device)[:, self.space.size :]
            known = whole.new_ones(whole.shape, dtype=torch.bool) if mask is None else mask
            return Value(self._log_sum(joint, every) - self._log_sum(whole, known))

        return Conditional(sample, log_prob)

    def _pick(self, whole: Tensor, mask: Tensor | None, n: int, rng: Rng) -> Tensor:
        """Centres drawn in proportion to their kernels on the observed columns, `(n, B)`."""
        u, out = rng.uniform((n, len(whole)), torch.float64), torch.empty(n, len(whole), dtype=torch.long)
        out = out.to(whole.device)
        for part, log_k in self._blocks(whole, mask):
            share = log_k.softmax(1).cumsum(1)
            place = torch.searchsorted(share, (u[:, part] * share[:, -1]).T.contiguous(), right=True)
            out[:, part] = place.clamp_max(len(self.centres) - 1).T
        return out

    def _draw(self, pick: Tensor, rng: Rng) -> Tensor:
        """One row from the kernels around each picked centre, `(n, D + C)`."""
        out = self.centres[pick].clone()
        if self.place:
            entries = list(self.place)
            u = self._u(out, entries) + self.h[entries] * rng.normal((len(pick), len(entries)), torch.float64)
            out[:, entries] = self.columns.to(out.device).restore(u)
        for i in self.masses:
            v = self.variables[i]
            if v.discrete:
                n = len(self.centres)
                # the uniform share of an ordinal includes its own level, that of a category does not
                change = rng.bernoulli(1 / (n + 1) if i in self.place else float(self.h[i]), (len(pick),))
                levels = v.levels if i in self.place else max(v.levels - 1, 1)
                other = rng.integers(levels, (len(pick),)).double()
                other = other if i in self.place else (out[:, i] + 1 + other) % v.levels
                out[:, i] = torch.where(change, other, out[:, i])
        return out

    def _denoise(self, u_t: Tensor, alpha_t: Tensor, sigma_t: Tensor, given: Given) -> Tensor:
        a, s = (v.double().reshape(-1, 1).expand(len(u_t), 1) for v in (alpha_t, sigma_t))
        return self.joined.to_chart(
            self._posterior(self.joined.from_chart(u_t, self.chart), a, s, given), u_t, self.chart
        )

    def _score(self, u: Tensor, given: Given) -> Tensor:
        flat, one = self.joined.from_chart(u, self.chart), torch.ones(len(u), 1, dtype=torch.float64, device=u.device)
        r = self._weights(flat, one, 0 * one, given)
        d = self.space.size
        pull = (r @ self._u(self.centres, self.smooth)[:, :d] - flat) / self.h[:d].square()
        return self.joined.to_chart(pull, u, self.chart)

    def _posterior(self, flat: Tensor, a: Tensor, s: Tensor, given: Given) -> Tensor:
        mean = self._weights(flat, a, s, given) @ self._u(self.centres, self.smooth)[:, : self.space.size]
        variance = self.h[: self.space.size].square()
        return mean + a * variance / (a.square() * variance + s.square()) * (flat - a * mean)

    def _weights(self, flat: Tensor, a: Tensor, s: Tensor, given: Given) -> Tensor:
        """The posterior over the centres of u_t = a u + s e, `(B, N)`."""
        d, centres = self.space.size, self._u(self.centres, self.smooth)[:, : self.space.size]
        out = flat.new_zeros(len(flat), len(centres))
        for j in range(d):
            variance = a.square() * self.h[j].square() + s.square()
            out -= 0.5 * (flat[:, j : j + 1] - a * centres[:, j]).square() / variance
        if given:
            nothing = torch.zeros(len(flat), *self.space.shape, device=flat.device)
            whole, _ = self.joined.whole(nothing, given, None)
            out += self._log_kernels(whole, self.joined.given_only(len(flat), given, self.device))
        return out.softmax(1)


def _log_normals(q: Tensor, c: Tensor, h: Tensor, seen: Tensor | None) -> Tensor:
    """log prod_j N(q_j; c_j, 1) / h_j over the seen columns: `(B, N)`."""
    constant = h.log() + 0.5 * LOG_2PI
    if seen is None:
        distance = torch.cdist(q, c, compute_mode="donot_use_mm_for_euclid_dist")
        return -0.5 * distance.square() - constant.sum()
    q = q * seen
    square = q.square().sum(1, keepdim=True) - 2 * q @ c.T + seen @ c.square().T
    return -0.5 * square.clamp_min(0) - (seen @ constant).unsqueeze(1)
