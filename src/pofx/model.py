"""Model: a distribution p(x | given) with public verbs that check, and private hooks that compute.

    verbs   build  sample  log_prob  condition  denoise  encode  decode  score  steps
    hooks   _build _sample _log_prob _condition _denoise _encode _decode _score _steps  and  _players or _fit_closed

A family fills the hooks it can; `offers()` says which. Hooks see flat rows: x `(B, *event)`, each given `(B, *event)`.
Draws lead: `sample` gives `(n, *batch, *event)`; `log_prob` gives `(*batch,)`, nats per event, Jacobians included.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from pofx.data import Batch, Data
from pofx.files import save_model
from pofx.kinds.base import Space
from pofx.kinds.likelihood import Likelihood
from pofx.kinds.relax import Chart
from pofx.randomness import Rng
from pofx.records import Card, Conditional, Cursor, Player, Predictive, Quality, Report, Unsupported, Value, no_limit

__all__ = [
    "HOOKS", "Batch", "Card", "Conditional", "Cursor", "Data", "Given", "Likelihood", "Model", "Player", "Predictive",
    "Quality", "Report", "Rng", "Space", "Unsupported", "Value",
]  # fmt: skip

HOOKS = {  # hook -> who fills it, for a refusal that says where to look
    "sample": "every family but autoencoder",
    "log_prob": "all but gan, gsn, autoencoder",
    "condition": "gaussian, mixture, kde, copula, conditionals, trees, masked_diffusion, rbm; autoregressive on tables",
    "denoise": "diffusion, continuous_flow, gaussian; mixture and kde on real vectors",
    "encode": "vae, hvae, vqvae, latent, autoencoder, gan, flow, gaussian",
    "decode": "vae, hvae, vqvae, latent, autoencoder, gan",
    "score": "diffusion, continuous_flow, energy, flow, gaussian; mixture and kde on real vectors",
    "steps": "autoregressive, trees, ngram",
}
Given = Mapping[str, Tensor]


class Model(nn.Module):
    """A distribution p(x | given). Constructor: hyper-parameters only; weights exist after `build`."""

    card: ClassVar[Card]
    loss_unit: ClassVar[str] = "nats"
    batch_size: ClassVar[int] = 128
    validate_by: ClassVar[str] = "loss"  # or "samples", where the loss does not fall; "none": the last weights are kept
    sampler: ClassVar[Quality] = Quality.EXACT  # or ESTIMATE, where a chain or a solver stands before the draws
    points: ClassVar[bool] = False  # a Euclidean family that wants a table's categories as points (see `Chart`)
    space: Space
    given: dict[str, Space]
    history: list[dict[str, Any]]  # what `fit` reported, line by line
    record: dict[str, Any]  # how it was fitted: data, seconds, plan

    if TYPE_CHECKING:  # buffers and submodules made in `_build` have the types that `_build` gives them

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self) -> None:
        super().__init__()
        self.history, self.record = [], {}

    def build(self, space: Space, given: Mapping[str, Space] | None = None, seed: int = 0) -> Model:
        """Make the weights for a Space; returns self. Initial weights are a function of the seed."""
        self.space, self.given = space, dict(given or {})
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            self._build()
        return self

    def offers(self) -> frozenset[str]:
        """The hooks that this model really has."""
        filled = {h for h in HOOKS if getattr(type(self), f"_{h}") is not getattr(Model, f"_{h}")}
        return frozenset(filled | ({"score"} if "log_prob" in filled and self.space.standard else set()))

    def sample(self, n: int, given: Given | None = None, rng: Rng | torch.Generator | int | None = None) -> Tensor:
        """Draw x ~ p(x | given): `(n, *batch, *event)`; each given is `(*batch, *given_event)`; none: no batch axes."""
        self._need("sample")
        batch, flat = self._flat_given(given, ())
        rows = {k: v.repeat(n, *[1] * (v.ndim - 1)) for k, v in flat.items()}
        with torch.no_grad():
            return self._sample(n * math.prod(batch), rows, self._rng(rng)).reshape(n, *batch, *self.space.shape)

    def log_prob(
        self,
        x: Tensor,
        given: Given | None = None,
        observed: Tensor | None = None,
        draws: int = 1,
        rng: Rng | torch.Generator | int | None = None,
    ) -> Value:
        """log p(x | given), nats per event, `(*batch,)`; of the observed entries alone where `observed` has gaps."""
        self._need("log_prob")
        batch, x = self._flat(x)
        _, flat = self._flat_given(given, batch)
        if observed is not None:
            observed = None if bool(observed.all()) else observed.reshape(x.shape).to(x.device)
        value = self._log_prob(x, flat, observed, draws, self._rng(rng))
        return (value if isinstance(value, Value) else Value(value)).reshape(batch)

    def condition(self, x: Tensor, observed: Tensor, given: Given | None = None) -> Conditional:
        """p(x_m | x_o) for rows x `(B, *event)`, each with its own mask `observed` of the same shape."""
        self._need("condition")
        batch, flat = self._flat(x)
        return self._condition(flat, observed.reshape(flat.shape).to(flat.device), self._flat_given(given, batch)[1])

    def denoise(self, u_t: Tensor, alpha_t: Tensor, sigma_t: Tensor, given: Given | None = None) -> Tensor:
        """E[u | u_t] where u_t = alpha_t u + sigma_t e, in the chart; all `(B, *chart_event)` or broadcastable."""
        self._need("denoise")
        return self._denoise(u_t, alpha_t, sigma_t, self._flat_given(given, (len(u_t),))[1])

    def encode(self, x: Tensor, given: Given | None = None) -> torch.distributions.Distribution:
        """The posterior over z of rows x `(B, *event)`."""
        self._need("encode")
        batch, x = self._flat(x)
        return self._encode(x, self._flat_given(given, batch)[1])

    def decode(self, z: Tensor, given: Given | None = None) -> Predictive:
        """p(x | z) in data units for rows z `(B, *latent)`."""
        self._need("decode")
        return self._decode(z, self._flat_given(given, (len(z),))[1])

    def log_code(self, z: Tensor, given: Given | None = None) -> Tensor:
        """log p(z | given) of rows z as `encode` gives them, up to a constant, `(B,)`; N(0, I) by default."""
        return -0.5 * z.double().square().flatten(1).sum(1)

    def score(self, u: Tensor, given: Given | None = None) -> Tensor:
        """The gradient of log p in the chart, same shape as u `(B, *chart_event)`."""
        self._need("score")
        return self._score(u, self._flat_given(given, (len(u),))[1])

    def steps(self, rows: int, given: Given | None = None) -> Cursor:
        """A cursor over the entries for a number of rows."""
        self._need("steps")
        return self._steps(rows, self._flat_given(given, (rows,))[1])

    def players(self) -> list[Player]:
        """Who is optimised; empty for a family that is fitted in closed form."""
        return self._players()

    def fit_closed(self, data: Data, rng: Rng, report: Report = no_limit) -> None:
        """Fit without gradients; `report` takes lines of history and says whether there is time left."""
        self._fit_closed(data, rng, report)

    def save(self, folder: str | Path) -> None:
        """Write the fitted model as a folder that `pofx.load` reads."""
        save_model(self, folder)

    @property
    def core(self) -> Model:
        """The family itself, inside whatever `fit` wrapped around it."""
        return self

    @property
    def chart(self) -> Chart:
        """The Euclidean coordinates in which `denoise` and `score` compute."""
        if "_own_chart" not in self.__dict__:
            self.__dict__["_own_chart"] = Chart(self.space)  # not a submodule: it has nothing to learn or save
        return self.__dict__["_own_chart"].to(self.device)

    @property
    def closed(self) -> bool:
        """Whether the family is fitted by `fit_closed` rather than by players."""
        return type(self)._fit_closed is not Model._fit_closed

    # hooks: a family fills those it can
    def _build(self) -> None: ...
    def _players(self) -> list[Player]:
        return []

    def _fit_closed(self, data: Data, rng: Rng, report: Report) -> None:
        raise Unsupported(f"{self.name} is fitted by its players.")

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        raise NotImplementedError

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value | Tensor:
        raise NotImplementedError

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        raise NotImplementedError

    def _denoise(self, u_t: Tensor, alpha_t: Tensor, sigma_t: Tensor, given: Given) -> Tensor:
        raise NotImplementedError

    def _encode(self, x: Tensor, given: Given) -> torch.distributions.Distribution:
        raise NotImplementedError

    def _decode(self, z: Tensor, given: Given) -> Predictive:
        raise NotImplementedError

    def _score(self, u: Tensor, given: Given) -> Tensor:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            return torch.autograd.grad(self.log_prob(u, given or None).value.sum(), u)[0]

    def _steps(self, rows: int, given: Given) -> Cursor:
        raise NotImplementedError

    # what verbs share
    @property
    def name(self) -> str:
        """The family's name."""
        return type(self).__name__.lower()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((t.device for t in self._tensors()), torch.device("cpu"))

    def _tensors(self) -> Iterable[Tensor]:
        yield from self.parameters()
        yield from self.buffers()

    def _rng(self, rng: Rng | torch.Generator | int | None) -> Rng:
        return Rng(rng, self.device)

    def _need(self, hook: str) -> None:
        if hook not in self.offers():
            raise Unsupported(f"{self.name} has no {hook}; it offers {', '.join(sorted(self.offers())) or 'nothing'}.")

    def _flat(self, x: Tensor) -> tuple[tuple[int, ...], Tensor]:
        shape, n = self.space.shape, len(self.space.shape)
        if tuple(x.shape[x.ndim - n :]) != shape or x.ndim < n:
            raise ValueError(
                f"{self.name}: got x of shape {tuple(x.shape)}, expected (*batch, {', '.join(map(str, shape))})."
            )
        batch = tuple(x.shape[: x.ndim - n])
        return batch, x.reshape(-1, *shape).to(self.device)

    def _flat_given(self, given: Given | None, batch: tuple[int, ...]) -> tuple[tuple[int, ...], dict[str, Tensor]]:
        flat = {}
        for name, value in (given or {}).items():
            if name not in self.given:
                raise ValueError(
                    f"{self.name}: given {name!r} is unknown; it was fitted given {sorted(self.given) or 'nothing'}."
                )
            shape = self.given[name].shape
            own = tuple(value.shape[: value.ndim - len(shape)])
            if tuple(value.shape[value.ndim - len(shape) :]) != shape or (batch and own != batch):
                raise ValueError(
                    f"{self.name}: given {name!r} has shape {tuple(value.shape)}, expected {(*batch, *shape)}."
                )
            batch, flat[name] = own, value.reshape(-1, *shape).to(self.device)
        return batch, flat
