"""A family of your own in one file: the Chow-Liu tree, p(x) = p(x_root) prod_j p(x_j | x_parent(j)).

    pofx fit digits examples/my_family.py:MyFamily            pofx compare digits --add examples/my_family.py:MyFamily

The best tree is a maximum spanning tree over mutual informations (Chow and Liu 1968). Discrete entries only.
"""

import torch
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from pofx import Card, Model, Unsupported


class MyFamily(Model):
    """A tree of dependent entries, exact in density and sampling."""

    card = Card(
        density="exact, fast", sampling="fast", training="closed form", latents="none", architecture="tree",
        branch=("explicit", "tractable"), incomplete="refuses: a tree counts complete rows", given=False,
        summary="every entry depends on one other", reference="Chow and Liu 1968", tier="experimental",
    )  # fmt: skip

    def __init__(self, *, smoothing: float = 5.0) -> None:
        super().__init__()
        self.smoothing = smoothing

    def _build(self) -> None:
        if not self.space.discrete:
            raise Unsupported("MyFamily takes discrete entries only.")
        d, k = self.space.size, max(v.levels for v in self.space.variables)
        self.register_buffer("parent", torch.zeros(d, dtype=torch.long))
        self.register_buffer("order", torch.arange(d))
        self.register_buffer("log_p", torch.zeros(d, k, k))  # entry, its parent's code, its own code

    def _fit_closed(self, data, rng, report) -> None:
        x, k = data.part("train").x.flatten(1).long(), self.log_p.shape[1]
        legal = torch.stack([torch.arange(k) < self.space.variable(i).levels for i in range(x.shape[1])])
        one_hot = torch.nn.functional.one_hot(x, k).double()  # (N, D, K)
        p = torch.einsum("nik,njl->ijkl", one_hot, one_hot)
        p = (p + self.smoothing / k * legal[:, None, :, None] * legal[None, :, None, :]) / (len(x) + self.smoothing * k)
        p = p / p.sum((2, 3), keepdim=True)
        alone = p.sum(3)
        information = (
            p * (p / (alone[..., None] * p.sum(2)[:, :, None, :]).clamp_min(1e-30)).clamp_min(1e-30).log()
        ).sum((2, 3))
        tree = minimum_spanning_tree(-information.fill_diagonal_(0).numpy())
        order, parent = breadth_first_order(tree, 0, directed=False)
        self.order, self.parent = torch.tensor(order).long(), torch.tensor(parent).long().clamp_min(0)
        self.log_p = p[self.parent, torch.arange(x.shape[1])].clamp_min(1e-30).log().log_softmax(-1).float()
        self.log_p[0] = alone[0, 0].clamp_min(1e-30).log().log_softmax(-1).float()  # the root looks at nobody
        report({"step": 1, "loss": -float(self._log_prob(data.part("train").x, {}, None, 1, rng).mean())})

    def _log_prob(self, x, given, observed, draws, rng):
        if observed is not None:
            raise Unsupported("MyFamily answers for complete rows.")
        code = x.flatten(1).long()
        return self.log_p[torch.arange(code.shape[1]), code[:, self.parent], code].double().sum(1)

    def _sample(self, count, given, rng):
        x = torch.zeros(count, self.space.size, dtype=torch.long)
        for j in self.order.tolist():
            x[:, j] = rng.categorical(self.log_p[j, x[:, self.parent[j]]])
        return x.reshape(count, *self.space.shape).to(self.space.torch_dtype)
