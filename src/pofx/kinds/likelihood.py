"""Likelihood: parameters -> a product of scalar distributions, one per entry, chosen by the entry's support.

    category, binary, short ordinal     P(k) = softmax(l)_k
    long ordinal                        sum_m pi_m [F_m(k + 1/2) - F_m(k - 1/2)]            truncated to the K levels
    real at resolution r                sum_m pi_m [F_m(x + r/2) - F_m(x - r/2)]            a probability
    real at resolution 0                sum_m pi_m f_m(x)                                   a density

F_m is the logistic distribution: its bin masses are exact and stable in closed form, which the normal's are not.
Parameters of one x are flat, `(*batch, size)`; entries share `log_prob`, `sample` and `mean` whatever their support.
References: PixelCNN++, Salimans et al. 2017 (arXiv:1701.05517).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pofx.kinds.base import Space, Variable
from pofx.randomness import Rng


@dataclass(frozen=True)
class Group:
    """Entries that share one form of distribution, so that they are computed together."""

    entries: tuple[int, ...]
    distribution: Categorical | LogisticMixture
    offset: int
    width: int


class Categorical:
    """Softmax over K codes: K parameters an entry. `names`: the codes have no order."""

    def __init__(self, levels: int, names: bool = False) -> None:
        self.levels, self.names = levels, names
        self.size = levels

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Log probability of codes x (...,) under params (..., K); -inf for a code outside 0 .. K-1."""
        if self.levels == 2:  # a softmax over two rows of memory is four times slower
            gap = params[..., 1] - params[..., 0]
            log_p = -F.binary_cross_entropy_with_logits(gap, (x == 1).to(gap.dtype), reduction="none")
            return log_p.masked_fill((x != 0) & (x != 1), -torch.inf)
        code = x.long().clamp(0, self.levels - 1)
        log_p = params.log_softmax(-1).gather(-1, code.unsqueeze(-1)).squeeze(-1)
        return log_p.masked_fill(code != x, -torch.inf)

    def masses(self, params: Tensor, levels: int) -> Tensor:
        """P of the codes 0 .. K - 1 of one entry, `(B, K)` from params `(B, K)`."""
        return params.softmax(-1)

    def log_mass(self, params: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Log mass of the codes in low < k < high (B, J) under params (B, K) of one entry, nats, float64."""
        below = torch.nn.functional.pad(params.double().softmax(-1).cumsum(-1), (1, 0))
        first, end = ((edge.floor() + 1).clamp(0, self.levels).long() for edge in (low, high.ceil() - 1))
        first, end = (k.expand(len(params), -1) for k in (first, end))
        return (below.gather(-1, end) - below.gather(-1, first)).clamp_min(0.0).log()

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        """One code per entry."""
        return rng.categorical(params).double()

    def mean(self, params: Tensor) -> Tensor:
        """The expected code; of names the likeliest, for nothing lies between two names."""
        if self.names:
            return params.argmax(-1).to(params.dtype)
        return params.softmax(-1) @ torch.arange(self.levels, dtype=params.dtype, device=params.device)


FAR = -3.0  # log of the share of a logistic inside its bounds below which masses are taken from logarithms


class LogisticMixture:
    """Mixture of logistics, binned at a resolution and truncated to bounds: 3 M parameters an entry."""

    def __init__(self, variables: list[Variable], components: int) -> None:
        self.components, self.size = components, 3 * components
        bounds = [_bounds(v) for v in variables]
        self.low, self.high = (torch.tensor([b[i] for b in bounds], dtype=torch.float64) for i in (0, 1))
        steps = [1.0 if v.discrete else v.resolution for v in variables]
        self.step = torch.tensor(steps, dtype=torch.float64)
        self.mean_, self.scale = (torch.tensor([getattr(v, k) for v in variables]).double() for k in ("mean", "scale"))
        self.binned = any(s > 0 for s in steps)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Log mass (or density) of x (..., n) under params (..., n, 3M), nats."""
        self._follow(params.device)
        log_pi, mu, log_s = self._split(params)
        s = log_s.exp()
        z = ((x.double() - self.mean_) / self.scale).to(params.dtype).unsqueeze(-1) - mu
        if self.binned:
            # the width on its own: as a difference of the ends it would drown in float32
            width = (self.step / self.scale).to(params.dtype).unsqueeze(-1) / s
            log_p = _log_interval(z / s + width / 2, z / s - width / 2, width)
        else:
            log_p = F.logsigmoid(z / s) + F.logsigmoid(-z / s) - log_s - self.scale.log().to(params.dtype).unsqueeze(-1)
        log_p = torch.logsumexp(log_pi + log_p - self._log_inside(mu, s), -1)
        inside = (x.double() > self.low) & (x.double() < self.high)
        return log_p.masked_fill(~inside, -torch.inf)

    def masses(self, params: Tensor, levels: int) -> Tensor:
        """P of the codes 0 .. K - 1 of one entry, `(B, K)` float64, right to 1e-14 of the whole mass."""
        self._follow(params.device)
        log_pi, mu, log_s = self._split(params.double().unsqueeze(-2))
        inside = self._log_inside(mu, log_s.exp())
        ends = torch.arange(levels + 1, dtype=torch.float64, device=params.device) - 0.5
        if bool((inside < FAR).any()):  # a component far outside of the bounds: its masses are differences of ones
            return self.log_mass(params, ends[:-1], ends[1:]).exp()
        edges, log_w = (ends - self.mean_) / self.scale, log_pi - inside
        below = torch.sigmoid((edges.unsqueeze(-1) - mu) / log_s.exp())
        return ((below[:, 1:] - below[:, :-1]) @ log_w.exp().movedim(-2, -1)).squeeze(-1)

    def log_mass(self, params: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Log mass of intervals low < x < high (..., K) under params (..., 3M) of one entry, nats, float64."""
        self._follow(params.device)
        log_pi, mu, log_s = self._split(params.double().unsqueeze(-2))
        low, high = (torch.minimum(torch.maximum(b, self.low), self.high).unsqueeze(-1) for b in (low, high))
        a, b = (((edge - self.mean_) / self.scale - mu) / log_s.exp() for edge in (high, low))
        log_p = _log_interval(a, b, a - b) - self._log_inside(mu, log_s.exp())
        return torch.logsumexp(log_pi + log_p, -1)

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        """One value per entry, rounded to the resolution."""
        self._follow(params.device)
        log_pi, mu, log_s = self._split(params)
        pick = rng.categorical(log_pi).unsqueeze(-1)
        mu, s = (t.gather(-1, pick).squeeze(-1).double() for t in (mu, log_s.exp()))
        low, high = ((b - mu) / s for b in self._standard_bounds())
        # the logistic is symmetric, and float64 saturates in its upper tail only
        flip = low + high > 0
        p_low, p_high = torch.where(flip, -high, low).sigmoid(), torch.where(flip, -low, high).sigmoid()
        p = p_low + (p_high - p_low) * rng.uniform(tuple(mu.shape), torch.float64)
        z = torch.logit(p.clamp(1e-300, 1 - 1e-16))
        x = (mu + s * torch.where(flip, -z, z)) * self.scale + self.mean_
        return self._round(torch.minimum(torch.maximum(x, self.low), self.high))

    def mean(self, params: Tensor) -> Tensor:
        """The mean of the untruncated mixture, in the variable's units."""
        self._follow(params.device)
        log_pi, mu, _ = self._split(params)
        x = (log_pi.exp() * mu).sum(-1).double() * self.scale + self.mean_
        return torch.minimum(torch.maximum(x, self.low), self.high)

    def _follow(self, device: torch.device) -> None:
        if self.step.device != device:
            for name in ("low", "high", "step", "mean_", "scale"):
                setattr(self, name, getattr(self, name).to(device))

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, mu, raw = params.unflatten(-1, (3, self.components)).unbind(-2)
        spread = torch.linspace(-1.5, 1.5, self.components, device=params.device, dtype=params.dtype)
        # below 1e-4 of the spread, float32 no longer tells neighbours apart, and a spike would be an artefact
        narrowest = (self.step / self.scale / 8).clamp_min(1e-4).log()
        log_s = torch.maximum(raw - 1.0, narrowest.to(params.dtype).unsqueeze(-1))
        return logits.log_softmax(-1), mu + spread, log_s.clamp_max(8.0)

    def _log_inside(self, mu: Tensor, s: Tensor) -> Tensor:
        low, high = (b.to(mu.dtype).unsqueeze(-1) for b in self._standard_bounds())
        return _log_interval((high - mu) / s, (low - mu) / s, (high - low) / s)

    def _standard_bounds(self) -> tuple[Tensor, Tensor]:
        # finite, because an infinite bound has a gradient of 0 * inf
        low, high = (((b - self.mean_) / self.scale).clamp(-1e6, 1e6) for b in (self.low, self.high))
        return low, high

    def _round(self, x: Tensor) -> Tensor:
        step = torch.where(self.step > 0, self.step, torch.ones_like(self.step))
        rounded = torch.round(x / step) * step
        first, last = (self.low + step / 2, self.high - step / 2)
        return torch.where(self.step > 0, torch.minimum(torch.maximum(rounded, first), last), x)


class Likelihood:
    """The distribution of one x given flat parameters, by the support of every entry.

    Args:
        space: what one x is.
        components: components of the mixtures for real and long ordinal entries.
        longest: an ordinal with at most this many levels is a softmax.
    """

    def __init__(self, space: Space, components: int = 8, longest: int | None = None) -> None:
        self.space = space
        self.longest = (32 if space.shared else 512) if longest is None else longest
        self.groups = self._shared(components) if space.shared else self._grouped(components)
        self.size = sum(g.width * len(g.entries) for g in self.groups)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Log probability of each entry.

        Args:
            params: `(*batch, size)`.
            x: `(*batch, *event)`.

        Returns:
            `(*batch, *event)`, nats.
        """
        flat = x.flatten(-len(self.space.shape)) if self.space.shape else x.unsqueeze(-1)
        one = len(self.groups) == 1
        parts = [
            g.distribution.log_prob(self._params(params, g), flat if one else flat[..., list(g.entries)])
            for g in self.groups
        ]
        return self._join(parts)

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        """One x per row of parameters, `(*batch, *event)`, in the Space's dtype."""
        parts = [g.distribution.sample(self._params(params, g), rng) for g in self.groups]
        return self._join(parts).to(self.space.torch_dtype)

    def mean(self, params: Tensor) -> Tensor:
        """The mean of each entry (of an ordered code; of names the likeliest), `(*batch, *event)`, float64."""
        return self._join([g.distribution.mean(self._params(params, g)).double() for g in self.groups])

    def masses(self, params: Tensor, levels: int) -> Tensor:
        """Where x is one entry with codes 0 .. K - 1: P of each code, `(B, K)`."""
        return self.groups[0].distribution.masses(params, levels)

    def log_mass(self, params: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Where x is one entry: log mass of the intervals low < x < high, `(B, K)` each, or `(1, K)`; float64."""
        return self.groups[0].distribution.log_mass(params, low, high)

    def alone(self, entry: int) -> Likelihood:
        """The likelihood of one flat entry by itself."""
        group = next(g for g in self.groups if entry in g.entries)
        components = getattr(group.distribution, "components", 1)
        return Likelihood(self.space.sub([entry]), components, self.longest)

    def part(self, params: Tensor, entry: int) -> Tensor:
        """The parameters of one flat entry, `(*batch, width)`."""
        group = next(g for g in self.groups if entry in g.entries)
        start = group.offset + group.entries.index(entry) * group.width
        return params[..., start : start + group.width]

    def widths(self) -> list[int]:
        """The number of parameters of each entry, in flat order."""
        widths = [0] * self.space.size
        for g in self.groups:
            for entry in g.entries:
                widths[entry] = g.width
        return widths

    def from_entries(self, params: Tensor) -> Tensor:
        """Parameters in the order of the entries (`widths()` numbers each), rearranged as `log_prob` wants them."""
        if len(self.groups) == 1:
            return params
        starts = [0]
        for width in self.widths():
            starts.append(starts[-1] + width)
        index = [starts[i] + k for g in self.groups for i in g.entries for k in range(g.width)]
        return params[..., torch.tensor(index, device=params.device)]

    def _params(self, params: Tensor, g: Group) -> Tensor:
        return params[..., g.offset : g.offset + g.width * len(g.entries)].unflatten(-1, (len(g.entries), g.width))

    def _join(self, parts: list[Tensor]) -> Tensor:
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, -1)[..., self._order()]
        return joined.reshape(*joined.shape[:-1], *self.space.shape)

    def _order(self) -> list[int]:
        entries = [i for g in self.groups for i in g.entries]
        return sorted(range(len(entries)), key=entries.__getitem__)

    def _form(self, v: Variable) -> tuple[str, int]:
        softmax = v.support in ("category", "binary") or (v.discrete and v.levels <= self.longest)
        if softmax:
            return ("names" if v.support == "category" else "codes"), v.levels
        return ("binned" if v.discrete or v.resolution else "density", 0)

    def _shared(self, components: int) -> list[Group]:
        v = self.space.variables[0]
        entries, (form, levels) = tuple(range(self.space.size)), self._form(v)
        distribution = _distribution(form, levels, [v], components)
        return [Group(entries, distribution, 0, distribution.size)]

    def _grouped(self, components: int) -> list[Group]:
        forms: dict[tuple[str, int], list[int]] = {}
        for i, v in enumerate(self.space.variables):
            forms.setdefault(self._form(v), []).append(i)
        groups, offset = [], 0
        for (form, levels), entries in forms.items():
            variables = [self.space.variables[i] for i in entries]
            distribution = _distribution(form, levels, variables, components)
            groups.append(Group(tuple(entries), distribution, offset, distribution.size))
            offset += distribution.size * len(entries)
        return groups


def _distribution(form: str, levels: int, variables: list[Variable], components: int) -> Categorical | LogisticMixture:
    return Categorical(levels, form == "names") if levels else LogisticMixture(variables, components)


def from_grid(params: Tensor) -> Tensor:
    """Parameters of a picture, `(B, C * P, H, W)` with P per channel, as flat `(B, H * W * C * P)`."""
    return params.permute(0, 2, 3, 1).flatten(1)


def _bounds(v: Variable) -> tuple[float, float]:
    if v.discrete:
        return -0.5, v.levels - 0.5
    if v.support == "bounded":
        return v.low - v.resolution / 2, v.high + v.resolution / 2  # type: ignore[operator]
    return (-torch.inf if v.low is None else v.low - v.resolution / 2), torch.inf


def _log_interval(a: Tensor, b: Tensor, gap: Tensor) -> Tensor:
    """log(sigmoid(a) - sigmoid(b)) for gap = a - b > 0: log s(a) + log s(-b) + log(1 - e^-gap), never cancelling."""
    return F.logsigmoid(a) + F.logsigmoid(-b) + torch.log(-torch.expm1(-gap))
