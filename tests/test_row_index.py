"""Rows of a file by id."""

import json

import pytest

from chainofstep.row_index import RowIndex


def written(path, lines):
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return path


def test_ids_in_order_and_rows_in_any(tmp_path):
    rows = [
        {"id": "a", "value": 1},
        {"value": 2, "id": "b"},
        {"id": 'quoted " \\ é', "value": 3},
        {"id": 7, "value": 4},
    ]
    index = RowIndex(written(tmp_path / "rows.jsonl", [json.dumps(rows[0]), "", *map(json.dumps, rows[1:])]))
    assert list(index) == ["a", "b", 'quoted " \\ é', "7"] and len(index) == 4
    assert "b" in index and "c" not in index
    assert list(index.rows()) == rows
    assert list(index.rows(['quoted " \\ é', "a"])) == [rows[2], rows[0]]


def test_a_file_that_is_not_there_has_no_rows(tmp_path):
    assert list(RowIndex(tmp_path / "none.jsonl")) == []


def test_a_file_that_has_grown_is_read_again(tmp_path):
    path = written(tmp_path / "rows.jsonl", ['{"id": "a"}'])
    assert list(RowIndex(path)) == ["a"]
    written(path, ['{"id": "a"}', '{"id": "b"}'])
    assert list(RowIndex(path)) == ["a", "b"]


@pytest.mark.parametrize("line", ["nonsense", "[1]", "{}", '{"name": "a"}', '{"id": "torn'])
def test_lines_without_an_id_are_named(tmp_path, line):
    path = written(tmp_path / "rows.jsonl", ['{"id": "a"}', line])
    with pytest.raises(ValueError, match=r"rows.jsonl:2: no row with an id"):
        RowIndex(path)


def test_an_id_that_occurs_twice_is_named(tmp_path):
    path = written(tmp_path / "rows.jsonl", ['{"id": "a"}', '{"id": "b"}', '{"id": "a", "more": 1}'])
    with pytest.raises(ValueError, match=r"rows.jsonl:3: the id 'a' occurs twice"):
        RowIndex(path)


def test_a_row_that_is_not_there_is_named(tmp_path):
    index = RowIndex(written(tmp_path / "rows.jsonl", ['{"id": "a"}']))
    with pytest.raises(ValueError, match="has no row 'b'"):
        list(index.rows(["b"]))
