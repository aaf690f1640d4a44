"""The PRM: its loss by hand, where it reads its scores, and that batches, duplicates and failures change none."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

torch = pytest.importorskip("torch")
from chainofstep.chain import ALL_TOKENS, BAD, GOOD, STEP_TAG, Chain, Step, render  # noqa: E402
from chainofstep.models.encode import encode_prompt  # noqa: E402
from chainofstep.models.prm import PRM, encode_chain_for_prm, prm_loss  # noqa: E402
from chainofstep.models.tiny import Shape, build_processor, build_tiny, build_tokenizer  # noqa: E402
from chainofstep.models.vlm import add_step_tokens  # noqa: E402
from chainofstep.records import Example, ScoreFailure, StepScores  # noqa: E402

SMALL = Shape(vision_width=32, vision_layers=1, width=64, layers=2, heads=2, key_value_heads=1, feed_forward=64)
CHAIN = Chain((Step("Read", "Row 1 is 1 2.", "1 2."), Step("Add", "1 + 2 = 3.", "3.")), "3")


@pytest.fixture(scope="module")
def vlm():
    words = ["Row 1 is 1 2 3 4 5. Read Add", *ALL_TOKENS.values()]
    built = build_tiny(SMALL, 0, build_processor(build_tokenizer(words)))
    add_step_tokens(built)
    with torch.no_grad():  # scores apart from each other and from one half
        built.model.get_output_embeddings().weight.mul_(20)
    return built


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    made = []
    for number, colour in enumerate(((200, 30, 30), (20, 200, 90))):
        path = folder / f"{number}.png"
        Image.new("RGB", (96, 96), colour).save(path)
        made.append(Example(f"e{number}", f"What is the sum of row {number}?", (str(path),), "3", "number"))
    return made


# The loss.


@pytest.mark.parametrize(
    ("good", "bad", "label", "expected"),
    [
        (0.0, 0.0, 1.0, 2 * math.log(2)),
        (math.log(3), 0.0, 1.0, -2 * math.log(0.75)),  # P(good) = 3/4
        (math.log(3), 0.0, 0.0, -2 * math.log(0.25)),
        (math.log(3) + 5, 5.0, 0.5, -math.log(0.75) - math.log(0.25)),  # soft; a shift of both changes nothing
        (100.0, 0.0, 0.0, 200.0),  # no clamp: the gradient does not vanish at certainty
    ],
)
def test_loss_by_hand(good, bad, label, expected):
    loss, _ = prm_loss(torch.tensor([[good, bad]]), torch.tensor([label]))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_loss_is_the_mean_over_tags_and_accuracy_counts_sides():
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0], [0.0, 2.0]])
    loss, metrics = prm_loss(logits, torch.tensor([1.0, 0.2, 0.0]))
    soft = -2 * (0.2 * math.log(0.75) + 0.8 * math.log(0.25))
    expected = (-2 * math.log(0.75) + soft + 2 * math.log(1 + math.exp(-2))) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(2 / 3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-8, 8), st.floats(-8, 8), st.floats(0, 1)), min_size=1, max_size=9))
def test_loss_is_the_authors_over_both_columns(tags):
    logits = torch.tensor([tag[:2] for tag in tags])
    labels = torch.tensor([tag[2] for tag in tags])
    columns = logits.double().softmax(-1)
    wanted = torch.stack([labels, 1 - labels], dim=-1).double()
    authors = -(wanted * columns.log() + (1 - wanted) * (1 - columns).log()).sum() / len(tags)
    assert prm_loss(logits, labels)[0].item() == pytest.approx(authors.item(), rel=1e-4, abs=1e-5)


def test_loss_of_no_tags_is_refused():
    with pytest.raises(ValueError, match="no step tag"):
        prm_loss(torch.zeros(0, 2), torch.zeros(0))


# Encoding.


def test_tags_stand_after_each_step_and_the_answer(vlm, examples):
    row = encode_chain_for_prm(vlm, examples[0], CHAIN)
    prompt = encode_prompt(vlm, examples[0])
    assert row.ids[: row.start].tolist() == prompt.ids.tolist()
    assert row.ids[row.start :].tolist() == vlm.tokenizer(render(CHAIN, STEP_TAG)).input_ids
    before = [vlm.tokenizer.convert_ids_to_tokens(int(row.ids[tag - 1])) for tag in row.tags]
    assert before == ["<|reasoning_step_end|>", "<|reasoning_step_end|>", "<|answer_end|>"]


@pytest.mark.parametrize("text", ["ки", "к+и and к-и", "<image>", "<|end|><|pad|>", "<|answer_end|>", "a<|user|>"])
def test_control_tokens_in_text_stay_text(vlm, examples, text):
    asked = Example("q", f"Is {text} here?", examples[0].images, "3", "number")
    hostile = Chain((Step(text, text, text),), text)
    row = encode_chain_for_prm(vlm, asked, hostile)
    assert len(row.tags) == 2
    plain = encode_chain_for_prm(vlm, asked, Chain((Step("a", "a", "a"),), "a"))
    special = set(vlm.tokenizer.all_special_ids)
    assert [i for i in row.ids.tolist() if i in special] == [i for i in plain.ids.tolist() if i in special]
    assert isinstance(PRM(vlm).score([(asked, hostile)])[0], StepScores)


# Scoring.


def by_hand(vlm, example, chain):
    """Scores from the stock forward over the whole text, one chain alone."""
    row = encode_chain_for_prm(vlm, example, chain)
    with torch.no_grad():
        logits = vlm.model(row.ids[None], **row.prompt.images).logits[0]
    return [float(logits[tag, [vlm.token_id(GOOD), vlm.token_id(BAD)]].double().softmax(-1)[0]) for tag in row.tags]


def flat(scores):
    return [*scores.steps, *([] if scores.answer is None else [scores.answer])]


def chains():
    long = Chain(CHAIN.steps * 3, "5")
    return [CHAIN, long, Chain(CHAIN.steps[:1], "4"), CHAIN.prefix(1), long.prefix(4), Chain(CHAIN.steps, "4")]


@pytest.mark.parametrize("token_budget", [1, 400, 100_000])
def test_scores_are_those_of_a_plain_forward(vlm, examples, token_budget):
    items = [(example, chain) for chain in chains() for example in examples]
    scored = PRM(vlm, token_budget).score(items)
    for (example, chain), scores in zip(items, scored, strict=True):
        assert flat(scores) == pytest.approx(by_hand(vlm, example, chain), abs=1e-5)
        assert len(scores.steps) == len(chain.steps)
        assert (scores.answer is None) == (chain.answer is None)
    assert len({round(value, 4) for scores in scored for value in flat(scores)}) > 10


def test_a_question_without_pictures_beside_one_with(vlm, examples):
    bare = Example("bare", "Row 1 is 1 2. Add.", (), "3", "number")
    scored = PRM(vlm).score([(bare, CHAIN), (examples[0], CHAIN)])
    assert flat(scored[0]) == pytest.approx(by_hand(vlm, bare, CHAIN), abs=1e-5)
    assert flat(scored[1]) == pytest.approx(by_hand(vlm, examples[0], CHAIN), abs=1e-5)


def test_two_pictures_in_one_question(vlm, examples):
    both = Example("both", "Which?", (*examples[0].images, *examples[1].images), "3", "number")
    scored = PRM(vlm).score([(both, CHAIN), (examples[1], CHAIN)])
    assert flat(scored[0]) == pytest.approx(by_hand(vlm, both, CHAIN), abs=1e-5)
    assert flat(scored[1]) == pytest.approx(by_hand(vlm, examples[1], CHAIN), abs=1e-5)


def test_equal_chains_are_scored_once_and_counted(vlm, examples):
    prm = PRM(vlm)
    first, again, other = prm.score([(examples[0], CHAIN), (examples[0], CHAIN), (examples[1], CHAIN)])
    assert first == again != other
    lengths = [len(encode_chain_for_prm(vlm, example, CHAIN).ids) for example in examples]
    assert (prm.scored_chains, prm.scored_steps, prm.forward_tokens) == (2, 6, sum(lengths))


def test_the_first_prefix_needs_no_pass(vlm, examples):
    prm = PRM(vlm)
    assert prm.score([(examples[0], Chain(()))]) == [StepScores(())]
    assert prm.scored_chains == 0
    assert prm.score([]) == []


def test_a_chain_that_cannot_be_scored_fails_alone(vlm, examples, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    missing = Example("m", "Row?", (str(tmp_path / "none.png"),), "3", "number")
    broken = Example("b", "Row?", (str(tmp_path / "broken.png"),), "3", "number")
    long = Chain(CHAIN.steps * 100, "3")
    items = [(missing, CHAIN), (examples[0], long), (examples[0], CHAIN), (broken, CHAIN), (missing, CHAIN.prefix(1))]
    scored = PRM(vlm).score(items)
    reasons = [result.reason for result in scored if isinstance(result, ScoreFailure)]
    assert [isinstance(result, ScoreFailure) for result in scored] == [True, True, False, True, True]
    assert "none.png does not exist" in reasons[0] and "context of 1024" in reasons[1] and "broken.png" in reasons[2]
    assert flat(scored[2]) == pytest.approx(by_hand(vlm, examples[0], CHAIN), abs=1e-5)


def test_progress_reaches_the_number_of_chains(vlm, examples):
    seen = []
    PRM(vlm, 1, progress=lambda done, total: seen.append((done, total))).score([(examples[0], c) for c in chains()])
    assert seen == [(done, 6) for done in range(1, 7)]


def test_a_model_without_tags_is_refused(examples):
    bare = build_tiny(SMALL, 0, build_processor(build_tokenizer(["Row"])))
    with pytest.raises(ValueError, match="add the step tokens first"):
        PRM(bare)
