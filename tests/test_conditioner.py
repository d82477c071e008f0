"""Givens that are pictures and texts: what bodies see of them, and that they learn from it."""

import numpy as np
import pytest
import torch

import pofx
from pofx.data import given_of, open_data
from pofx.families.diffusion import Diffusion
from pofx.kinds.base import Space, Variable, category, real
from pofx.nn.conditioner import Conditioner, conditioner

PICTURE = Space((2, 3, 1), (Variable("low", mean=2.0, scale=4.0),), "grid")
TEXT = Space((5,), (Variable("word", "category", 7),), "sequence", dtype="int64")


def made(**given: Space) -> Conditioner:
    torch.manual_seed(0)
    found = conditioner(given, 8)
    assert found is not None
    return found


class TestSpecs:
    def test_what_a_space_says(self):
        assert PICTURE.spec[:2] == ("picture", (2, 3, 1))
        assert TEXT.spec == ("tokens", 5, 7)
        assert category(3).spec == ("category", 3)
        assert real(2, 2).spec[:2] == ("real", 4)

    def test_nothing_given(self):
        assert conditioner({}, 8) is None

    def test_bytes_are_pictures(self):
        for shape in ((3, 4, 5), (3, 4, 5, 1)):
            x, space = given_of("low", np.zeros(shape, np.uint8))
            assert tuple(x.shape) == (3, 4, 5, 1) and space.spec[0] == "picture"


class TestMap:
    def test_the_picture_itself_and_where_it_is_known(self):
        c, x = made(low=PICTURE), torch.arange(12.0).reshape(2, 2, 3, 1)
        found = c.whole({"low": x}, 2, {"low": torch.tensor([True, False])}, (2, 3)).map
        assert found is not None and found.shape == (2, 2, 2, 3)
        torch.testing.assert_close(found[0, 0], (x[0, :, :, 0] - 2) / 4)
        assert (found[0, 1] == 1).all() and (found[1] == 0).all()

    def test_other_sizes_keep_the_mean(self):
        c, x = made(low=PICTURE), torch.randn(2, 2, 3, 1)
        for size in ((4, 6), (1, 1)):
            found = c.whole({"low": x}, 2, None, size).map
            assert found is not None and found.shape[2:] == size
            torch.testing.assert_close(found[:, 0].mean((1, 2)), ((x - 2) / 4).mean((1, 2, 3)), atol=0.06, rtol=0)

    def test_frames_are_channels(self):
        film = Space((4, 2, 3, 2), (Variable(),), "grid")
        x = torch.randn(2, 4, 2, 3, 2)
        found = made(film=film).whole({"film": x}, 2, None, (2, 3)).map
        assert found is not None and found.shape == (2, 9, 2, 3)
        torch.testing.assert_close(found[:, 3], x[:, 1, :, :, 1])

    def test_an_absent_given_is_all_zeros(self):
        c = made(low=PICTURE, text=TEXT)
        found = c.whole({}, 3, None, (2, 3))
        assert found.map is not None and (found.map == 0).all()
        dropped = {"low": torch.zeros(3, dtype=torch.bool), "text": torch.zeros(3, dtype=torch.bool)}
        same = c.whole({"low": torch.randn(3, 2, 3, 1), "text": torch.zeros(3, 5)}, 3, dropped, (2, 3))
        for a, b in zip(found, same, strict=True):
            torch.testing.assert_close(a, b)


class TestTokens:
    def test_order_matters_and_rows_are_alone(self):
        c = made(text=TEXT)
        words = torch.tensor([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [0, 0, 0, 0, 0]])
        found = c.whole({"text": words}, 3)
        assert found.tokens is not None and found.tokens.shape == (3, 5, 8) and found.map is None
        assert (found.vector[0] - found.vector[1]).abs().max() > 1e-4
        alone = c.whole({"text": words[:1]}, 1)
        torch.testing.assert_close(alone.vector, found.vector[:1])

    def test_a_body_reads_them(self):
        torch.manual_seed(0)
        space = Space((1, 4, 4), (Variable("u"),), "grid", "chart", "float32")
        model = Diffusion(width=8, depth=1).build(space, {"text": TEXT})
        for p in model.parameters():
            p.data += 0.1 * torch.randn_like(p)
        u, one, words = torch.randn(2, 1, 4, 4), torch.ones(2), torch.randint(0, 7, (2, 5))
        before = model.denoise(u, one, one, {"text": words})
        loud = [m for n, m in model.named_modules() if n.endswith("reading")]
        assert loud
        for m in loud:
            m.out.weight.data.zero_(), m.out.bias.data.zero_()
        assert (model.denoise(u, one, one, {"text": words}) - before).abs().max() > 1e-5


class TestLearning:
    @pytest.mark.slow
    def test_diffusion_draws_what_the_given_picture_says(self):
        """x is the negative of a given picture and some noise: draws must follow the given pixel by pixel."""
        rng = np.random.default_rng(0)
        given = rng.integers(0, 256, (600, 4, 4, 1), dtype=np.uint8)
        x = np.clip(255.0 - given + 8.0 * rng.normal(size=given.shape), 0, 255).astype(np.uint8)
        data = open_data(x, given={"low": given}, test=0.1, seed=0)
        model = pofx.fit(data, Diffusion(width=16, depth=1), budget="150 steps", seed=0, progress=False, threads=1)
        asked = torch.from_numpy(given[:30])
        drawn, wanted = model.sample(1, {"low": asked}, rng=0)[0].double(), 255.0 - asked.double()
        assert float((drawn - wanted).square().mean().sqrt()) < 0.5 * float(wanted.std())
