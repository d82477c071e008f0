"""Captions as what a picture is given: how they are read, what is refused, and that draws follow their words."""

import numpy as np
import pytest
import torch

import pofx
from pofx.data import open_data
from pofx.families.diffusion import Diffusion
from pofx.wrappers import Guided, Relaxed

WORDS = ("dark", "bright")
CAPTIONS = [f"{a} left of {b}" for a in WORDS for b in WORDS]


def halves(captions: list[str], seed: int = 0) -> np.ndarray:
    """4 x 4 pixels whose halves are dark or bright as the caption says."""
    rng = np.random.default_rng(seed)
    levels = np.array([[40 + 170 * WORDS.index(c.split()[k]) for k in (0, 3)] for c in captions], float)
    x = np.repeat(levels, 2, 1)[:, None, :, None].repeat(4, 1)
    return np.clip(x + rng.normal(0, 10, x.shape), 0, 255).astype(np.uint8)


def opened(captions: list[str], **options: object) -> pofx.Data:
    text = open_data(captions, kind="text", options=options)
    return open_data(halves(captions), given={"caption": text}, test=0.1, seed=0)


@pytest.fixture(scope="module")
def model() -> pofx.Model:
    """Built, not fitted, but every weight speaks."""
    data = opened(CAPTIONS * 8)
    made = Relaxed(Diffusion(width=8, depth=1, solver_steps=3)).build(data.space, data.given_spaces)
    rng = pofx.Rng(0)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.1 * rng.normal(tuple(p.shape))
    return made


class TestReading:
    def test_sentences_are_no_categories(self):
        captions = [f"picture number {k}" for k in range(40)]
        with pytest.raises(ValueError, match='40 different texts in 40 rows.*kind="text"'):
            open_data(halves(CAPTIONS * 10), given={"caption": captions})

    @pytest.mark.parametrize("unit", ["character", "byte", "bpe"])
    def test_a_caption_is_a_text_given_to_each_picture(self, unit):
        data = opened(CAPTIONS * 8, unit=unit)
        space = data.given_spaces["caption"]
        assert space.kind == "text" and space.spec[0] == "tokens" and len(data.given["caption"]) == 32
        assert pofx.kinds.KINDS["text"].restore(data.given["caption"], space) == CAPTIONS * 8

    def test_words_codes_and_one_for_all_are_the_same(self, model):
        said = [CAPTIONS[1]] * 3
        codes = pofx.kinds.KINDS["text"].encode(said, model.given["caption"])[0]
        drawn = [pofx.sample(model, 3, {"caption": c}, rng=0).raw for c in (said, codes, CAPTIONS[1])]
        assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])
        assert not torch.equal(drawn[0], pofx.sample(model, 3, {"caption": CAPTIONS[2]}, rng=0).raw)

    def test_a_new_order_of_known_letters_is_no_error(self, model):
        assert pofx.sample(model, 2, {"caption": "left of dark"}, rng=0).raw.shape == (2, 4, 4, 1)

    def test_none_at_all_is_the_null_caption(self, model):
        """And guidance of scale 0 is the same; of scale 1 it is the model."""
        u, one = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(2)
        codes = pofx.kinds.KINDS["text"].encode(CAPTIONS[:2], model.given["caption"])[0]
        given = {"caption": codes}
        nothing, something = model.denoise(u, one, one), model.denoise(u, one, one, given)
        assert (nothing - something).abs().max() > 1e-4
        for scale, expected in ((0.0, nothing), (1.0, something), (3.0, nothing + 3 * (something - nothing))):
            found = Guided(model, {"caption": scale}).denoise(u, one, one, given)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)

    def test_an_empty_caption_is_one_that_says_nothing(self, model):
        """It is read (its end alone), and is not the null caption that stands for a missing one."""
        end = model.given["caption"].meta["end"]
        codes = pofx.kinds.KINDS["text"].encode([""], model.given["caption"])[0]
        assert codes[0, 0] == end and (codes[0, 1:] == end + 1).all()
        drawn = [pofx.sample(model, 1, c, rng=0).raw for c in ({"caption": ""}, {"caption": codes}, None)]
        assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
        assert len(opened([*CAPTIONS, "dark left of dark"] * 6).given["caption"]) == 30
        beside = open_data(["", *CAPTIONS], kind="text", options={"form": "documents"})
        assert open_data(halves(CAPTIONS * 2)[:5], given={"caption": beside}).given["caption"].shape[0] == 5


class TestBadInput:
    def test_a_letter_that_no_caption_had(self, model):
        with pytest.raises(ValueError, match=r"text 1: 'ß' .* at place 2 is not among"):
            pofx.sample(model, 2, {"caption": [CAPTIONS[0], "daß"]}, rng=0)

    def test_bytes_and_pieces_know_every_letter(self):
        for unit in ("byte", "bpe"):
            space = opened(CAPTIONS * 8, unit=unit).given_spaces["caption"]
            codes = pofx.kinds.KINDS["text"].encode(["daß"], space)[0]
            assert pofx.kinds.KINDS["text"].restore(codes, space) == ["daß"]

    def test_a_caption_longer_than_all_that_were_read(self, model):
        with pytest.raises(ValueError, match="text 0 has .* the model knows .* at most"):
            pofx.sample(model, 1, {"caption": " left of ".join(WORDS * 3)}, rng=0)

    @pytest.mark.parametrize("count", [31, 33])
    def test_another_number_of_captions_than_of_pictures(self, count):
        text = open_data((CAPTIONS * 9)[:count], kind="text")
        with pytest.raises(ValueError, match=f"'caption': got {count} rows, expected 32"):
            open_data(halves(CAPTIONS * 8), given={"caption": text})

    def test_another_number_of_captions_than_of_draws(self, model):
        with pytest.raises(ValueError, match="given 'caption': got shape"):
            pofx.sample(model, 3, {"caption": CAPTIONS[:2]}, rng=0)

    def test_captions_that_are_no_texts(self):
        for odd in (None, 3, float("nan")):
            with pytest.raises(ValueError, match="text 1 is .* expected str or bytes"):
                open_data([CAPTIONS[0], odd, CAPTIONS[1]], kind="text")

    def test_captions_without_a_letter(self):
        with pytest.raises(ValueError, match="empty text"):
            open_data(["", "", ""], kind="text")

    def test_another_name(self, model):
        with pytest.raises(ValueError, match="given 'title' is unknown"):
            pofx.sample(model, 1, {"title": CAPTIONS[0]}, rng=0)


@pytest.mark.slow
def test_draws_follow_the_order_of_words():
    """ "dark left of bright" and "bright left of dark" have the same words; the last was never trained on."""
    said = (CAPTIONS[:2] + CAPTIONS[3:]) * 100
    data = open_data(
        halves(said), given={"caption": open_data(said, kind="text", options={"unit": "bpe", "vocabulary": 300})}
    )
    model = pofx.fit(data, Diffusion(width=16, depth=1), budget="200 steps", seed=0, progress=False, threads=1)
    for caption in (CAPTIONS[1], CAPTIONS[0]):
        drawn = pofx.sample(model, 40, {"caption": caption}, rng=0).value.astype(float)
        left, right = drawn[:, :, :2].mean(), drawn[:, :, 2:].mean()
        assert abs(left - halves([caption])[:, :, :2].mean()) < 40
        assert abs(right - halves([caption])[:, :, 2:].mean()) < 40
