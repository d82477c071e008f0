"""Temper: draws that are likelier, or wilder, than the model's own.

    by steps       x_i ~ p(x_i | x_<i)^(1/T) / Z_i                    each entry by itself
    by latents     z ~ N(0, T I),  x_i ~ p(x_i | z)^(1/T) / Z_i
    by weights     x ~ p(x)^(1/T) / Z                                 one of several draws, with weight p^(1/T - 1)

T < 1 draws what is likelier and less various, T > 1 what is less likely. A truncation s < 1 keeps the likeliest share:
by steps the fewest values that hold s of an entry's mass, by latents each z_i within the middle s of its mass, by
weights the draws whose log p is among the highest share s. These are three laws, not one: only the last is a power of
p(x). A power of a density depends on the coordinates; it is taken in the data's own units.

References: Ackley 1985 (temperature); Holtzman 2020 (arXiv:1904.09751, the fewest values); Kingma and Dhariwal 2018
(arXiv:1807.03039) and Brock 2019 (arXiv:1809.11096) for latents; Rubin 1987 (resampling by weights).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pofx.kinds import KINDS
from pofx.kinds.base import Variable
from pofx.kinds.likelihood import Likelihood
from pofx.model import Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.records import Predictive
from pofx.tasks.base import Answer, route

CHUNK = 4096
MANY = 64  # draws of which a number is chosen
POOL, DRAWS = 16, 4  # draws of which an x is chosen, and Monte-Carlo draws of their log p
WIDEST = 1024  # levels whose masses are listed


def by_steps(model: Model, n: int, given: dict[str, Tensor], rng: Rng, temperature: float, truncation: float) -> Answer:
    """Entry by entry, each from the tempered law of it given those before."""
    parts, listed = [], True
    with torch.no_grad():
        for start in range(0, n, CHUNK):
            rows = min(CHUNK, n - start)
            cursor = model.steps(rows, {k: v[start : start + rows] for k, v in given.items()} or None)
            x = torch.zeros(rows, model.space.size, dtype=torch.float64)
            ahead: Predictive | None = cursor.start()
            for entry in cursor.order:
                v = model.space.variable(entry)
                assert ahead is not None, "the cursor ended before its order did"
                x[:, entry] = _one(ahead, v, rng, temperature, truncation)
                listed, ahead = listed and _listed(v), cursor.next(x[:, entry])
            parts.append(x.reshape(rows, *model.space.shape).to(model.space.torch_dtype))
    return _answer(model, torch.cat(parts), Quality.EXACT if listed else Quality.ESTIMATE)


def _listed(v: Variable) -> bool:
    return v.discrete and v.levels <= WIDEST


def _one(p: Predictive, v: Variable, rng: Rng, temperature: float, truncation: float) -> Tensor:
    """A value of one entry, `(B,)`: of its levels, or of some draws."""
    if _listed(v):
        return rng.categorical(_tempered(p.masses(v.levels).double().log(), temperature, truncation)).double()
    rows = len(p.params)
    x = p.take(torch.arange(rows).repeat(MANY)).sample(rng).reshape(MANY, rows).double()
    log_p = torch.stack([p.log_prob(one.unsqueeze(1)).flatten() for one in x], 1).double()
    pick = rng.categorical(_weighed(log_p, temperature, truncation))
    return x.T.gather(1, pick.unsqueeze(1))[:, 0]


def _tempered(log_p: Tensor, temperature: float, truncation: float) -> Tensor:
    """Logits `(B, K)` of p^(1/T) among the fewest codes that hold the share s."""
    if truncation < 1:
        order = log_p.sort(1, descending=True)
        before = order.values.softmax(1).cumsum(1) - order.values.softmax(1)
        out = torch.zeros_like(log_p, dtype=torch.bool).scatter(1, order.indices, before >= truncation)
        log_p = log_p.masked_fill(out, -torch.inf)
    return log_p / temperature


def _weighed(log_p: Tensor, temperature: float, truncation: float) -> Tensor:
    """Logits `(B, K)` of draws from p: p^(1/T - 1) among the likeliest share s."""
    keep = max(1, math.ceil(truncation * log_p.shape[1]))
    least = log_p.topk(keep, 1).values[:, -1:]
    weight = (1 / temperature - 1) * log_p
    return weight.masked_fill((log_p < least) | (log_p == -torch.inf), -torch.inf)


def by_latents(
    model: Model, n: int, given: dict[str, Tensor], rng: Rng, temperature: float, truncation: float
) -> Answer:
    """Codes from a wider or narrower normal law, decoded."""
    with torch.no_grad():
        shape = _codes_like(model, {k: v[:1].expand(2, *v.shape[1:]) for k, v in given.items()}, rng)
        parts, exact = [], True
        for start in range(0, n, CHUNK):
            rows = min(CHUNK, n - start)
            p = 0.5 + truncation * (rng.uniform((rows, *shape), torch.float64) - 0.5)
            z = math.sqrt(temperature) * torch.special.ndtri(p.clamp(1e-12, 1 - 1e-12))
            ahead = model.decode(z.float(), {k: v[start : start + rows] for k, v in given.items()} or None)
            every = [model.space.variable(i) for i in range(model.space.size)]
            if type(ahead.likelihood) is Likelihood:  # a decoder with noise of its own, entry by entry
                columns = [_one(ahead.entry(i), v, rng, temperature, truncation) for i, v in enumerate(every)]
                parts.append(torch.stack(columns, 1))
                exact = exact and all(map(_listed, every))
            else:
                parts.append(ahead.sample(rng))
    x = torch.cat(parts).reshape(n, *model.space.shape).to(model.space.torch_dtype)
    return _answer(model, x, model.sampler + (Quality.EXACT if exact else Quality.ESTIMATE))


def _codes_like(model: Model, given: dict[str, Tensor], rng: Rng) -> tuple[int, ...]:
    """The shape of a code whose law is N(0, I).

    Raises:
        Unsupported: codes are no numbers, or have another law.
    """
    x = model.sample(1, given, rng)[0] if given else model.sample(2, None, rng)
    z = model.encode(x, given or None).mean
    if not z.is_floating_point():
        raise Unsupported("its latents are codes, of which there is no wider law")
    z = rng.normal(tuple(z.shape), torch.float64)
    told = (model.log_code(z, given or None) - model.log_code(0 * z, given or None)).double()
    if not torch.allclose(told, -0.5 * z.square().flatten(1).sum(1), rtol=1e-3, atol=1e-3):
        raise Unsupported("the law of its latents is not N(0, I)")
    return tuple(z.shape[1:])


def by_weights(
    model: Model, n: int, given: dict[str, Tensor], rng: Rng, temperature: float, truncation: float
) -> Answer:
    """Of 16 of the model's draws one, by what log p says of them."""
    parts, effective = [], []
    with torch.no_grad():
        for start in range(0, n, CHUNK // POOL):
            rows = min(CHUNK // POOL, n - start)
            c = {k: v[start : start + rows] for k, v in given.items()}
            x = model.sample(POOL, c, rng) if c else model.sample(POOL * rows, None, rng)
            x = x.reshape(POOL * rows, *model.space.shape)
            many = {k: v.repeat(POOL, *[1] * (v.ndim - 1)) for k, v in c.items()}
            log_p = model.log_prob(x, many or None, None, DRAWS, rng).value.double().reshape(POOL, rows).T
            logits = _weighed(log_p, temperature, truncation)
            effective.append(1 / logits.softmax(1).square().sum(1))
            parts.append(x.reshape(POOL, rows, *model.space.shape)[rng.categorical(logits), torch.arange(rows)])
    words = {"effective draws": float(torch.cat(effective).mean()), "of": POOL}
    return _answer(model, torch.cat(parts), Quality.ESTIMATE, words)


def _answer(model: Model, x: Tensor, quality: Quality, words: dict[str, float] | None = None) -> Answer:
    value = KINDS[model.space.kind].restore(x, model.space)
    return Answer(value, "the data's own", quality, raw=x, diagnostics=words or {})


TEMPERED = (
    route(by_steps, "steps", sources="Holtzman et al. 2020 (arXiv:1904.09751)"),
    route(by_latents, "encode", "decode", "sample", sources="Kingma and Dhariwal 2018 (arXiv:1807.03039)"),
    route(by_weights, "sample", "log_prob", sources="Rubin 1987"),
)
