"""MathVista's extraction by a language model: what is asked of a real local server, what is kept, what is counted."""

import json
import re

import pytest

pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("rapidfuzz")

from chainofstep.benchmarks.mathvista import MATHVISTA
from chainofstep.benchmarks.mathvista_extract import (
    EXTRACTION_PROMPT,
    LONGEST_REPLY,
    NO_ANSWER,
    extract,
    extraction_prompt,
)
from chainofstep.chain import Chain, Step, render
from chainofstep.llm import Endpoint, EndpointDown
from chainofstep.llm.faults import Fault, Faults
from chainofstep.llm.stand_in import MODEL, StandIn
from chainofstep.records import ScoreFailure
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


def extracted_by(server, replies, cache, **settings):
    endpoint = Endpoint(server.base_url, MODEL, **settings)
    return extract([example for example, _ in replies], [text for _, text in replies], endpoint, cache)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "replies.sqlite"


def test_rules_first_then_the_model_and_all_are_counted(cache):
    with StandIn(reader) as server:
        found = extracted_by(server, REPLIES, cache)
        assert server.counts.requests == 6
    assert found.answers[:8] == ["14", "14", "1.52", "red", "(B)", "[0, 2]", "", None]
    assert found.answers[8] == ScoreFailure("the sampler gave up")
    assert found.answers[9] == ScoreFailure("extraction: the model's reply is empty")
    assert (found.by_rule, found.by_model, found.failed, found.missing) == (2, 5, 1, 2)
    assert (found.model, found.fallback_share) == (MODEL, 0.6)


def test_what_was_extracted_is_judged_in_the_replys_place(cache):
    with StandIn(reader) as server:
        found = extracted_by(server, REPLIES, cache)
    verdicts = MATHVISTA.judge([example for example, _ in REPLIES], found.answers)
    assert [verdict.outcome for verdict in verdicts] == ["right"] * 6 + ["unparseable"] * 2 + ["failed"] * 2
    assert verdicts[9].note == "extraction: the model's reply is empty"


def test_nothing_is_asked_twice(cache):
    with StandIn(reader) as server:
        first = extracted_by(server, REPLIES[:7], cache)
        again = extracted_by(server, REPLIES[:7], cache)
        assert server.counts.requests == 5
    assert again.answers == first.answers and again.spending.cached == 5
    assert (again.by_rule, again.by_model) == (2, 5)


def test_no_server_is_needed_where_rules_read_all(cache):
    down = Endpoint("http://127.0.0.1:9/v1", MODEL, attempts=1)
    found = extract([INTEGER, COLOURS], ["14", 'The answer is "red".'], down, cache)
    assert (found.answers, found.by_rule, found.fallback_share) == (["14", "red"], 2, 0.0)
    assert extract([], [], down, cache).fallback_share == 0.0
    with pytest.raises(EndpointDown):
        extract([INTEGER], ["It is 14."], down, cache)


def test_a_refused_prompt_is_a_failed_item_and_the_others_go_on(cache):
    with StandIn(reader, faults=Faults(refused=Fault(first=1))) as server:
        found = extracted_by(server, REPLIES[1:3], cache, concurrency=1)
    assert isinstance(found.answers[0], ScoreFailure) and found.answers[0].reason.startswith("extraction: ")
    assert (found.answers[1], found.by_model, found.failed) == ("1.52", 1, 1)


def test_of_a_chain_only_the_answer_is_read(cache):
    steps = (Step("Count", "I count 99 bars.", "Seen."),)
    chains = [render(Chain(steps, answer)) for answer in ("14", "14 bars")] + [render(Chain(steps))]
    with StandIn(reader) as server:
        found = extracted_by(server, [(INTEGER, chain) for chain in chains], cache)
        asked = [json.loads(body)["messages"][-1]["content"] for body in server.counts.bodies]
    assert found.answers == ["14", "14", chains[2]]
    assert (found.by_rule, found.by_model, found.missing) == (1, 1, 1)
    assert len(asked) == 1 and "99" not in str(asked)


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
