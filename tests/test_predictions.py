"""Files of predictions: every format is read, each row finds its item, and what does not is named."""

import csv
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainofstep.benchmarks.predictions import Prediction, match, read_predictions
from chainofstep.records import Example, Reject, ScoreFailure

ITEMS = [
    Example(f"chartqa/{name}", question, (), "1", "number", meta={"row": row})
    for row, (name, question) in enumerate(
        [("a-1", "How many bars?"), ("b-2", "What year?"), ("c-3", "Which is last?")]
    )
]


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def texts(path: Path) -> list[object]:
    """What a file predicts for each of the items."""
    found = match(ITEMS, [one for one in read_predictions(path) if isinstance(one, Prediction)])
    assert not found.unknown and not found.doubled and not found.strangers
    return found.texts


def trouble(path: Path) -> list[str]:
    return [one.reason.partition(":")[0] for one in read_predictions(path) if isinstance(one, Reject)]


# Formats


def test_own_rows_by_id_with_and_without_the_prefix_or_by_row_number(tmp_path):
    rows = [{"id": "b-2", "text": "2"}, {"id": "chartqa/a-1", "text": "1"}, {"id": 2, "text": "3"}]
    assert texts(written(tmp_path / "p.jsonl", *rows)) == ["1", "2", "3"]


@pytest.mark.parametrize(
    "fields",
    [
        {"resps": [["7"]], "filtered_resps": ["x"]},
        {"resps": ["7"], "filtered_resps": "x"},
        {"filtered_resps": "7"},
        {"filtered_resps": ["7", "8"]},
    ],
)
def test_lmms_eval_rows_give_the_first_whole_reply(tmp_path, fields):
    rows = [
        {"doc_id": number, "target": "1", "input": ITEMS[number].question + "\nOne word.", **fields}
        for number in (2, 0)
    ]
    found = match(ITEMS, read_predictions(written(tmp_path / "x_samples_chartqa.jsonl", *rows)))
    assert found.texts == ["7", ScoreFailure("no prediction"), "7"]
    assert found.missing == ["chartqa/b-2"] and not found.strangers


def test_lmms_eval_rows_go_by_the_published_id_where_they_hold_the_row(tmp_path):
    row = {"doc_id": 0, "doc": {"id": "c-3", "question": "Which is last?"}, "resps": [["7"]]}
    assert match(ITEMS, read_predictions(written(tmp_path / "s.jsonl", row))).texts[2] == "7"


def test_logs_of_older_lmms_eval_are_one_document(tmp_path):
    path = tmp_path / "chartqa.json"
    path.write_text(json.dumps({"args": {}, "logs": [{"doc_id": n, "resps": [[str(n)]]} for n in range(3)]}))
    assert texts(path) == ["0", "1", "2"]


ROWS = [{"index": n, "question": item.question, "prediction": f'{n},\t"quoted"\nline'} for n, item in enumerate(ITEMS)]
EXPECTED = [row["prediction"] for row in ROWS]


@pytest.mark.parametrize(("suffix", "delimiter"), [("tsv", "\t"), ("csv", ",")])
def test_vlmevalkit_tables(tmp_path, suffix, delimiter):
    path = tmp_path / f"m_ChartQA_TEST.{suffix}"
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ROWS[0], delimiter=delimiter)
        table.writeheader()
        table.writerows(ROWS)
    assert texts(path) == EXPECTED


def test_vlmevalkit_json_by_rows_and_by_columns(tmp_path):
    path = tmp_path / "m.json"
    path.write_text(json.dumps(ROWS))
    assert texts(path) == EXPECTED
    path.write_text(json.dumps({name: {str(n): row[name] for n, row in enumerate(ROWS)} for name in ROWS[0]}))
    assert texts(path) == EXPECTED


def test_vlmevalkit_sheets(tmp_path):
    import openpyxl

    book, path = openpyxl.Workbook(), tmp_path / "m.xlsx"
    for row in (list(ROWS[0]), [0.0, "How many bars?", "1"], [1, "What year?", None], [2, "Which is last?", 3]):
        book.active.append(row)
    book.save(path)
    assert texts(path) == ["1", "", "3"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"index,prediction"])
def test_a_sheet_that_cannot_be_read_is_one_line(tmp_path, content):
    pytest.importorskip("openpyxl")
    (tmp_path / "m.xlsx").write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.xlsx cannot be read as \.xlsx .*: save it again"):
        list(read_predictions(tmp_path / "m.xlsx"))


def test_a_damaged_sheet_is_one_line(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    openpyxl.Workbook().save(tmp_path / "whole.xlsx")
    with zipfile.ZipFile(tmp_path / "whole.xlsx") as whole, zipfile.ZipFile(tmp_path / "m.xlsx", "w") as damaged:
        for name in whole.namelist():
            damaged.writestr(name, whole.read(name)[: 200 if "sheet1" in name else None])
    with pytest.raises(ValueError, match=r"m\.xlsx cannot be read as \.xlsx .*: save it again"):
        list(read_predictions(tmp_path / "m.xlsx"))


def test_a_sheet_without_its_reader_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    (tmp_path / "m.xlsx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"m\.xlsx: \.xlsx is read by openpyxl: pip install openpyxl"):
        list(read_predictions(tmp_path / "m.xlsx"))


def test_what_no_format_has_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no file of predictions; give one of \.jsonl, "):
        list(read_predictions(tmp_path / "m.parquet"))
    with pytest.raises(ValueError, match="is no file"):
        list(read_predictions(tmp_path / "m.jsonl"))


# Trouble


def test_bad_rows_are_named_and_the_others_are_read(tmp_path):
    lines = [
        b'{"id": "a-1", "text": "1"}',
        b'{"id": "b-2", "text"',
        b"\xff\xfe",
        b"[1]",
        b'{"id": "b-2"}',
        b'{"id": "b-2", "text": null}',
        b'{"id": "b-2", "text": "\\ud800"}',
        b"[" * 100_000,
        b"",
        b'{"id": "c-3", "text": "3", "score": NaN}',
    ]
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\n".join(lines))
    found = list(read_predictions(path))
    assert [one.text for one in found if isinstance(one, Prediction)] == ["1", "3"]
    assert [(one.place, one.reason.partition(":")[0]) for one in found if isinstance(one, Reject)] == [
        (f"{path}:2", "not JSON"),
        (f"{path}:3", "not UTF-8"),
        (f"{path}:4", "wrong type"),
        (f"{path}:5", "missing field"),
        (f"{path}:6", "wrong type"),
        (f"{path}:7", "not UTF-8"),
        (f"{path}:8", "not JSON"),
    ]


def test_bad_rows_of_a_table(tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes(b"index,prediction\n0,1\n1\n1,2,3\n1,caf\xe9\n2," + b"9" * 200_000 + b"\n")
    found = list(read_predictions(path))
    assert trouble(path) == ["wrong number of fields", "wrong number of fields", "not UTF-8"]
    assert [one.text for one in found if isinstance(one, Prediction)] == ["1", "9" * 200_000]
    assert csv.field_size_limit() == 131_072


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_quote_that_is_never_closed_is_named_and_takes_no_row_unseen(tmp_path, suffix):
    path, between = tmp_path / f"p.{suffix}", "," if suffix == "csv" else "\t"
    rows = [("index", "prediction"), ("0", '"one\ntwo"'), ("1", '"2'), ("2", "3")]
    path.write_text("".join(between.join(row) + "\n" for row in rows))
    found = list(read_predictions(path))
    assert [one.text for one in found if isinstance(one, Prediction)] == ["one\ntwo"]
    assert [(one.place, one.reason) for one in found if isinstance(one, Reject)] == [
        (f"{path}:4", "not a table from here on: unexpected end of data")
    ]


def test_a_failure_that_vlmevalkit_wrote_down_is_no_answer(tmp_path):
    row = {"index": 0, "prediction": "Failed to obtain answer via API."}
    assert match(ITEMS, read_predictions(written(tmp_path / "p.jsonl", row))).texts[0] == ScoreFailure(
        "the model gave no answer"
    )


def test_missing_doubled_and_unknown_are_told_apart(tmp_path):
    rows = [
        {"id": name, "text": text} for name, text in [("b-2", "2"), ("x", "0"), ("b-2", "9"), ("99", "0"), ("c-3", "")]
    ]
    path = written(tmp_path / "p.jsonl", *rows)
    found = match(ITEMS, read_predictions(path))
    assert found.texts == [ScoreFailure("no prediction"), "2", ""]
    assert found.missing == ["chartqa/a-1"] and found.doubled == [f"{path}:3"]
    assert found.unknown == [f"{path}:2", f"{path}:4"]


def test_rows_that_name_another_question_are_strangers(tmp_path):
    rows = [
        {"doc_id": 0, "input": "How many bars?", "resps": [["1"]]},
        {"doc_id": 1, "input": "How old?", "resps": [["2"]]},
    ]
    path = written(tmp_path / "p.jsonl", *rows)
    assert match(ITEMS, read_predictions(path)).strangers == [f"{path}:2"]


def test_a_question_is_the_same_however_its_pictures_places_are_written(tmp_path):
    items = [Example("mmmu/a", "<image 1> What is shown in <image 2>?", (), "A", "choice")]
    told = {"doc_id": 0, "input": "<image> What is shown in <image>?\nA. x", "resps": [["A"]]}
    assert not match(items, read_predictions(written(tmp_path / "p.jsonl", told))).strangers
    of_doc = {"doc_id": 0, "input": "Look.", "doc": {"question": items[0].question}, "resps": [["A"]]}
    assert not match(items, read_predictions(written(tmp_path / "q.jsonl", of_doc))).strangers


def test_where_an_index_is_one_items_id_and_anothers_row_the_question_decides(tmp_path):
    items = [Example(f"mathvista/{3 - n}", f"Question {n}?", (), "1", "number", meta={"row": n}) for n in range(3)]
    by_row = [{"index": n, "question": f"Question {n}?", "prediction": str(n)} for n in (1, 2)]
    found = match(items, read_predictions(written(tmp_path / "p.jsonl", *by_row)))
    assert found.texts[1:] == ["1", "2"] and not found.strangers


def test_rows_are_those_of_the_published_file_where_some_of_it_could_not_be_read():
    kept = [ITEMS[0], ITEMS[2]]
    assert match(kept, [Prediction((), 2, "3", "p:1")]).texts == [ScoreFailure("no prediction"), "3"]
    assert match(kept, [Prediction((), 1, "2", "p:1")]).unknown == ["p:1"]


@given(st.lists(st.tuples(st.sampled_from(["a-1", "b-2", "c-3", "0", "2", "7", "x", ""]), st.text(max_size=3))))
def test_every_prediction_is_used_doubled_or_unknown(pairs):
    given_rows = [
        Prediction((name,), int(name) if name.isdecimal() else None, text, str(n))
        for n, (name, text) in enumerate(pairs)
    ]
    found = match(ITEMS, given_rows)
    used = len(ITEMS) - len(found.missing)
    assert used + len(found.doubled) + len(found.unknown) == len(pairs)
    assert sum(isinstance(text, str) for text in found.texts) == used
