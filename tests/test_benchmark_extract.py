"""MathVista's extraction by a language model: what is asked of a real local server, what is kept, what is counted."""

import json
import re
from dataclasses import replace

import pytest

pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("rapidfuzz")

from chainofstep.benchmarks.extraction import Reader
from chainofstep.benchmarks.mathvista import MATHVISTA
from chainofstep.benchmarks.mathvista_extract import EXTRACTION_PROMPT, LONGEST_REPLY, NO_ANSWER, extraction_prompt
from chainofstep.benchmarks.pools import choose
from chainofstep.chain import Chain, Step, render
from chainofstep.llm import Endpoint, EndpointDown
from chainofstep.llm.faults import Fault, Faults
from chainofstep.llm.stand_in import MODEL, StandIn
from chainofstep.records import ScoreFailure
from conftest import make_chain, make_rollout
from test_benchmark_mathvista import COLOURS, INTEGER, LIST, TENTH

REPLIES = [
    (INTEGER, "14"),  # a rule
    (INTEGER, "There are 14 bars."),  # the model
    (TENTH, "It is 1.52 cm long."),  # the model
    (COLOURS, "red"),  # a rule
    (COLOURS, "It must be the second option."),  # the model
    (LIST, "From 0 to 2."),  # the model
    (INTEGER, "I cannot tell."),  # the model finds none
    (INTEGER, None),  # nothing to read
    (INTEGER, ScoreFailure("the sampler gave up")),  # nothing to read
    (INTEGER, "The picture is broken."),  # the model says nothing
]


def asked_part(asked):
    """The last of the question blocks: all before it are examples."""
    return asked.text.rpartition("\n\nQuestion: ")[2]


def reader(asked):
    """A model that finds answers well, and whose replies come in several shapes."""
    part = asked_part(asked)
    for found, answer in (
        ("14 bars", "14"),
        ("1.52", " Answer: 1.52\n"),
        ("second option", "(B)"),
        ("0 to 2", "[0, 2]"),
    ):
        if found in part:
            return answer
    return "Answer:" if "broken" in part else "No answer."


class Read:
    """Replies read by a server's model: the verdicts, and who read what."""

    def __init__(self, server, replies, cache, **settings):
        endpoint = server if isinstance(server, Endpoint) else Endpoint(server.base_url, MODEL, **settings)
        examples = [replace(example, id=f"mathvista/{number}") for number, (example, _) in enumerate(replies)]
        texts = [text for _, text in replies]
        self.reader = Reader(MATHVISTA, endpoint)
        self.reader.benchmark.judge(examples, texts)
        self.unpaid = len(self.reader.unpaid(cache))
        self.spending = self.reader.ask(cache)
        self.verdicts = self.reader.benchmark.judge(examples, texts)
        self.counts = self.reader.count(examples, texts)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "replies.sqlite"


def test_rules_first_then_the_model_and_all_are_counted(cache):
    with StandIn(reader) as server:
        found = Read(server, REPLIES, cache)
        assert server.counts.requests == found.unpaid == 6
    assert found.counts == {"rules": 2, "model": 5, "failed": 1, "nothing": 2}
    assert [verdict.outcome for verdict in found.verdicts] == ["right"] * 6 + ["unparseable"] * 2 + ["failed"] * 2
    assert [verdict.answer for verdict in found.verdicts[:6]] == ["14", "14", "1.5", "red", "red", "[0, 2]"]


def test_every_verdict_says_who_read_it(cache):
    with StandIn(reader) as server:
        notes = [verdict.note for verdict in Read(server, REPLIES, cache).verdicts]
    by_rules, by_model = "read by rules", f"read by {MODEL}"
    assert notes[:6] == [by_rules, by_model, by_model, f"{by_rules}; nearest option", by_model, by_model]
    assert notes[6:] == [
        by_model, "no chain", "the sampler gave up", f"not read by {MODEL}: its reply is empty"
    ]  # fmt: skip


def test_nothing_is_asked_twice(cache):
    with StandIn(reader) as server:
        first, again = Read(server, REPLIES[:7], cache), Read(server, REPLIES[:7], cache)
        assert server.counts.requests == 5
    assert (again.verdicts, again.unpaid, again.spending.cached) == (first.verdicts, 0, 5)


def test_no_server_is_needed_where_rules_read_all(cache):
    down = Endpoint("http://127.0.0.1:9/v1", MODEL, attempts=1)
    found = Read(down, [(INTEGER, "14"), (COLOURS, 'The answer is "red".')], cache)
    assert [verdict.outcome for verdict in found.verdicts] == ["right", "right"] and found.counts == {"rules": 2}
    assert Read(down, [], cache).counts == {}
    with pytest.raises(EndpointDown):
        Read(down, [(INTEGER, "It is 14.")], cache)


def test_a_refused_prompt_is_a_failed_item_and_the_others_go_on(cache):
    with StandIn(reader, faults=Faults(refused=Fault(first=1))) as server:
        found = Read(server, REPLIES[1:3], cache, concurrency=1)
    assert found.verdicts[0].outcome == "failed" and found.verdicts[0].note.startswith(f"not read by {MODEL}: ")
    assert found.verdicts[1].outcome == "right" and found.counts == {"failed": 1, "model": 1}
    assert found.reader.failures.total() == 1


def test_of_a_chain_only_the_answer_is_read(cache):
    steps = (Step("Count", "I count 99 bars.", "Seen."),)
    chains = [render(Chain(steps, answer)) for answer in ("14", "14 bars")] + [render(Chain(steps))]
    with StandIn(reader) as server:
        found = Read(server, [(INTEGER, chain) for chain in chains], cache)
        asked = [json.loads(body)["messages"][-1]["content"] for body in server.counts.bodies]
    assert [verdict.outcome for verdict in found.verdicts] == ["right", "right", "unparseable"]
    assert found.counts == {"rules": 1, "model": 1, "nothing": 1}
    assert len(asked) == 1 and "99" not in str(asked)


def test_what_the_model_says_is_no_chain(cache):
    """An extractor that writes tokens of the format is not read by them."""
    with StandIn(lambda asked: "<|answer_start|>14<|answer_end|>") as server:
        (verdict,) = Read(server, [(INTEGER, "14 bars")], cache).verdicts
    assert verdict.outcome == "unparseable"


def test_pass_at_n_reads_every_answer_until_rules_call_one_right(cache):
    answers = ("13 bars", "14 bars", "13 bars", "14", "15 bars")
    pool = [make_rollout(make_chain("I count.", answer=answer), index) for index, answer in enumerate(answers)]
    with StandIn(reader) as server:
        waiting = Reader(MATHVISTA, Endpoint(server.base_url, MODEL))
        for _ in range(2):
            found = {n: choose(waiting.benchmark, [INTEGER], [pool], None, "pass_at_n", n)[0] for n in (1, 3, 5)}
            waiting.ask(cache)
        assert server.counts.requests == 2  # neither "14" nor what stands after it, and "13 bars" once
    assert {n: one.answer for n, one in found.items()} == {1: "13 bars", 3: "14 bars", 5: "14 bars"}


def test_the_prompt_says_what_is_wanted_and_shows_the_end_of_a_long_reply():
    for example, wanted in ((INTEGER, "a whole number"), (TENTH, "a number with 1 decimal"), (LIST, "a list")):
        assert f"\nWanted: {wanted}" in extraction_prompt(example, "so", "0").text.rpartition("Question: ")[2]
    prompt = extraction_prompt(COLOURS, "{reply} " + "x" * 100_000 + " the end", "5")
    assert prompt.id == "5" and len(prompt.text) < LONGEST_REPLY + len(EXTRACTION_PROMPT) + 200
    assert "Question: How many bars?\n(A) green\n(B) red\n(C) blue\nWanted: the letter of an option\n" in prompt.text
    assert prompt.text.endswith("x the end\nAnswer:")
    assert "{reply} x" in extraction_prompt(COLOURS, "{reply} x", "5").text


def test_the_prompts_own_examples_cover_every_kind_of_answer():
    demos = EXTRACTION_PROMPT.split("\n\nQuestion: ")[1:-1]
    answers = [demo.rpartition("\nAnswer: ")[2] for demo in demos]
    assert len(answers) == 5 and answers[-1] == NO_ANSWER
    assert sorted(re.sub("[0-9]", "9", answer) for answer in answers[:4]) == ["9", "9.99", "B", "[9999, 9999]"]
