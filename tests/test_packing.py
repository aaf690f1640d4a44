"""Texts packed as trees: each token once, every text's path intact, no row longer than it may be."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from chainofstep.models import packing
from chainofstep.models.packing import PackedRow, batches, common, pack, padded

#: Few different ids, so that texts often begin alike.
TEXTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple), min_size=1, max_size=12)


def test_a_tree_by_hand() -> None:
    #    1 2 3     root ── 1 ── 2 ── 3
    #    1 2 4 5             └── 4 ── 5
    #    6         root ── 6
    (row,) = pack([(1, 2, 4, 5), (6,), (1, 2, 3)], ["question"] * 3)
    assert row.ids == [1, 2, 3, 4, 5, 6]
    assert row.depths == [0, 1, 2, 2, 3, 0]
    assert dict(row.paths) == {2: [0, 1, 2], 0: [0, 1, 3, 4], 1: [5]}
    seen = [np.flatnonzero(line).tolist() for line in row.visible(7)]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 3, 4], [5], [6]]


def test_texts_of_other_roots_share_nothing() -> None:
    rows = pack([(1, 2), (1, 2), (1, 2)], ["a", "b", "a"])
    assert [(row.root, row.ids) for row in rows] == [("a", [1, 2]), ("b", [1, 2])]
    assert [number for number, _ in rows[0].paths] == [0, 2]


@given(TEXTS, st.integers(1, 20))
def test_every_text_can_be_read_along_its_path(texts: list[tuple[int, ...]], most: int) -> None:
    packing.ROW_TOKENS, before = most, packing.ROW_TOKENS
    try:
        rows = pack(texts, ["root"] * len(texts))
    finally:
        packing.ROW_TOKENS = before
    found = {number: (row, path) for row in rows for number, path in row.paths}
    assert sorted(found) == list(range(len(texts)))
    for number, (row, path) in found.items():
        assert tuple(row.ids[column] for column in path) == texts[number]
        assert [row.depths[column] for column in path] == list(range(len(path)))
        visible = row.visible(len(row))
        for place, column in enumerate(path):  # it sees its own past and itself, nothing else
            assert np.flatnonzero(visible[column]).tolist() == sorted(path[: place + 1])
    for row in rows:
        assert len(row) <= max(most, *(len(texts[number]) for number, _ in row.paths))


@given(TEXTS)
def test_one_row_holds_each_beginning_once(texts: list[tuple[int, ...]]) -> None:
    (row,) = pack(texts, ["root"] * len(texts))
    assert len(row) == len({text[: i + 1] for text in texts for i in range(len(text))})


def test_batches_hold_alike_lengths_and_padding_sees_itself() -> None:
    rows = [row for length in (3, 9, 1, 8) for row in pack([tuple(range(length))], [length])]
    grouped = list(batches(rows, tokens=18))
    assert [[len(row) for row in group] for group in grouped] == [[9, 8], [3, 1]]
    assert [len(row) for row in next(iter(batches(rows, tokens=2)))] == [9]  # one row always goes
    ids, depths, visible = padded(grouped[1], torch.device("cpu"))
    assert ids.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert depths.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert visible[1].tolist() == torch.eye(3, dtype=torch.bool).tolist()


def test_common() -> None:
    assert (common((1, 2, 3), (1, 2)), common((1, 2), (1, 3)), common((), (1,)), common((4,), (5,))) == (2, 1, 0, 0)


def test_an_equal_text_adds_nothing() -> None:
    row = PackedRow("root")
    row.add(0, (1, 2), 0)
    row.add(1, (1, 2), 2)
    assert row.ids == [1, 2]
    assert row.paths[1] == (1, [0, 1])
    assert row.visible(2).tolist() == [[True, False], [True, True]]
