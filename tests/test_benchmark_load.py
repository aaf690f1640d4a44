"""Benchmark files: every published layout gives the same items, and what is wrong with a file is said and counted."""

import base64
import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from chainofstep.benchmarks import BENCHMARKS, load
from chainofstep.benchmarks.tsv import rows_of_tsv
from chainofstep.problems.pictures import check_picture
from test_pictures import DATA, chart, needs_data

CHARTQA, AI2D, MMSTAR, MMMU, MATHVISTA = (
    BENCHMARKS[name] for name in ("chartqa", "ai2d", "mmstar", "mmmu", "mathvista")
)


def write_items(folder, rows, name="items.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder


def question(number, **more):
    return {"id": f"test_human-{number}", "question": f"Sum {number}?", "answer": "4", "image": "a.png"} | more


def write_tsv(path, rows):
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, dialect="excel-tab")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def picture(tmp_path):
    return chart(tmp_path / "a.png").read_bytes()


def encoded(content):
    return base64.b64encode(content).decode()


def parquet(path, rows, image="image"):
    """A file as on the hub, with embedded pictures."""
    datasets = pytest.importorskip("datasets")
    path.parent.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_list(rows)
    table.cast_column(image, datasets.Image(decode=False)).to_parquet(str(path))
    return path


def test_the_six_of_the_paper_and_the_set_without_masks():
    assert list(BENCHMARKS) == ["mathvista", "mmstar", "mmmu", "m3cot", "ai2d", "chartqa", "ai2d-no-mask"]
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name and benchmark.split in benchmark.rows and benchmark.hub
        assert set(benchmark.prompts) == {"paper", "official"} and benchmark.columns and benchmark.note


@needs_data
def test_a_sample_is_said_to_be_one():
    loaded = load(CHARTQA, DATA / "chartqa")
    assert loaded.problems == ["chartqa test: 250 rows, 2,500 published: a sample, its score is not the benchmark's"]
    assert len(loaded.examples) == 250 and loaded.rejects == []
    assert [example.meta["row"] for example in loaded.examples] == list(range(250))


def test_a_whole_set_has_no_problems(tmp_path, picture):
    whole = replace(CHARTQA, rows={"test": 2})
    assert load(whole, write_items(tmp_path, [question(1), question(2)])).problems == []
    longer = load(whole, write_items(tmp_path, [question(1), question(2), question(3)]))
    assert longer.problems == ["chartqa test: 3 rows, only 2 published: its score is not the benchmark's"]


def test_rows_that_cannot_be_read_are_rejects_in_the_count(tmp_path, picture):
    rows = [question(0), question(1, answer=""), question(2, image="none.png"), question(3)]
    write_items(tmp_path, rows)
    with (tmp_path / "items.jsonl").open("a") as file:
        file.write("{torn\n")
    loaded = load(replace(CHARTQA, rows={"test": 5}), tmp_path)
    assert [example.meta["row"] for example in loaded.examples] == [0, 3]
    assert [reject.reason.split(":")[0] for reject in loaded.rejects] == [
        "no gold answer", "missing picture", "not JSON"
    ]  # fmt: skip
    (problem,) = loaded.problems
    assert problem.startswith("chartqa test: 3 rows cannot be read and count as failed: no gold answer (1), ")
    assert "items.jsonl:2: no gold answer" in problem and "\n" not in problem


def test_a_limit_takes_the_first_rows_with_those_that_cannot_be_read(tmp_path, picture):
    rows = [question(0), question(1, answer=""), question(0), question(2), question(3, answer=""), question(4)]
    folder, five = write_items(tmp_path, rows), replace(CHARTQA, rows={"test": 5})
    three = load(five, folder, limit=3)
    assert [example.meta["row"] for example in three.examples] == [0, 3] and len(three.rejects) == 1
    assert three.problems[0] == "the first 3 of 5 items: a sample, its score is not the benchmark's"
    assert three.problems[1].startswith("chartqa test: 1 row cannot be read and counts as failed: no gold answer (1)")
    assert len(load(five, folder, limit=5).rejects) == 2 and len(load(five, folder, limit=9).examples) == 3


def test_of_doubled_ids_the_first_counts_and_the_rest_are_named(tmp_path, picture):
    rows = [question(0), question(0, answer="5"), question(1), question(0, answer="6")]
    loaded = load(replace(CHARTQA, rows={"test": 2}), write_items(tmp_path, rows))
    assert [(example.answer, example.meta["row"]) for example in loaded.examples] == [("4", 0), ("4", 2)]
    assert loaded.rejects == []
    assert loaded.problems == [
        "chartqa test: 2 rows with an id that came before, the first counts: chartqa/test_human-0, chartqa/test_human-0"
    ]
    many = load(replace(CHARTQA, rows={"test": 1}), write_items(tmp_path, [question(0)] * 14))
    assert many.problems[0].endswith("chartqa/test_human-0 and 3 more")


def test_a_file_of_another_version_is_refused_by_what_was_found(tmp_path, picture):
    write_items(tmp_path, [{"id": "1", "prompt": "Sum?", "gold": "4", "image": "a.png"}])
    with pytest.raises(ValueError, match=r"items.jsonl: no column question or query, answer or label, found only id, "):
        load(CHARTQA, tmp_path)
    with pytest.raises(ValueError, match="no column options or A, found only"):
        load(AI2D, write_items(tmp_path, [question(1)]))
    with pytest.raises(ValueError, match="no column category, l2_category or l2-category"):
        load(MMSTAR, write_items(tmp_path, [question(1)]))


def test_what_is_not_there_is_said(tmp_path, picture):
    with pytest.raises(ValueError, match=r"no file or folder .*none: give the files of ChartQA"):
        load(CHARTQA, tmp_path / "none")
    with pytest.raises(ValueError, match=r"no files of ChartQA in .*: expected items.jsonl or test/test_\*.json"):
        load(CHARTQA, tmp_path)
    with pytest.raises(ValueError, match="chartqa has no split 'testmini': choose train or val or test"):
        load(CHARTQA, tmp_path, "testmini")
    with pytest.raises(ValueError, match="no rows of chartqa's split test"):
        load(CHARTQA, write_items(tmp_path, [question(1, id="val_human-1")]))
    (tmp_path / "items.txt").write_text("")
    with pytest.raises(ValueError, match="no data file"):
        load(CHARTQA, tmp_path / "items.txt")
    with pytest.raises(ValueError, match="ChartQA is not on the hub"):
        load(replace(CHARTQA, hub=""))


def test_the_authors_folder_of_chartqa(tmp_path):
    (tmp_path / "test/png").mkdir(parents=True)
    chart(tmp_path / "test/png/x.png")
    for kind, label in (("human", "0.03"), ("augmented", "[A, B]")):
        row = {"imgname": "x.png", "query": "Sum?", "label": label}
        (tmp_path / f"test/test_{kind}.json").write_text(json.dumps([row]))
    loaded = load(replace(CHARTQA, rows={"test": 2}), tmp_path)
    assert [(one.id, one.answer, one.meta["type"]) for one in loaded.examples] == [
        ("chartqa/test_augmented-0", "[A, B]", "augmented"), ("chartqa/test_human-0", "0.03", "human")
    ]  # fmt: skip
    assert {one.images for one in loaded.examples} == {(str(tmp_path / "test/png/x.png"),)}
    assert loaded.problems == []


def test_pictures_need_not_be_there_to_score_stored_text(tmp_path):
    write_items(tmp_path, [question(0)])
    assert len(load(CHARTQA, tmp_path, check="none").examples) == 1
    assert len(load(CHARTQA, tmp_path).rejects) == 1


def test_embedded_pictures_are_not_written_to_score_stored_text(tmp_path, picture):
    broken = encoded(b"no picture" * 9)
    path = write_tsv(tmp_path / "AI2D_TEST.tsv", [vlmevalkit(0, encoded(picture)), vlmevalkit(1, broken)])
    parquet(tmp_path / "hub/data/test-0.parquet", hub_rows(picture, [0, 1]))
    for where in (path, tmp_path / "hub"):
        loaded = load(AI2D, where, pictures=tmp_path / "pictures", check="none")
        assert len(loaded.examples) == 2 and loaded.rejects == [] and not (tmp_path / "pictures").exists()
    assert len(load(AI2D, path, pictures=tmp_path / "pictures").rejects) == 1


# Parquet and the hub


def hub_rows(picture, numbers):
    return [
        {"question": f"Part {number}?", "options": ["leaf", "root"], "answer": str(number % 2),
         "image": {"bytes": picture, "path": None}} for number in numbers
    ]  # fmt: skip


@pytest.mark.parametrize("way", ["folder", "file", "hub"])
def test_hub_rows_are_numbered_through_whichever_way_they_come(tmp_path, picture, way):
    hub = tmp_path / "hub"
    first = parquet(hub / "data/test-00000-of-00002.parquet", hub_rows(picture, [0, 1]))
    parquet(hub / "data/test-00001-of-00002.parquet", hub_rows(picture, [2]))
    benchmark = replace(AI2D, rows={"test": 3}, hub=str(hub))
    where = {"folder": hub, "file": first, "hub": None}[way]
    loaded = load(benchmark, where, pictures=tmp_path / "pictures")
    ids = ["ai2d/test-0", "ai2d/test-1", "ai2d/test-2"][: 2 if way == "file" else 3]
    assert [one.id for one in loaded.examples] == ids and loaded.rejects == []
    assert [one.answer for one in loaded.examples] == ["A", "B", "A"][: len(ids)]
    assert {one.images for one in loaded.examples} == {(str(*(tmp_path / "pictures").rglob("*.png")),)}
    assert len(loaded.problems) == (way == "file")


def test_several_configurations_of_the_hub_are_one_benchmark(tmp_path, picture):
    hub, image = tmp_path / "hub", {"bytes": picture, "path": None}
    for subject, names in (("Accounting", ["_1", "_2"]), ("Art", ["_1"])):
        rows = [
            {"id": f"validation_{subject}{name}", "question": "Which?", "options": "['x', 'y']", "answer": "B",
             "question_type": "multiple-choice", "image_1": image} for name in names
        ]  # fmt: skip
        parquet(hub / subject / "validation-00000-of-00001.parquet", rows, "image_1")
    configs = [
        {"config_name": name, "data_files": [{"split": "validation", "path": f"{name}/validation-*.parquet"}]}
        for name in ("Accounting", "Art")
    ]
    (hub / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    benchmark = replace(MMMU, rows={"dev": 150, "validation": 3}, hub=str(hub), hub_config="Accounting, Art")
    loaded = load(benchmark, pictures=tmp_path / "pictures")
    assert [one.id for one in loaded.examples] == [
        "mmmu/validation_Accounting_1", "mmmu/validation_Accounting_2", "mmmu/validation_Art_1"
    ]  # fmt: skip
    assert [one.meta["row"] for one in loaded.examples] == [0, 1, 2] and loaded.problems == []
    with pytest.raises(ValueError, match="split test, cannot be opened"):
        load(replace(AI2D, hub=str(hub / "none")), pictures=tmp_path / "pictures")


def test_mmmus_dev_split_is_not_its_validation_split(tmp_path, picture):
    rows = [
        {"id": f"{split}_Art_1", "question": "Which?", "options": "['x', 'y']", "answer": "B", "image": "a.png",
         "question_type": "multiple-choice"} for split in ("dev", "validation")
    ]  # fmt: skip
    write_items(tmp_path, rows)
    assert [one.id for one in load(MMMU, tmp_path).examples] == ["mmmu/validation_Art_1"]
    assert [one.id for one in load(MMMU, tmp_path, "dev").examples] == ["mmmu/dev_Art_1"]
    assert [one.id for one in load(MMMU, tmp_path, "val").examples] == ["mmmu/validation_Art_1"]


# VLMEvalKit's files


def vlmevalkit(number, image, **more):
    return {"index": str(number), "image": image, "question": f'Which "part",\n{number}?', "A": "leaf", "B": "root",
            "C": "", "D": "", "answer": "B", "category": "parts"} | more  # fmt: skip


@pytest.mark.parametrize("given", ["file", "folder"])
def test_vlmevalkits_file_with_pictures_that_rows_share(tmp_path, picture, given):
    rows = [vlmevalkit(0, "2"), vlmevalkit(1, encoded(picture)), vlmevalkit(2, encoded(picture)), vlmevalkit(3, "1")]
    path = write_tsv(tmp_path / "AI2D_TEST.tsv", rows)
    loaded = load(replace(AI2D, rows={"test": 4}), path if given == "file" else tmp_path)
    assert [one.id for one in loaded.examples] == ["ai2d/0", "ai2d/1", "ai2d/2", "ai2d/3"] and loaded.problems == []
    assert loaded.examples[0].question == 'Which "part",\n0?'
    assert {(one.choices, one.answer) for one in loaded.examples} == {(("leaf", "root"), "B")}
    (image,) = {one.images for one in loaded.examples}
    assert check_picture(Path(*image)) == (240, 180) and Path(*image).is_relative_to(tmp_path / "pictures")


def test_a_row_may_have_several_pictures(tmp_path, picture):
    other = chart(tmp_path / "b.png", heights=(1, 2)).read_bytes()
    listed = str([encoded(picture), encoded(other)])
    loaded = load(AI2D, write_tsv(tmp_path / "AI2D_TEST.tsv", [vlmevalkit(0, listed)]))
    assert [Path(image).read_bytes() for image in loaded.examples[0].images] == [picture, other]


def test_bad_pictures_and_rows_of_a_tsv_stop_no_other(tmp_path, picture):
    long = "x" * 99
    rows = [vlmevalkit(0, long + "!"), vlmevalkit(1, encoded(b"no picture" * 9)), vlmevalkit(2, "9"),
            vlmevalkit(3, "1"), vlmevalkit(4, ""), vlmevalkit(5, encoded(picture))]  # fmt: skip
    path = write_tsv(tmp_path / "AI2D_TEST.tsv", rows)
    with path.open("ab") as file:
        file.write(b"6\ttoo few\r\n7\t5\tcaf\xe9?\tleaf\troot\t\t\tB\tparts\r\n")
        file.write(b"8\t5\tWhich?\tleaf\troot\t\t\tB\tparts\tone more\r\n9\t5\tWhich?\tleaf\troot\t\t\tA\tparts\r\n")
    loaded = load(AI2D, path)
    assert [one.id for one in loaded.examples] == ["ai2d/5", "ai2d/9"]
    assert [reject.reason.split(":")[0] for reject in loaded.rejects] == [
        "unreadable picture", "unreadable picture", "missing picture", "unreadable picture", "no picture",
        "wrong number of cells", "not UTF-8", "wrong number of cells"
    ]  # fmt: skip
    assert json.dumps([reject.row for reject in loaded.rejects])


def test_the_tested_part_of_vlmevalkits_chartqa(tmp_path, picture):
    rows = [
        {"index": str(number), "question": "Sum?", "answer": "0.03", "image": encoded(picture), "split": split}
        for number, split in enumerate(["test_human", "test_augmented", "val_human"])
    ]
    loaded = load(CHARTQA, write_tsv(tmp_path / "ChartQA_TEST.tsv", rows))
    assert [(one.id, one.meta["type"]) for one in loaded.examples] == [
        ("chartqa/0", "human"), ("chartqa/1", "augmented")
    ]  # fmt: skip


QUERY = (
    "Hint: Please answer the question requiring a floating-point number with two decimal places and provide the final "
    "value, e.g., 1.23, 1.34, 1.45, at the end.\nQuestion: How much is it (in all)?"
)


def mathvista_row(number, image, **more):
    """As VLMEvalKit's scripts read them: the query is the question, lists are texts, there is no precision."""
    return {"index": str(number), "image": image, "question": f"{QUERY} (Unit: $)", "answer": "1.45",
            "question_type": "free_form", "answer_type": "float", "choices": "", "answer_option": "",
            "task": "math word problem", "skills": "['arithmetic reasoning', 'algebraic reasoning']",
            **more}  # fmt: skip


@pytest.mark.parametrize("given", ["file", "folder"])
def test_vlmevalkits_mathvista(tmp_path, picture, given):
    hint, choices = "Hint: Please answer the question and provide the correct option letter.", "(A) red\n(B) it's blue"
    chosen = {"question": f"{hint}\nQuestion: Which?\nChoices:\n{choices}", "choices": "['red', \"it's blue\"]"}
    chosen |= {"question_type": "multi_choice", "answer_type": "text", "answer": "it's blue", "answer_option": "B"}
    whole = {"question": "How many?", "answer_type": "integer", "answer": "3", "skills": "arithmetic reasoning"}
    rows = [mathvista_row(5, encoded(picture)), mathvista_row(6, "5", **chosen), mathvista_row(7, "5", **whole)]
    path = write_tsv(tmp_path / "MathVista_MINI.tsv", rows)
    loaded = load(replace(MATHVISTA, rows={"testmini": 3}), path if given == "file" else tmp_path)
    assert loaded.problems == [] and [one.id for one in loaded.examples] == [f"mathvista/{n}" for n in (5, 6, 7)]
    money, option, number = loaded.examples
    assert (money.question, money.meta["unit"], money.meta["precision"]) == ("How much is it (in all)?", "$", 2)
    assert MATHVISTA.asked(money, "official").question == f"{QUERY} (Unit: $)"
    assert (option.question, option.choices, option.answer) == ("Which?", ("red", "it's blue"), "it's blue")
    assert (number.question, number.answer, number.choices) == ("How many?", "3", ())
    assert MATHVISTA.groups(money)["skills"] == ("arithmetic reasoning", "algebraic reasoning")
    assert MATHVISTA.groups(number)["skills"] == ("arithmetic reasoning",)
    texts = ["1.454", "(B)", "3"]
    assert {verdict.outcome for verdict in MATHVISTA.judge(loaded.examples, texts)} == {"right"}


def test_a_decimal_of_unknown_places_is_a_reject(tmp_path, picture):
    rows = [mathvista_row(1, encoded(picture), question="How much?"), mathvista_row(2, encoded(picture), choices="['a")]
    rows.append(mathvista_row(3, encoded(picture), question="How much?", precision="2.0"))
    loaded = load(MATHVISTA, write_tsv(tmp_path / "MathVista_MINI.tsv", rows))
    assert [reject.reason.split(":")[0] for reject in loaded.rejects] == ["wrong type", "unreadable choices"]
    assert [one.meta["precision"] for one in loaded.examples] == [2]


def mmmu_row(number, image, split="validation", **more):
    options = {"A": "x", "B": "None", "C": "<image 2>", "D": "", "E": ""}
    return {"index": str(number), "id": f"{split}_Art_{number}", "question": "<image 1> Which?", "image": image,
            "split": split, "answer": "B", "category": "Art", "l2-category": "Art & Design", "image_type": "['Photo']",
            "topic_difficulty": "Easy", "subfield": "x", "question_type": "multiple-choice", "explanation": ""} | (
            options | more)  # fmt: skip


@pytest.mark.parametrize("split", ["validation", "dev"])
def test_vlmevalkits_mmmu_has_two_splits(tmp_path, picture, split):
    other = chart(tmp_path / "b.png", heights=(1, 2)).read_bytes()
    free = {letter: "" for letter in "ABCDE"} | {"question_type": "open", "answer": "['12', 'twelve']"}
    rows = [mmmu_row(1, str([encoded(picture), encoded(other)]), name) for name in ("dev", "validation")]
    rows += [mmmu_row(2, encoded(picture), name, **free) for name in ("dev", "validation")]
    write_tsv(tmp_path / "MMMU_DEV_VAL.tsv", rows)
    loaded = load(replace(MMMU, rows={"dev": 2, "validation": 2}), tmp_path, split)
    assert [one.id for one in loaded.examples] == [f"mmmu/{split}_Art_1", f"mmmu/{split}_Art_2"]
    assert loaded.problems == [] and loaded.examples[0].choices == ("x", "None", "<image 2>")
    assert [Path(image).read_bytes() for image in loaded.examples[0].images] == [picture, other]
    assert MMMU.groups(loaded.examples[0])["subject"] == "Art" and loaded.examples[1].choices == ()
    assert {verdict.outcome for verdict in MMMU.judge(loaded.examples, ["(B)", "twelve"])} == {"right"}


def test_a_cell_longer_than_pythons_limit(tmp_path):
    path = write_tsv(tmp_path / "x.tsv", [{"index": "0", "image": "", "question": "q" * 300_000}])
    (found,) = rows_of_tsv(path, lambda content: "")
    assert found.reason.startswith("no picture") and len(found.row["question"]) == 300_000


def test_a_quote_that_is_never_closed_takes_no_row_of_a_table_unseen(tmp_path):
    path = tmp_path / "ChartQA_TEST.tsv"
    path.write_text('index\tquestion\n0\t"one ""two"""\n1\t"Sum?\n2\tSum?\n')
    first, second = rows_of_tsv(path, lambda content: "")
    assert (first.place, second.place) == (f"{path}:1", f"{path}:2")
    assert second.reason == "not tab-separated: unexpected end of data"
