"""Parts, adapters, kept features, row lengths and dropped paths, for the stock classes of every family."""

import copy
import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
from PIL import Image  # noqa: E402

from chainofstep.models.encode import encode_prompt  # noqa: E402
from chainofstep.models.vlm import VLM, add_step_tokens  # noqa: E402
from chainofstep.problems.tasks.build import write_problems  # noqa: E402
from chainofstep.training.adapters import parts  # noqa: E402
from chainofstep.training.lengths import PromptLengths, row_lengths  # noqa: E402
from families import FAMILIES  # noqa: E402
from small_training import rows_of, train  # noqa: E402

PACKED = {"qwen2_5_vl", "qwen3_vl"}  # towers that lay pictures end to end, with the projector inside
SETTINGS = ("batch_size=2", "forward_rows=2")
TRAINED = {
    "vision": ("vision_tower.", "visual.", "vision_model."),
    "projector": ("multi_modal_projector.", "connector.", "merger", "image_newline"),
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request):
    vlm = FAMILIES[request.param](3)
    add_step_tokens(vlm)
    return request.param, vlm


@pytest.fixture
def vlm(family):
    """A copy to train."""
    return VLM(copy.deepcopy(family[1].model), family[1].processor)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    written = write_problems("test", range(3), tmp_path_factory.mktemp("pictures"))
    return [replace(example, question="Which row?" * (n + 1)) for n, example in enumerate(written)]


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def losses(out):
    return [row["loss"] for row in json.loads((out / "training_log.json").read_text()) if "loss" in row]


def test_every_weight_belongs_to_one_part(family):
    found = parts(family[1].model)
    names = [name for part in found.values() for name in part]
    assert sorted(names) == sorted(name for name, _ in family[1].model.named_parameters())
    for name in found["projector"]:
        assert any(word in name for word in TRAINED["projector"])
    for name in found["vision"]:
        assert any(word in name for word in TRAINED["vision"])
    assert any("embed" in name or "wte" in name for name in found["decoder"])


def test_only_the_trained_parts_move(family, vlm, examples, tmp_path):
    before, trained = weights(vlm.model), ("projector", "decoder")
    train("prm", vlm, rows_of("prm", examples), tmp_path, *SETTINGS, f"trained={','.join(trained)}")
    found = parts(vlm.model)
    changed = moved(before, weights(vlm.model))
    assert changed <= {name for part in trained for name in found[part]}
    assert all(changed & set(found[part]) for part in trained)
    assert all(weight.requires_grad for weight in vlm.model.parameters())


def test_kept_features_change_no_loss(family, vlm, examples, tmp_path):
    name, plain = family
    trained = "decoder" if name in PACKED else "projector,decoder"
    settings = (*SETTINGS, f"trained={trained}", "machine.cached_features=")
    twin = VLM(copy.deepcopy(plain.model), plain.processor)
    train("sft", vlm, rows_of("sft", examples), tmp_path / "kept", *settings[:-1], settings[-1] + "true")
    train("sft", twin, rows_of("sft", examples), tmp_path / "plain", *settings[:-1], settings[-1] + "false")
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)
    assert not (tmp_path / "kept" / "features").exists()
    for left, right in zip(vlm.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)


def test_an_adapter_leaves_the_base_and_trains_the_step_tokens_alone(family, vlm, examples, tmp_path):
    from peft import PeftModel

    before = weights(vlm.model)
    base = copy.deepcopy(vlm.model)
    train("sft", vlm, rows_of("sft", examples), tmp_path, *SETTINGS, "lora.rank=2", "trained=decoder")
    after = weights(vlm.model)
    changed = moved(before, after)
    assert changed <= set(parts(base)["decoder"]) and changed
    tokens = vlm.model.get_input_embeddings().weight
    embedding = next(name for name, weight in vlm.model.named_parameters() if weight is tokens)
    rows = (before[embedding] != after[embedding]).any(dim=1).nonzero()[:, 0].tolist()
    known = vlm.tokenizer.get_vocab()
    used = vlm.tokenizer(rows_of("sft", examples)[2].text, add_special_tokens=False).input_ids
    step_ids = {known[token] for token in known if token.startswith("<|reasoning") or token.startswith("<|answer")}
    assert set(rows) and set(rows) & set(used) <= step_ids
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    for name, weight in loaded.named_parameters():
        torch.testing.assert_close(weight, after[name], atol=1e-6, rtol=1e-5)


def test_rows_are_as_long_as_they_are_when_encoded(family, examples, tmp_path):
    vlm = family[1]
    wide = tmp_path / "wide.png"
    with Image.open(examples[0].images[0]) as picture:
        picture.resize((picture.width, picture.height // 2)).save(wide)
    asked = [*examples, replace(examples[0], images=(*examples[0].images, str(wide))), replace(examples[1], images=())]
    asked += [replace(example, question=f"Row {example.id}: 17?") for example in asked]
    counted = row_lengths(vlm, len(asked), lambda number: (asked[number], [""]))
    assert counted == [len(encode_prompt(vlm, example).ids) for example in asked]
    lengths = PromptLengths(vlm)
    for example in asked:
        lengths.of(example)
    assert len(lengths.pictures) == 3  # one picture, two, none


@pytest.mark.parametrize("name", ["llava", "internvl", "idefics3", "qwen2_5_vl"])
def test_paths_are_dropped_where_pictures_are_rows(name, examples, tmp_path):
    vlm, plain = FAMILIES[name](3), FAMILIES[name](3)
    add_step_tokens(vlm), add_step_tokens(plain)
    settings = (*SETTINGS, "trained=projector,decoder")
    if name in PACKED:
        with pytest.raises(ValueError, match=r"drop_path: .* lays pictures end to end"):
            train("sft", vlm, rows_of("sft", examples), tmp_path, *settings, "drop_path=0.5")
        return
    train("sft", vlm, rows_of("sft", examples), tmp_path / "dropped", *settings, "drop_path=0.9")
    twin = VLM(copy.deepcopy(plain.model), plain.processor)
    train("sft", twin, rows_of("sft", examples), tmp_path / "whole", *settings)
    assert losses(tmp_path / "dropped") != losses(tmp_path / "whole")
    prompt = encode_prompt(vlm, examples[0])
    with torch.no_grad():
        vlm.model.load_state_dict(plain.model.state_dict())
        one, other = (m(input_ids=prompt.ids[None], **prompt.images).logits for m in (vlm.model.train(), plain.model))
    assert torch.equal(one, other)  # nothing is dropped once training is over
