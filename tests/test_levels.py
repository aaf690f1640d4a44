"""Attention to prefixes stored once equals plain attention, however rows are spread over them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chainofstep.models import levels
from chainofstep.models.levels import Level, Levels, _bands, merge, partial_attention, partial_softmax

KV_HEADS, REPEAT, SIZE = 2, 3, 8


def plain(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """One row's attention: scaled queries [K, R, Q, D], keys and values [K, T, D], visible [Q, T]."""
    scores = query @ keys[:, None].transpose(-1, -2)
    return scores.masked_fill(~visible, -torch.inf).softmax(-1) @ values[:, None]


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any),
    new=st.integers(1, 3),
    window=st.none() | st.integers(1, 12),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=60)
def test_a_level_and_own_tokens_equal_plain_attention(
    counts: list[int], new: int, window: int | None, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows, length = sum(counts), 10
    owner = torch.tensor([number for number, count in enumerate(counts) for _ in range(count)])
    owner = owner[torch.randperm(rows, generator=generator)]  # rows need not lie in the order of their prefixes
    seen = torch.randint(1, length + 1, (rows,), generator=generator)
    start = torch.randint(0, 3, (rows,), generator=generator)
    keys, values = (torch.randn(len(counts), KV_HEADS, length, SIZE, generator=generator) for _ in range(2))
    query = torch.randn(rows, KV_HEADS, REPEAT, new, SIZE, generator=generator)
    own_keys, own_values = (torch.randn(rows, KV_HEADS, new, SIZE, generator=generator) for _ in range(2))

    level = Level([(keys, values)], owner, seen, start)
    index = (start + seen)[:, None] + torch.arange(new)  # each query's place in its row's text
    shared = level.partial(0, query, level.bias(index, REPEAT, window))
    causal = torch.zeros(new, new).masked_fill(torch.ones(new, new).triu(1).bool(), levels.MASKED)
    if window is not None:
        causal = causal.masked_fill(torch.ones(new, new).tril(-window).bool(), levels.MASKED)
    own = partial_softmax(query @ own_keys[:, :, None].transpose(-1, -2) + causal, own_values[:, :, None])
    found = merge([shared, own])

    for row in range(rows):
        k, v = keys[owner[row], :, : seen[row]], values[owner[row], :, : seen[row]]
        places = torch.cat([start[row] + torch.arange(int(seen[row])), index[row]])
        behind = index[row][:, None] - places
        visible = behind >= 0 if window is None else (behind >= 0) & (behind < window)
        both = (torch.cat([k, own_keys[row]], 1), torch.cat([v, own_values[row]], 1))
        torch.testing.assert_close(found[row], plain(query[row], *both, visible), atol=1e-5, rtol=1e-5)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=8), st.integers(0, 2**16))
@settings(deadline=None, max_examples=60)
def test_rows_that_stay_see_the_same_after_others_have_left(counts: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows, length = sum(counts), 7
    owner = torch.tensor([number for number, count in enumerate(counts) for _ in range(count)])
    seen = torch.randint(1, length + 1, (rows,), generator=generator)
    layers = [tuple(torch.randn(len(counts), KV_HEADS, length, SIZE, generator=generator) for _ in range(2))]
    query = torch.randn(rows, KV_HEADS, REPEAT, 1, SIZE, generator=generator)
    level = Level(layers, owner, seen, torch.zeros_like(seen))  # type: ignore[arg-type]
    both = Levels([level])
    depth = torch.zeros(1, 1, dtype=torch.long)
    before = both.partials(0, query, depth, None)[0]
    stay = torch.randperm(rows, generator=generator)[: 1 + rows // 3].sort().values
    both.keep(stay)
    after = both.partials(0, query[stay], depth, None)[0]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old[stay], atol=1e-5, rtol=1e-5)
    assert level.prefixes <= len(counts)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 50)), min_size=1, max_size=30))
def test_bands_cover_all_prefixes_in_order(prefixes: list[tuple[int, int]]) -> None:
    counts, reaches = zip(*prefixes, strict=True)
    bands = _bands(counts, reaches)
    assert [band.begin for band in bands] == [0, *(band.end for band in bands[:-1])]
    assert bands[-1].end == len(counts) and len(bands) <= levels.BANDS
    for band in bands:
        assert band.width >= max(counts[band.begin : band.end])
        assert band.length >= max(reaches[band.begin : band.end])
        assert band.slots.stop - band.slots.start == band.width * band.prefixes


def test_bands_by_hand() -> None:
    # 2 x 16 rows of 100 tokens in one band; 1 row of 10 among them would be padded to 16 of 100.
    assert [(b.prefixes, b.width, b.length) for b in _bands([16, 16, 1], [100, 100, 10])] == [(2, 16, 100), (1, 1, 10)]
    assert [(b.prefixes, b.width, b.length) for b in _bands([16, 15, 16], [100, 90, 99])] == [(3, 16, 100)]


@pytest.mark.parametrize("biased", [True, False])
def test_both_ways_to_compute_a_partial_agree(biased: bool) -> None:
    """The flash kernel of a CPU, and the two products that are used elsewhere."""
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (torch.randn(3, 2, t, SIZE, generator=generator) for t in (5, 9, 9))
    bias = torch.zeros(3, 1, 5, 9)
    bias[0, :, :, 4:] = levels.MASKED
    flash = partial_attention(query, keys, values, bias if biased else None)
    scores = query @ keys.transpose(-1, -2) + (bias if biased else 0.0)
    for one, other in zip(flash, partial_softmax(scores, values), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
