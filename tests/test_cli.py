"""The command line: help with runnable examples, one-line errors, and the commands over small files and models."""

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from chainofstep import cli
from chainofstep.chain import Step, render
from chainofstep.cli.common import BAD_INPUT, one_line
from chainofstep.problems.formats import FORMATS
from chainofstep.records import Example, StepScores, from_row, to_row
from chainofstep.scoring.pairs import PairRule
from chainofstep.search import METHODS, SearchConfig
from chainofstep.store import read_rows
from chainofstep.verbs.data import SCORERS
from chainofstep.verbs.files import choose, claim, read_examples, write_lines
from conftest import make_chain, make_rollout

ROOT = Path(__file__).parent.parent
WRITE_DOCS = "from chainofstep.cli import reference; print(reference(), end='')"


def commands(group=None, path=()):
    """(words, command) of every command that does something."""
    for name, child in (group or typer.main.get_command(cli.app)).commands.items():
        if hasattr(child, "commands"):
            yield from commands(child, (*path, name))
        else:
            yield (*path, name), child


COMMANDS = dict(commands())


def cos(*words, code=0):
    """What the command prints on stdout; its stderr where it ends with another code than 0."""
    result = CliRunner().invoke(cli.app, [str(word) for word in words], env={"COLUMNS": "200"})
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result.stderr if code == BAD_INPUT else result.stdout


def error(*words):
    """The one line on stderr."""
    message = cos(*words, code=BAD_INPUT)
    assert message.startswith("error: ") and message.count("\n") == 1, message
    return message.removeprefix("error: ").strip()


def rows(path):
    return [row for _, row in read_rows(Path(path))]


# Help and documentation


def test_the_commands_are_those_of_the_method():
    assert {" ".join(words) for words in COMMANDS} == {
        *("run", "recipes", "plan", "report", "problems", "convert", "push"),
        *("train sft", "train prm", "train dpo", "train grpo"),
        *("sample", "annotate", "pairs", "eval", "eval-prm", "compare", "ask", "serve", "view"),
        *("data sources", "data build", "data import", "data export", "data check", "data stats"),
        *("data split", "data mix", "data merge", "data card"),
    }


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_ends_with_an_example_that_the_command_understands(words):
    example = COMMANDS[words].epilog.removeprefix("Example: ")
    shown = " ".join(cos(*words, "--help").split())
    assert shown.endswith(f"Example: {example}")
    called, *arguments = shlex.split(example)
    assert called == "cos" and tuple(arguments[: len(words)]) == words
    COMMANDS[words].make_context(words[-1], arguments[len(words) :])  # raises for what it does not know


def test_help_names_every_choice():
    recipes = pytest.importorskip("chainofstep.recipes", exc_type=ImportError).RECIPES
    assert all(name in cos("recipes") for name in recipes)
    assert "cos recipes" in cos("run", "--help") and "mini-base" in cos("run", "--help")
    assert all(name in cos("annotate", "--help") for name in SCORERS)
    assert all(name in cos("eval", "--help") for name in METHODS)
    assert all(name in cos("data", "import", "--help") for name in FORMATS)


def test_help_does_not_wait_for_heavy_packages():
    program = (
        "import sys\nsys.argv = ['cos', '--help']\nfrom chainofstep.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "print({'torch', 'transformers', 'numpy', 'PIL', 'matplotlib'} & {*sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "annotate" in done.stdout and done.stderr == "set()\n"


def test_defaults_are_those_of_the_functions():
    for words in [("sample",), ("annotate",), ("eval",), ("ask",)]:
        given = {p.name: p.default for p in COMMANDS[words].params}
        given["n"] = given["n"][0] if words == ("eval",) else given["n"]  # several sizes side by side
        defaults = asdict(SearchConfig())
        assert "n" in given and all(given[name] == value for name, value in defaults.items() if name in given)
    given = {p.name: p.default for p in COMMANDS["pairs",].params}
    assert PairRule(given["threshold"], given["per_question"]) == PairRule()


def test_docs_are_current():
    docs = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert docs == cli.reference(), f'write it again: python -c "{WRITE_DOCS}" > docs/cli.md'


# Errors


def test_unknown_names_come_with_the_nearest():
    assert choose("mini", ("mini", "smoke"), "recipe") == "mini"
    with pytest.raises(ValueError, match="no recipe 'smoek', the nearest is smoke; there are mini, smoke"):
        choose("smoek", ("mini", "smoke"), "recipe")


def test_unknown_recipe_and_unknown_field(tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "run"
    assert error("run", "mimi", "--out", out).startswith("no recipe 'mimi', the nearest is mini")
    assert "nearest is dpo.beta" in error("run", "mini", "--out", out, "--set", "dpo.bta=1")
    assert "is not a number" in error("run", "smoke", "--out", out, "--set", "dpo.beta=much")
    assert "nearest is looking.updates" in error("run", "mini-base", "--out", out, "--set", "looking.update=5")
    assert not out.exists()


def test_a_folder_of_another_recipe_is_left_alone(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "mine.txt").write_text("mine")
    assert "choose another --out" in error("run", "smoke", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_debug_shows_the_error_itself(tmp_path):
    result = CliRunner().invoke(cli.app, ["--debug", "report", str(tmp_path)])
    assert isinstance(result.exception, ValueError) and "no results.json" in str(result.exception)


def test_a_stop_says_how_to_go_on(monkeypatch, tmp_path):
    def stopped(run):
        raise KeyboardInterrupt

    monkeypatch.setattr("chainofstep.verbs.report", stopped)
    result = CliRunner().invoke(cli.app, ["report", str(tmp_path)])
    assert result.exit_code == 130
    assert result.stderr == "stopped: give the same command again, it goes on from what is finished\n"


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    def without(run):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("chainofstep.verbs.report", without)
    assert error("report", tmp_path).startswith("torch is not installed, and this command needs it: pip install")


def test_pydantic_errors_become_one_line():
    with pytest.raises(ValueError) as caught:
        from_row(StepScores, {"steps": ["high"]})
    assert one_line(caught.value) == (
        "not a StepScores: steps.0: Input should be a valid number, unable to parse string as a number; correct it"
    )


def test_wrong_files_are_named(tmp_path):
    missing = tmp_path / "none.jsonl"
    assert error("pairs", missing, missing, missing, "--out", tmp_path / "p.jsonl") == (
        f"{missing} is no file; check the path"
    )
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert "holds no example" in error("pairs", empty, missing, missing, "--out", tmp_path / "p.jsonl")
    assert (
        error("ask", tmp_path / "no.png", "What?", "--model", "m")
        == f"{tmp_path / 'no.png'} is no file; check the path"
    )


def test_missing_models_are_named(problem_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there is no runs/mini to take models from
    absent = tmp_path / "absent"
    picture = next((problem_file.parent / "pictures").glob("*.png"))
    assert error("sample", absent, problem_file, "--out", tmp_path / "r.jsonl").startswith(
        f"model folder {absent} does"
    )
    assert not (tmp_path / "r.jsonl").exists()
    assert "has no models/sft" in error("ask", picture, "What?", "--run", absent)
    ask = ("ask", picture, "What?", "--model", absent, "--method")
    assert "give a process reward model's folder with --prm" in error(*ask, "beam")
    assert "the nearest is" in error(*ask, "pass_at_n")  # there is no gold answer to look at


# Examples


@pytest.fixture(scope="module")
def problem_file(tmp_path_factory):
    out = tmp_path_factory.mktemp("problems")
    cos("problems", out, "--count", 4, "--kind", "line_sum", "--kind", "count_colour")
    return out / "examples.jsonl"


def test_problems_write_examples_that_can_be_moved(problem_file, tmp_path):
    assert [row["id"] for row in rows(problem_file)] == [
        *("line_sum-test-0", "count_colour-test-1", "line_sum-test-2", "count_colour-test-3")
    ]
    moved = problem_file.parent.rename(tmp_path / "moved")
    try:
        assert all(Path(picture).is_file() for e in read_examples(moved / "examples.jsonl") for picture in e.images)
    finally:
        moved.rename(problem_file.parent)


def test_problems_refuse_what_they_cannot_make(tmp_path):
    assert "the nearest is line_sum" in error("problems", tmp_path, "--kind", "line_sums")
    assert "the nearest is test" in error("problems", tmp_path, "--split", "tests")
    assert "held out" in error("problems", tmp_path, "--split", "train", "--kind", "line_range")
    assert "count is 0" in error("problems", tmp_path, "--count", 0)


def test_pictures_of_a_run_are_found_from_the_run(tmp_path):
    (tmp_path / "problems" / "test").mkdir(parents=True)
    (tmp_path / "recipe.json").write_text("{}")
    (tmp_path / "problems" / "test" / "a.png").write_bytes(b"")
    example = Example("a", "What?", ("problems/test/a.png",), "1", "number")
    found = read_examples(write_lines(tmp_path / "problems" / "test.jsonl", [to_row(example)]))
    assert Path(found[0].images[0]).samefile(tmp_path / "problems" / "test" / "a.png")
    with pytest.raises(ValueError, match="the id 'a' occurs twice"):
        read_examples(write_lines(tmp_path / "twice.jsonl", [to_row(example)] * 2))


def test_a_log_belongs_to_its_settings(tmp_path):
    out = tmp_path / "r.jsonl"
    claim(out, {"sampling": {"n": 2}}).append({"id": "a"})
    assert list(claim(out, {"sampling": {"n": 2}}).rows()) == [{"id": "a"}]
    with pytest.raises(ValueError, match=r"made with another sampling\.n"):
        claim(out, {"sampling": {"n": 3}})
    (tmp_path / "notes.jsonl").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.made\.json beside it does not"):
        claim(tmp_path / "notes.jsonl", {})


# Scores and pairs

GOOD, BAD = make_chain("Row 1 reads 3.", answer="3"), make_chain("Row 1 reads 8.", answer="8")


@pytest.fixture
def scripted(tmp_path):
    """Two questions: of the first one chain scores 0.9 and one 0.1; the second has one text alone."""
    examples = [Example(name, "What?", (), "3", "number") for name in "ab"]
    pools = {"a": [GOOD, BAD, "no chain"], "b": [GOOD, GOOD]}
    high, low = StepScores((0.9,), 0.9), StepScores((0.1,), 0.1)
    scores = {"a": [to_row(high), to_row(low), {"reason": "unparseable: no chain"}], "b": [to_row(high)] * 2}
    return [
        write_lines(tmp_path / "examples.jsonl", map(to_row, examples)),
        write_lines(
            tmp_path / "rollouts.jsonl",
            [
                {"id": name, "rollouts": [to_row(make_rollout(text, i, name)) for i, text in enumerate(pool)]}
                for name, pool in pools.items()
            ],
        ),
        write_lines(tmp_path / "scores.jsonl", [{"id": name, "scores": entry} for name, entry in scores.items()]),
    ]


def test_pairs_and_their_rejects(scripted, tmp_path):
    shown = cos("pairs", *scripted, "--out", tmp_path / "pairs.jsonl", "--threshold", 0.5)
    (pair,) = rows(tmp_path / "pairs.jsonl")
    assert (pair["example_id"], pair["chosen"], pair["rejected"]) == ("a", render(GOOD), render(BAD))
    assert (pair["chosen_score"], pair["rejected_score"]) == (pytest.approx(0.9), pytest.approx(0.1))
    assert rows(tmp_path / "pairs.rejects.jsonl") == [{"id": "b", "reason": "no two distinct texts", "row": {}}]
    assert "1 pairs from 2 questions" in shown and "no pair: 1 (no two distinct texts)" in shown


def test_pairs_need_files_that_fit_together(scripted, tmp_path):
    examples, rollouts, scores = scripted
    out = ("--out", tmp_path / "pairs.jsonl")
    assert "no 'rollouts', only id, scores; give what `cos sample` wrote" in error(
        "pairs", examples, scores, rollouts, *out
    )
    assert "would replace a file" in error("pairs", *scripted, "--out", scores)
    first, second = rows(scores)
    write_lines(scores, [first])
    assert "has no scores for 1 of 2 examples (b first)" in error("pairs", *scripted, *out)
    write_lines(scores, [first, second | {"scores": second["scores"][:1]}])
    assert "1 scores for 2 rollouts of b" in error("pairs", *scripted, *out)
    write_lines(scores, [first, second | {"scores": [{"steps": "high"}] * 2}])
    assert "not a StepScores: steps" in error("pairs", *scripted, *out)


def test_annotation_by_checker_and_by_outcome(problem_file, tmp_path):
    pytest.importorskip("torch")
    examples = read_examples(problem_file)
    wrong = Step("Read row 9", "Row 9 reads 1, 2, 3.", "1, 2, 3 in row 9.")
    pools = [[e.chain, replace(e.chain, steps=(*e.chain.steps[:-1], wrong), answer="99"), "no chain"] for e in examples]
    rollouts = write_lines(
        tmp_path / "rollouts.jsonl",
        [
            {"id": e.id, "rollouts": [to_row(make_rollout(t, i, e.id)) for i, t in enumerate(pool)]}
            for e, pool in zip(examples, pools, strict=True)
        ],
    )
    checked, judged = tmp_path / "checked.jsonl", tmp_path / "judged.jsonl"
    shown = cos("annotate", problem_file, rollouts, "--scorer", "checker", "--out", checked)
    assert f"8 rollouts scored in {checked}" in shown and "not scored: 4 (unparseable)" in shown
    cos("annotate", problem_file, rollouts, "--scorer", "outcome", "--out", judged)
    for example, exact, outcome in zip(examples, rows(checked), rows(judged), strict=True):
        steps = len(example.chain.steps)
        assert exact["scores"][0] == {"steps": [1.0] * steps, "answer": 1.0}
        assert exact["scores"][1] == {"steps": [1.0] * (steps - 1) + [0.0], "answer": 0.0}
        assert exact["scores"][2]["reason"].startswith("unparseable")
        assert outcome["scores"][1] == {"steps": [0.0] * steps, "answer": 0.0}
    before = checked.read_bytes()
    cos("annotate", problem_file, rollouts, "--scorer", "checker", "--out", checked)
    assert checked.read_bytes() == before
    again = ("annotate", problem_file, rollouts, "--out", checked, "--scorer")
    assert "made with another scorer" in error(*again, "outcome")
    assert "the nearest is checker" in error(*again, "cheker")
    assert "give its folder with --model" in error(*again, "prm")


# Models


def test_sampling_goes_on_where_it_stopped(model, problem_file, tmp_path):
    out = tmp_path / "rollouts.jsonl"
    words = ("sample", model, problem_file, "--out", out, "-n", 2, "--max-tokens", 6)
    assert f"4 examples with 2 rollouts each in {out}" in cos(*words)
    whole = out.read_bytes()
    assert [len(row["rollouts"]) for row in rows(out)] == [2, 2, 2, 2]
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]) + b'{"id": "line_')  # killed while writing
    cos(*words)
    assert out.read_bytes() == whole
    assert "made with another sampling.seed" in error(*words, "--seed", 1)


def test_a_missing_picture_does_not_stop_the_others(model, problem_file, tmp_path):
    unseen = [replace(e, images=("gone.png",)) if e.id.endswith("-3") else e for e in read_examples(problem_file)]
    examples, out = write_lines(tmp_path / "examples.jsonl", map(to_row, unseen)), tmp_path / "rollouts.jsonl"
    shown = cos("sample", model, examples, "--out", out, "-n", 2, "--max-tokens", 6)
    assert "3 examples with 2 rollouts each" in shown and "not sampled: 1 (such as " in shown and "gone.png" in shown
    assert [len(row["rollouts"]) for row in rows(out)] == [2, 2, 2, 0]
    shutil.copy(read_examples(problem_file)[3].images[0], tmp_path / "gone.png")
    assert "4 examples with 2 rollouts each" in cos("sample", model, examples, "--out", out, "-n", 2, "--max-tokens", 6)
    assert [len(row["rollouts"]) for row in rows(out)] == [2, 2, 2, 2]


def test_adaptive_labels_spend_less(model, problem_file, tmp_path):
    examples = read_examples(problem_file)
    rows = [{"id": e.id, "rollouts": [to_row(make_rollout(e.chain, 0, e.id))]} for e in examples]
    rollouts, spent = write_lines(tmp_path / "rollouts.jsonl", rows), {}
    words = ("annotate", problem_file, rollouts, "--scorer", "monte-carlo", "--model", model, "-n", "4")
    for name, more in (("fixed", ()), ("adaptive", ("--adaptive",))):
        out = tmp_path / f"{name}.jsonl"
        cos(*words, "--max-tokens", "8", "--hard-threshold", "0", "--out", out, *more)
        labels = [json.loads(line) for line in out.read_text().splitlines()]
        spent[name] = sum(row["spent"]["rollouts"] for row in labels if "spent" in row)
        assert {label for row in labels for label in row["scores"][0]["steps"]} == {0.0}  # a random model
    assert 0 < spent["adaptive"] < spent["fixed"]
    again = ("--max-tokens", "8", "--hard-threshold", "0", "--out", tmp_path / "adaptive.jsonl")
    assert "was made with another adaptive" in error(*words, *again)


def test_the_models_of_a_run_answer(tmp_path):
    from chainofstep.verbs import run_models

    for name in ("sft", "dpo-2", "dpo-10", "prm"):
        (tmp_path / "models" / name).mkdir(parents=True)
    assert run_models(tmp_path) == (str(tmp_path / "models" / "dpo-10"), str(tmp_path / "models" / "prm"))
    assert run_models(tmp_path, "other", "judge") == ("other", "judge")


# Training


def test_a_model_is_trained_and_never_written_over(model, problem_file, tmp_path):
    out, words = (
        tmp_path / "sft",
        ("train", "sft", model, problem_file, "--set", "batch_size=4", "--set", "forward_rows=2"),
    )
    assert f"trained on 4 rows; wrote {out}" in cos(*words, "--out", out)
    assert (out / "model.safetensors").is_file()
    assert "is the folder of a model that is read" in error(*words, "--out", model)
    assert "nearest is learning_rate" in error(*words, "--out", out, "--set", "learning_rat=1")


def test_prm_and_dpo_train_from_files(model, problem_file, tmp_path):
    examples = read_examples(problem_file)
    rollouts = write_lines(
        tmp_path / "rollouts.jsonl",
        [
            {
                "id": e.id,
                "rollouts": [to_row(make_rollout(e.chain, 0, e.id)), to_row(make_rollout("no chain", 1, e.id))],
            }
            for e in examples
        ],
    )
    scores = tmp_path / "scores.jsonl"
    cos("annotate", problem_file, rollouts, "--scorer", "outcome", "--out", scores)
    small = ("--set", "batch_size=4", "--set", "forward_rows=4", "--set", "epochs=1")
    shown = cos("train", "prm", model, problem_file, rollouts, scores, "--out", tmp_path / "prm", *small)
    assert "trained on 4 rows" in shown and "left out: 4 (no chain)" in shown
    good, bad = render(examples[0].chain), render(replace(examples[0].chain, answer="99"))
    pair = {"example_id": examples[0].id, "chosen": good, "rejected": bad, "chosen_score": 1.0, "rejected_score": 0.2}
    pairs = write_lines(tmp_path / "pairs.jsonl", [pair | {"rule": "by hand"}])
    words = ("train", "dpo", model, problem_file, pairs, "--reference", model, "--out", tmp_path / "dpo")
    assert "trained on 1 rows" in cos(*words, *small)
    write_lines(pairs, [pair | {"rule": "by hand", "example_id": "elsewhere"}])
    assert "has a pair for elsewhere, which" in error(*words)
