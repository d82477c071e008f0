"""Bits back and marginals: the length is the bound, or log p itself where the posterior is exact; nothing is lost."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given as drawn_from
from hypothesis import settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Independent, Normal

import pofx
from pofx.families.integer_flow import IntegerFlow
from pofx.families.mixture import Mixture
from pofx.families.vae import VAE
from pofx.kinds.base import Space, Variable
from pofx.kinds.likelihood import Likelihood
from pofx.model import Card, Model, Predictive, Unsupported
from pofx.randomness import Rng
from pofx.tasks.base import rows_of
from pofx.tasks.bitsback import FULL, schedule
from pofx.tasks.coding import Bins
from pofx.tasks.container import HEAD, model_hash, opened
from test_compress import MIXED, Product, on_grid

LN2 = math.log(2)
CARD = Card("exact", "fast", "none", "z", "none", ("explicit", "tractable"), "none", "an oracle", "here")
CODES = Space((6,), tuple(Variable(f"x{i}", "category", 3, mean=1.0) for i in range(6)))
GRID = Space((4,), tuple(Variable(f"x{i}", resolution=0.01, mean=0.0, scale=1.0) for i in range(4)))


class Coins(Model):
    """Coins z_j, not fair, each seen through a noisy code: p(z | x) is exact."""

    card = CARD

    def _build(self):
        self.likelihood = Likelihood(self.space, 1)
        self.register_buffer("table", 2 * torch.randn(2, self.space.size, 3, dtype=torch.float64))
        self.register_buffer("odds", torch.randn(self.space.size, dtype=torch.float64))

    def joint(self, x):
        """log p(x_j, z_j), (2, B, D)."""
        log_p = self.table.log_softmax(-1).unsqueeze(1).expand(-1, len(x), -1, -1)
        prior = torch.nn.functional.logsigmoid(torch.stack([-self.odds, self.odds]))
        return log_p.gather(-1, x.long().expand(2, -1, -1).unsqueeze(-1)).squeeze(-1) + prior.unsqueeze(1)

    def _encode(self, x, given):
        joint = self.joint(x)
        return Independent(Bernoulli(logits=joint[1] - joint[0]), 1)

    def _decode(self, z, given):
        table = torch.where(z.unsqueeze(-1) > 0.5, self.table[1], self.table[0])
        return Predictive(self.likelihood, table.flatten(1))

    def log_code(self, z, given=None):
        return torch.nn.functional.logsigmoid(torch.where(z > 0.5, self.odds, -self.odds)).sum(1)

    def exact(self, x):
        return torch.logsumexp(self.joint(x), 0).sum(1)


class Steps(Likelihood):
    """Numbers on a grid under normals: parameters are their means."""

    def __init__(self, space, spread):
        self.space, self.spread, self.step = space, spread, space.variables[0].resolution

    def alone(self, entry):
        return Steps(self.space.sub([entry]), self.spread)

    def part(self, params, entry):
        return params[..., entry : entry + 1]

    def log_mass(self, params, low, high):
        ends = torch.special.ndtr((torch.stack([low, high]) - params) / self.spread)
        return (ends[1] - ends[0]).log()

    def log_prob(self, params, x):
        return self.log_mass(params, x - self.step / 2, x + self.step / 2)

    def mean(self, params):
        return params


class Noisy(Model):
    """z ~ N(0, I), x = z + noise, rounded to a fine grid: p(z | x) is the normal that it would be without rounding."""

    card, spread = CARD, 0.7

    def _build(self):
        self.register_buffer("nothing", torch.zeros(1))

    def _encode(self, x, given):
        shrink = 1 / (1 + self.spread**2)
        return Independent(Normal(x * shrink, self.spread * math.sqrt(shrink) * torch.ones_like(x)), 1)

    def _decode(self, z, given):
        return Predictive(Steps(self.space, self.spread), z.double())

    def exact(self, x):
        return Normal(0.0, math.sqrt(1 + self.spread**2)).log_prob(x).sum(1) + self.space.size * math.log(0.01)


def by_bits_back(model, x, chunk=256):
    answer = pofx.compress(model, x, chunk=chunk, route="bits back")
    assert torch.equal(torch.as_tensor(pofx.decompress(model, answer.value)).double(), x.double())
    return answer


def test_with_an_exact_posterior_net_bits_are_log_p_row_by_row():
    model = Coins().build(CODES, seed=1)
    x = Rng(0).integers(3, (500, 6)).double()
    for rows in (1, 7, 500):
        facts = by_bits_back(model, x[:rows]).diagnostics
        ideal = -float(model.exact(x[:rows]).sum()) / LN2
        assert facts["net bits"] == pytest.approx(ideal, rel=2e-4)
        assert abs(8 * facts["bytes"] - 8 * (HEAD.size + 4) - facts["initial bits"] - facts["net bits"]) < 64


def test_with_normal_latents_the_bins_cost_next_to_nothing():
    model = Noisy().build(GRID, seed=0)
    z = Rng(3).normal((600, 4), torch.float64)
    x = ((z + 0.7 * Rng(4).normal((600, 4), torch.float64)) * 100).round() / 100 + 0.0
    facts = by_bits_back(model, x).diagnostics
    assert facts["net bits"] == pytest.approx(-float(model.exact(x).sum()) / LN2, rel=1e-3)


@pytest.mark.parametrize("prior", ["gaussian", "bernoulli"])
def test_net_bits_of_a_vae_are_its_bound(prior):
    x = (Rng(0).uniform((300, 1)) + 0.3 * Rng(1).normal((300, 8)) > 0.5).to(torch.uint8).numpy()
    model = pofx.fit(x, VAE(prior=prior, width=16, depth=0), budget=60, seed=0, progress=False)
    rows = torch.as_tensor(x, dtype=torch.float64)
    facts = by_bits_back(model, rows).diagnostics
    with torch.no_grad():
        bounds = torch.stack([model.log_prob(rows, draws=1, rng=k).value.double() for k in range(12)])
    error = math.sqrt(float(bounds.var(0).sum()) * (1 + 1 / 12)) / LN2
    assert abs(facts["net bits"] + float(bounds.mean(0).sum()) / LN2) < 5 * error
    assert facts["initial bits"] < 40 * 8 * 18


def test_gaps_wide_numbers_and_mixed_columns_go_through_latents():
    model = pofx.fit(table(), VAE(width=16, depth=0, latents=3), budget=30, seed=0, progress=False)
    back = pofx.decompress(model, pofx.compress(model, table(), chunk=32).value)
    pd.testing.assert_frame_equal(back, table())


def table():
    i = np.arange(90)
    frame = pd.DataFrame({
        "age": i % 23 + 17, "job": np.array(["a", "b", None] * 30, dtype=object), "id": i * 7_919_123,
        "pay": np.round(np.linspace(1.5, 99.5, 90), 1), "day": pd.date_range("2020-01-01", periods=90),
        "size": np.round(np.sin(i), 1).astype(np.float32), "yes": i % 2 == 0,
    })  # fmt: skip
    return frame.assign(pay=frame.pay.where(i % 5 > 0), age=frame.age.where(i % 7 > 0))


@pytest.mark.parametrize("family", ["mixture", "kde"])
def test_a_model_without_a_cursor_codes_by_its_marginals(family):
    options = {"components": 3} if family == "mixture" else {}
    model = pofx.fit(table(), family, budget="1 cpu s", seed=0, progress=False, hyper_parameters=options)
    answer = pofx.compress(model, table(), chunk=32)
    assert answer.route == "marginals"
    pd.testing.assert_frame_equal(pofx.decompress(model, answer.value), table())


def test_the_length_by_marginals_is_log_p():
    x = Rng(0).integers(5, (200, 3)).double()
    x[:, 1] = (x[:, 0] + Rng(1).integers(2, (200,))) % 5
    x = torch.cat([x, (Rng(2).normal((200, 1), torch.float64) * 900 + x[:, :1] * 5000).round()], 1)
    frame = pd.DataFrame(x.numpy().astype(int), columns=list("abcd"))
    model = pofx.fit(frame, Mixture(components=4), seed=0, progress=False)
    answer = pofx.compress(model, frame)
    pd.testing.assert_frame_equal(pofx.decompress(model, answer.value), frame)
    ideal = -float(model.log_prob(rows_of(model, frame)[0]).value.sum()) / LN2
    assert answer.diagnostics["-log2 p"] == pytest.approx(ideal, rel=0.01)


def test_bits_of_gaps_are_not_of_log_p():
    """A third of the cells missing: the file also tells which, and says what that takes."""
    x = Rng(0).integers(5, (300, 3)).double()
    x[:, 1] = (x[:, 0] + Rng(1).integers(2, (300,))) % 5
    frame = pd.DataFrame(x.numpy()).rename(columns=str).mask(Rng(2).uniform((300, 3)).numpy() < 1 / 3)
    model = pofx.fit(frame, Mixture(components=4), seed=0, progress=False)
    found = pofx.compress(model, frame).diagnostics
    rows, observed = rows_of(model, frame)
    p = -float(model.log_prob(rows, observed=observed).value.sum()) / LN2
    share = 1 - observed.double().mean(0)
    entropy = -300 * float((share * share.log2() + (1 - share) * (1 - share).log2()).sum())
    assert found["-log2 p"] == pytest.approx(p, rel=1e-5) and found["bits of gaps"] == pytest.approx(entropy, rel=1e-5)
    assert found["bits per dimension"] == 8 * found["bytes"] / int(observed.sum())


def test_the_length_by_trees_is_log_p():
    frame = pd.concat([table().dropna()] * 6, ignore_index=True)
    frame["size"] = frame["size"] + np.float32(0.0)  # -0.0 is no number of the grid
    model = pofx.fit(frame, "trees", budget="1 cpu s", seed=0, progress=False)
    x, _ = rows_of(model, frame)
    answer = pofx.compress(model, frame)
    assert answer.diagnostics["-log2 p"] == pytest.approx(-float(model.log_prob(x).value.sum()) / LN2, rel=2e-3)


def test_a_law_of_latents_that_is_not_known_is_refused():
    model = Coins().build(CODES, seed=1)
    model.log_code = lambda z, given=None: (z[:, 0] * z[:, 1]).double()
    with pytest.raises(Unsupported, match="joint law"):
        pofx.compress(model, torch.ones(3, 6, dtype=torch.float64), route="bits back")
    model = Noisy().build(GRID)
    model._encode = lambda x, given: Independent(Normal(x, torch.full_like(x, 1e-6)), 1)
    with pytest.raises(Unsupported, match="point"):
        pofx.compress(model, torch.ones(3, 4, dtype=torch.float64), route="bits back")


@pytest.mark.parametrize("wrap", [True, False])
def test_the_length_by_an_integer_flow_is_log_p(wrap):
    x = Rng(0).integers(9, (120, 1)) + Rng(1).integers(8, (120, 5))
    frame = pd.DataFrame(x.numpy() * 40, columns=list("abcde"))
    frame["e"] = frame["e"] / 10 + 0.3
    model = pofx.fit(frame, IntegerFlow(wrap=wrap, width=8), budget=20, seed=0, progress=False)
    answer = pofx.compress(model, frame, chunk=64)
    assert answer.route == "codes"
    pd.testing.assert_frame_equal(pofx.decompress(model, answer.value), frame)
    with torch.no_grad():
        ideal = -float(model.log_prob(rows_of(model, frame)[0]).value.sum()) / LN2
    assert answer.diagnostics["-log2 p"] == pytest.approx(ideal, rel=2e-3)


def test_a_number_that_the_table_would_round_is_an_error():
    frame = pd.DataFrame({"a": np.arange(160) / 10, "b": np.arange(160) % 7})
    model = pofx.fit(frame, Mixture(components=2), seed=0, progress=False)
    frame.loc[3, "a"] = 0.3001
    with pytest.raises(ValueError, match="'a' of row 3 is 0.3001"):
        pofx.compress(model, frame)


def test_a_bijection_of_whole_numbers_refuses_others():
    space = Space((2,), tuple(Variable(f"x{i}", resolution=0.1, mean=3.0, scale=2.0) for i in range(2)))
    model = IntegerFlow(width=8).build(space)
    x = torch.tensor([[0.3, 1.2], [0.7, -9.9]], dtype=torch.float64)
    assert torch.equal(torch.as_tensor(pofx.decompress(model, pofx.compress(model, x).value)), x)
    with pytest.raises(Unsupported, match="no multiple"):
        pofx.compress(model, x + 0.01)


def test_chunks_grow_with_the_rows_before_them():
    sizes = [s.stop - s.start for s in schedule(100, 16)]
    assert sizes == [1, 1, 2, 4, 8, 16, 16, 16, 16, 16, 4] and sum(sizes) == 100
    slow = [s.stop - s.start for s in schedule(100, 16, FULL // 4)]
    assert slow[:12] == [1] * 8 + [2, 2, 3, 3] and sum(slow) == 100 and max(slow) == 16


def test_bins_of_the_prior_have_equal_mass_and_their_medians_are_in_them():
    k = np.array([0, 1, 255, 256, 32768, 65535])
    z = Bins().value(k)
    assert np.array_equal(np.floor(65536 * torch.special.ndtr(z).numpy()).astype(int), k)
    assert float(Bins().value(np.array([32767]))) == pytest.approx(-float(Bins().value(np.array([32768]))))


@pytest.mark.parametrize("mean, spread", [(0.0, 1.0), (3.0, 0.1), (-7.0, 0.01), (40.0, 1e-3), (0.3, 5.0)])
def test_any_normal_tells_a_bin(mean, spread):
    from pofx.engines.coder import Reader, Writer

    k, out = np.array([0, 77, 32768, 60000, 65535]), Writer()
    moments = (torch.full((5,), mean).double(), torch.full((5,), spread).double())
    Bins().write(out, k, *moments)
    assert np.array_equal(Bins().read(Reader(out.words()), *moments), k)
    if (mean, spread) == (0.0, 1.0):
        assert out.ideal == pytest.approx(5 * 16, abs=1e-2)


numbers = st.floats(allow_nan=False, allow_infinity=False, width=64) | st.integers(-400, 400).map(lambda n: n / 10)
rows = st.tuples(
    st.integers(0, 2),
    st.integers(0, 16),
    st.integers(0, 29_999),
    numbers | st.just(math.nan),
    numbers | st.just(math.nan),
)


@settings(max_examples=8, deadline=None)
@drawn_from(st.lists(rows, min_size=1, max_size=12), st.sampled_from(["steps", "marginals"]), st.integers(1, 5))
def test_any_rows_come_back(values, route, chunk):
    model = Product().build(MIXED, seed=3)
    x = torch.tensor(values, dtype=torch.float64)
    back = torch.as_tensor(pofx.decompress(model, pofx.compress(model, x, chunk=chunk, route=route).value))
    assert np.array_equal(back.numpy().view(np.int64)[~x.isnan().numpy()], x.numpy().view(np.int64)[~x.isnan().numpy()])
    assert torch.equal(back.isnan(), x.isnan())


@settings(max_examples=8, deadline=None)
@drawn_from(st.lists(st.lists(numbers, min_size=4, max_size=4), min_size=1, max_size=12), st.integers(1, 5))
def test_any_rows_come_back_through_latents(values, chunk):
    x = torch.tensor(values, dtype=torch.float64)
    model = Noisy().build(GRID)
    back = torch.as_tensor(pofx.decompress(model, pofx.compress(model, x, chunk=chunk).value))
    assert np.array_equal(back.numpy().view(np.int64), x.numpy().view(np.int64))


@pytest.fixture(scope="module")
def coded():
    model = Coins().build(CODES, seed=1)
    return model, pofx.compress(model, Rng(0).integers(3, (60, 6)).double()).value


@settings(max_examples=40, deadline=None)
@drawn_from(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_is_an_error(coded, place, bit):
    model, content = coded
    broken = bytearray(content)
    broken[int(place * len(content))] ^= 1 << bit
    with pytest.raises(ValueError, match="decompress"):
        pofx.decompress(model, bytes(broken))


def test_a_file_that_was_forged_with_its_checksum_is_an_error(coded):
    import struct
    import zlib

    model, content = coded
    for place in [*range(4, 8), *range(16, len(content) - 4, 9)]:
        broken = bytearray(content[:-4])
        broken[place] ^= 1
        with pytest.raises(ValueError, match="decompress"):
            pofx.decompress(model, bytes(broken) + struct.pack("<I", zlib.crc32(bytes(broken))))


class Other(Coins):
    """Another class with the same weights."""


def test_the_model_is_known_by_its_class_its_numbers_and_its_weights():
    model = Coins().build(CODES, seed=1)
    same, other, moved = Coins().build(CODES, seed=1), Other().build(CODES, seed=1), Coins().build(CODES, seed=1)
    moved.odds[2] += 1e-12
    assert model_hash(model) == model_hash(same) and len({model_hash(m) for m in (model, other, moved)}) == 3
    parts = [VAE(width=8, beta=b).build(CODES, seed=0) for b in (1.0, 1.5)]
    assert model_hash(parts[0]) != model_hash(parts[1])


def test_dropout_is_off_and_the_mode_comes_back():
    x = Rng(0).integers(2, (40, 8)).to(torch.uint8).numpy()
    model = pofx.fit(x, VAE(width=8, dropout=0.5), budget=5, seed=0, progress=False).train()
    back = pofx.decompress(model, pofx.compress(model, x).value)
    assert np.array_equal(back, x) and model.training


def test_a_code_that_does_not_exist_is_an_error():
    model = Coins().build(CODES, seed=1)
    for value in (3.0, -1.0, 0.5):
        x = torch.ones(2, 6, dtype=torch.float64)
        x[1, 4] = value
        with pytest.raises(ValueError, match=r"'x4' of row 1"):
            pofx.compress(model, x)


def test_the_head_states_the_arithmetic():
    model = Product().build(MIXED, seed=3)
    content = pofx.compress(model, on_grid(model.sample(20, rng=0)), chunk=7).value
    head = opened(content, model).head
    assert (head.chunk, head.rows, head.threads, head.dtype, head.program) == (7, 20, 1, "float32", 0)
