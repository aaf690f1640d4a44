"""Rewards of texts: path scores, 0 for what is no chain, nothing where the scorer failed; tokens of replies kept."""

import logging
from types import SimpleNamespace

import pytest

from chainofstep.chain import Chain, render
from chainofstep.records import Example
from chainofstep.scoring.pairs import OutcomeScorer
from chainofstep.scoring.rewards import Replies, Reward, StepReward, has_no_step_token, rewards_of
from conftest import ScriptedScorer, make_chain

EXAMPLE = Example("q", "Sum?", (), "12", "number")
SCORER = ScriptedScorer({"good": 1.0, "bad": 0.0, "half": 0.5}, {"12": 1.0, "13": 0.25}, fails=["odd"])


def test_a_text_is_worth_its_path_score():
    # 0.2 x mean of the steps + 0.8 x the answer.
    texts = [render(make_chain("good", "bad", answer="12")), render(make_chain("half", answer="13"))]
    assert rewards_of([EXAMPLE] * 2, texts, SCORER) == [
        Reward(pytest.approx(0.2 * 0.5 + 0.8), 2, "12"),
        Reward(pytest.approx(0.2 * 0.5 + 0.8 * 0.25), 1, "13"),
    ]
    assert rewards_of([EXAMPLE], texts[:1], SCORER, step_weight=1.0)[0].score == 0.5


def test_no_chain_is_worth_nothing_and_a_failure_is_not_nothing():
    texts = ["Hm.", render(make_chain("odd", answer="12")), render(make_chain("good"))]
    found = rewards_of([EXAMPLE] * 3, texts, SCORER)
    assert found == [Reward(0.0, None), Reward(None, 1, "12", "cannot score odd"), Reward(0.0, None)]


def test_equal_chains_of_one_question_are_scored_once():
    scorer = ScriptedScorer({"good": 1.0}, {"12": 1.0})
    text, other = render(make_chain("good", answer="12")), Example("r", "Sum?", (), "12", "number")
    rewards_of([EXAMPLE, EXAMPLE, other], [text] * 3, scorer)
    assert [example.id for example, _ in scorer.calls[0]] == ["q", "r"]


class Words:
    """A tokenizer of whole words; 0 ends a text, 1 is padding, 2 ends a turn."""

    words = ("<|end|>", "<|pad|>", "<|turn|>", *render(make_chain("good", answer="12")).split(" "))
    eos_token_id, pad_token_id = 0, 1

    def __init__(self):
        special = (SimpleNamespace(content=word, special=True) for word in self.words[:3])
        self.added_tokens_decoder = dict(enumerate(special))

    def decode(self, ids, skip_special_tokens, clean_up_tokenization_spaces):
        assert not skip_special_tokens and not clean_up_tokenization_spaces
        return " ".join(self.words[i] for i in ids)

    def ids(self, text):
        return [self.words.index(word) for word in text.split(" ")]


def test_a_reply_ends_with_its_turn():
    tokenizer, text = Words(), render(make_chain("good", answer="12"))
    replies, ids = Replies(tokenizer), tokenizer.ids(text)
    assert {replies.text([*ids, *end]) for end in ([], [0], [0, 1, 1], [2], [2, 0])} == {text}
    assert replies.text([0, *ids]) == ""


def test_trl_gets_rewards_and_what_is_logged(caplog):
    tokenizer, text = Words(), render(make_chain("good", answer="12"))
    logged = []
    reward = StepReward([EXAMPLE], tokenizer, OutcomeScorer())
    ids = [[*tokenizer.ids(text), 0], [3]]
    found = reward(["?"] * 2, ["12"] * 2, ids, id=["q", "q"], log_metric=lambda *pair: logged.append(pair), row=[0, 0])
    assert found == [1.0, 0.0]
    assert logged == [("unparseable", 0.0), ("unscored", 0.0), ("steps", 1), ("unparseable", 1.0), ("unscored", 0.0)]
    assert not caplog.text
    assert reward(["?"], ["12"], ids[1:], id=["q"]) == [0.0]
    assert "none of 1 replies is a chain, such as '<|reasoning_start|>" in caplog.text
    failing = StepReward([EXAMPLE], tokenizer, ScriptedScorer({"good": 1.0}, {"12": 1.0}, fails=["good"]))
    with caplog.at_level(logging.WARNING):
        assert failing(["?"], ["12"], ids[:1], id=["q"]) == [None]
    assert "1 of 1 chains have no reward, the first because: cannot score good" in caplog.text


def test_examples_of_one_id_are_refused():
    with pytest.raises(ValueError, match="2 examples have 1 ids"):
        StepReward([EXAMPLE, EXAMPLE], Words(), OutcomeScorer())


def test_a_text_whose_step_tokens_were_left_out_is_told():
    text = render(Chain(make_chain("good").steps, "12"))
    assert not has_no_step_token(text) and not has_no_step_token("<|answer_start|>")
    assert has_no_step_token("good\nAnswer:\n12") and has_no_step_token("")
