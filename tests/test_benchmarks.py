"""The benchmarks run, at sizes too small to say anything about speed."""

import json
import math
import sys
from pathlib import Path

import pytest
from rich.console import Console

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parents[1]
if not (ROOT / "benchmarks").exists():
    pytest.skip("this copy of the project has no benchmarks", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks import batching, beam, corpus, endpoint, labels, resume, rollouts, scoring  # noqa: E402
from benchmarks.common import Goal, Row, cost_row, failed_row, machine, show, take_in_turn, write  # noqa: E402
from benchmarks.models import Bench, random_decoder  # noqa: E402

from chainofstep.chain import ALL_TOKENS  # noqa: E402
from chainofstep.models.tiny import Shape, build_tiny  # noqa: E402
from chainofstep.models.vlm import add_step_tokens  # noqa: E402
from chainofstep.search import SearchConfig  # noqa: E402

SMALL = Shape(vision_width=32, vision_layers=1, width=32, layers=1, heads=1, feed_forward=32)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(2, tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def vlm():
    vlm = build_tiny(SMALL, seed=0)
    add_step_tokens(vlm, ALL_TOKENS)
    return vlm


@pytest.fixture(scope="module")
def items(bench):
    return [(example, example.chain) for example in bench.examples(2)]


def sound(row, repeats=2):
    return len(row.ratios) == repeats and all(math.isfinite(ratio) for ratio in row.ratios)


def test_contenders_take_turns():
    called = []
    runs = take_in_turn({"a": lambda repeat: called.append(("a", repeat)), "b": called.append}, repeats=2)
    assert called == [("a", 0), 0, ("a", 1), 1]
    assert [len(of) for of in runs.values()] == [2, 2]


def test_a_cost_says_how_many_times_less_or_more():
    faster = cost_row("", [1.0, 2.0, 1.0], [3.0, 8.0, 5.0], Goal(4))
    assert (faster.ratios, faster.ratio, faster.met) == ([3.0, 4.0, 5.0], 4.0, True)
    slower = cost_row("", [3.0], [2.0], Goal(1.25, at_most=True))
    assert (slower.ratio, slower.met) == (1.5, False)


def test_the_table_and_the_file_say_what_did_not_run(tmp_path, capsys):
    rows = [cost_row("x", [1.0], [2.0], Goal(1.5)), failed_row("y", RuntimeError("no pages\nat all"), Goal(3))]
    show(rows, machine(), Console(width=200))
    printed = capsys.readouterr().out
    assert "2.00x" in printed and "does not run here: RuntimeError: no pages" in printed
    write(rows, machine(), tmp_path / "numbers.json")
    written = json.loads((tmp_path / "numbers.json").read_text())
    assert [row["met"] for row in written["rows"]] == [True, None]
    assert written["rows"][0]["repeats"] == {"ours": [1.0], "against": [2.0]}


def test_rollouts(bench):
    case = rollouts.Case(SMALL, questions=2, samples=2, tokens=3, prompt=80)
    rows = rollouts.measure(bench, case)
    assert [sound(row) for row in rows[:2]] == [True, True]
    assert sound(rows[2], repeats=1)


def test_copied_bytes_are_those_of_the_formula(bench):
    case = rollouts.Case(SMALL, questions=1, samples=3, tokens=4, prompt=80)
    positions = case.samples * (case.prompt + case.tokens - 1)  # the last token is sampled and never fed
    floats = 2 * SMALL.layers * SMALL.key_value_heads * 32
    copied = rollouts.copied_bytes(random_decoder(SMALL), case, bench.examples(1)[0])
    longer = rollouts.lengthened(random_decoder(SMALL), bench.examples(1)[0], case.prompt)
    assert rollouts.copied_bytes(random_decoder(SMALL), case, longer) == positions * floats * 4 > copied


@pytest.mark.slow
def test_continuous_batching(bench):
    pytest.importorskip("psutil")
    cases = (
        batching.Goaled(SMALL, questions=1, samples=2, tokens=3, prompt=80, goal=Goal(3)),
        batching.Goaled(SMALL, questions=3, samples=1, tokens=3, prompt=20, goal=Goal(1)),
    )
    rows = batching.measure(bench, cases)
    assert [sound(row) or "does not run here" in row.against for row in rows] == [True, True]


def test_labels(vlm, items):
    sizes = labels.Sizes(chains=2, continued=2, rollouts=2, max_tokens=4, many=4, estimated=1)
    rows = labels.compare(vlm, items, 2, sizes)
    assert [sound(row) for row in rows] == [True, True, True, True]
    assert rows[0].ours and "2 evenly spaced ones" in rows[0].note


def test_prefixes_are_spaced_evenly_and_differ_between_repeats():
    assert labels.spaced(range(10), 3, repeat=0) == [0, 3, 6]
    assert labels.spaced(range(10), 3, repeat=1) == [1, 4, 7]
    assert labels.spaced(range(2), 3, repeat=1) == [0, 1]


def test_beam(vlm, bench):
    rows = beam.compare(vlm, vlm, bench.examples(2), 2, SearchConfig(n=2, max_tokens=6))
    assert [sound(row) for row in rows] == [True]


def test_scoring(vlm, items):
    row = scoring.compare(vlm, [*items, items[0]], 2, single=1)
    assert sound(row) and "3 chains, 2 distinct" in row.measure


def test_one_at_a_time_scores_as_the_prm_does(vlm, items):
    from chainofstep.models.prm import PRM

    single = scoring.one_at_a_time(vlm, items)
    together = [[*scores.steps, scores.answer] for scores in PRM(vlm).score(items)]
    assert [score for chain in single for score in chain] == pytest.approx([s for c in together for s in c], abs=1e-5)


def test_a_row_without_ratios_has_met_nothing():
    assert Row("", "", "", [], Goal(1)).met is None


def test_the_endpoints_client(bench):
    rows = endpoint.measure(bench, endpoint.Sizes(in_flight=2, rounds=1, latency=0.05))
    assert [sound(row) for row in rows] == [True, True]


def test_resuming(bench):
    (row,) = resume.measure(bench, resume.Sizes(questions=30, answered=20))
    assert sound(row)


def test_a_corpus(bench):
    rows = corpus.measure(bench, 50)
    assert [sound(row) for row in rows] == [True, True]
