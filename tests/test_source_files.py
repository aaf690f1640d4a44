"""Files of training sets: every published shape is read, and nothing broken or hostile in them stops the rest."""

import json
from collections import Counter

import pytest

from chainofstep.problems.pictures import check_picture
from chainofstep.problems.sources import SOURCES, load, load_hub
from chainofstep.records import Example, Reject
from test_pictures import chart, huge_png
from test_sources import LAYOUTS


def write_items(folder, rows):
    folder.mkdir(exist_ok=True)
    text = "\n".join(json.dumps(row, ensure_ascii=False) if isinstance(row, dict) else row for row in rows)
    (folder / "items.jsonl").write_text(text + "\n", "utf-8")
    return folder


def question(number, image="a.png", **more):
    return {"id": str(number), "image": image, "question": f"How many bars? {number}", "answer": "4", **more}


def reasons(found):
    """The kinds of trouble among the found, and the numbers of the Examples."""
    found = list(found)
    kinds = Counter(one.reason.split(":")[0] for one in found if isinstance(one, Reject))
    return kinds, [one.id.split("/")[1] for one in found if isinstance(one, Example)]


def test_bad_lines_are_rejects_with_their_place_and_stop_nothing(tmp_path):
    chart(tmp_path / "a.png")
    broken = ["{no json", "[1, 2]", '"text"', '{"id": NaN}', "", r'{"id": "\ud800"}']
    write_items(tmp_path, [question(1), *broken, question(1), question(2)])
    with (tmp_path / "items.jsonl").open("ab") as file:
        file.write(json.dumps(question(3)).encode()[:-1] + b', "type": "caf\xe9"}\n')
        file.write(json.dumps(question(4, type="café"), ensure_ascii=False).encode("utf-16") + b"\n")
        file.write(b"[" * 100_000 + b"\n" + json.dumps(question(5)).encode()[:-9])
    found = list(load(SOURCES["chartqa"], tmp_path))
    kinds, ids = reasons(found)
    assert ids == ["1", "2"]
    assert kinds["wrong type"] == 2 and kinds["duplicate id"] == 1 and kinds["not UTF-8"] >= 2
    assert kinds["not JSON"] >= 4
    rejects = {one.place.rsplit(":", 1)[1]: one for one in found if isinstance(one, Reject)}
    assert rejects["2"].reason.startswith("not JSON: ") and rejects["2"].row == "{no json"
    assert rejects["7"].reason.startswith("not UTF-8: half of") and rejects["7"].row == r'{"id": "\ud800"}'
    assert rejects["8"].row == question(1)
    assert rejects["10"].reason.startswith("not UTF-8: byte ") and "0xe9" in rejects["10"].reason
    assert all("\n" not in reject.reason for reject in rejects.values())
    assert json.dumps([reject.row for reject in rejects.values()], ensure_ascii=False).encode("utf-8")


def test_bad_pictures_are_rejects_and_none_leads_out(tmp_path):
    root, outside = tmp_path / "set", chart(tmp_path / "outside.png")
    root.mkdir()
    whole = chart(root / "a.png").read_bytes()
    (root / "cut.png").write_bytes(whole[:400])
    (root / "cut.jpg").write_bytes(chart(root / "b.jpg").read_bytes()[:2000])
    (root / "link.png").symlink_to(outside)
    huge_png(root / "huge.png")
    images = [
        "a.png",
        "none.png",
        "cut.png",
        "cut.jpg",
        "../outside.png",
        str(outside),
        "link.png",
        "huge.png",
        7,
        [""],
    ]
    write_items(root, [question(number, image) for number, image in enumerate(images)])
    expected = {
        "unsafe picture path": 3,
        "picture too large": 1,
        "missing picture": 1,
        "wrong type": 1,
        "no picture": 1,
    }
    assert reasons(load(SOURCES["chartqa"], root)) == (expected | {"unreadable picture": 2}, ["0"])
    assert reasons(load(SOURCES["chartqa"], root, check="header")) == (expected, ["0", "2", "3"])
    unchecked, ids = reasons(load(SOURCES["chartqa"], root, check="none"))
    assert unchecked == {"unsafe picture path": 3, "wrong type": 1, "no picture": 1}
    assert ids == ["0", "1", "2", "3", "7"]


@pytest.mark.parametrize("shape", ["list", "by id", "named list", "lines"])
def test_every_shape_of_a_published_file_gives_the_same_examples(tmp_path, shape):
    chart(tmp_path / "tables.png")
    rows = [{**LAYOUTS["tabmwp"][0], "id": str(number), "image": "tables.png"} for number in (3, 4)]
    bare = [{name: value for name, value in row.items() if name != "id"} for row in rows]
    content = {
        "list": rows,
        "by id": {"3": bare[0], "4": bare[1]},
        "named list": {"info": {"version": "1"}, "data": rows, "splits": ["train"]},
        "lines": None,
    }[shape]
    if content is None:
        write_items(tmp_path, rows)
    else:
        (tmp_path / "problems_train.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    found = list(load(SOURCES["tabmwp"], tmp_path, "train"))
    assert [one.id for one in found] == ["tabmwp/3", "tabmwp/4"]
    assert [one.meta["split"] for one in found] == ["train", "train"]


def test_published_folders_are_found_with_their_pictures_beside_them(tmp_path):
    for folder in ("train/png", "image", "json", "Free_Response/Math"):
        (tmp_path / folder).mkdir(parents=True)
    chart(tmp_path / "train/png/x.png")
    (tmp_path / "train/train_human.json").write_text(json.dumps([{"imgname": "x.png", "query": "Sum?", "label": "4"}]))
    (found,) = load(SOURCES["chartqa"], tmp_path, "train")
    assert (found.id, found.images) == ("chartqa/train_human-0", (str(tmp_path / "train/png/x.png"),))
    chart(tmp_path / "image/7.png")
    (tmp_path / "json/7.json").write_text(json.dumps(LAYOUTS["geoqa_plus"][0]))
    (found,) = load(SOURCES["geoqa_plus"], tmp_path)
    assert found.images == (str(tmp_path / "image/7.png"),)
    chart(tmp_path / "Free_Response/Math/1.jpg")
    answers = [
        {"Question": f"{n}?", "Answer (final answer highlighted)": "\\answer{4}", "ImagePath": "Math/1"} for n in "ab"
    ]
    (tmp_path / "Free_Response/free_response.json").write_text(json.dumps({"Math": answers, "Physics": answers[:1]}))
    found = [one for one in load(SOURCES["scemqa"], tmp_path) if isinstance(one, Example)]
    assert [one.meta["group"] for one in found] == ["Math", "Math", "Physics"]
    assert {one.images for one in found} == {(str(tmp_path / "Free_Response/Math/1.jpg"),)}


def test_a_folder_without_the_sets_files_is_an_error_that_names_them(tmp_path):
    with pytest.raises(ValueError, match=r"no files of TabMWP in .*: expected items.jsonl or problems_dev.json"):
        list(load(SOURCES["tabmwp"], tmp_path, "dev"))


@pytest.fixture
def parquet(tmp_path):
    """A folder as on the hub: data/train-*.parquet with embedded pictures, one of them cut off, one missing."""
    datasets = pytest.importorskip("datasets")
    whole = chart(tmp_path / "whole.png").read_bytes()
    embedded = [whole, whole, whole[:400], None]
    rows = {
        "image": [content and {"bytes": content, "path": "../x.png"} for content in embedded],
        "query": [f"How many bars? {number}" for number in range(4)],
        "label": [["4"]] * 4,
        "human_or_machine": [0, 1, 0, 1],
    }
    features = datasets.Features(
        {"image": datasets.Image(), "query": datasets.Value("string"), "human_or_machine": datasets.Value("int64"),
         "label": datasets.Sequence(datasets.Value("string"))}
    )  # fmt: skip
    (tmp_path / "hub/data").mkdir(parents=True)
    table = datasets.Dataset.from_dict(rows, features=features)
    table.to_parquet(str(tmp_path / "hub/data/train-00000-of-00001.parquet"))
    return tmp_path / "hub"


@pytest.mark.parametrize("way", ["load", "load_hub"])
def test_embedded_pictures_are_written_once_by_their_content(parquet, tmp_path, way):
    pictures = tmp_path / "pictures"
    if way == "load":
        found = list(load(SOURCES["chartqa"], parquet, "train", pictures=pictures))
    else:
        found = list(load_hub(SOURCES["chartqa"], "train", pictures, hub=str(parquet)))
    kinds, ids = reasons(found)
    assert kinds == {"unreadable picture": 1, "no picture": 1}
    assert len(ids) == len(set(ids)) == 2 and all(identity.startswith("train-") for identity in ids)
    (written,) = [path for path in pictures.rglob("*") if path.is_file()]
    assert written.suffix == ".png" and check_picture(written) == (240, 180)
    assert {one.images for one in found if isinstance(one, Example)} == {(str(written),)}
    assert written.read_bytes() == (tmp_path / "whole.png").read_bytes()
    assert [one.meta for one in found if isinstance(one, Example)] == [
        {"human_or_machine": 0, "split": "train"}, {"human_or_machine": 1, "split": "train"}
    ]  # fmt: skip
    assert json.dumps([one.row for one in found if isinstance(one, Reject)])


def test_a_broken_parquet_file_is_one_reject(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train-0.parquet").write_bytes(b"PAR1 no more")
    (reject,) = load(SOURCES["chartqa"], tmp_path, "train")
    assert isinstance(reject, Reject) and reject.reason.startswith("not parquet: ")


def test_what_is_not_on_the_hub_is_said(tmp_path):
    pytest.importorskip("datasets")
    with pytest.raises(ValueError, match="FVQA is not on the hub: give local files"):
        next(load_hub(SOURCES["fvqa"], "all", tmp_path))
    with pytest.raises(ValueError, match="cannot be opened"):
        next(load_hub(SOURCES["chartqa"], "train", tmp_path, hub=str(tmp_path / "none")))
