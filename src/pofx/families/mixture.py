"""Mixture: K components, exact answers to everything.

    p(x, c) = sum_k pi_k  p_k(x) p_k(c)             p(x | c) = p(x, c) / p(c)
    p_k(x)  = product over columns of:  a table (category, binary, short ordinal),
              the mass of a bin under a normal (long ordinal, real at a resolution),  a normal density (resolution 0)

The densities of a component may have a full covariance, one that all components share (tied), or a low rank and a
diagonal (factor analysers: u = m_k + L_k z + e, Ghahramani and Hinton 1996). The givens are columns of the joint
mixture: for one category that is a set of weights pi_k|c over shared components, or components of its own (`separate`:
with one for each, Bayes' rule gives naive Bayes, linear and quadratic discriminants); an absent given is summed out.
Offers sample, log_prob (of observed entries too), condition, and denoise and score for densities, all in closed form.
Unless it is diagonal, columns at a resolution are dequantised: log p is then a lower bound (Theis et al. 2016).
Fitted by EM in float64, exact with missing entries; the number of components by validation likelihood.
References: Murphy 2012, chapter 11; Fraley and Raftery 2007 (the prior); Theis et al. 2016 (arXiv:1511.01844).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pofx.data import Batch, Data
from pofx.engines.bins import Columns
from pofx.engines.components import Binned, Block, Table
from pofx.engines.em import Mixed, best_start, em
from pofx.engines.factors import Factor, Owned
from pofx.engines.normals import Normal
from pofx.kinds.base import Variable
from pofx.kinds.joined import Joined, numbers_of
from pofx.model import Card, Conditional, Given, Model, Quality, Report, Value
from pofx.randomness import Rng

LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256)
WORTH = 0.01  # nats a row that more components must gain on the validation rows
FORMS = ("table", "binned", "normal", "owned")
PRIORS = ("marginal", "round")
COVARIANCES = ("auto", "full", "diagonal", "tied", "factor")


@dataclass(frozen=True)
class Part:
    """Some entries of (x, c) that one block describes."""

    form: str
    entries: list[int]
    columns: Columns | None = None


class Mixture(Model):
    """A mixture of products, of normals with full covariances where x is a density.

    Args:
        components: K, or "auto" for the best of a ladder by validation likelihood.
        covariance: "diagonal", "full", "tied" (one full covariance for all components), "factor" (low rank and a
            diagonal), or "auto": full where every entry is a density (and there are at most 100).
        factors: of each component, with covariance="factor".
        separate: the name of a given category, each code of which has `components` of its own.
        smoothing: pseudo-observations of the marginal that each component has seen before its rows.
        prior: what the covariances of normals are pulled to: the "marginal" variance of each entry, or their mean in
            all directions ("round"): better from few rows of pictures, whose margins hardly vary.
        blur: how far tables of ordinals are smoothed over neighbouring levels, as a share of the levels.
        longest: an ordinal with at most this many levels is a table, a longer one a normal seen through bins.
        restarts: short runs of EM from different clusters, of which the best goes on.
        iterations: of EM at most; it stops when an iteration gains less than `tolerance` nats a row.
    """

    card = Card(
        density="exact, fast",
        sampling="fast",
        training="EM, closed form",
        latents="a category",
        architecture="mixture",
        branch=("explicit", "tractable"),
        incomplete="exact: EM over the observed entries",
        summary="a mixture of products or of normals: every marginal and conditional in closed form",
        reference="Dempster, Laird and Rubin 1977; Murphy 2012, chapter 11",
        tier="proven",
    )

    def __init__(
        self,
        *,
        components: int | str = "auto",
        covariance: str = "auto",
        factors: int = 4,
        separate: str | None = None,
        smoothing: float = 2.0,
        prior: str = "marginal",
        blur: float = 0.125,
        longest: int = 32,
        restarts: int = 2,
        iterations: int = 200,
        tolerance: float = 1e-3,
    ) -> None:
        super().__init__()
        if covariance not in COVARIANCES:
            raise ValueError(f"mixture: covariance is {covariance!r}; expected one of {', '.join(COVARIANCES)}.")
        if factors < 1:
            raise ValueError(f"mixture: factors is {factors}; expected a whole number >= 1.")
        if components != "auto" and not (isinstance(components, int) and components >= 1):
            raise ValueError(f"mixture: components is {components!r}; expected 'auto' or a whole number >= 1.")
        if prior not in PRIORS:
            raise ValueError(f"mixture: prior is {prior!r}; expected one of {', '.join(PRIORS)}.")
        self.components, self.covariance, self.smoothing, self.prior = components, covariance, smoothing, prior
        self.blur, self.longest, self.factors, self.separate = blur, longest, factors, separate
        self.restarts, self.iterations, self.tolerance = restarts, iterations, tolerance

    def _build(self) -> None:
        self.joined = Joined(self.space, self.given)
        variables = self.joined.variables
        self.densities = all(v.density for v in variables[: self.space.size])
        auto = self.densities and self.space.size <= 100
        self.full = self.covariance in ("full", "tied", "factor") or (self.covariance == "auto" and auto)
        self.owned, self.classes = self._classes()
        self.parts = self._parts(variables)
        self.blocks = torch.nn.ModuleList([self._block(part) for part in self.parts])
        self.register_buffer("log_pi", torch.zeros(1, dtype=torch.float64))

    def _classes(self) -> tuple[int, int]:
        """The entry of the given whose codes have components of their own (-1: none), and how many codes."""
        entry = self.space.size
        for name, space in self.given.items():
            if name == self.separate:
                if space.shape != () or not space.discrete:
                    raise ValueError(f"mixture: separate={name!r} is no category.")
                return entry, space.variables[0].levels
            entry += space.size
        if self.separate is not None:
            raise ValueError(f"mixture: separate={self.separate!r}; it is given {sorted(self.given) or 'nothing'}.")
        return -1, 1

    def _parts(self, variables: list[Variable]) -> list[Part]:
        forms: dict[str, list[int]] = {form: [] for form in FORMS}
        for i, v in enumerate(variables):
            forms["owned" if i == self.owned else self._form(v, i < self.space.size)].append(i)
        numbers = numbers_of(variables)
        columns = Columns.of(numbers)
        place = {entry: k for k, entry in enumerate(numbers.smooth)}
        taken = {
            f: None if f in ("table", "owned") else columns.take([place[i] for i in e]) for f, e in forms.items() if e
        }
        self.levels = [variables[i].levels for i in forms["table"]]
        return [Part(form, forms[form], taken[form]) for form in taken]

    def _form(self, v: Variable, of_x: bool) -> str:
        if v.support in ("category", "binary") or (v.discrete and v.levels <= self.longest):
            return "table"
        return "normal" if v.density or (of_x and self.full) else "binned"

    def _block(self, part: Part) -> Block:
        if part.form == "table":
            ordered = [self.joined.variables[i].support == "ordinal" for i in part.entries]
            blur = [self.blur * n if o and n > 4 else 0.0 for n, o in zip(self.levels, ordered, strict=True)]
            return Table(self.levels, self.smoothing, blur)
        if part.form == "owned":
            return Owned(self.classes)
        if part.form == "binned":
            return Binned(len(part.entries), self.smoothing)
        few = self.smoothing / 10  # a normal has few parameters, and no level is unseen
        if self.covariance == "factor":
            return Factor(len(part.entries), self.factors, few, self.prior == "round")
        return Normal(len(part.entries), self.full, few, self.covariance == "tied", self.prior == "round")

    def offers(self) -> frozenset[str]:
        shared = any(i >= self.space.size for p in self.parts if p.form == "normal" for i in p.entries)
        chart = {"denoise", "score"} if self.densities and not shared else set()
        return frozenset({"sample", "log_prob", "condition"} | chart)

    @property
    def relaxed(self) -> bool:
        """Whether some column is dequantised, so that log p is a bound."""
        return any(p.form == "normal" and bool((p.columns.step > 0).any()) for p in self.parts)  # type: ignore[union-attr]

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        if prefix + "log_pi" in state:  # the number of components is only known from the file
            self.log_pi = torch.empty_like(state[prefix + "log_pi"])
        super()._load_from_state_dict(state, prefix, *rest)

    # fitting
    def _fit_closed(self, data: Data, rng: Rng, report: Report) -> None:
        train, valid = self._held_out(data, rng)
        x, mask = self.joined.whole(train.x, train.given, train.observed)
        rows, features = self._rows(x, mask, rng, train=True), self._features(x, mask)
        ladder = list(LADDER) if self.components == "auto" else [int(self.components)]
        ladder = [k * self.classes for k in ladder if k * self.classes <= len(x) or k == ladder[0]]
        best, lowest, since, step = None, math.inf, 0, 0
        for components in ladder:
            step += self._fit_components(components, rows, features, rng, report)
            loss, held = (self._loss(part, rng) if part is not None else math.nan for part in (train, valid))
            time_left = report({"step": step, "components": components, "loss": loss, "valid": held})
            score, since = (loss if valid is None else held), since + 1
            if best is None or score < lowest - WORTH:
                best, lowest, since = (self.log_pi, copy.deepcopy(self.blocks)), score, 0
            if since == 2 or not time_left:
                break
        assert best is not None
        self.log_pi, self.blocks = best

    def _fit_components(self, components: int, rows: list[Any], features: Tensor, rng: Rng, report: Report) -> int:
        mixture = Mixed(list(self.blocks), self.log_pi)  # type: ignore[arg-type]
        best_start(mixture, rows, features, components, self.restarts if components > 1 else 1, rng)
        trace = em(mixture, rows, self.iterations, self.tolerance, report)
        self.log_pi = mixture.log_pi
        return len(trace)

    def _held_out(self, data: Data, rng: Rng) -> tuple[Batch, Batch | None]:
        train = data.part("train")
        if self.components != "auto" or len(data.split.get("valid", ())):
            return train, data.part("valid") if len(data.split.get("valid", ())) else None
        order, count = rng.permutation(len(train)), max(1, len(train) // 10)
        return train.take(order[count:]), train.take(order[:count])

    def _loss(self, part: Batch, rng: Rng) -> float:
        return -float(self._log_prob(part.x, part.given, part.observed, 1, rng).value.mean())

    # rows: (x, c) as one float64 matrix with a mask, and as what the blocks want
    def _rows(self, x: Tensor, mask: Tensor | None, rng: Rng, train: bool = False) -> list[Any]:
        rows = []
        for part, block in zip(self.parts, self.blocks, strict=True):
            own, seen = x[:, part.entries], None if mask is None else mask[:, part.entries]
            seen = None if seen is None or bool(seen.all()) else seen
            rows.append(block.prepare(self._coordinates(part, own, rng), seen, train))  # type: ignore[operator]
        return rows

    def _coordinates(self, part: Part, x: Tensor, rng: Rng) -> Any:
        if part.columns is None:
            return x
        columns = part.columns.to(x.device)
        if part.form == "binned":
            return columns.edges(x)
        if self.relaxed:
            x = x + columns.step * (rng.uniform(tuple(x.shape), torch.float64) - 0.5)
        return columns.coordinates(x)

    def _features(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """What k-means sees: numbers standardised, categories as indicators of unit length, gaps at the mean."""
        seen = torch.ones_like(x) if mask is None else mask.double()
        mean = (x * seen).sum(0) / seen.sum(0).clamp_min(1)
        centred = (x - mean) * seen
        features = centred / (centred.square().mean(0).sqrt() + 1e-3)
        table = next((p for p in self.parts if p.form == "table"), None)
        if table is None:
            return features
        parts = [features]
        for entry, levels in zip(table.entries, self.levels, strict=True):
            if levels > 2 and self.joined.variables[entry].support == "category":
                features[:, entry] = 0
                code = x[:, entry].long().clamp(0, levels - 1)
                parts.append(torch.nn.functional.one_hot(code, levels).double() * seen[:, entry : entry + 1])
        return torch.cat(parts, 1)

    # hooks
    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        nothing = torch.zeros(count, *self.space.shape, device=self.device)
        x, mask = self.joined.whole(nothing, given, torch.zeros_like(nothing, dtype=torch.bool))
        pick = rng.categorical(self._log_given(given, count, rng))
        return self.joined.event(self._draw(pick, x, mask, rng))

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        whole, mask = self.joined.whole(x, given, observed)
        count = draws if self.relaxed else 1
        terms = torch.stack([self._log_part(whole, mask, rng) for _ in range(count)])
        log_p = torch.logsumexp(terms, 0) - math.log(count)
        if given:
            log_p = log_p - self._log_part(whole, self.joined.given_only(len(whole), given, whole.device), rng)
        return Value(log_p, Quality.LOWER if self.relaxed else Quality.EXACT)

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        whole, mask = self.joined.whole(x, given, observed)
        rows = len(x)

        def sample(n: int, rng: Rng) -> Tensor:
            logits = self._log_joint(self._rows(whole, mask, rng))
            pick = rng.categorical(logits.expand(n, -1, -1).reshape(n * rows, -1))
            gaps = None if mask is None else mask.repeat(n, 1)
            draw = self.joined.event(self._draw(pick, whole.repeat(n, 1), gaps, rng)).reshape(n, *x.shape)
            return torch.where(observed, x, draw.to(x.dtype))

        def log_prob(full: Tensor) -> Value:
            rng = Rng(0)  # only a dequantised column draws: the same noise every time, for a smooth comparison
            joint = self._log_prob(full, given, None, 32, rng)
            known = self._log_prob(x, given, observed, 32, rng)
            return joint.shifted(-known.value, -known.quality)

        # means of what is seen through bins have no closed form here: draws tell them
        plain = all(p.form == "normal" for p in self.parts if min(p.entries) < self.space.size) and not any(
            v.discrete or v.support == "bounded" for v in self.space.variables
        )
        mean = (lambda: self._mean(whole, mask).reshape(x.shape)) if plain and mask is not None else None
        return Conditional(sample, log_prob, Quality.ESTIMATE if self.relaxed else Quality.EXACT, mean)

    def _mean(self, whole: Tensor, mask: Tensor) -> Tensor:
        """E[x | what the mask shows] of real columns `(N, D)`."""
        rows = self._rows(whole, mask, Rng(0))
        r = self._log_joint(rows).softmax(1)
        k = next(i for i, block in enumerate(self.blocks) if isinstance(block, Normal))
        part, seen = self.parts[k], mask[:, self.parts[k].entries]
        u = self.normal.expected(rows[k][0], seen, r)
        columns = part.columns.to(u.device)  # type: ignore[union-attr]
        out = whole.clone()
        out[:, part.entries] = torch.where(seen, whole[:, part.entries], u * columns.scale + columns.mean)
        return out[:, : self.space.size]

    def _denoise(self, u_t: Tensor, alpha_t: Tensor, sigma_t: Tensor, given: Given) -> Tensor:
        flat = self.joined.from_chart(u_t, self.chart)
        a, s = (v.double().reshape(-1, 1).expand(len(flat), 1) for v in (alpha_t, sigma_t))
        log_p, mean = self.normal.denoise(flat, a, s)
        r = (log_p + self._log_given(given, len(flat), Rng(0))).softmax(1)
        return self.joined.to_chart((r.unsqueeze(2) * mean).sum(1), u_t, self.chart)

    def _score(self, u: Tensor, given: Given) -> Tensor:
        flat = self.joined.from_chart(u, self.chart)
        log_p = self.normal.log_prob(self.normal.prepare(flat, None))
        r = (log_p + self._log_given(given, len(flat), Rng(0))).softmax(1)
        return self.joined.to_chart((r.unsqueeze(2) * self.normal.pull(flat)).sum(1), u, self.chart)

    # what the hooks share
    @property
    def normal(self) -> Normal:
        """The block of densities."""
        return next(b for b in self.blocks if isinstance(b, Normal))

    def _log_joint(self, rows: list[Any]) -> Tensor:
        return Mixed(list(self.blocks), self.log_pi).log_joint(rows)  # type: ignore[arg-type]

    def _log_given(self, given: Given, count: int, rng: Rng) -> Tensor:
        """log pi_k|c, `(count, K)`."""
        if not given:
            return self.log_pi.expand(count, -1)
        nothing = torch.zeros(count, *self.space.shape, device=self.device)
        whole, _ = self.joined.whole(nothing, given, None)
        rows = self._rows(whole, self.joined.given_only(len(whole), given, whole.device), rng)
        return self._log_joint(rows).log_softmax(1)

    def _log_part(self, x: Tensor, mask: Tensor | None, rng: Rng) -> Tensor:
        """log p of the observed columns in the data's units, `(B,)`."""
        rows = self._rows(x, mask, rng)
        total = torch.logsumexp(self._log_joint(rows), 1)
        for part, prepared in zip(self.parts, rows, strict=True):
            seen = None if mask is None else mask[:, part.entries]
            own = x[:, part.entries]
            if part.form == "normal" and part.columns is not None:
                columns = part.columns.to(x.device)
                step = torch.where(columns.step > 0, columns.step, torch.ones_like(columns.step))
                slope = columns.log_slope(prepared[0]) + step.log()  # of the very u that was drawn
                total = total + (slope if seen is None else slope * seen).sum(1)
            outside = ~self._inside(part, own) if seen is None else ~self._inside(part, own) & seen
            total = total.masked_fill(outside.any(1), -torch.inf)
        return total

    def _inside(self, part: Part, x: Tensor) -> Tensor:
        if part.columns is not None:
            return part.columns.to(x.device).inside(x)
        levels = self.levels if part.form == "table" else [self.classes]
        return (x >= 0) & (x < torch.tensor(levels, device=x.device)) & (x == x.round())

    def _draw(self, pick: Tensor, x: Tensor, mask: Tensor | None, rng: Rng) -> Tensor:
        """Rows `(n, D + C)` from the components `pick`, observed entries as they are."""
        out = x.clone()
        rows = self._rows(x, mask, rng)
        for part, block, prepared in zip(self.parts, self.blocks, rows, strict=True):
            seen = None if mask is None else mask[:, part.entries]
            known = (prepared[0], seen) if isinstance(block, Normal) and seen is not None else ()
            draw = block.sample(pick, rng, *known)  # type: ignore[operator]
            draw = draw if part.columns is None else part.columns.to(x.device).restore(draw)
            out[:, part.entries] = draw if seen is None else torch.where(seen, x[:, part.entries], draw)
        return out
