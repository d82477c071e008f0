"""Laws: numbers that must agree, by z-scores where they are random."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pofx.check.kernel import Kernel, bridge_z
from pofx.check.probe import (
    LIMIT,
    Given,
    Probe,
    Values,
    require,
    require_close,
    require_valid,
    spread,
    states,
    z_of_means,
)
from pofx.check.report import Skipped
from pofx.model import Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.wrappers import Relaxed

GRID_TOLERANCE = 0.02


def log_prob_is_finite(p: Probe) -> str:
    """log p is finite at the model's own draws and is never NaN."""
    x = p.draws("no given", {}, 128) if "sample" in p.offers else p.rows.x
    own, rows = p.values(x), p.values(p.rows.x)
    require(
        bool(torch.isfinite(own.mean).all()), f"{int((~torch.isfinite(own.mean)).sum())} draws have log p = -inf or NaN"
    )
    require(not bool(torch.isnan(rows.mean).any()), "log p of a row is NaN")
    require(not bool((rows.mean == math.inf).any()), "log p of a row is +inf")
    return f"{own.quality.value}, mean {float(own.mean.mean()):.3f} nats"


def probability_sums_to_one(p: Probe) -> str:
    """Over all states of a small discrete Space; over a grid where there are one or two real numbers."""
    every, parts = states(p.space), []
    if every is None and not (p.space.size <= 2 and all(v.density and v.support == "real" for v in p.space.variables)):
        raise Skipped("too many states to add up")
    for label, given in p.cases():
        if every is not None:
            values, cell = p.values(every, given), 1.0
        else:
            grid, cell = _grid(p)
            values = p.values(grid, given)
        if values.quality is Quality.UNNORMALISED:
            raise Skipped("log p is unnormalised")
        total, slack = _total(values, cell)
        _ordered(total, slack + (1e-3 if every is not None else GRID_TOLERANCE), values.quality, label)
        parts.append(f"{total:.4f}")
    return "sum " + ", ".join(parts)


def _total(values: Values, cell: float) -> tuple[float, float]:
    """The sum of p and how far noise may move it."""
    mass, error = values.mean.exp() * cell, values.stderr
    # exp of a noisy log is too high by half its variance
    noise = LIMIT * float((mass * error).square().sum().sqrt()) + 0.5 * float((mass * error.square()).sum())
    return float(mass.sum()), noise


def _ordered(total: float, slack: float, quality: Quality, label: str) -> None:
    found = f"p adds up to {total:.4f}, {label} ({quality.value})"
    if quality in (Quality.EXACT, Quality.LOWER, Quality.ESTIMATE):
        require(total <= 1 + slack + (0.1 if quality is Quality.ESTIMATE else 0.0), found)
    if quality in (Quality.EXACT, Quality.UPPER, Quality.ESTIMATE):
        require(total >= 1 - slack - (0.1 if quality is Quality.ESTIMATE else 0.0), found)


def _grid(p: Probe) -> tuple[Tensor, float]:
    """A grid of midpoints over all that matters, shifted at random so that its error is not systematic."""
    x = torch.cat([p.rows.x, p.draws("no given", {}, 512)] if "sample" in p.offers else [p.rows.x]).flatten(1).double()
    exact = p.values(p.rows.x[:2]).quality is Quality.EXACT
    count = (2001 if exact else 801) if p.space.size == 1 else (161 if exact else 41)
    middle, reach = (x.amax(0) + x.amin(0)) / 2, (x.amax(0) - x.amin(0)) / 2 + 3 * x.std(0)
    axes = [m + r * (2 * (torch.arange(count) + float(p.rng.uniform(()))) / count - 1) for m, r in zip(middle, reach)]
    points = torch.cartesian_prod(*axes).reshape(-1, p.space.size).reshape(-1, *p.space.shape)
    return points.to(p.space.torch_dtype), float((2 * reach / count).prod())


def draws_follow_log_prob(p: Probe) -> str:
    """Draws and log p are of one law: the bridge identity against two densities near the draws."""
    scores = []
    for label, given in p.cases():
        x = p.draws(label, given, 1024)
        quick = p.values(x[:2], given).quality is Quality.EXACT
        n = 768 if quick else 192
        centres, own = x[:64], x[64 : 64 + n]
        at_own = p.values(own, given)
        if at_own.quality is Quality.UNNORMALISED:
            raise Skipped("log p is unnormalised")
        for width in (0.25, 0.7) if quick else (0.4,):
            q = Kernel(p.space, centres, width)
            near = q.sample(n, p.rng)
            at_near = p.values(near, given)
            sides = (at_own.mean, q.log_prob(own)), (at_near.mean, q.log_prob(near))
            features = _bounded(own, own), _bounded(near, own)
            z = bridge_z(*sides, *(f if quick else f[:, :1] for f in features))
            _judge(z, at_own, f"{label}, width {width}", _blurred(p.model))
            scores.append(f"{z:+.1f}")
    return "z " + " ".join(scores)


def _bounded(x: Tensor, like: Tensor) -> Tensor:
    """One, and the first entries squashed into [-1, 1]: functions that see a shift where a mass alone would not."""
    flat, other = (t.flatten(1)[:, :12].double() for t in (x, like))
    z = (flat - other.mean(0)) / other.std(0).clamp_min(1e-9)
    return torch.cat([torch.ones(len(x), 1, dtype=torch.float64), torch.tanh(z)], 1)


def _blurred(model: Model) -> bool:
    """Whether noise fills the bins of x, so that an estimate is one of a lower bound."""
    return isinstance(model, Relaxed) and not model.chart.exact


def _judge(z: float, values: Values, label: str, blurred: bool = False) -> None:
    """A lower bound may only be too low at the draws (z > 0), an upper bound only too high; an estimate has room."""
    found = f"z = {z:.1f} ({values.quality.value}, {label})"
    limit = LIMIT if values.quality is Quality.EXACT else LIMIT + 2 * float(values.stderr.mean())
    if values.quality is Quality.ESTIMATE:
        limit *= 4
    if values.quality is not Quality.LOWER and not (blurred and values.quality is Quality.ESTIMATE):
        require(z < limit, "log p is too low at the draws: " + found)
    if values.quality is not Quality.UPPER:
        require(z > -limit, "log p is too high at the draws: " + found)


def frequencies_follow_log_prob(p: Probe) -> str:
    """In a small discrete Space: chi-square of the draws against p; a bound must stay on its side."""
    every, n, found = states(p.space), 4000, []
    if every is None:
        raise Skipped("too many states to count")
    for label, given in p.cases():
        values = p.values(every, given)
        if values.quality is Quality.UNNORMALISED:
            raise Skipped("log p is unnormalised")
        x = p.draws(label, given, n)
        counts = _counts(x, every)
        if values.quality is Quality.EXACT:
            z = _chi_square_z(counts, values.mean.exp() * n)
            require(abs(z) < LIMIT, f"chi-square z = {z:.1f}, {label}")
            found.append(f"z {z:+.1f}")
            continue
        high = values.mean.exp() * n
        spread_ = (high + (high * values.stderr).square() + 1).sqrt()
        z_high = float(((high - counts) / spread_).max())
        require(
            values.quality is not Quality.LOWER or z_high < LIMIT, f"the bound is above the frequency, z = {z_high:.1f}"
        )
        found.append(f"highest z {z_high:+.1f}")
    return ", ".join(found)


def _counts(x: Tensor, every: Tensor) -> Tensor:
    flat, table = x.flatten(1).double(), every.flatten(1).double()
    base = table.amax(0) + 1
    place = torch.cat([torch.ones(1).double(), base.flip(0).cumprod(0)[:-1]]).flip(0)
    keys, mine = (table * place).sum(1), (flat * place).sum(1)
    order = keys.argsort()
    return torch.bincount(order[torch.searchsorted(keys[order].contiguous(), mine)], minlength=len(every)).double()


def _chi_square_z(counts: Tensor, expected: Tensor) -> float:
    """Cells that expect fewer than 5 are one cell."""
    rare = expected < 5
    o, e = counts[~rare], expected[~rare]
    if rare.any():
        o, e = torch.cat([o, counts[rare].sum()[None]]), torch.cat([e, expected[rare].sum()[None].clamp_min(1e-3)])
    if e[-1] < 5 and len(e) > 1:
        o, e = torch.cat([o[:-2], o[-2:].sum()[None]]), torch.cat([e[:-2], e[-2:].sum()[None]])
    df = max(1, len(e) - 1)
    chi = float(((o - e).square() / e).sum())
    # Wilson and Hilferty 1931: nearly normal already for one degree of freedom
    return ((chi / df) ** (1 / 3) - (1 - 2 / (9 * df))) / math.sqrt(2 / (9 * df))


def hidden_entries_stay_hidden(p: Probe) -> str:
    """The density of an observed part, and draws of the rest, do not read what is missing."""
    x, mask = p.rows.x[:16], _mask(p)
    other = torch.where(mask, x, x[p.rng.permutation(len(x))])
    done = []
    try:
        if "log_prob" in p.offers:
            a, b = (p.model.log_prob(y, None, mask, 4, 5).value for y in (x, other))
            require_close(a, b, "log p of the observed part moves with what is missing")
            whole = p.model.log_prob(x, None, torch.ones_like(mask), 4, 5).value
            require_close(
                whole, p.model.log_prob(x, None, None, 4, 5).value, "all observed is not log p(x)", slack=1e-5
            )
            done.append("log_prob")
    except Unsupported as refusal:
        done.append(f"log_prob refuses ({refusal})")
    if "condition" in p.offers:
        a, b = (p.model.condition(y, mask).sample(3, Rng(5)) for y in (x, other))
        require_close(a, b, "completed draws move with what was missing")
        done.append("condition")
    if not done:
        raise Skipped("it answers for complete rows only")
    return ", ".join(done)


def _mask(p: Probe) -> Tensor:
    """Half of each row's entries observed, row by row anew; at least one missing."""
    x = p.rows.x[:16]
    mask = p.rng.bernoulli(0.5, (len(x), p.space.size))
    mask[torch.arange(len(x)), p.rng.integers(p.space.size, (len(x),))] = False
    return mask.reshape(x.shape)


def parts_multiply(p: Probe) -> str:
    """log p(x) = log p(x_o) + log p(x_m | x_o); and p(x_o) is the sum of p over what is missing."""
    x, mask = p.rows.x[:16], _mask(p)
    try:
        part, whole = p.values(x, None, mask), p.values(x)
    except Unsupported as refusal:
        raise Skipped(str(refusal)) from None
    every, done = states(p.space), []
    if part.quality is not Quality.EXACT or whole.quality is not Quality.EXACT:
        raise Skipped(f"log p of a part is {part.quality.value}")
    if every is not None:
        table = p.values(every).mean
        agrees = ((every[None] == x[:, None]) | ~mask[:, None]).flatten(2).all(2)
        total = torch.stack([torch.logsumexp(table[row], 0) for row in agrees])
        require_close(part.mean, total, "log p of a part is not the sum over the rest")
        done.append("sum")
    if "condition" in p.offers:
        conditional = p.model.condition(x, mask)
        if conditional.log_prob is not None and conditional.quality is Quality.EXACT:
            rest = conditional.log_prob(x).value
            require_close(part.mean + rest, whole.mean, "log p(x_o) + log p(x_m | x_o) is not log p(x)")
            done.append("product")
    if not done:
        raise Skipped("no conditional density to hold it against")
    return " and ".join(done)


def completing_draws_changes_nothing(p: Probe) -> str:
    """Observed entries stay bit-identical; an exact conditional leaves the law of the draws as it is."""
    x = p.draws("no given", {}, 1024)[-400:] if "sample" in p.offers else p.rows.x
    mask = torch.ones(p.space.size, dtype=torch.bool)
    mask[: (p.space.size + 1) // 2] = False
    mask = mask.reshape(p.space.shape).expand(x.shape)
    conditional = p.model.condition(x, mask)
    first, again, other = (conditional.sample(1, Rng(seed))[0] for seed in (0, 0, 1))
    require(bool((first[mask] == x[mask]).all()), "an observed entry changed")
    require(bool((first == again).all()) and bool((first != other).any()), "the seed does not decide the draws")
    require_valid(first, p.space)
    if conditional.quality is not Quality.EXACT or "sample" not in p.offers:
        return f"draws are {conditional.quality.value}"
    fresh = p.model.sample(4000, None, p.rng.seed())
    z = z_of_means(_features(first), _features(fresh)).abs().max()
    require(float(z) < LIMIT, f"completed draws have other moments than fresh ones, z = {float(z):.1f}")
    return f"z {float(z):.1f}"


def _features(x: Tensor) -> Tensor:
    """Entries and products of neighbours, for a comparison of moments."""
    flat = x.flatten(1).double()
    return torch.cat([flat, flat.square(), flat * flat.roll(1, 1)], 1)


@torch.no_grad()
def denoising_has_its_limits(p: Probe) -> str:
    """No noise: u comes back. Much noise: about the mean. And only the ratio of alpha and sigma can matter."""
    m, u, n = p.model, p.chart_rows(), len(p.rows)
    one, e = torch.ones(n), p.rng.normal(tuple(p.chart_rows().shape))
    noisy = u + 0.01 * e
    little = (m.denoise(noisy, one, 0.01 * one) - u).double().square().mean() / 1e-4
    require(
        float(little) < 2,
        f"at sigma = 0.01 the squared error is {float(little):.2f} of the noise's; at most 1 is needed",
    )
    a, b = m.denoise(u + e, one, one), m.denoise(0.6 * (u + e), 0.6 * one, 0.6 * one)
    require_close(a, b, "denoise(0.6 u, 0.6 alpha, 0.6 sigma) is not denoise(u, alpha, sigma)", slack=5e-3)
    far = m.denoise(u + 50 * e, one, 50 * one).flatten(1).double()
    centre = m.chart.encode(p.draws("no given", {}, 2048), p.rng) if "sample" in p.offers else u
    gap = (far.mean(0) - centre.flatten(1).double().mean(0)).abs().max()
    spread_ = centre.flatten(1).double().std(0).max()
    allowed = 0.15 + LIMIT / math.sqrt(n) * float(far.std(0).max())
    require(float(gap / spread_) < allowed, f"at sigma = 50 it is {float(gap / spread_):.2f} from the mean")
    return f"error {float(little):.2f} of the noise's, {float(gap / spread_):.2f} from the mean"


@torch.no_grad()
def denoising_is_the_mean(p: Probe) -> str:
    """E[(u - D(u_t)) g(u_t)] = 0 for draws u of the model: what a conditional mean is."""
    u = p.model.chart.encode(p.draws("no given", {}, 2048), p.rng)
    if "log_prob" not in p.offers or p.values(p.rows.x[:2]).quality is not Quality.EXACT:
        raise Skipped("a learnt denoiser need not agree with its own sampler")
    worst = 0.0
    for alpha, sigma in ((1.0, 0.3), (1.0, 2.0), (0.6, 0.8)):
        a, s = (torch.full((len(u),), v) for v in (alpha, sigma))
        u_t = alpha * u + sigma * p.rng.normal(tuple(u.shape))
        error = (u - p.model.denoise(u_t, a, s)).flatten(1).double()
        terms = torch.cat([error, error * u_t.flatten(1), error * torch.tanh(u_t.flatten(1))], 1)
        worst = max(worst, float((terms.mean(0) / terms.std(0) * math.sqrt(len(u))).abs().max()))
    require(worst < LIMIT, f"the error of D is not orthogonal to u_t, z = {worst:.1f}")
    return f"z {worst:.1f}"


def score_is_the_slope(p: Probe) -> str:
    """The score is the slope of log p in the chart, by central differences."""
    m, x = p.model, p.rows.x[:16]
    if "log_prob" not in p.offers or not m.chart.exact:
        raise Skipped("no exact density in the chart")
    if p.values(x).noisy:
        raise Skipped("log p is random")
    u = m.chart.encode(x).double()
    v = p.rng.normal(tuple(u.shape), torch.float64)
    step = 1e-2

    def log_p(at: Tensor) -> Tensor:
        y = m.chart.decode(at)
        return p.values(y).mean - m.chart.log_weight(at, y)

    slope = (log_p(u + step * v) - log_p(u - step * v)) / (2 * step)
    got = (m.score(u.float()).double() * v).flatten(1).sum(1)
    error = ((got - slope).abs() / (1 + slope.abs())).median()
    require(float(error) < 0.008, f"score and slope differ by {float(error):.3f} (median, relative)")
    return f"error {float(error):.4f}"


def decoding_undoes_encoding(p: Probe) -> str:
    """x is likelier under its own code than under another row's; what is decoded is valid."""
    m, x = p.model, p.rows.x
    with torch.no_grad():
        z = m.encode(x).mean
        drawn = m.decode(z).sample(Rng(0))
        try:
            own, rolled = (m.decode(code).log_prob(x) for code in (z, z.roll(1, 0)))
        except Unsupported:  # points and no likelihood: then the nearer one explains x better
            points = (m.decode(code).mean() for code in (z, z.roll(1, 0)))
            own, rolled = (-(m.chart.encode(y) - m.chart.encode(x)).double().square() for y in points)
            x = m.chart.encode(x)
    require(tuple(own.shape) == tuple(x.shape), f"log_prob of a decoded row has shape {tuple(own.shape)}")
    require_valid(drawn, p.space)
    gain = (own - rolled).flatten(1).sum(1).double()
    z_score = float(gain.mean() / (gain.std() / math.sqrt(len(gain))).clamp_min(1e-9))
    require(z_score > -LIMIT, f"another row's code explains x better, z = {z_score:.1f}")
    return f"{float(gain.mean()):.2f} nats better than another row's code"


def steps_add_up(p: Probe) -> str:
    """The cursor's log probabilities add up to log p(x), in an order of all entries; rows of its cache can move."""
    m, x = p.model, p.rows.x[:8]
    for label, given in p.cases():
        c = spread(given, m.given, len(x))
        total, order = _walk(p, x, c, None)
        require(sorted(order) == list(range(p.space.size)), f"order {order} is no order of the entries")
        values = p.values(x, c)
        if values.quality is Quality.EXACT:
            require_close(total, values.mean, f"the steps do not add up to log p(x), {label}")
    moved = p.rng.permutation(len(x))
    still, after = _walk(p, x, {}, None)[0], _walk(p, x, {}, moved)[0]
    require_close(after, still[moved], "rows of the cursor's cache, moved halfway")
    return f"{p.space.size} steps"


def _walk(p: Probe, x: Tensor, given: Given, moved: Tensor | None) -> tuple[Tensor, list[int]]:
    """The sum of log p along the cursor; halfway its rows are moved and so is x, so that the sum moves with them."""
    with torch.no_grad():
        cursor = p.model.steps(len(x), given or None)
        ahead, total = cursor.start(), torch.zeros(len(x), dtype=torch.float64)
        flat, order = x.flatten(1), list(cursor.order)
        for k, i in enumerate(order):
            require(ahead is not None, f"the cursor ends after {k} of {len(order)} entries")
            total = total + ahead.log_prob(flat[:, i : i + 1]).reshape(-1).double()  # type: ignore[union-attr]
            if moved is not None and k == (len(order) - 1) // 2:
                cursor.reorder(moved)
                flat, total = flat[moved], total[moved]
            ahead = cursor.next(flat[:, i])
        require(ahead is None, "the cursor does not end after the last entry")
    return total, order
