"""The report: one file that loads nothing and survives what is missing; and the leaderboard of a terminal."""

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from torch import nn

from pofx.data import open_data
from pofx.files import save_tensors
from pofx.model import Card, Model
from pofx.reporting import leaderboard, numbers
from pofx.reporting.coverage import coverage
from pofx.reporting.diagrams import SKETCHES, diagram, sizes
from pofx.reporting.evidence import Evidence
from pofx.reporting.lesson import plane_of
from pofx.reporting.page import html_of, write_report
from pofx.reporting.taxonomy import STANDARD, drawn, place
from pofx.tasks.compare import Comparison, ranked
from pofx.training.fit import fit

SECTIONS = (
    "ranks", "leaderboard", "samples", "completion", "likelihood", "copying", "learning", "taxonomy", "families",
    "lesson", "glossary", "settings",
)  # fmt: skip
CARD = Card("exact", "fast", "EM", "none", "odd", ("explicit", "strange"), "refuses", "a family", "nobody 2020")


class _Tags(HTMLParser):
    """Checks that tags close in order, and gathers what a browser would load."""

    VOID = frozenset({"meta", "img", "br", "rect", "path", "line", "link", "input", "hr"})

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.ids, self.tags = [], [], set(), set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        values = dict(attrs)
        self.loads += [values[k] for k in ("src", "href", "xlink:href", "data", "action") if k in values]
        self.ids |= {values["id"]} if "id" in values else set()
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
            self.open.pop()


def parsed(page):
    tags = _Tags()
    tags.feed(page)
    assert not tags.open
    return tags


def measured(data, folder, families=("gaussian", "mixture")):
    """A comparison with the folder that `measure` would leave, made in this process from known draws."""
    rows, test = [], data.part("test")
    rng = np.random.default_rng(0)
    for k, name in enumerate(families):
        model = fit(data, name, budget="1 steps", folder=folder / name / "model", progress=False)
        seen = torch.from_numpy(rng.random(tuple(test.x.shape)) > 0.4)
        log_p = model.log_prob(test.x, draws=2, rng=0)
        tensors = {"log_p": log_p.value.double(), "samples": model.sample(40, rng=0)}
        tensors |= {"imputed": test.x.expand(3, *test.x.shape).clone(), "holes": ~seen}
        save_tensors(folder / name / "rows.safetensors", tensors, {})
        nats = float(log_p.value.mean())
        row = {"family": name, "baseline": False, "error": None, "nats": nats, "bits_per_dim": -nats / 8, "stderr": 0.1}
        row |= {"quality": log_p.quality.value, "c2st": 0.6 + k / 10, "c2st_interval": [0.55, 0.65 + k / 10]}
        row |= {"precision": 0.5 + k / 10, "recall": 0.5 - k / 10, "copying": False, "why": {}, "fit_seconds": 0.1 + k}
        rows.append(row)
    rows.append({"family": "broken", "error": "ValueError: <b>no & such</b> thing", "baseline": False})
    settings = {"budget": "1 steps", "seed": 0, "draws": 2, "samples": 40, "fingerprint": data.fingerprint()}
    return Comparison(tuple(ranked(rows)), folder, data, settings)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return measured(open_data("digits", limit=300), tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def page(pictures):
    return write_report(pictures).read_text()


def test_page_is_one_file_with_every_section(pictures, page):
    tags = parsed(page)
    assert set(SECTIONS) <= tags.ids
    assert all(load.startswith(("data:image/", "#")) for load in tags.loads), tags.loads
    assert not tags.tags & {"script", "link", "iframe", "object"}
    assert not re.search(r"@import|url\(", page)
    assert (pictures.folder / "report.html").stat().st_size < 8e6
    assert "could not be drawn" not in page


def test_page_says_what_failed_and_escapes_it(page):
    assert "broken" in page
    assert "&lt;b&gt;no &amp; such&lt;/b&gt; thing" in page
    assert "<b>no & such" not in page


def test_page_figures_have_captions_and_pictures_have_words(page):
    assert page.count("<figure>") == page.count("<figcaption>") >= 7
    assert all('alt="' in tag for tag in re.findall(r"<img [^>]{0,200}", page))


@pytest.mark.parametrize("kind", ["table", "vector", "plain vector"])
def test_page_of_tables_and_vectors(kind, tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"length": rng.normal(5, 1, 90).round(2), "wide": rng.normal(2, 1, 90).round(1)})
    frame["colour"] = np.where(frame.length + frame.wide > 7, "red", "blue & green")
    source = {"table": frame, "vector": "moons", "plain vector": rng.standard_normal((90, 3))}[kind]
    found = measured(open_data(source, limit=90), tmp_path, ("gaussian",))
    text = html_of(found)
    assert set(SECTIONS) - {"ranks"} <= parsed(text).ids
    assert "could not be drawn" not in text
    assert ("blue &amp; green" in text) == (kind == "table")
    assert ("no such x" in text) == (kind != "plain vector")


def test_page_of_clips(tmp_path):
    clips = np.random.default_rng(0).integers(0, 4, (60, 3, 2, 2, 1)).astype(np.uint8)
    text = html_of(measured(open_data(clips, kind="video"), tmp_path, ("gaussian",)))
    assert set(SECTIONS) - {"ranks", "lesson"} <= parsed(text).ids
    assert "could not be drawn" not in text


def test_page_survives_an_empty_folder(pictures, tmp_path):
    text = html_of(replace(pictures, folder=tmp_path))
    assert set(SECTIONS) <= parsed(text).ids
    assert "could not be drawn" not in text


def test_nearest_is_the_nearest_training_row(pictures):
    seen = Evidence(pictures)
    found = seen.nearest(seen.train.x[:7])
    assert torch.equal(found.distance, torch.zeros(7).double())
    shifted = seen.train.x[:3].double() + 0.25
    assert torch.allclose(seen.nearest(shifted).distance, torch.full((3,), 0.25).double())


def test_shown_keeps_what_matters():
    wanted = {
        (2.92619, 3): "2.926",
        (-12.111, 3): "-12.11",
        (1014656, 0): "1.01M",
        (0.00365, 2): "0.0037",
        (0, 3): "0.000",
    }
    assert {k: numbers.shown(*k) for k in wanted} == wanted
    assert numbers.shown(None) == numbers.shown(float("nan")) == "–"


def test_ranks_and_level_with(pictures):
    rows = [
        {"family": "a", "c2st": 0.4, "c2st_interval": [0.35, 0.45], "nats": -3.0, "quality": "exact"},
        {"family": "b", "c2st": 0.61, "c2st_interval": [0.55, 0.65], "nats": -1.0, "quality": "upper bound"},
        {"family": "c", "c2st": 0.9, "c2st_interval": [0.88, 0.92], "nats": -2.0, "quality": "lower bound"},
        {"family": "d", "c2st": 0.5, "nats": -0.1, "quality": "exact", "copying": True},
        {"family": "e", "c2st": 0.5, "nats": -0.1, "quality": "exact", "baseline": True},
    ]
    assert numbers.ranks(rows, "c2st") == {"a": 1, "b": 2, "c": 3}
    assert numbers.ranks(rows, "nats") == {"c": 1, "a": 2}  # an upper bound is never ranked
    assert numbers.level_with(replace(pictures, rows=tuple(rows)), "c2st") == ["b"]


def test_table_has_two_blocks_and_one_line_a_failure(pictures):
    rows = (
        *pictures.rows,
        {"family": "energy", "nats": -1.0, "bits_per_dim": 0.1, "quality": "estimate", "c2st": 0.52, "copying": True},
        {"family": "copy", "c2st": 0.5, "copying": True, "baseline": True},
    )
    text = leaderboard.table(replace(pictures, rows=rows))
    sure, rest = text.split("not guaranteed")
    assert max(map(len, text.splitlines())) <= 120
    assert "gaussian" in sure
    assert "energy COPY" in rest
    assert "copy (baseline) COPY" in rest
    assert "0.600*" in sure
    assert "0.520*" not in rest
    assert sum("broken" in line for line in text.splitlines()) == 1


def test_families_and_coverage_tables():
    cards, cells = leaderboard.families_table(), leaderboard.coverage_table()
    assert max(map(len, (cards + cells).splitlines())) <= 120
    assert all(word in cards for word in ("gaussian", "tractable", "by variation", "implicit", "incomplete"))
    assert all(word in cells for word in ("pictures", "tables", "vectors", "Why a cell is empty", "gan, density"))


def test_coverage_table_prints_every_question_of_every_family_whole():
    seen = {}
    for part in (p.splitlines() for p in leaderboard.coverage_table().split("\n\n") if ", questions " in p):
        head, tasks = part[1], part[1].split()[1:]
        ends = [*(head.index(f" {task}") + 1 for task in tasks), None]
        for line in part[2:]:
            cells = [line[a:b].strip(" ()") for a, b in zip(ends[:-1], ends[1:], strict=True)]
            seen |= {(line.split()[0], task, part[0].split(",")[0]): c for task, c in zip(tasks, cells, strict=True)}
    assert seen == {(c.family, c.task, c.kind): c.route or "–" for c in coverage()}


def test_watch_prints_a_line_a_change_and_now_and_then():
    out = io.StringIO()
    with leaderboard.Watch(console=Console(file=out, width=100), every=1e9) as watch:
        for stage in ({"stage": "waiting"}, {"stage": "fit", "step": 3, "loss": 1.5}, {"stage": "fit", "step": 4}):
            watch.show({"vae": stage})
        watch.every = 0.0
        watch.show({"vae": {"stage": "fit", "step": 5, "loss": 1.25}})
        watch.show({"vae": {"stage": "done"}})
        watch.say("writing [the] report")
    lines = out.getvalue().splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["vae:", "fit"], ["vae:", "fit"], ["vae:", "done"]]
    assert "step 5  loss 1.25" in lines[1]
    assert lines[3:] == ["writing [the] report"]


def test_watch_is_live_on_a_terminal_and_silent_when_asked():
    out = io.StringIO()
    with leaderboard.Watch(console=Console(file=out, force_terminal=True, width=100)) as watch:
        watch.show({"flow": {"stage": "fit", "step": 7, "loss": 2.0}})
    assert "flow" in out.getvalue()
    quiet = io.StringIO()
    with leaderboard.Watch(enabled=False, console=Console(file=quiet)) as watch:
        watch.show({"flow": {"stage": "fit"}})
        watch.say("nothing")
    assert not quiet.getvalue()


class Own(Model):
    """A user's family."""

    card = CARD
    diagram = (("x", "body"), ("body", "p(x)", "softly"), ("p(x)", "x", "draw"))

    def _build(self):
        self.body = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))


def test_diagram_of_own_edges_states_the_parts():
    own = Own()
    own._build()
    svg = diagram(own, CARD)
    assert all(words in svg for words in ("114 weights", "4 → 16 → 2", "softly", "p(x)"))
    own.__class__ = type("Bare", (Own,), {"diagram": ()})
    assert "body" in diagram(own, CARD)  # nobody said how it computes: its parts
    assert diagram(None, CARD) == ""
    assert sizes(nn.Conv2d(1, 2, 3)) == "1 convolution"


@pytest.mark.parametrize("sketch", SKETCHES, ids=lambda s: s.words[0])
def test_every_sketch_draws_its_boxes_apart(sketch):
    svg = diagram(None, replace(CARD, branch=(sketch.words[0],)))
    boxes = [
        tuple(map(float, b))
        for b in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg)
    ]
    assert len(boxes) == len({n for e in sketch.edges for n in e[:2]})
    for k, (x, y, w, h) in enumerate(boxes):
        assert not any(x < a + c and a < x + w and y < b + d and b < y + h for a, b, c, d in boxes[:k])
    width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())
    assert max(x + w for x, _, w, _ in boxes) <= width
    assert max(y + h for _, y, _, h in boxes) <= height


def test_tree_holds_the_standard_branches_and_unknown_ones():
    assert place(replace(CARD, branch=("explicit", "approximate", "bound"))) == (
        "explicit",
        "approximate",
        "by variation",
    )
    assert place(CARD) == ("explicit", "strange")
    svg = drawn({**{p: [] for p in STANDARD}, ("explicit", "strange"): ["own"]}, {})
    assert "strange" in svg
    assert ">own<" in svg
    assert svg.count("no family yet") == len(STANDARD)


def test_plane_holds_two_classes_in_standard_deviations():
    plane = plane_of(open_data("digits"))
    assert plane.x.shape == (len(plane.y), 2)
    assert np.allclose(plane.x.mean(0), 0, atol=1e-9)
    assert np.allclose(plane.x.std(0), 1)
    assert set(plane.y) == {0, 1}


# Several seeds.


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """Two families by three seeds, one fit of which failed, beside a baseline; the fits are those of one seed."""
    data = open_data("iris")
    single = measured(data, tmp_path_factory.mktemp("seeds"))
    rows = []
    for row in single.rows:
        name = row["family"]
        fits = [{"seed": s, "folder": f"{name}/seed-{s}" if s else name, "error": None} for s in range(3)]
        if name == "broken":
            rows.append(row | {"fits": [f | {"error": row["error"]} for f in fits]})
            continue
        bits = [row["bits_per_dim"] + d for d in (-0.01, 0.0, 0.01)]
        more = {"seeds": {"bits_per_dim": bits, "c2st": [0.6, None, 0.8], "fit_seconds": [1.0, 2.0, 3.0]}, "fits": fits}
        more |= {"bits_per_dim_interval": [row["bits_per_dim"] - 0.5, row["bits_per_dim"] + 0.5]}
        more |= {"fit_seconds": 2.0, "fit_seconds_interval": [-0.5, 4.5]}
        rows.append({**row, **more, "behind": {"nats": 0.5, "low": -0.25, "high": 1.25, "of": "gaussian"}})
    rows[1]["fits"][1]["error"] = "ValueError: of <seed> one"
    rows[1]["seeds"]["bits_per_dim"][1] = None
    folder = single.folder / rows[1]["family"] / "seed-1"
    folder.mkdir()
    (folder / "error.txt").write_text("Traceback: of <seed> one")
    base = {"family": "uniform", "baseline": True, "error": None, "nats": -30.0, "bits_per_dim": 9.0, "stderr": 0.0}
    rows.append(base | {"quality": "exact", "c2st": 1.0, "fit_seconds": 0.1})
    return replace(single, rows=tuple(rows), settings=single.settings | {"seeds": 3})


def test_page_of_several_seeds_says_what_its_numbers_are(seeded):
    text = html_of(seeded)
    assert "could not be drawn" not in text
    assert {*SECTIONS, "seeds"} <= parsed(text).ids
    assert "3 fits of each family, seeds 0 to 2, on one split (baselines once)" in text
    assert "Means over 3 fits with seeds 0, 1, 2" in text
    assert "the luck of a training run" in text and "does not cover the split" in text
    assert "does not cover the luck of one training run" not in text
    assert text.count("Of one fit: seed 0, or the first that worked.") == 5  # samples, gaps, likely, copied, curves
    assert "±0.500" in text and 'title="seed 0: ' in text
    name = seeded.rows[1]["family"]
    assert "2 of 3 fits" in text and f"<b>{name}, seed 1</b>" in text and "of &lt;seed&gt; one" in text
    assert f"{name} (2 of 3 fits)" in text and "uniform (" not in text


def test_page_of_one_seed_says_so(page):
    assert ", seed 0</p>" in page and "Seed by seed" not in page and "Means over" not in page
    assert (
        "It does not cover the luck of one training run" in page
        and "of the noise of rows and samples by one fit" in page
    )
    assert "Of one fit" not in page and "title=" not in page.split("<main>")[1].split("</section>")[1]


def test_page_names_its_costs_and_the_files_beside_it(seeded, page):
    for text in (page, html_of(seeded)):
        assert "What it cost." in text and "<small>CPU seconds ↓</small>" in text
        assert "leaderboard.json, leaderboard.csv" in text
    assert "± is of the seeds alone" in html_of(seeded) and "± is of the seeds alone" not in page


def test_interval_of_several_seeds_is_shown_and_of_one_the_error_of_its_rows(seeded, pictures):
    column = numbers.BY_FIELD["bits_per_dim"]
    assert numbers.half_width(seeded.rows[0], column) == pytest.approx(0.5)
    assert numbers.half_width(pictures.rows[0], column) == pytest.approx(1.96 * 0.1)
    seconds = numbers.BY_FIELD["fit_seconds"]
    assert numbers.half_width(seeded.rows[0], seconds) == 2.5 and numbers.half_width(pictures.rows[0], seconds) is None
    assert numbers.level_with(seeded, "fit_seconds") == [seeded.rows[1]["family"]]


def test_pictures_are_of_the_first_fit_that_worked(seeded):
    rows = [dict(r) for r in seeded.rows]
    rows[0]["fits"] = [rows[0]["fits"][0] | {"error": "no"}, *rows[0]["fits"][1:]]
    seen = Evidence(replace(seeded, rows=tuple(rows)))
    assert seen.folder(rows[0]["family"]) == seeded.folder / rows[0]["family"] / "seed-1"
    assert seen.folder(rows[1]["family"]) == seeded.folder / rows[1]["family"]


def test_table_of_several_seeds(seeded, pictures):
    text = leaderboard.table(seeded)
    assert "means over 3 seeds (0 to 2): ± is of the rows and of the seeds" in text and "±0.500" in text
    assert f"{seeded.rows[1]['family']} (2 of 3)" in text and max(map(len, text.splitlines())) <= 120
    assert "one seed: ± is of the rows alone" in leaderboard.table(pictures)
    assert "costs" in text and "fit s" in text.split("costs")[1] and "fit s" not in text.split("costs")[0]


def test_table_cuts_no_number_however_many_columns_there_are(seeded):
    fields = [c.field for c in numbers.COLUMNS]
    rows = [{"family": f"family number {k}", "quality": "lower bound", **dict.fromkeys(fields, 12.345)} for k in "12"]
    text = leaderboard.table(replace(seeded, rows=tuple(rows)))
    assert max(map(len, text.splitlines())) <= 120 and "…" not in text
    assert all(c.title in text for c in numbers.COLUMNS if c.field not in ("nats", "density"))


def test_watch_names_the_fit_of_several():
    out = io.StringIO()
    with leaderboard.Watch(console=Console(file=out, width=100), every=1e9) as watch:
        for stage in (
            {"stage": "fit", "fit": 1, "fits": 2, "step": 3},
            {"stage": "waiting", "fit": 2, "fits": 2},
            {"stage": "fit", "fit": 2, "fits": 2},
            {"stage": "done", "worked": 2, "fits": 2},
        ):
            watch.show({"vae": stage})
    told = ["fit (seed 1 of 2)  step 3", "waiting (seed 2 of 2)", "fit (seed 2 of 2)", "done (2 of 2 seeds)"]
    assert [line.rsplit("  ", 1)[0] for line in out.getvalue().splitlines()] == [f"vae:  {words}" for words in told]


def test_watch_counts_the_seconds_of_fits_and_not_of_waiting(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(leaderboard.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    watch = leaderboard.Watch(console=Console(file=out, width=100), every=1e9)
    for second, stage in (
        (10, {"stage": "fit", "fit": 1, "fits": 2}),
        (20, {"stage": "waiting", "fit": 2, "fits": 2}),
        (50, {"stage": "fit", "fit": 2, "fits": 2}),
        (70, {"stage": "density", "fit": 2, "fits": 2}),
        (71, {"stage": "done", "worked": 2, "fits": 2}),
    ):
        now[0] = second
        watch.show({"vae": stage})
    assert [line.split("  ")[-1] for line in out.getvalue().splitlines()] == ["0 s", "0 s", "0 s", "20 s", "31 s"]
