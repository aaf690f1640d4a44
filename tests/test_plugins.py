"""Plug-ins for verl and ms-swift, called as those projects call them (docs/sharing.md says which versions)."""

import asyncio
import inspect
import json
import logging
import math
from types import SimpleNamespace

import pytest
from PIL import Image

from chainofstep.chain import ALL_TOKENS, render
from chainofstep.plugins import ms_swift, rewarding, verl
from chainofstep.plugins.tokenizer import keep_step_tokens
from chainofstep.problems.formats import FORMATS
from chainofstep.records import Example, StepRow
from conftest import ScriptedScorer, make_chain

EXAMPLE = Example("q1", "Which is larger?", ("a.png", "b.png"), "B", "choice", ("7", "8"), source="tables")
RIGHT, WRONG = render(make_chain("good", "bad", answer="B")), render(make_chain("good", answer="A"))
ODD = render(make_chain("odd", answer="B"))
NO_TOKENS = "\nLook\ngood\nIt does.\n\n\nAnswer:\nB"


@pytest.fixture
def scorer(monkeypatch):
    """Stands for whatever PRM is named, and remembers what it was asked."""
    scripted = ScriptedScorer({"good": 1.0, "bad": 0.0}, {"A": 0.0, "B": 1.0}, fails=["odd"])
    for module in (verl, ms_swift):
        monkeypatch.setattr(module, "scorer_of", lambda prm: scripted)
    return scripted


@pytest.fixture(autouse=True)
def unreported():
    rewarding._report.cache_clear()


# verl: compute_score(data_source=, solution_str=, ground_truth=, extra_info=, **reward_kwargs)


def verl_call(text, example=EXAMPLE, **more):
    row = json.loads(json.dumps(FORMATS["verl"].write(StepRow(example))))
    extra = {**row["extra_info"], "num_turns": 2, "rollout_reward_scores": {}}
    return {
        "data_source": row["data_source"],
        "solution_str": text,
        "ground_truth": row["reward_model"]["ground_truth"],
        "extra_info": extra,
        **more,
    }


def test_verl_gets_the_path_score_and_its_parts(scorer):
    found = verl.compute_score(**verl_call(RIGHT, prm="m@http://x/v1", pictures="/data"))
    assert found == {"score": pytest.approx(0.9), "acc": 1.0, "steps": 2.0, "unparseable": 0.0, "unscored": 0.0}
    asked = scorer.calls[0][0][0]
    assert (asked.question, asked.images) == ("Which is larger?", ("/data/a.png", "/data/b.png"))
    assert (asked.answer_kind, asked.choices) == ("choice", ("7", "8"))


def test_verl_gets_outcomes_without_a_prm():
    scores = [verl.compute_score(**verl_call(text))["score"] for text in (RIGHT, WRONG, "Hm.")]
    assert scores == [1.0, 0.0, 0.0]


def test_every_reply_gives_verl_the_same_fields(scorer):
    # verl builds a column of each field of the first reply.
    found = [verl.compute_score(**verl_call(text, prm="p")) for text in (RIGHT, WRONG, ODD, NO_TOKENS)]
    assert len({tuple(each) for each in found}) == 1
    assert all(type(value) is float for each in found for value in each.values())


def test_a_reply_that_was_not_scored_counts_as_its_answer(scorer, caplog):
    found = verl.compute_score(**verl_call(ODD, prm="p"))
    assert (found["score"], found["unscored"]) == (1.0, 1.0)
    assert "q1: not scored, counted as its answer: cannot score odd" in caplog.text


def test_without_a_gold_answer_rightness_is_not_known(scorer):
    found = verl.compute_score(**verl_call(RIGHT, Example("q", "?", (), "", "word"), prm="p"))
    assert found["score"] == pytest.approx(0.9) and math.isnan(found["acc"])


def test_verl_awaits_where_it_awaits(scorer):
    assert inspect.iscoroutinefunction(verl.compute_score_async)
    assert not inspect.iscoroutinefunction(verl.compute_score)

    async def batch():
        calls = [verl.compute_score_async(**verl_call(text, prm="p")) for text in (RIGHT, WRONG)]
        return await asyncio.gather(*calls)

    assert [found["acc"] for found in asyncio.run(batch())] == [1.0, 0.0]


def test_stripped_step_tokens_are_told_once_and_loudly(caplog):
    with caplog.at_level(logging.ERROR):
        found = [verl.compute_score(**verl_call(NO_TOKENS)) for _ in range(3)]
    assert [each["unparseable"] for each in found] == [1.0] * 3
    assert caplog.text.count("none of the step tokens") == 1 and "keep_step_tokens" in caplog.text


@pytest.mark.parametrize("lost", ["question", "images"])
def test_columns_that_verl_did_not_hand_on_are_named(lost):
    call = verl_call(RIGHT)
    del call["extra_info"][lost]
    with pytest.raises(ValueError, match=f"extra_info has no '{lost}'"):
        verl.compute_score(**call)


# ms-swift: orm(completions, **columns), prm(infer_requests, ground_truths, **kwargs)


def swift_columns(example, count):
    row = json.loads(json.dumps(FORMATS["ms-swift-prompts"].write(StepRow(example))))
    if "images" in row:
        row["images"] = [{"bytes": None, "path": path} for path in row["images"]]
    columns = {name: [value] * count for name, value in row.items()}
    return {**columns, "trainer_state": SimpleNamespace(global_step=3), "finish_reason": ["stop"] * count}


def test_swift_gets_path_scores_and_the_pictures_come_along(scorer):
    orm = ms_swift.step_reward("m@http://x/v1", pictures="/data")(args=SimpleNamespace())
    assert orm([RIGHT, WRONG], **swift_columns(EXAMPLE, 2)) == [pytest.approx(0.9), pytest.approx(0.2)]
    example = scorer.calls[0][0][0]
    assert (example.id, example.question) == ("q1", "Which is larger?")
    assert example.images == ("/data/a.png", "/data/b.png") and example.choices == ("7", "8")


def test_swift_leaves_out_what_was_not_scored_or_has_lost_its_tokens(scorer, caplog):
    orm = ms_swift.step_reward("p")()
    assert orm([ODD, NO_TOKENS, "<|reasoning_start|>Hm."], **swift_columns(EXAMPLE, 3)) == [None, None, 0.0]
    assert caplog.text.count("none of the step tokens") == 1


def test_swift_may_hand_on_token_ids(scorer):
    class Letters:
        eos_token_id = pad_token_id = 0

        def __init__(self):
            self.added_tokens_decoder = {}

        def decode(self, ids, **options):
            assert options["skip_special_tokens"] is False
            return "".join(map(chr, ids))

    orm = ms_swift.step_reward("p")(tokenizer=Letters())
    ids = [*map(ord, RIGHT), 0]
    assert orm([ids, {"token_ids": ids}], **swift_columns(EXAMPLE, 2)) == [pytest.approx(0.9)] * 2
    with pytest.raises(ValueError, match="without a tokenizer"):
        ms_swift.step_reward("p")()([ids], **swift_columns(EXAMPLE, 1))
    assert "tokenizer" in inspect.signature(ms_swift.step_reward("p").__init__).parameters  # how it is handed over


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [[]]}, "more picture marks than pictures"),
        ({"solution": None}, "no column 'solution'"),
        ({"messages": [[{"role": "assistant", "content": "x"}]]}, "no question of text"),
        ({"answer_kind": ["vector"]}, "answer_kind is 'vector'"),
        ({"images": [[3, 4]]}, "picture int: give paths"),
    ],
)
def test_rows_that_swift_cut_short_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        ms_swift.step_reward()()([RIGHT], **swift_columns(EXAMPLE, 1) | change)


@pytest.mark.parametrize("kind", [dict, SimpleNamespace])
def test_swift_sample_gets_a_score_for_each_request(scorer, kind):
    messages = [{"role": "user", "content": "<image>Sum?"}, {"role": "assistant", "content": RIGHT}]
    prm = ms_swift.step_prm("p")()
    assert prm([kind(messages=messages, images=["a.png"], tools=None)], ["B"]) == [pytest.approx(0.9)]
    assert scorer.calls[0][0][0].images == ("a.png",)
    messages[1]["content"] = ODD
    with pytest.raises(ValueError, match="cannot score odd"):
        prm([kind(messages=messages, images=["a.png"])], ["B"])


# What both share.


def test_pictures_come_as_paths_objects_bytes_or_opened(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for image in ("a.png", {"path": "a.png", "bytes": None}, {"image": "a.png"}):
        assert rewarding.picture_path(image, str(tmp_path)) == str(tmp_path / "a.png")
    assert rewarding.picture_path("file:///x/a.png") == "/x/a.png"
    for image in ({"bytes": content, "path": None}, Image.open(tmp_path / "a.png")):
        with Image.open(rewarding.picture_path(image, "/elsewhere")) as found:
            assert found.convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_a_prm_in_memory_scores_for_both(model):
    pytest.importorskip("torch")
    from chainofstep.models.prm import PRM
    from chainofstep.models.vlm import load_vlm
    from chainofstep.scoring.rewards import rewards_of

    example = Example("q", "Sum?", (), "12", "number")
    text = render(make_chain("3 + 9 = 12.", answer="12"))
    wanted = rewards_of([example], [text], PRM(load_vlm(model)))[0].score
    assert 0 < wanted < 1
    assert verl.compute_score(**verl_call(text, example, prm=str(model)))["score"] == wanted
    orm = ms_swift.step_reward(str(model))()
    assert orm([text], **swift_columns(example, 1)) == [wanted]


def test_a_prm_on_a_server_scores_many_replies_side_by_side(model, tmp_path):
    pytest.importorskip("torch")
    from chainofstep.models.prm import PRM
    from chainofstep.models.vlm import load_vlm
    from chainofstep.scoring.rewards import rewards_of
    from vlm_server import VlmServer

    Image.new("RGB", (96, 96), "red").save(tmp_path / "a.png")
    example = Example("q", "Sum?", (str(tmp_path / "a.png"),), "12", "number")
    texts = [render(make_chain(f"3 + {n} = 12.", answer="12")) for n in range(6)]
    vlm = load_vlm(model)
    wanted = [reward.score for reward in rewards_of([example] * 6, texts, PRM(vlm))]
    with VlmServer(vlm) as server:
        calls = [verl_call(text, example, prm=server.spec) for text in texts]

        async def batch():
            return await asyncio.gather(*(verl.compute_score_async(**call) for call in calls))

        found = [each["score"] for each in asyncio.run(batch())]
        orm = ms_swift.step_reward(server.spec)()
        again = orm(texts, **swift_columns(example, 6))
    assert found == pytest.approx(wanted, abs=1e-4) and again == pytest.approx(wanted, abs=1e-4)
    assert len(set(wanted)) == 6


# A tokenizer for those that decode without special tokens.


def test_step_tokens_stay_in_texts_that_are_decoded_without_special_tokens(model, tmp_path):
    transformers = pytest.importorskip("transformers")
    plain = transformers.AutoTokenizer.from_pretrained(keep_step_tokens(model, tmp_path / "plain"))
    special = transformers.AutoTokenizer.from_pretrained(model)
    ids = [*special(RIGHT, add_special_tokens=False).input_ids, special.eos_token_id]
    assert plain(RIGHT, add_special_tokens=False).input_ids == ids[:-1]
    assert plain.decode(ids, skip_special_tokens=True) == RIGHT
    assert not set(ALL_TOKENS) & set(special.decode(ids, skip_special_tokens=True))
    assert [plain.convert_tokens_to_ids(token) for token in ALL_TOKENS] == [
        special.convert_tokens_to_ids(token) for token in ALL_TOKENS
    ]
    assert plain.eos_token == special.eos_token and plain.chat_template == special.chat_template
    assert not list((tmp_path / "plain").glob("*.safetensors"))


def test_a_folder_without_step_tokens_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"has no tokenizer\.json"):
        keep_step_tokens(tmp_path, tmp_path / "out")
    (tmp_path / "tokenizer.json").write_text('{"added_tokens": []}')
    with pytest.raises(ValueError, match="no step tokens"):
        keep_step_tokens(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="own folder"):
        keep_step_tokens(model, model)
