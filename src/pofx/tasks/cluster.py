"""Cluster: which groups are there, how many, and how surely does each row belong to its own?

    p(k | z) from a mixture of K normals over z,    K = argmax over K of the log likelihood of rows held out

z are the model's latents, where they are fewer than the entries: as many latents as entries hold all of x in one normal
cloud, by construction without groups. Latents of which x explains less than a fifth of the variance are left out. Else
the mixture learns the model's own draws, in the coordinates of its chart, and names the rows. The number of clusters is
not a guess: it is the one under which rows held out from a mixture that learnt the others are likeliest; where one
cluster wins, there are no groups.

References: Fraley and Raftery 2002 (mixtures as clusters, and their number).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pofx.drawing.pixels import pictured, pixels
from pofx.drawing.planes import Plane, clusters_figure, main_plane
from pofx.drawing.values import columnar, names, units
from pofx.model import Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.tasks.base import Answer, given_for, route, rows_of, solve
from pofx.tasks.embed import by_posterior as latents_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "Which groups are there?"
UNIT = "cluster"
MOST = 15  # clusters that are tried
FOLDS, DRAWN, WIDE = 3, 2000, 40  # WIDE: numbers up to which a full covariance is tried
TOLD = 0.2  # share of a latent's variance that x must explain
Points = np.ndarray[Any, Any]


def cluster(
    model: Model,
    x: Any,
    count: int | Sequence[int] | None = None,
    given: Mapping[str, Any] | None = None,
    *,
    rng: Rng | torch.Generator | int | None = 0,
    route: str | None = None,
) -> Answer:
    """The cluster of each row.

    Args:
        model: fitted.
        x: rows in the user's own type, or a tensor `(N, *event)`, without gaps.
        count: of clusters; several numbers or None: the one that held-out rows favour.
        given: name -> one value, or N values.
        rng: of the starts and folds.
        route: a route by name; None takes the best.

    Returns:
        An Answer whose value is `(N,)` int64, the largest cluster 0; diagnostics: `p` (N, K), `tried`: K -> mean log
        likelihood of held-out rows, `covariance`: full or diag, by the same likelihood.

    Raises:
        ValueError: entries are missing, or there are fewer rows than 2 for each cluster.
    """
    rows, observed = rows_of(model, x)
    if not bool(observed.all()):
        raise ValueError("cluster: entries are missing; complete them first (impute).")
    ks = list(range(1, MOST + 1)) if count is None else [count] if isinstance(count, int) else list(count)
    ks = [k for k in ks if 2 * k <= len(rows)] if count is None else ks
    if not ks or min(ks) < 1 or 2 * max(ks) > len(rows):
        raise ValueError(f"cluster: got {len(rows)} rows for {ks} clusters; expected 2 rows or more for each.")
    c = given_for(model, given, len(rows))
    return solve("cluster", ROUTES, model, route, x=rows, given=c, counts=ks, rng=Rng(rng))


def by_latents(model: Model, x: Tensor, given: dict[str, Tensor], counts: list[int], rng: Rng) -> Answer:
    """A mixture of normals over the latents."""
    codes = latents_of(model, x, given)
    z = codes.value
    if z.shape[1] >= model.space.size and "sample" in model.offers():
        raise Unsupported("it has as many latents as entries, in which there are no groups")
    return _mixed(z[:, _telling(z, codes.stderr)], None, counts, rng)


def _telling(z: Tensor, spread: Tensor) -> Tensor:
    """Which latents tell of x, `(L,)` bool: scaled alike, idle ones would hide the groups of the others.

    Args:
        z, spread: mean and deviation of the posterior, `(N, L)`.
    """
    told = z.var(0) if len(z) > 1 else torch.zeros(z.shape[1], dtype=z.dtype)
    share = told / (told + spread.square().mean(0)).clamp_min(1e-300)
    return share > TOLD if bool((share > TOLD).any()) else torch.ones_like(share, dtype=torch.bool)


def by_draws(model: Model, x: Tensor, given: dict[str, Tensor], counts: list[int], rng: Rng) -> Answer:
    """A mixture of normals over the model's own draws, in the coordinates of its chart."""
    with torch.no_grad():
        drawn = model.sample(1, given, rng)[0] if given else model.sample(max(DRAWN, len(x)), None, rng)
        u, own = (model.chart.encode(v).flatten(1).double() for v in (x, drawn))
        return _mixed(u, own, counts, rng)


def _mixed(z: Tensor, drawn: Tensor | None, counts: list[int], rng: Rng) -> Answer:
    """Groups of z, by a mixture that learns z itself, or draws."""
    rows, points = z.numpy(), (z if drawn is None else drawn).numpy()
    middle, scale = points.mean(0), np.where(points.std(0) > 1e-9, points.std(0), 1.0)
    rows, points = (rows - middle) / scale, (points - middle) / scale
    parts = _folds(rows, rng)
    shape = _shape(parts, counts, rng)
    tried = {k: _held_out(parts, k, shape, rng) for k in counts if len(counts) > 1}
    best = max(tried, key=lambda k: tried[k]) if tried else counts[0]
    p = _fitted(points, best, shape, rng, starts=4).predict_proba(rows)
    p = p[:, np.argsort(-np.bincount(p.argmax(1), minlength=best), kind="stable")]
    found = torch.from_numpy(p)
    words = {"clusters": best, "p": found, "tried": tried or {best: float("nan")}, "covariance": shape}
    return Answer(found.argmax(1), UNIT, Quality.ESTIMATE, raw=found, diagnostics=words)


def _folds(rows: Points, rng: Rng) -> list[tuple[Points, Points]]:
    """Rows to learn from and rows held out, three times."""
    fold = rng.permutation(len(rows)).cpu().numpy() % FOLDS
    return [(rows[fold != f], rows[fold == f]) for f in range(FOLDS)]


def _shape(parts: list[tuple[Points, Points]], counts: list[int], rng: Rng) -> str:
    """The covariance of clusters under which rows held out are likeliest, for the fewest clusters or for the middle.

    A diagonal one makes many clusters of one long one, and a full one has too many numbers for few rows.
    """
    rows, d = parts[0][0].shape
    scores = {}
    for k in {min(counts), sorted(counts)[len(counts) // 2]}:
        for shape in ("full", "diag") if d <= WIDE and rows > k * d else ("diag",):
            scores[_held_out(parts, k, shape, rng)] = shape
    return scores[max(scores)]


def _held_out(parts: list[tuple[Points, Points]], k: int, shape: str, rng: Rng) -> float:
    """Mean log likelihood of rows held out, nats a row."""
    return float(np.mean([_fitted(a, k, shape, rng).score(b) for a, b in parts]))


def _fitted(points: Points, k: int, shape: str, rng: Rng, starts: int = 2) -> Any:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture = GaussianMixture(
            k, covariance_type=shape, n_init=starts, reg_covar=1e-3, random_state=rng.seed() % 2**31
        )
        return mixture.fit(points)


def figure(answer: Answer) -> Figure:
    """The rows on the two main axes of their codes, coloured by cluster, beside what each number of them earned."""
    assert answer.model is not None
    model, x = answer.model, answer.question["x"]
    if answer.route == "latents":
        plane = main_plane(latents_of(model, x, answer.question["given"]).value.cpu().numpy())
    elif columnar(model.space) and model.space.size == 2:
        plane = Plane(units(model.space, x), np.eye(2), tuple(names(model.space)))
    else:
        plane = main_plane(model.chart.encode(x).flatten(1).double().cpu().numpy())
    sure = answer.diagnostics["p"].max(1).values.numpy()
    shown = pixels(x, model.space) if pictured(model.space) else None
    return clusters_figure(plane, answer.value.numpy(), sure, answer.diagnostics["tried"], shown)


ROUTES = (
    route(by_latents, "encode", sources="Fraley and Raftery 2002"),
    route(by_draws, "sample", sources="Fraley and Raftery 2002"),
)
