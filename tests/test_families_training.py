"""Every family of VLM: padded batches are their rows, losses those of plain forwards, and the way from SFT to scores.

The rows have no picture, one, or several of different sizes, so that tiles, patches and types of tokens differ.
"""

import copy
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
from PIL import Image  # noqa: E402

from chainofstep.chain import Chain, Step, render  # noqa: E402
from chainofstep.models.batch import completion_ids, join_rows  # noqa: E402
from chainofstep.models.encode import encode_prompt  # noqa: E402
from chainofstep.models.engine import Engine  # noqa: E402
from chainofstep.models.families import TOKEN_TYPES, longer  # noqa: E402
from chainofstep.models.prm import PRM, encode_chain_for_prm, prm_loss, verdict_ids  # noqa: E402
from chainofstep.models.vlm import VLM, add_step_tokens, load_vlm, save_vlm  # noqa: E402
from chainofstep.records import Example, Pair, Request, StepScores  # noqa: E402
from chainofstep.store import read_json  # noqa: E402
from chainofstep.training.adapters import part_of  # noqa: E402
from chainofstep.training.dpo import DpoConfig, train_dpo  # noqa: E402
from chainofstep.training.prm import PrmConfig, PrmRow, train_prm  # noqa: E402
from chainofstep.training.sft import SftConfig, SftRow, train_sft  # noqa: E402
from families import FAMILIES  # noqa: E402

SIZES = {"square": (96, 96), "wide": (192, 96), "tall": (40, 100)}
ROWS = {"a": ("square",), "b": (), "c": ("wide",), "d": ("tall", "square")}
STEPS = (Step("look", "The row shows 3 and 4.", "Seen."), Step("add", "3 + 4 = 7.", "Right."))
CHAINS = [Chain(STEPS, "7"), Chain(STEPS[:1], "3"), Chain(STEPS * 2, "7"), Chain(STEPS, "4")]
TWO_UPDATES = {"batch_size": 4, "forward_rows": 4, "epochs": 2, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    folder = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(0)
    for name, (width, height) in SIZES.items():
        pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{name}.png")
    return [
        Example(name, "What is the sum?", tuple(str(folder / f"{p}.png") for p in pictures), "7", "number")
        for name, pictures in ROWS.items()
    ]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> VLM:
    vlm = FAMILIES[request.param](5)
    add_step_tokens(vlm)
    return vlm


def ids_of(vlm: VLM, example: Example, chain: Chain) -> torch.Tensor:
    return torch.cat([encode_prompt(vlm, example).ids, torch.tensor(completion_ids(vlm, render(chain)))])


def alone(vlm: VLM, example: Example, ids: torch.Tensor) -> torch.Tensor:
    """Logits [T, V] of one row without padding."""
    images = encode_prompt(vlm, example).images
    rest = {name: longer(t, len(ids)) if name in TOKEN_TYPES else t for name, t in images.items()}
    with torch.no_grad():
        return vlm.model(input_ids=ids[None], use_cache=False, **rest).logits[0]


def logprobs(vlm: VLM, example: Example, chain: Chain) -> torch.Tensor:
    """Log-probabilities of a whole turn's tokens."""
    ids, written = ids_of(vlm, example, chain), len(completion_ids(vlm, render(chain)))
    logs = alone(vlm, example, ids).log_softmax(-1)[-written - 1 : -1]
    return logs[range(written), ids[-written:]]


def first_update(folder: Path) -> dict[str, float]:
    return read_json(folder / "training_log.json")[0]


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in read_json(folder / "training_log.json") if "loss" in entry]


def test_a_padded_batch_is_its_rows(family: VLM, examples: list[Example]) -> None:
    rows = [ids_of(family, example, chain) for example, chain in zip(examples, CHAINS, strict=True)]
    batch = join_rows(family, rows, [encode_prompt(family, example).images for example in examples])
    with torch.no_grad():
        logits = family.model(**batch, use_cache=False).logits
    for number, (example, ids) in enumerate(zip(examples, rows, strict=True)):
        torch.testing.assert_close(logits[number, : len(ids)], alone(family, example, ids), atol=1e-4, rtol=0)


def test_rows_of_text_alone_are_a_batch(family: VLM, examples: list[Example]) -> None:
    rows = [ids_of(family, examples[1], chain) for chain in CHAINS[:2]]
    batch = join_rows(family, rows, [encode_prompt(family, examples[1]).images] * 2)
    assert set(batch) <= {"input_ids", "attention_mask"} | TOKEN_TYPES
    with torch.no_grad():
        logits = family.model(**batch, use_cache=False).logits
    for number, ids in enumerate(rows):
        torch.testing.assert_close(logits[number, : len(ids)], alone(family, examples[1], ids), atol=1e-4, rtol=0)


def test_sft_learns_in_the_parts_it_trains(family: VLM, examples: list[Example], tmp_path: Path) -> None:
    vlm = copy.deepcopy(family)
    rows = [SftRow(example, render(chain)) for example, chain in zip(examples, CHAINS, strict=True)]
    train_sft(vlm, rows, SftConfig(**TWO_UPDATES, trained=("projector", "decoder")), tmp_path)
    expected = torch.cat([logprobs(family, *row) for row in zip(examples, CHAINS, strict=True)])
    found = losses(tmp_path)
    assert found[0] == pytest.approx(-float(expected.mean()), abs=1e-3) and found[1] < found[0]
    moved = {
        part_of(name)
        for (name, now), before in zip(vlm.model.named_parameters(), family.model.parameters(), strict=True)
        if not torch.equal(now, before)
    }
    assert moved == {"projector", "decoder"}
    request = Request(examples[3], 2, seed=1, max_tokens=4)
    before, after = (Engine(loaded).sample([request]) for loaded in (vlm, load_vlm(tmp_path)))
    assert before == after


def test_prm_learns_and_scores(family: VLM, examples: list[Example], tmp_path: Path) -> None:
    vlm = copy.deepcopy(family)
    rows = [PrmRow(e, c, (1.0, 0.0, 0.5, 1.0)[: len(c.steps)], 1.0) for e, c in zip(examples, CHAINS, strict=True)]
    train_prm(vlm, rows, PrmConfig(**TWO_UPDATES), tmp_path)
    found, columns, tags, labels = losses(tmp_path), verdict_ids(family), [], []
    for row in rows:
        encoded = encode_chain_for_prm(family, row.example, row.chain)
        tags.append(alone(family, row.example, encoded.ids)[list(encoded.tags)][:, columns])
        labels += [*row.step_labels, 1.0]
    assert found[0] == pytest.approx(float(prm_loss(torch.cat(tags), torch.tensor(labels))[0]), abs=1e-3)
    assert found[1] < found[0]
    scores = PRM(load_vlm(tmp_path)).score([(examples[3], CHAINS[3])])[0]
    assert isinstance(scores, StepScores) and len(scores.steps) == 2 and scores.answer is not None


def test_dpo_sees_every_tensor_of_every_picture(family: VLM, examples: list[Example], tmp_path: Path) -> None:
    """The chosen and rejected log-probabilities that TRL logs are those of plain forwards."""
    vlm = copy.deepcopy(family)
    sides = [(chain, CHAINS[number - 1]) for number, chain in enumerate(CHAINS)]
    pairs = [
        (example, Pair(example.id, render(chosen), render(rejected), 1.0, 0.0, "test"))
        for example, (chosen, rejected) in zip(examples, sides, strict=True)
    ]
    train_dpo(vlm, copy.deepcopy(family), pairs, DpoConfig(**TWO_UPDATES), tmp_path)
    for side, name in enumerate(("logps/chosen", "logps/rejected")):
        sums = [logprobs(family, e, both[side]).sum() for e, both in zip(examples, sides, strict=True)]
        assert first_update(tmp_path)[name] == pytest.approx(float(torch.stack(sums).mean()), abs=1e-2)
    found = losses(tmp_path)
    assert found[0] == pytest.approx(0.6931, abs=1e-3) and found[1] < found[0]


def test_a_trained_model_is_saved_whole(family: VLM, examples: list[Example], tmp_path: Path) -> None:
    loaded = load_vlm(save_vlm(family, tmp_path))
    ids = ids_of(family, examples[3], CHAINS[0])
    assert torch.equal(ids_of(loaded, examples[3], CHAINS[0]), ids)
    torch.testing.assert_close(alone(loaded, examples[3], ids), alone(family, examples[3], ids), atol=1e-6, rtol=0)
