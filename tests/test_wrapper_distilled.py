"""Distilled: from the same noise, few steps of the student end where many of the teacher do."""

from __future__ import annotations

import pytest
import torch

from pofx.data import Batch, Data
from pofx.engines.diffusion import VP, ddim, heun, prior
from pofx.families.diffusion import Diffusion
from pofx.families.gaussian import Gaussian
from pofx.kinds.base import category, real
from pofx.model import Card, Model, Unsupported
from pofx.randomness import Rng
from pofx.wrappers import Distilled, Guided, distil

torch.set_num_threads(1)
MEANS = torch.tensor([[1.2, 0.8], [-1.0, -0.6]], dtype=torch.float64)


class TwoHumps(Model):
    """0.5 N(m_1, 0.1 I) + 0.5 N(m_2, 0.1 I), with a weight that is never used: a closed-form teacher."""

    card = Card("", "", "", "", "", ("explicit",), "refuses", "", "", euclidean=True)
    variance = 0.1

    def _build(self):
        self.idle = torch.nn.Parameter(torch.zeros(1))

    def _sample(self, count, given, rng):
        which = given["label"] if "label" in given else rng.integers(2, (count,))
        return (MEANS[which] + self.variance**0.5 * rng.normal((count, 2), torch.float64)).float()

    def _denoise(self, u_t, alpha_t, sigma_t, given):
        a, s = (torch.as_tensor(v).double().reshape(-1, 1) for v in (alpha_t, sigma_t))
        spread = a**2 * self.variance + s**2
        away = u_t.double()[:, None] - a[:, None] * MEANS
        w = (-0.5 * away.square().sum(-1) / spread).softmax(-1)
        if "label" in given:
            w = torch.nn.functional.one_hot(given["label"], 2).double()
        each = MEANS + (a * self.variance / spread)[:, None] * away
        return (w[..., None] * each).sum(1).to(u_t.dtype) + 0 * self.idle


def humps() -> tuple[TwoHumps, Data]:
    model = TwoHumps().build(real(2).replace(dtype="float32"), {"label": category(2)})
    label = Rng(1).integers(2, (2000,))
    x = model.sample(1, {"label": label}, 0)[0]
    return model, Data(x, model.space, {"label": label}, model.given).splitted(0.1, 0.1)


def test_the_target_is_where_one_step_meets_the_teacher():
    """D* put into a DDIM step gives what many Heun steps give; at the last node it is the data itself."""
    model, data = humps()
    student = Distilled(model, 4)
    u = prior(VP(), (50, 2), Rng(0), dtype=torch.float64)
    ends = u
    for k in range(4):
        d = student._target(model, ends, {}, k, 16)
        (a, s), (a1, s1) = student._nodes[k], student._nodes[k + 1]
        ends = a1 * d + s1 * (ends - a * d) / s
    fine = heun(model.denoise, u, VP(), 256)
    assert float((ends - fine).abs().median()) < 0.01


@pytest.mark.slow
def test_a_student_of_few_steps_follows_its_teacher():
    model, data = humps()
    start = Diffusion(width=64, depth=2, frequencies=2, lr=2e-3).build(model.space, model.given)
    student = distil(start, data, 4, teacher=model, updates=600, rng=0)
    u = prior(VP(), (2000, 2), Rng(5))
    fine, coarse = (heun(model.denoise, u, VP(), 128), ddim(model.denoise, u, VP(), 4))
    error, baseline = ((v - fine).norm(dim=1).mean() for v in (student.from_noise(u), coarse))
    assert float(error) < 0.35 * float(baseline)
    assert student.offers() == {"sample"}
    draws = student.sample(4000, rng=2)
    assert float((draws[:, 0] > 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    held = student.sample(1000, {"label": torch.tensor([1])}, 3)[:, 0]
    assert ((held.mean(0) - MEANS[1]).abs() < 0.1).all()


def test_guidance_can_be_the_teacher():
    model, data = humps()
    rows = data.part("train")
    batch = Batch(rows.x[:64], {"label": rows.given["label"][:64]})
    student = Distilled(Diffusion(width=16, depth=1, frequencies=2).build(model.space, model.given), 2)
    loss = student.distillation_loss(batch, Guided(model, {"label": 2.0}), 2, Rng(0))
    loss.backward()
    assert float(loss.detach()) > 0
    assert all(p.grad is not None for p in student.inner.net.parameters())


def test_what_cannot_be_distilled_says_so():
    with pytest.raises(Unsupported, match="weights"):
        Distilled(Gaussian().build(real(2)))
    with pytest.raises(ValueError, match="vp"):
        Distilled(humps()[0], path="edm")
    with pytest.raises(ValueError, match="at least 1"):
        Distilled(humps()[0], steps=0)
