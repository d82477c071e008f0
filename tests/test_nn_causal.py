"""Causal bodies: each output sees earlier entries only and all that its paper promises, and a walk gives the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pofx.nn.bodies import BODIES, body_class
from pofx.nn.entries import Causal, Entries, Size, hats
from pofx.nn.recurrence import diagonals_of, recur, rows_of
from pofx.randomness import Rng

# two bodies read waves and notes alone, and are tested with those kinds
USUAL = [name for name in BODIES if name not in ("adaptive", "intervals")]
PICTURES = [name for name in USUAL if body_class(name).grid]
VECTORS = [name for name in USUAL if not body_class(name).grid]
TABLE = Entries((5,), (3, 0, 2, 0, 4), (False, True, False, True, True), (((0,), 3), ((1, 3), 6), ((2,), 2), ((4,), 4)),
                False, (2, 0, 4, 1, 3))  # fmt: skip


def picture(height: int, wide: int, channels: int, levels: int = 2, pixel: int = 0) -> Entries:
    n = height * wide * channels
    inside = tuple(range(n))
    return Entries((height, wide, channels), (levels,) * n, (True,) * n, ((inside, 3),), True, inside, pixel=pixel)


def made(name: str, entries: Entries, seed: int = 0, **size: int) -> Causal:
    """A body with weights well away from their start."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        depth = {"depth": 1} if name == "nade" else {}
        net = body_class(name)(entries, Size(**{"width": 16, "depth": 2, "dropout": 0.0, **size, **depth}))
    rng = Rng(seed + 1)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * rng.normal(tuple(p.shape)) / max(1, p[0].numel() if p.ndim > 1 else 1) ** 0.5)
    return net.eval()


def rows_for(entries: Entries, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Entries and their standardised numbers."""
    rng, columns = Rng(seed), []
    for k in entries.levels:
        columns.append(rng.integers(k, (n,)).double() if k else rng.normal((n,), torch.float64))
    x = torch.stack(columns, 1)
    return x, torch.where(torch.tensor(entries.levels) > 0, x - 0.5, x)


def by_entry(entries: Entries, y: Tensor) -> list[Tensor]:
    """Outputs (B, sum) as one (B, k) an entry, of its pixel where they are by pixel."""
    if entries.pixel:
        pixels = y.unflatten(1, (-1, entries.pixel))
        return [pixels[:, e // entries.shape[2]] for e in range(entries.size)]
    found: dict[int, Tensor] = {}
    start = 0
    for inside, k in entries.groups:
        for e in inside:
            found[e] = y[:, start : start + k]
            start += k
    return [found[e] for e in range(entries.size)]


def seen(net: Causal, entries: Entries, c: Tensor | None = None) -> Tensor:
    """(D, D) bool: whether the outputs of entry t change with entry s, codes and numbers alike."""
    changed = torch.zeros(entries.size, entries.size, dtype=torch.bool)
    for seed in range(4):
        x, z = rows_for(entries, 1, seed)
        other_x, other_z = x.repeat(entries.size, 1), z.repeat(entries.size, 1)
        for s, k in enumerate(entries.levels):
            other_x[s, s] = (other_x[s, s] + 1) % k if k else other_x[s, s] + 0.7
            other_z[s, s] += 0.7
        with torch.no_grad():
            a, b = (by_entry(entries, net(u.double(), v.double(), c)) for u, v in ((x, z), (other_x, other_z)))
        for t in range(entries.size):
            changed[t] |= (a[t] - b[t]).abs().amax(1) > 1e-12
    return changed


def earlier(entries: Entries) -> Tensor:
    rank = torch.tensor(entries.order).argsort()
    return rank[:, None] > rank[None, :]


def test_the_protocol_is_filled() -> None:
    assert set(PICTURES) == {"gated", "pixelcnn", "pixelcnn++", "row-lstm", "diagonal-bilstm"}
    with pytest.raises(ValueError, match="expected one of"):
        body_class("pixelsnail")
    with pytest.raises(ValueError, match="one hidden layer"):
        body_class("nade")(TABLE, Size(depth=3))


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("width", [16, 4])
def test_a_vector_body_sees_every_earlier_entry_and_no_other(name: str, width: int) -> None:
    width = max(width, 8) if name in ("transformer", "any-order") else width
    assert torch.equal(seen(made(name, TABLE, width=width).double(), TABLE), earlier(TABLE))


@pytest.mark.parametrize("name", [n for n in USUAL if n != "pixelcnn"])
@pytest.mark.parametrize("channels", [1, 3])
def test_no_body_has_a_blind_spot(name: str, channels: int) -> None:
    entries = picture(4, 5, channels)
    net = made(name, entries, depth=4).double()
    expected = earlier(entries)
    found = seen(net, entries)
    if name == "row-lstm":  # a triangle, which the first convolution and each layer make wider
        expected, found = expected & triangle(entries), found & (triangle(entries) | ~expected)
    assert torch.equal(found, expected)


def triangle(entries: Entries) -> Tensor:
    """The pixels (i - d, j + e) with |e| <= d, and three places to the left."""
    _, wide, channels = entries.shape
    place = torch.arange(entries.size) // channels
    i, j = place // wide, place % wide
    down, aside = i[:, None] - i, (j[:, None] - j).abs()
    return torch.where(down == 0, aside <= 3, aside <= down)


@pytest.mark.parametrize("name", ["row-lstm", "diagonal-bilstm"])
def test_a_recurrence_sees_far(name: str) -> None:
    """One layer reaches the corners of a large picture: the triangle, or everything."""
    entries = picture(14, 13, 1)
    found, before = seen(made(name, entries, depth=1).double(), entries), earlier(entries)
    assert not (found & ~before).any()
    assert torch.equal(found & triangle(entries), before & triangle(entries))
    if name == "diagonal-bilstm":
        assert torch.equal(found, before)


def test_the_plain_pixelcnn_has_its_blind_spot_and_sees_nothing_later() -> None:
    entries = picture(14, 13, 1)
    found = seen(made("pixelcnn", entries, depth=3).double(), entries)
    assert not (found & ~earlier(entries)).any()
    at = 9 * 13 + 3
    assert found[at, 8 * 13 + 6] and found[at, 6 * 13 + 3]  # the first kernel reaches three places
    assert not found[at, 8 * 13 + 11]  # far to the right in the row above: only later pixels lead there


def test_whole_pixels_see_earlier_pixels_alone() -> None:
    entries = picture(4, 4, 3, pixel=5)
    place = torch.arange(entries.size) // 3
    assert torch.equal(seen(made("pixelcnn++", entries, depth=4).double(), entries), place[:, None] > place)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("name, entries", [
    *((name, e) for name in PICTURES for e in (picture(5, 4, 1), picture(4, 5, 3, 40), picture(1, 3, 1))),
    *((name, picture(4, 1, 2)) for name in PICTURES),
    ("pixelcnn++", picture(4, 5, 3, pixel=7)),
    *((name, e) for name in VECTORS for e in (TABLE, picture(3, 2, 1))),
])  # fmt: skip
def test_a_walk_gives_what_forward_gives(name: str, entries: Entries, labelled: bool) -> None:
    net = made(name, entries, c_dim=3 if labelled else 0).double()
    x, z = rows_for(entries, 4)
    c = Rng(8).normal((4, 3), torch.float64) if labelled else None
    with torch.no_grad():
        whole = by_entry(entries, net(x, z, c))
        walk, other, cut = net.walk(4, c), torch.tensor([3, 3, 0, 1]), entries.size // 2
        for t, e in enumerate(entries.order):
            assert torch.allclose(walk.outputs(), whole[e], atol=1e-9), e
            if t == cut:  # other rows go on from here
                walk.reorder(other)
                x, z, whole = x[other], z[other], [y[other] for y in whole]
            walk.put(x[:, e], z[:, e])
    if labelled:
        with torch.no_grad():
            assert ((net(x, z, c) - net(x, z)).abs().amax(1) > 1e-6).all()


@pytest.mark.parametrize("name", [n for n in USUAL if not body_class(n).free])
def test_what_is_missing_is_not_seen_but_is_known_to_miss(name: str) -> None:
    entries = picture(3, 3, 1) if body_class(name).grid else TABLE
    net = made(name, entries).double()
    (x, z), (other_x, other_z) = rows_for(entries, 3), rows_for(entries, 3, seed=5)
    observed = torch.ones(3, entries.size, dtype=torch.bool)
    hidden = entries.order[1]
    observed[:, hidden] = False
    other_x, other_z = (torch.where(observed, a, b) for a, b in ((x, other_x), (z, other_z + 1)))
    with torch.no_grad():
        a, b = net(x, z, None, observed), net(other_x, other_z, None, observed)
        assert torch.equal(a, b)
        last = by_entry(entries, net(x, z) - a)[entries.order[-1]]
    assert (last.abs().amax(1) > 1e-9).all()


@pytest.mark.parametrize("name", USUAL)
def test_every_weight_learns(name: str) -> None:
    entries = picture(5, 5, 3, 4) if body_class(name).grid else TABLE
    net = made(name, entries, c_dim=3).double()
    x, z = rows_for(entries, 6)
    observed = Rng(2).bernoulli(0.7, tuple(x.shape))
    order = torch.tensor(entries.order).expand(6, -1) if net.free else None
    y = net(x, z, Rng(3).normal((6, 3), torch.float64), None if net.free else observed, order)
    (y * Rng(4).normal(tuple(y.shape), torch.float64)).sum().backward()
    assert [k for k, p in net.named_parameters() if p.grad is None or not (p.grad != 0).any()] == []


@pytest.mark.parametrize("levels", [33, 65, 100, 256, 1025])
def test_a_long_ordinal_is_told_by_the_knots_beside_it(levels: int) -> None:
    told = hats(torch.arange(levels), levels).double()
    knots = told.argmax(0)[told.amax(0) == 1].double()
    assert len(knots) == told.shape[1]  # each knot is a level of its own
    assert ((told > 0).sum(1) <= 2).all() and torch.allclose(told.sum(1), torch.ones(levels).double())
    assert torch.allclose(told @ knots, torch.arange(levels).double(), atol=1e-4)
    ends = [0, 1, 2, 4, 8, levels - 9, levels - 5, levels - 3, levels - 2, levels - 1]
    assert set(ends) <= set(knots.int().tolist())


def naive(pre: Tensor, weight: Tensor, height: int, wide: int, above: tuple[int, ...]) -> Tensor:
    """The recurrence pixel by pixel: `above` are the columns read in the row above; none: left and above."""
    groups, _, rows, four = pre.shape
    zero = pre.new_zeros(groups, rows, four // 4)
    h, c = {}, {}
    for i in range(height):
        for j in range(wide):
            near = [(i - 1, j + s) for s in above] or [(i, j - 1), (i - 1, j)]
            past = torch.cat([h.get(p, zero) for p in near], -1)
            o, f, u, g = (pre[:, i * wide + j] + past @ weight).chunk(4, -1)
            before = c.get((i - 1, j) if above else (i, j - 1), zero)
            c[i, j] = f.sigmoid() * before + u.sigmoid() * g.tanh()
            h[i, j] = o.sigmoid() * c[i, j].tanh()
    return torch.stack([h[i, j] for i in range(height) for j in range(wide)], 1)


@pytest.mark.parametrize("height, wide", [(3, 4), (4, 2), (1, 3), (3, 1)])
@pytest.mark.parametrize("by_rows", [True, False])
def test_the_recurrence_and_its_gradient_are_those_of_the_loop(height: int, wide: int, by_rows: bool) -> None:
    rng = Rng(0)
    lines, order = diagonals_of(height, wide)
    lines, order = (rows_of(height, wide), torch.arange(height * wide)) if by_rows else (lines, order)
    shifts, places = ((-1, 0, 1), wide) if by_rows else ((0, -1), height)
    pre = rng.normal((2, height * wide, 3, 8), torch.float64).requires_grad_()
    weight = rng.normal((2, 2 * len(shifts), 8), torch.float64).requires_grad_()
    ours = recur(pre[:, order], weight, lines, shifts, places)[:, order.argsort()]  # of a copy, which is written over
    theirs = naive(pre, weight, height, wide, shifts if by_rows else ())
    assert torch.allclose(ours, theirs, atol=1e-12)
    direction = rng.normal(tuple(ours.shape), torch.float64)
    for a, b in zip(*(torch.autograd.grad(h, (pre, weight), direction) for h in (ours, theirs)), strict=True):
        assert torch.allclose(a, b, atol=1e-11)


def test_rows_are_moved_there_and_their_gradient_back():
    """Beside an index of rows with a row of zeros after the last; the gradient by autograd and once more by numbers."""
    from pofx.nn.diagonal import DiagonalNet, moved

    net = DiagonalNet((3, 4, 1), 1, 2, Size(width=4, depth=1, dropout=0.0))
    x = torch.randn(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for there, back in ((net.later, net.earlier), (net.mirror, net.mirror), (net.order, net.rank)):
        padded = torch.cat([x, torch.zeros(1, 2, dtype=torch.float64)])
        weight = torch.arange(24.0, dtype=torch.float64).reshape(12, 2)
        assert torch.equal(moved(x, there, back), padded[there])
        found, want = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (moved(x, there, back), padded[there]))
        assert torch.equal(found, want)
        assert torch.autograd.gradgradcheck(lambda u, a=there, b=back: moved(u, a, b).square(), x)
