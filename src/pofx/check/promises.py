"""Promises of form: what a model offers works and nothing else does; seeds, shapes, errors, files, gradients."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pofx.check.probe import LIMIT, Probe, require, require_close, require_valid, spread
from pofx.check.report import Skipped
from pofx.data import Batch
from pofx.files import hyper_parameters
from pofx.model import HOOKS, Model, Predictive, Quality, Unsupported, Value
from pofx.randomness import Rng
from pofx.training.folder import load

TIERS = ("proven", "works", "experimental")


def card_is_complete(p: Probe) -> str:
    """The card says in words what kind of model this is."""
    card = p.model.card
    for name in ("density", "sampling", "training", "latents", "architecture", "incomplete", "summary", "reference"):
        require(bool(str(getattr(card, name)).strip()), f"card.{name} is empty")
    require(card.branch[:1] in (("explicit",), ("implicit",)), f"card.branch starts with {card.branch[:1]}")
    require(card.tier in TIERS, f"card.tier is {card.tier!r}, expected one of {TIERS}")
    return card.summary


def hyper_parameters_are_kept(p: Probe) -> str:
    """Constructor: keywords only, each stored under its own name, JSON all through."""
    core = p.model.core
    parameters = [q for n, q in inspect.signature(type(core).__init__).parameters.items() if n != "self"]
    if any(isinstance(value, Model) for value in vars(core).get("_modules", {}).values()):
        raise Skipped("a wrapper is made of its parts")
    loose = [q.name for q in parameters if q.kind is not q.KEYWORD_ONLY]
    require(not loose, f"not keyword-only: {loose}")
    missing = [q.name for q in parameters if not hasattr(core, q.name)]
    require(not missing, f"not stored under their own names: {missing}")
    try:
        json.dumps(hyper_parameters(core))
    except TypeError as error:
        require(False, f"not JSON: {error}")
    return f"{len(parameters)} hyper-parameters"


def undeclared_verbs_refuse(p: Probe) -> str:
    """Whatever is not offered raises Unsupported."""
    asks, offers = _asks(p), p.offers
    require(offers <= set(HOOKS), f"offers unknown hooks {sorted(offers - set(HOOKS))}")
    for verb in sorted(set(HOOKS) - offers):
        try:
            asks[verb]()
        except Unsupported:
            continue
        except Exception as error:
            require(False, f"{verb} is not offered and raises {type(error).__name__} instead of Unsupported")
        require(False, f"{verb} is not offered, yet it answers")
    return f"offers {', '.join(sorted(offers))}"


def declared_verbs_answer(p: Probe) -> str:
    """Whatever is offered answers in the right form."""
    asks, forms = _asks(p), _forms(p)
    for verb in sorted(p.offers):
        forms[verb](asks[verb]())
    return f"{len(p.offers)} verbs"


def _asks(p: Probe) -> dict[str, Callable[[], object]]:
    m, x, n = p.model, p.rows.x, len(p.rows)
    u, one = p.chart_rows(), torch.ones(n)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask.flatten(1)[:, 0] = False
    return {
        "sample": lambda: m.sample(3, None, 0),
        "log_prob": lambda: m.log_prob(x, None, None, 2, 0),
        "condition": lambda: m.condition(x, mask).sample(2, Rng(0)),
        "denoise": lambda: m.denoise(u, one, one),
        "encode": lambda: m.encode(x),
        "decode": lambda: m.decode(m.encode(x).mean if "encode" in p.offers else torch.zeros(n, 1)),
        "score": lambda: m.score(u),
        "steps": lambda: m.steps(n).start(),
    }


def _forms(p: Probe) -> dict[str, Callable[[object], None]]:
    n, event, chart = len(p.rows), p.space.shape, p.model.chart.space.shape

    def tensor(*shape: int) -> Callable[[object], None]:
        return lambda got: require(
            isinstance(got, Tensor) and tuple(got.shape) == shape, f"{type(got).__name__}, expected shape {shape}"
        )

    def value(got: object) -> None:
        require(isinstance(got, Value) and isinstance(got.quality, Quality), f"log_prob gives {type(got).__name__}")
        tensor(n)(got.value)  # type: ignore[attr-defined]

    def latent(got: object) -> None:
        require(isinstance(got, torch.distributions.Distribution), f"encode gives {type(got).__name__}")
        require(got.sample().shape[0] == n, "encode: the first axis is not the rows")  # type: ignore[attr-defined]

    def predictive(got: object) -> None:
        require(isinstance(got, Predictive), f"got {type(got).__name__}, expected a Predictive")
        require(len(got.params) == n, "its first axis is not the rows")  # type: ignore[attr-defined]

    return {
        "sample": tensor(3, *event), "log_prob": value, "condition": tensor(2, n, *event),
        "denoise": tensor(n, *chart), "score": tensor(n, *chart),
        "encode": latent, "decode": predictive, "steps": predictive,
    }  # fmt: skip


def errors_say_what_is_wrong(p: Probe) -> str:
    """An unknown given and a wrong shape raise ValueError."""
    m, x, tried = p.model, p.rows.x, 0
    odd = torch.zeros(2, *(k + 1 for k in p.space.shape), dtype=p.space.torch_dtype)
    strange = {"no such given": torch.zeros(len(x))}
    u, one = p.chart_rows(), torch.ones(len(x))
    wrong: dict[str, list[Callable[[], object]]] = {
        "sample": [lambda: m.sample(2, strange, 0)],
        "log_prob": [lambda: m.log_prob(x, strange), lambda: m.log_prob(odd)],
        "encode": [lambda: m.encode(x, strange), lambda: m.encode(odd)],
        "condition": [lambda: m.condition(odd, torch.ones_like(odd, dtype=torch.bool))],
        "denoise": [lambda: m.denoise(u, one, one, strange)],
        "score": [lambda: m.score(u, strange)],
        "steps": [lambda: m.steps(len(x), strange)],
    }
    for verb in sorted(set(wrong) & p.offers):
        for ask in wrong[verb]:
            try:
                ask()
            except ValueError:
                tried += 1
                continue
            except Exception as error:
                require(False, f"{verb}: {type(error).__name__} instead of ValueError ({error})")
            require(False, f"{verb} accepts an unknown given or a wrong shape")
    return f"{tried} wrong questions refused"


def samples_are_valid(p: Probe) -> str:
    """Shape (n, *batch, *event), the Space's dtype, values of the support; each given may be missing."""
    m, b = p.model, min(4, len(p.rows))
    several = {k: v[:b] for k, v in p.rows.given.items()}
    for given in [several, {}, *({k: v} for k, v in several.items())]:
        x = m.sample(5, given or None, p.rng.seed())
        shape = (5, *([b] if given else []), *p.space.shape)
        require(tuple(x.shape) == shape, f"sample gives shape {tuple(x.shape)}, expected {shape}")
        require(x.dtype is p.space.torch_dtype, f"sample gives {x.dtype}, expected {p.space.dtype}")
        require(not x.requires_grad, "a sample carries a gradient")
        require_valid(x, p.space)
    return "also with each given missing" if several else ""


def seeds_decide(p: Probe) -> str:
    """The same seed gives the same draw, another seed another, and one stream never repeats itself."""
    m = p.model
    for seed in range(p.seeds):
        a, b, c = m.sample(64, None, seed), m.sample(64, None, seed), m.sample(64, None, seed + 1000)
        require(bool((a == b).all()), f"seed {seed}: two draws differ")
        require(bool((a != c).any()), f"seeds {seed} and {seed + 1000} give the same draws")
    rng = Rng(0)
    require(bool((m.sample(64, None, rng) != m.sample(64, None, rng)).any()), "one stream gave the same draws twice")
    if "log_prob" in p.offers:
        a, b = (m.log_prob(p.rows.x, None, None, 2, 7).value for _ in range(2))
        require_close(a, b, "log_prob with one seed, asked twice", slack=1e-6)
    return f"{p.seeds} seeds"


def asking_changes_nothing(p: Probe) -> str:
    """Questions touch neither the weights nor the global random state."""
    before = [q.detach().clone() for q in p.model.parameters()]
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]  # noqa: NPY002
    for verb in sorted(p.offers):
        _asks(p)[verb]()
    require(bool((torch.random.get_rng_state() == torch_state).all()), "torch's global random state moved")
    moved = np.random.get_state()[1] != numpy_state  # type: ignore[index]  # noqa: NPY002
    require(not bool(np.any(moved)), "NumPy's global random state moved")
    same = all(bool((a == b).all()) for a, b in zip(before, p.model.parameters(), strict=True))
    require(same, "a question changed the weights")
    return f"{len(before)} tensors"


def folder_gives_it_back(p: Probe) -> str:
    """A saved and loaded model answers alike."""
    core = p.model.core
    if any(isinstance(part, Model) for part in core.children()):
        raise Skipped("a wrapper is saved by its parts")
    with tempfile.TemporaryDirectory() as folder:
        p.model.save(folder)
        again = load(folder, families=[type(core)])
    require(again.name == p.model.name and again.offers() == p.offers, "another name or other offers")
    if "sample" in p.offers:
        a, b = (m.sample(16, None, 3) for m in (p.model, again))
        require(bool((a == b).all()), "the loaded model draws something else")
    if "log_prob" in p.offers:
        a, b = (m.log_prob(p.rows.x, None, None, 2, 3).value for m in (p.model, again))
        require_close(a, b, "log_prob after loading", slack=1e-6)
    return ""


def every_parameter_learns(p: Probe) -> str:
    """Each player's loss is one finite number, and every parameter gets a gradient from some player."""
    model = p.copied().train()
    with torch.no_grad():  # away from weights that start at zero and block what lies below them
        for q in model.parameters():
            q.add_(0.02 * p.rng.normal(tuple(q.shape)).to(q))
    players = model.players()
    if model.closed:
        raise Skipped("it is fitted in closed form")
    names = {id(q): name for name, q in model.named_parameters() if q.requires_grad}
    heard: set[int] = set()
    batch = Batch(p.rows.x, p.rows.given, None, torch.arange(len(p.rows)))
    for player in players:
        for seed in range(p.seeds):
            loss = player.loss(batch, Rng(seed))
            require(loss.ndim == 0 and bool(torch.isfinite(loss)), f"{player.name}: loss {loss!r}")
            grads = zip(player.params, torch.autograd.grad(loss, player.params, allow_unused=True), strict=True)
            heard |= {id(q) for q, g in grads if g is not None and bool((g != 0).any())}
    deaf = [name for key, name in names.items() if key not in heard]
    require(not deaf, f"no gradient reaches {', '.join(deaf[:6])}" + (" ..." if len(deaf) > 6 else ""))
    return f"{len(names)} tensors, {len(players)} player(s)"


def rows_know_nothing_of_each_other(p: Probe) -> str:
    """An answer for a row is the same alone, in a batch, and in another order."""
    m, x, n = p.model, p.rows.x[:16], min(16, len(p.rows))
    given = {k: v[:n] for k, v in p.rows.given.items()}
    order, one = p.rng.permutation(n), torch.ones(n)
    u = p.chart_rows()[:n]

    def log_p(rows: Tensor) -> tuple[Tensor, Tensor]:
        values = p.values(x[rows], {k: v[rows] for k, v in given.items()})
        return values.mean, values.stderr

    asks: dict[str, Callable[[Tensor], tuple[Tensor, Tensor | float]]] = {
        "log_prob": log_p,
        "denoise": lambda r: (m.denoise(u[r], one[r], one[r], {k: v[r] for k, v in given.items()}), 0.0),
        "score": lambda r: (m.score(u[r], {k: v[r] for k, v in given.items()}), 0.0),
        "encode": lambda r: (m.encode(x[r], {k: v[r] for k, v in given.items()}).mean, 0.0),
    }
    for verb in sorted(set(asks) & p.offers):
        whole, error = asks[verb](torch.arange(n))
        if isinstance(error, Tensor) and bool((error > 0).any()):
            _same_on_average(asks[verb], whole, order)
            continue
        for rows in (order, torch.tensor([0]), torch.tensor([n - 1])):
            require_close(asks[verb](rows)[0], whole[rows], f"{verb} of a row alone or moved")
    return ", ".join(sorted(set(asks) & p.offers))


def _same_on_average(ask: Callable[[Tensor], tuple[Tensor, Tensor | float]], whole: Tensor, order: Tensor) -> None:
    """For random answers: the differences over all rows, since the spread of one row's few repeats is a poor guess."""
    alone = torch.cat([ask(torch.tensor([i]))[0] for i in range(len(whole))])
    for gap in (alone - whole, ask(order)[0] - whole[order]):
        z = float(gap.mean() / (gap.std() / len(gap) ** 0.5).clamp_min(1e-9))
        require(abs(z) < LIMIT, f"log_prob of a row alone or moved: z = {z:.1f}")


def givens_may_be_missing(p: Probe) -> str:
    """Every subset of the givens will do, and a batch may hold its own value for every row."""
    if not p.rows.given:
        raise Skipped("it is given nothing")
    for label, given in p.cases():
        values = p.values(p.rows.x, given) if "log_prob" in p.offers else None
        if values is not None:
            require(not bool(torch.isnan(values.mean).any()), f"log_prob is NaN, {label}")
        if "denoise" in p.offers:
            u = p.chart_rows()
            got = p.model.denoise(u, torch.ones(len(u)), torch.ones(len(u)), spread(given, p.model.given, len(u)))
            require(bool(torch.isfinite(got).all()), f"denoise is not finite, {label}")
    return f"{len(p.cases())} cases"
