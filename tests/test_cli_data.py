"""`cos data` and the judge on the command line, over small files that each test writes."""

import json

import pytest

pytest.importorskip("datasets")

from PIL import Image

from chainofstep.chain import Chain, Step, render
from chainofstep.llm.stand_in import StandIn
from chainofstep.problems.filters import FILTERS
from chainofstep.problems.formats import FORMATS
from chainofstep.problems.sources import SOURCES
from chainofstep.records import Example, StepScores, to_row
from chainofstep.verbs.files import write_lines
from conftest import make_rollout
from test_cli import ROOT, cos, error, rows

THOUGHTS = (
    "The left bar reaches four.",
    "The right bar reaches eight.",
    "Four and eight are read.",
    "4 + 8 = 12.",
    "Done.",
)


def chain(answer="12", count=5):
    names = ("Look left", "Look right", "Note both", "Add them", "Conclude")
    steps = zip(names, (*THOUGHTS[:4], "Both bars together give that."), strict=True)
    return Chain(tuple(Step(name, thought, "The picture shows it.") for name, thought in steps)[:count], answer)


def sharegpt(number, text, image="images/0.png"):
    turns = [{"from": "human", "value": "<image>\nWhat is the sum?"}, {"from": "gpt", "value": text}]
    return {"id": f"q{number}", "image": image, "conversations": turns}


@pytest.fixture
def folder(tmp_path):
    """Two pictures, and a file of six rows of which three are good."""
    (tmp_path / "images").mkdir()
    for number in range(2):
        Image.new("RGB", (40, 30), (90 * number, 90, 90)).save(tmp_path / "images" / f"{number}.png")
    texts = [render(chain()), render(chain(count=3)), "no chain", render(chain()), render(chain()), render(chain())]
    images = ["images/0.png"] * 4 + ["images/1.png", "../secret.png"]
    found = [sharegpt(*row) for row in zip(range(6), texts, images, strict=True)]
    write_lines(tmp_path / "rows.jsonl", found)
    return tmp_path


def test_sources_are_listed_with_what_they_overlap():
    shown = cos("data", "sources")
    assert all(name in shown for name in SOURCES) and len(SOURCES) == 17
    assert "evaluation split" in shown
    found = [json.loads(line) for line in cos("data", "sources", "--json").splitlines()]
    assert {row["name"]: row["licence"] for row in found} == {s.name: s.licence for s in SOURCES.values()}
    assert "github.com" in cos("data", "sources", "--notes")


def test_check_keeps_what_passes_and_says_what_it_removed(folder):
    shown = cos("data", "check", folder / "rows.jsonl", "--out", folder / "clean.jsonl")
    assert f"6 rows read, 3 in {folder / 'clean.jsonl'}" in shown
    assert "rejected: 1 (unsafe picture path)" in shown and "rejected: 1 (step_count)" in shown
    assert [row["id"] for row in rows(folder / "clean.jsonl")] == ["q0", "q3", "q4"]
    rejects = rows(folder / "clean.rejects.jsonl")
    assert [row["place"].rpartition(":")[2] for row in rejects] == ["2", "3", "6"]
    report = json.loads((folder / "clean.filters.json").read_text())
    assert (report["read"], report["kept"]) == (6, 3) and report["removed"]["parses"] == 1


def test_filters_can_be_switched_off_and_set(folder):
    words = ("data", "check", folder / "rows.jsonl", "--out", folder / "clean.jsonl")
    assert "6 rows read, 4 in" in cos(*words, "--set", "minimum_steps=3")
    shown = cos(*words, "--without", "step_count", "--check", "none")
    assert "6 rows read, 4 in" in shown and "off" in shown
    assert "rejected: 1 (unsafe picture path)" in shown  # unchecked pictures are not looked at, but paths stay inside
    assert "no filter 'steps'" in error(*words, "--without", "steps")
    assert "the nearest is minimum_steps" in error(*words, "--set", "minimum_step=3")


def test_there_and_back_gives_the_same_bytes(folder):
    clean, own, back = (folder / name for name in ("clean.jsonl", "own.parquet", "back.jsonl"))
    cos("data", "check", folder / "rows.jsonl", "--out", clean)
    assert "3 rows read, 3 in" in cos("data", "import", clean, "--out", own)
    assert "3 rows read, 3 in" in cos("data", "export", own, "--format", "sharegpt-step", "--out", back)
    assert back.read_bytes() == clean.read_bytes()


def test_export_for_llama_factory_says_what_to_write_beside_it(folder):
    cos("data", "check", folder / "rows.jsonl", "--out", folder / "clean.jsonl")
    shown = cos("data", "export", folder / "clean.jsonl", "--format", "llama-factory", "--out", folder / "lf.jsonl")
    assert '"file_name": "lf.jsonl"' in shown and '"formatting": "sharegpt"' in shown


def test_formats_that_do_not_fit_are_one_line(folder):
    words = ("data", "export", folder / "rows.jsonl", "--out", folder / "x.jsonl", "--format")
    assert "no format 'sharegpt'" in error(*words, "sharegpt")
    shown = cos(*words, "prm-train")
    assert "6 rows read, 0 in" in shown and "(no step labels)" in shown
    assert "is no file" in error("data", "stats", folder / "none.jsonl")
    assert "would replace" in error("data", "import", folder / "rows.jsonl", "--out", folder / "rows.jsonl")


def test_stats_count(folder):
    cos("data", "check", folder / "rows.jsonl", "--out", folder / "clean.jsonl")
    shown = cos("data", "stats", folder / "clean.jsonl")
    assert "steps of a chain" in shown and "3" in shown
    found = json.loads(cos("data", "stats", folder / "clean.jsonl", "--json"))
    assert (found["rows"], found["pictures"], found["steps"]) == (3, 2, {"5": 3})


def test_a_card_is_written_beside_the_file(folder):
    cos("data", "check", folder / "rows.jsonl", "--out", folder / "clean.jsonl")
    cos("data", "card", folder / "clean.jsonl", "--name", "Bars & sums")
    assert "# Bars &amp; sums" in (folder / "clean.card.md").read_text()
    assert "data:image/" in (folder / "clean.card.html").read_text()


def test_a_split_keeps_pictures_apart(folder):
    found = [sharegpt(n, render(chain()), f"images/{n % 50}.png") for n in range(200)]
    write_lines(folder / "many.jsonl", found)
    cos("data", "split", folder / "many.jsonl", "--share", "0.3", "--out", folder / "split")
    train, test = (rows(folder / "split" / f"{name}.jsonl") for name in ("train", "test"))
    assert len(train) + len(test) == 200 and {row["id"] for row in train}.isdisjoint(row["id"] for row in test)
    assert {row["image"] for row in train}.isdisjoint(row["image"] for row in test)
    assert 5 * 4 <= len(test) <= 25 * 4  # of 50 pictures about 15; 5 and 25 are three standard deviations away
    cos("data", "split", folder / "many.jsonl", "--share", "0.3", "--out", folder / "again")
    assert (folder / "again" / "test.jsonl").read_bytes() == (folder / "split" / "test.jsonl").read_bytes()
    assert "share 1.5 of the test set" in error(
        "data", "split", folder / "many.jsonl", "--share", "1.5", "--out", folder
    )


def test_a_mixture_weighs(folder):
    cos("data", "check", folder / "rows.jsonl", "--out", folder / "clean.jsonl")
    write_lines(folder / "other.jsonl", [sharegpt(n, render(chain())) for n in range(3, 203)])
    out = folder / "mixed.jsonl"
    shown = cos("data", "mix", f"{folder / 'clean.jsonl'}=2", f"{folder / 'other.jsonl'}=0.5", "--out", out)
    ids = [row["example"]["id"] for row in rows(out)]
    assert ids[:6] == ["q0", "q0~2", "q3", "q3~2", "q4", "q4~2"]
    assert 60 <= len(ids) - 6 <= 140 and len(set(ids)) == len(ids)  # 100 of 200, and ids stay distinct
    assert f"{len(ids)} rows in {out}" in shown
    assert "weight 0.0" in error("data", "mix", f"{folder / 'clean.jsonl'}=0", "--out", out)
    assert "is no number" in error("data", "mix", f"{folder / 'clean.jsonl'}=many", "--out", out)


@pytest.fixture
def judged(tmp_path):
    """Two questions with two rollouts each, one of which is no chain."""
    made = [Example(f"q{number}", f"What is sum {number}?", (), "12", "number") for number in range(2)]
    write_lines(tmp_path / "examples.jsonl", map(to_row, made))
    texts = {"q0": [render(chain()), render(chain("13"))], "q1": [render(chain()), "no chain"]}
    pools = [
        {"id": name, "rollouts": [to_row(make_rollout(text, number, name)) for number, text in enumerate(pool)]}
        for name, pool in texts.items()
    ]
    write_lines(tmp_path / "rollouts.jsonl", pools)
    return tmp_path


def judge(request):
    """Good, but Neutral where it adds; where the answer is 13 the sum is Bad."""
    adding = -1 if "Answer: 13" in request.text.split("Solution:")[1] else 0
    return f"### Step Label: [1, 1, 1, {adding}, 1]"


def test_a_judge_labels_rollouts(judged):
    out = judged / "scores.jsonl"
    with StandIn(judge, model="judge", takes_schema=False) as server:
        words = ("annotate", judged / "examples.jsonl", judged / "rollouts.jsonl", "--scorer", "judge")
        shown = cos(*words, "--judge", f"judge@{server.base_url}", "--neutral", "half", "--out", out)
        assert "3 rollouts scored" in shown and "not scored: 1 (parses)" in shown
        scores = [row["scores"] for row in rows(out)]
        assert scores[0] == [
            {"steps": [1.0, 1.0, 1.0, 0.5, 1.0], "answer": 1.0},
            {"steps": [1.0, 1.0, 1.0, 0.0, 1.0], "answer": 0.0},
        ]
        assert scores[1][0] == {"steps": [1.0, 1.0, 1.0, 0.5, 1.0], "answer": 1.0}
        asked = server.counts.requests
        cos(*words, "--judge", f"judge@{server.base_url}", "--neutral", "half", "--out", out)
        assert server.counts.requests == asked
        assert "another neutral" in error(*words, "--judge", f"judge@{server.base_url}", "--out", out)
    assert "give at least one --judge" in error(*words, "--out", judged / "other.jsonl")


def test_labels_are_merged_and_compared(judged):
    def scored(*labels):
        return [to_row(StepScores(steps, 1.0)) for steps in labels]

    first = [
        {"id": "q0", "scores": scored((1.0, 1.0), (1.0, 0.0))},
        {"id": "q1", "scores": [{"reason": "judge: none"}]},
    ]
    second = [{"id": "q1", "scores": scored((1.0,))}, {"id": "q0", "scores": scored((1.0, 0.8), (0.0, 0.0))}]
    for name, found in (("a", first), ("b", second)):
        write_lines(judged / f"{name}.jsonl", found)
    words = ("data", "merge", judged / "a.jsonl", judged / "b.jsonl", "--out", judged / "merged.jsonl")
    shown = cos(*words)
    # right/right 2, right/wrong 1, wrong/wrong 1: observed 3/4, by chance 3/4 * 2/4 + 1/4 * 2/4 = 1/2
    assert "4 steps, 75.0% alike, Cohen's kappa 0.500" in shown and "1 rollouts that one of them" in shown
    assert "1 rollouts with labels" in shown and "without: 1 (labels disagree)" in shown
    assert [row["scores"][0] for row in rows(judged / "merged.jsonl")] == [
        {"steps": [1.0, 0.9], "answer": 1.0},
        {"reason": "judge: none"},
    ]
    assert "3 rollouts with labels" in cos(*words, "--rule", "weight", "--weight", "1", "--weight", "3")
    assert rows(judged / "merged.jsonl")[0]["scores"][1]["steps"] == [0.25, 0.0]
    assert "give one of 0 or more for each" in error(*words, "--weight", "1")
    assert "give two or more" in error("data", "merge", judged / "a.jsonl", "--out", judged / "merged.jsonl")


LABELLED = {
    "visualprm400k": {
        "image": "images/0.png",
        "question": "<image>\nWhat is the sum?",
        "answer": "12",
        "steps_with_score": [{"step": "Left is four.", "score": 0.75}, {"step": "Final answer: 12", "score": 0.25}],
    },
    "visualprocessbench": {
        "image": ["images/0.png"],
        "question": "What is the sum?",
        "answer": "12",
        "response": {"steps": ["Left is four.", "So many.", "Final answer: 12"], "process_correctness": [1, 0, -1]},
    },
    "processbench": {
        "id": "math-1",
        "generator": "g",
        "problem": "What is 4 + 8?",
        "steps": ["4 + 8 is 13.", "The answer is odd.", "Final answer: 13"],
        "final_answer_correct": False,
        "label": 0,
    },
}
LABELS = {"visualprm400k": [0.75, 0.25], "visualprocessbench": [1.0, 0.5, 0.0], "processbench": [0.0]}


@pytest.mark.parametrize("name", LABELLED)
def test_labels_of_every_kind_reach_the_prm(model, folder, name, monkeypatch):
    """Soft, ternary, and those that stop at the first wrong step: from the published row to the tags' targets."""
    from chainofstep.training import prm

    targets, loss = [], prm.prm_loss
    monkeypatch.setattr(prm, "prm_loss", lambda logits, labels: targets.append(labels) or loss(logits, labels))
    write_lines(folder / "set.jsonl", [LABELLED[name]])
    out = folder / "own"
    assert "1 rows read, 1 in" in cos("data", "import", folder / "set.jsonl", "--out", out)
    files = [out / f"{part}.jsonl" for part in ("examples", "rollouts", "scores")]
    shown = cos("train", "prm", model, *files, "--out", folder / "prm", "--set", "epochs=1")
    assert "trained on 1 rows" in shown
    assert [round(value, 4) for value in targets[0].tolist()] == LABELS[name]


def test_imported_rows_pass_the_check_and_keep_their_pictures(folder):
    """A file in another folder takes its pictures along."""
    cos("data", "check", folder / "rows.jsonl", "--out", folder / "clean.jsonl")
    own = folder / "elsewhere" / "own.parquet"
    cos("data", "import", folder / "clean.jsonl", "--out", own)
    assert "3 rows read, 3 in" in cos("data", "check", own, "--out", folder / "again.parquet")
    cos("data", "card", own)
    assert "data:image/" in (folder / "elsewhere" / "own.card.html").read_text()


def labelled_row(labels, answer=None):
    example = {"id": "q", "question": "?", "images": [], "answer": "12", "answer_kind": "number"}
    return {"example": example, "text": render(chain()), "labels": {"steps": labels, "answer": answer}}


@pytest.mark.parametrize("labels", [[2.0] * 5, [-0.5] * 5, [1.0] * 9, [], [True] * 5, ["0.5"] * 5])
def test_impossible_labels_are_rejects(folder, labels):
    write_lines(folder / "labels.jsonl", [labelled_row(labels), labelled_row([1.0] * 5)])
    assert "2 rows read, 1 in" in cos("data", "import", folder / "labels.jsonl", "--out", folder / "own.parquet")


def test_a_wrong_answer_does_not_become_a_chain_to_learn_from(folder):
    write_lines(folder / "labels.jsonl", [labelled_row([1.0] * 5, 1.0), labelled_row([0.0] * 5, 0.0)])
    words = ("data", "export", folder / "labels.jsonl", "--out", folder / "x.jsonl", "--format")
    assert "2 rows read, 1 in" in cos(*words, "sharegpt-step")
    assert "rejected: 1 (wrong answer)" in cos(*words, "trl")
    assert "2 rows read, 2 in" in cos(*words, "prm-raw")


def test_what_is_read_is_not_replaced(folder):
    rows_file, out = folder / "rows.jsonl", folder / "train.jsonl"
    out.write_bytes(rows_file.read_bytes())
    for words in [("mix", f"{out}=2", "--out", out), ("split", out, "--out", folder), ("check", out, "--out", out)]:
        assert "would replace" in error("data", *words) or "would be replaced" in error("data", *words)
    assert out.read_bytes() == rows_file.read_bytes()


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "it is empty"), ("{}".encode("utf-16"), "not UTF-8"), (b"hello", "not JSON")]
)
def test_files_without_a_row_say_why(folder, content, reason):
    (folder / "bad.jsonl").write_bytes(content)
    assert reason in error("data", "stats", folder / "bad.jsonl")


def test_sets_get_their_card_on_the_way(folder):
    cos("data", "check", folder / "rows.jsonl", "--out", folder / "clean.jsonl", "--card")
    cos("data", "split", folder / "clean.jsonl", "--share", "0.5", "--by", "id", "--out", folder / "split", "--card")
    cos("data", "mix", folder / "clean.jsonl", "--out", folder / "mixed.parquet", "--card")
    cards = {str(path.relative_to(folder)) for path in folder.rglob("*.card.md")}
    assert {"clean.card.md", "mixed.card.md"} < cards and any(path.startswith("split/") for path in cards)


def test_the_docs_name_every_format_and_filter():
    text = (ROOT / "docs" / "data.md").read_text("utf-8")
    assert [name for name in (*FORMATS, *FILTERS) if f"`{name}`" not in text] == []
