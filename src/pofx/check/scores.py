"""Scores: how good the answer to each question is in a world, larger is better; and what is said without a model.

    error     minus the root mean squared one, in standard deviations or in the units of the world
    nats      of the law, at rows that an answer made up
    right     the share of labels

Each takes a model and a world and asks by the task; `worth` puts them side by side.
"""

from __future__ import annotations

import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from pofx.check.worlds import World
from pofx.metrics import auroc, sliced_wasserstein
from pofx.model import Model, Quality, Unsupported
from pofx.randomness import Rng
from pofx.tasks.anomaly import anomaly
from pofx.tasks.augment import augment
from pofx.tasks.classify import classify
from pofx.tasks.cluster import cluster
from pofx.tasks.compress import compress
from pofx.tasks.contribute import contribute
from pofx.tasks.density import density
from pofx.tasks.depend import depend
from pofx.tasks.dimension import dimension
from pofx.tasks.embed import embed
from pofx.tasks.forecast import forecast
from pofx.tasks.impute import impute
from pofx.tasks.interpolate import interpolate
from pofx.tasks.plan import plan
from pofx.tasks.restore import restore
from pofx.tasks.sample import sample
from pofx.tasks.translate import translate
from pofx.tasks.traverse import traverse
from pofx.wrappers import Fixed

ROWS, GAPS = 200, 0.4
FEW = 4  # labelled rows of each class, before they are augmented
STARTS = ((2.0, 0.5), (-1.5, 1.0), (1.0, -2.0))


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1).double()


def drawn(model: Model, w: World) -> float:
    """Minus the distance of draws to fresh rows of the law."""
    found = sample(model, 1000, rng=0).raw
    assert found is not None
    return alike(w, found)


def alike(w: World, drawn: Tensor) -> float:
    """Minus the distance to fresh rows of the law, in standard deviations."""
    fresh, spread = _flat(w.law.sample(1000, None, 7)), _flat(w.train).std(0)
    return -float(sliced_wasserstein(fresh / spread, _flat(drawn) / spread, rng=0).value)


def shuffled(x: Tensor, rng: Rng) -> Tensor:
    """Every column in an order of its own."""
    flat = x.flatten(1)
    return torch.stack([flat[rng.permutation(len(x)), j] for j in range(flat.shape[1])], 1).reshape(x.shape)


def nats(model: Model, w: World) -> float:
    """Mean log p of test rows."""
    found = density(model, w.test[:ROWS])
    if found.quality is Quality.UNNORMALISED:
        raise Unsupported("its log p is unnormalised, which is no number of nats")
    return float(torch.as_tensor(found.value).double().mean())


def culprit(model: Model, w: World) -> float:
    """How often the entry that was exchanged contributes least."""
    rng, x = Rng(0), w.test[:ROWS].clone()
    flat, other = x.flatten(1), w.train[: len(x)].flatten(1)
    which = rng.integers(flat.shape[1], (len(x),))
    rows = torch.arange(len(x))
    flat[rows, which] = other[rows, which]
    found = torch.as_tensor(contribute(model, flat.reshape(x.shape)).value).flatten(1)
    return float((found.argmin(1) == which).double().mean())


def _hidden(w: World) -> tuple[Tensor, Tensor]:
    """Test rows, and which entries are seen."""
    x = w.test[:ROWS]
    return x, Rng(0).bernoulli(1 - GAPS, tuple(x.shape))


def missed(w: World, guess: Tensor) -> float:
    """Minus the root mean squared error of hidden entries, in standard deviations."""
    x, seen = _hidden(w)
    gap = (guess.double() - x.double()) / w.train.double().std(0).clamp_min(1e-6)
    return -float(gap[~seen].square().mean().sqrt())


def filled(model: Model, w: World) -> float:
    """Minus the error of hidden entries that were imputed."""
    x, seen = _hidden(w)
    found = impute(model, x, observed=seen, draws=8, rng=0).raw
    assert found is not None
    return missed(w, found.double().mean(0))


def strange(model: Model, w: World) -> float:
    """How well rows are told from rows whose columns were shuffled."""
    x = w.test[:ROWS]
    a, b = (torch.as_tensor(anomaly(model, rows).value) for rows in (x, shuffled(x, Rng(0))))
    return float(auroc(a, b).value)


def named(model: Model, w: World) -> float:
    """Accuracy of classes."""
    found = torch.tensor(classify(model, w.test[:ROWS]).value)
    return float((found == w.label("test")[:ROWS]).double().mean())


def taught(w: World, x: Tensor, label: Tensor) -> float:
    """Accuracy of a nearest-neighbour vote that learnt from these rows."""
    peer = KNeighborsClassifier(5).fit(_flat(x).numpy(), label.numpy())
    return float(peer.score(_flat(w.test).numpy(), w.label("test").numpy()))


def few(w: World) -> tuple[Tensor, Tensor]:
    """Some labelled training rows, and their labels."""
    label = w.label("train")
    rows = torch.cat([(label == c).nonzero().squeeze(1)[:FEW] for c in label.unique()])
    return w.train[rows], label[rows]


def enlarged(model: Model, w: World) -> float:
    """Accuracy of a vote that learnt from augmented rows."""
    x, label = few(w)
    found = augment(model, (x, label), "label", 300, rng=0)
    assert found.raw is not None
    drawn = torch.as_tensor(found.diagnostics["drawn"])
    labels = torch.as_tensor([int(v) for v in found.diagnostics["labels"]])
    return taught(w, torch.cat([x.double(), found.raw.double()]), torch.cat([label, labels[drawn]]))


def bits(model: Model, w: World) -> float:
    """Minus the bits of a row."""
    return -8 * len(compress(model, w.test).value) / len(w.test)


def codes(model: Model, w: World) -> float:
    """Accuracy of a nearest-neighbour vote on the codes."""
    train, test = (torch.as_tensor(embed(model, x).value).numpy() for x in (w.train[:1000], w.test[:ROWS]))
    peer = KNeighborsClassifier(5).fit(train, w.label("train")[:1000].numpy())
    return float(peer.score(test, w.label("test")[:ROWS].numpy()))


def majority(w: World) -> float:
    """Accuracy of the commonest label."""
    return float(torch.bincount(w.label("test")).max() / len(w.test))


def bayes(w: World) -> float:
    """The best accuracy that there is."""
    return named(w.law, w)


def grouped(model: Model, w: World) -> float:
    """Rand index of clusters and labels, adjusted for chance."""
    found = torch.as_tensor(cluster(model, w.test, 2).value)
    return float(adjusted_rand_score(w.label("test").numpy(), found.numpy()))


def k_means(w: World) -> float:
    """The same of k-means on the entries."""
    found = KMeans(2, n_init=5, random_state=0).fit_predict(_flat(w.test).numpy())
    return float(adjusted_rand_score(w.label("test").numpy(), found))


def pairs(model: Model, w: World) -> float:
    """Correlation of the nats between columns with those of the law."""
    upper = torch.triu(torch.ones(w.law.space.size, w.law.space.size), 1).bool()
    a, b = (torch.as_tensor(depend(m, draws=2000).value)[upper] for m in (model, w.law))
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1].nan_to_num(0.0))


def dimensions(model: Model, w: World) -> float:
    """Minus how far off the intrinsic dimension is."""
    return -abs(float(dimension(model, w.test[:ROWS]).value) - dimension_of_the_law(w))


def dimension_of_the_law(w: World) -> float:
    """The intrinsic dimension, asked of the law."""
    return float(dimension(w.law, w.test[:ROWS]).value)


def _likely(w: World, x: Tensor) -> float:
    """Nats of the law, of which the very unlikely ones count no more than a far row does."""
    return float(w.law.log_prob(x).value.clamp_min(-50.0).mean())


def strips(model: Model, w: World) -> float:
    """Nats of the law along the strips of a traversal."""
    one = w.test[w.label("test") == 0][:ROWS]
    found = traverse(Fixed(model, {"label": torch.tensor(0)}) if model.given else model, one, 2, 5, reach=1.5).raw
    assert found is not None
    return _likely(w, found.reshape(-1, *w.law.space.shape))


def lines(w: World) -> float:
    """Every column by itself out of the middle."""
    x = _flat(w.train)
    middle, at = x.mean(0), torch.linspace(-1.5, 1.5, 5, dtype=torch.float64)
    rows = torch.cat([middle + at[:, None] * x.std(0) * torch.eye(x.shape[1]).to(x)[j] for j in range(x.shape[1])])
    return _likely(w, _as_rows(w, rows))


def _as_rows(w: World, flat: Tensor) -> Tensor:
    v = w.law.space.variables[0]
    flat = flat.round().clamp(0, v.levels - 1) if v.discrete else flat
    return flat.reshape(-1, *w.law.space.shape).to(w.law.space.torch_dtype)


def _ends(w: World) -> tuple[Tensor, Tensor]:
    label = w.label("test")
    return w.test[label == 0][:60], w.test[label == 1][:60]


def midway(model: Model, w: World) -> float:
    """Nats of the law in the middle of strips from label to label."""
    found = interpolate(model, *_ends(w), 5).raw
    assert found is not None
    return _likely(w, found[:, 2])


def blend(w: World) -> float:
    """The same of straight lines."""
    a, b = _ends(w)
    return _likely(w, _as_rows(w, (_flat(a) + _flat(b)) / 2))


def rows_of_the_law(w: World) -> float:
    """The same of test rows."""
    return _likely(w, w.test)


def _sums(w: World) -> Tensor:
    """A measurement: as many sums as half the entries."""
    return Rng(9).normal((w.law.space.size, w.law.space.size // 2), torch.float64) / w.law.space.size**0.5


def restored(model: Model, w: World) -> float:
    """Minus the error of rows of which sums were measured."""
    A, x = _sums(w), w.test[:ROWS]
    y = _flat(x) @ A + 0.05 * Rng(1).normal((len(x), A.shape[1]), torch.float64)
    found = restore(model, y, lambda v: v.flatten(1) @ A.to(v), 0.05, rng=0)
    return -float((_flat(torch.as_tensor(found.diagnostics["mean"])) - _flat(x)).square().mean().sqrt())


def least_norm(w: World) -> float:
    """The same of the nearest rows to the mean that have these sums."""
    A, x, middle = _sums(w), _flat(w.test[:ROWS]), _flat(w.train).mean(0)
    return -float((middle + (x - middle) @ A @ torch.linalg.pinv(A) - x).square().mean().sqrt())


def foretold(model: Model, w: World) -> float:
    """Minus the error of the mean of futures."""
    known = w.test[:100]
    found = forecast(model, known[:, :6].numpy(), 6, draws=20, rng=0).raw
    assert found is not None
    return _apart(found.double().mean(0), known[:, 6:])


def _apart(a: Tensor, b: Tensor) -> float:
    return -float((a.double() - b.double()).square().mean().sqrt())


def by_rote(w: World) -> float:
    """The better of the mean and the last value."""
    known = w.test[:100]
    last = known[:, 5:6].expand(-1, 6, -1)
    return max(_apart(w.train.mean(0, keepdim=True)[:, 6:].expand_as(last), known[:, 6:]), _apart(last, known[:, 6:]))


def earned(model: Model, w: World) -> float:
    """Mean reward of plans carried out: minus the squared distance from rest."""
    total = 0.0
    for k, start in enumerate(STARTS):
        found = plan(model, start, lambda s, a, after: -after.square().sum(1), 5, candidates=48, draws=2, rng=k)
        total += _carried_out(w, torch.tensor(start, dtype=torch.float64), torch.as_tensor(found.value))
    return total / len(STARTS)


def _carried_out(w: World, state: Tensor, actions: Tensor) -> float:
    total = 0.0
    for a in actions.reshape(-1, 1, 1).double():
        state = w.law.sample(32, {"state": state.reshape(1, 2), "action": a}, 0).double().mean((0, 1))
        total -= float(state.square().sum())
    return total


def idle(w: World) -> float:
    """The reward of doing nothing."""
    return sum(_carried_out(w, torch.tensor(s).double(), torch.zeros(5)) for s in STARTS) / len(STARTS)


def turned(model: Model, w: World) -> float:
    """Minus the error of the next state, told from the state and the push."""
    test = w.data.part("test")
    given = {"action": test.given["action"][:ROWS]}
    found = translate(model, test.given["state"][:ROWS], given=given, rng=0).raw
    assert found is not None
    return _apart(found, test.x[:ROWS])


def unturned(w: World) -> float:
    """The same, of the state that stays as it is."""
    test = w.data.part("test")
    return _apart(test.given["state"][:ROWS], test.x[:ROWS])
