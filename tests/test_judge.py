"""The LLM judge: verdicts as they are written, votes, mapping rules; and real requests to a local server."""

import json

import pytest

from chainofstep.chain import Chain, Step
from chainofstep.llm import Endpoint, Failure, Reply
from chainofstep.llm.stand_in import StandIn
from chainofstep.records import Example, ScoreFailure, StepScores
from chainofstep.scoring.judge import Judgement, JudgeScorer, Verdict, judgement, read_verdict, scores_of, vote

EXAMPLE = Example("q1", "How many apples?", (), "12", "number")
STEPS = (
    Step("Look", "Five and seven.", "Seen."),
    Step("Guess", "Maybe many.", "Hm."),
    Step("Add", "5 + 7 = 12.", "Ok."),
)
RIGHT, WRONG = Chain(STEPS, "12"), Chain(STEPS, "13")


def reply(text, structured=False):
    return Reply(text, 10, 10, "stop", "judge", structured)


def labels(*values):
    return reply(f"Step 1: a.\nStep 2: b.\nStep 3: c.\n### Step Label: {json.dumps(values)}")


def test_the_papers_line_is_read_with_its_explanations():
    text = "Step 1: Right.\nStep 2: Vague.\nStep 3: Wrong sum.\n### Step Label: [1,0,-1]"
    assert read_verdict(reply(text), 3) == Verdict(
        (1, 0, -1), ("Step 1: Right.", "Step 2: Vague.", "Step 3: Wrong sum.")
    )


def test_the_last_list_counts():
    text = "Such as ### Step Label: [1, 1]. Now:\n**Step Label:** [1, 0, -1]"
    assert read_verdict(reply(text), 3).labels == (1, 0, -1)


def test_json_verdicts_are_read():
    steps = [{"explanation": "Right.", "label": "Good"}, {"explanation": "No.", "label": "bad"}]
    assert read_verdict(reply(json.dumps({"steps": steps}), True), 2) == Verdict((1, -1), ("Right.", "No."))


@pytest.mark.parametrize(
    ("text", "structured", "reason"),
    [
        ("All steps are fine.", False, "no line `### Step Label: [...]`"),
        ("### Step Label: [1, 1]", False, "2 labels for 3 steps"),
        ("### Step Label: [1, 1, 1, 1]", False, "4 labels for 3 steps"),
        ("### Step Label: [1, 2, 1]", False, "are not all 1, 0 or -1"),
        ("### Step Label: [1, 0.5, 1]", False, "are not all 1, 0 or -1"),
        ("### Step Label: [1, true, 1]", False, "are not all 1, 0 or -1"),
        ("### Step Label: [good, bad, bad]", False, "are not all 1, 0 or -1"),
        ("### Step Label: []", False, "0 labels for 3 steps"),
        ("nonsense", True, "no verdict in JSON"),
        ('{"steps": [{"label": "Great"}]}', True, "no verdict in JSON"),
        ('{"steps": "Good"}', True, "no verdict in JSON"),
        ("[1, 0, -1]", True, "no verdict in JSON"),
    ],
)
def test_what_is_no_verdict_says_why(text, structured, reason):
    with pytest.raises(ValueError) as error:
        read_verdict(reply(text, structured), 3)
    assert reason in str(error.value)


def test_mapping_by_the_answer():
    """Paper A3: with a right answer Good and Neutral are right, with a wrong one only Good is."""
    assert scores_of(EXAMPLE, RIGHT, (1, 0, -1)) == StepScores((1.0, 1.0, 0.0), 1.0)
    assert scores_of(EXAMPLE, WRONG, (1, 0, -1)) == StepScores((1.0, 0.0, 0.0), 0.0)
    assert scores_of(EXAMPLE, Chain(STEPS), (1, 0, -1)) == StepScores((1.0, 0.0, 0.0), None)


def test_neutral_can_stay_in_the_middle():
    assert scores_of(EXAMPLE, WRONG, (1, 0, -1), "half") == StepScores((1.0, 0.5, 0.0), 0.0)


def test_votes_go_to_the_majority_and_ties_to_the_worst():
    assert vote([Verdict((1, 1, 0)), Verdict((1, 0, -1)), Verdict((-1, 0, 1))]) == (1, 0, -1)
    assert vote([Verdict((1, 0)), Verdict((0, -1))]) == (0, -1)


def test_a_failed_vote_is_no_score():
    failed = Failure("server error: 500", passing=False)
    assert judgement(RIGHT, [labels(1, 1, 1), failed, labels(1, 1)]) == Judgement(
        (Verdict((1, 1, 1), ("Step 1: a.", "Step 2: b.", "Step 3: c.")),), ("server error: 500", "2 labels for 3 steps")
    )
    assert judgement(RIGHT, [labels(1, 1, 1), failed, labels(1, 1)]).scored(
        EXAMPLE, RIGHT, "by_answer"
    ) == ScoreFailure("judge: server error: 500")
    most = judgement(RIGHT, [labels(1, 1, -1), labels(1, 0, -1), failed])
    assert most.scored(EXAMPLE, RIGHT, "half") == StepScores((1.0, 0.5, 0.0), 1.0)
    assert judgement(RIGHT, []).scored(EXAMPLE, RIGHT, "half") == ScoreFailure("judge: no vote")


def strict(request):
    """Bad for every step that says "Maybe", Good otherwise."""
    steps = request.text.split("Solution:\n", 1)[1].split("\n\n")
    found = [entry for entry in steps if entry.startswith("Step ")]
    return "### Step Label: " + json.dumps([-1 if "Maybe" in entry else 1 for entry in found])


def lenient(request):
    return "### Step Label: " + json.dumps([1] * request.text.count("\nStep ") if "Solution" in request.text else [])


def endpoint(server, model="judge"):
    return Endpoint(server.base_url, model, structured="off")


def test_two_judges_on_a_real_server(tmp_path):
    items = [(EXAMPLE, RIGHT), (EXAMPLE, WRONG), (EXAMPLE, Chain((), "12"))]
    with StandIn(strict, model="strict") as one, StandIn(lenient, model="lenient") as other:
        judges = [endpoint(one, "strict"), endpoint(other, "lenient")]
        scorer = JudgeScorer(judges, cache=tmp_path / "replies.sqlite")
        scored = scorer.score(items)
        assert scored == [
            StepScores((1.0, 0.0, 1.0), 1.0),  # one for Good, one for Bad: a tie goes to Bad
            StepScores((1.0, 0.0, 1.0), 0.0),
            ScoreFailure("judge: no vote"),  # no steps, so nobody was asked
        ]
        assert one.counts.requests == other.counts.requests == 2
        assert scorer.score(items) == scored
        assert one.counts.requests == 2  # nothing is paid for twice


def test_several_votes_of_one_judge_are_several_requests():
    with StandIn(strict, model="strict") as server:
        scorer = JudgeScorer([endpoint(server, "strict")], votes=3, neutral="half")
        assert scorer.score([(EXAMPLE, RIGHT)]) == [StepScores((1.0, 0.0, 1.0), 1.0)]
        assert server.counts.requests == 3


def test_the_judge_sees_question_reference_and_steps():
    seen = []

    def script(request):
        seen.append(request)
        return "### Step Label: [1, 1, 1]"

    with StandIn(script, model="judge") as server:
        JudgeScorer([endpoint(server)]).score([(EXAMPLE, WRONG)])
    (request,) = seen
    for part in (
        "How many apples?",
        "Answer: 12",
        "Step 2: Guess\nMaybe many.\nHm.",
        "Answer: 13",
        "each of the 3 steps",
    ):
        assert part in request.text
    assert request.schema is None
