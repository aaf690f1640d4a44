"""The small VLMs of many families work as the stock classes promise: they encode, see, take features, save and load."""

import inspect
import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
from tokenizers.processors import TemplateProcessing  # noqa: E402
from transformers.utils import is_torchvision_available  # noqa: E402

from chainofstep.chain import ALL_TOKENS  # noqa: E402
from chainofstep.models.batch import completion_ids  # noqa: E402
from chainofstep.models.encode import encode_prompt  # noqa: E402
from chainofstep.models.engine import Engine  # noqa: E402
from chainofstep.models.families import control_texts, end_of_turn  # noqa: E402
from chainofstep.models.sampling import control_tokens  # noqa: E402
from chainofstep.models.vlm import add_step_tokens, load_vlm, save_vlm  # noqa: E402
from chainofstep.problems.tasks.build import write_problems  # noqa: E402
from chainofstep.records import Request  # noqa: E402
from families import FAMILIES  # noqa: E402


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return write_problems("test", range(8), tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module", params=FAMILIES)
def vlm(request):
    return FAMILIES[request.param](0)


def logits(vlm, prompt, **more):
    with torch.no_grad():
        return vlm.model(input_ids=prompt.ids[None], **more).logits


def image_features(vlm, images):
    """What the model's own image encoder makes of a prompt's tensors."""
    taken = inspect.signature(vlm.model.get_image_features).parameters
    with torch.no_grad():
        return vlm.model.get_image_features(**{k: v for k, v in images.items() if k in taken}, return_dict=True)


def test_a_prompt_holds_text_and_picture(vlm, examples):
    prompt = encode_prompt(vlm, examples[0])
    image_id = vlm.model.config.image_token_id
    assert 9 <= (prompt.ids == image_id).sum() <= 64
    assert "pixel_values" in prompt.images
    assert vlm.tokenizer.decode(prompt.ids[-1:]) == "<|assistant|>"
    assert len(prompt.ids) + 256 < vlm.model.config.get_text_config().max_position_embeddings


def test_logits_are_not_flat_and_follow_the_picture(vlm, examples):
    prompt, other = (encode_prompt(vlm, examples[index]) for index in (0, 1))
    seen = logits(vlm, prompt, **prompt.images)
    assert torch.isfinite(seen).all()
    assert seen[0, -1].std() > 0.5
    unseen = logits(vlm, prompt, **{**prompt.images, "pixel_values": other.images["pixel_values"]})
    assert (seen - unseen)[0, -1].abs().max() > 0.1


def test_ready_features_stand_in_for_the_picture(vlm, examples):
    prompt = encode_prompt(vlm, examples[0])
    rest = {name: value for name, value in prompt.images.items() if not name.startswith("pixel_")}
    ready = logits(vlm, prompt, mm_encoder_outputs={"image": image_features(vlm, prompt.images)}, **rest)
    torch.testing.assert_close(ready, logits(vlm, prompt, **prompt.images), rtol=0, atol=1e-5)


def test_step_tokens_widen_it_and_it_survives_a_round_trip(request, vlm, examples, tmp_path):
    fresh = FAMILIES[request.node.callspec.params["vlm"]](0)
    assert len(add_step_tokens(fresh)) == len(ALL_TOKENS)
    prompt = encode_prompt(fresh, examples[0])
    assert torch.equal(prompt.ids, encode_prompt(vlm, examples[0]).ids)
    text_before = logits(vlm, prompt, **prompt.images)
    widened = logits(fresh, prompt, **prompt.images)
    torch.testing.assert_close(widened[..., : text_before.shape[-1]], text_before, rtol=0, atol=1e-5)
    loaded = load_vlm(save_vlm(fresh, tmp_path / "saved"))
    again = encode_prompt(loaded, examples[0])
    assert torch.equal(again.ids, prompt.ids) and again.images.keys() == prompt.images.keys()
    torch.testing.assert_close(logits(loaded, again, **again.images), widened, rtol=0, atol=1e-6)


# Processors where torchvision is absent.

without_torchvision = pytest.mark.skipif(is_torchvision_available(), reason="torchvision brings video processors")
VIDEOS = {
    "video_processor_type": "InternVLVideoProcessor",
    "do_sample_frames": False,
    "size": {"height": 48, "width": 48},
}


def as_on_the_hub(folder, videos=None):
    """The files as checkpoints have them that were published before transformers 5: one for each part."""
    whole = json.loads((folder / "processor_config.json").read_text())
    pictures = whole.pop("image_processor")
    pictures["image_processor_type"] = pictures["image_processor_type"].removesuffix("Pil") + "Fast"
    whole.pop("video_processor", None)
    (folder / "processor_config.json").write_text(json.dumps(whole))
    (folder / "preprocessor_config.json").write_text(
        json.dumps(pictures | {"processor_class": whole["processor_class"]})
    )
    if videos is not None:
        (folder / "video_preprocessor_config.json").write_text(json.dumps(videos))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    return folder


@without_torchvision
def test_folders_of_the_hub_load_without_torchvision(vlm, examples, tmp_path):
    loaded = load_vlm(as_on_the_hub(save_vlm(vlm, tmp_path / "hub")))
    found, expected = encode_prompt(loaded, examples[0]), encode_prompt(vlm, examples[0])
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.images["pixel_values"], expected.images["pixel_values"])


@without_torchvision
def test_what_a_folder_says_of_videos_is_kept(tmp_path):
    folder = as_on_the_hub(save_vlm(FAMILIES["internvl"](0), tmp_path / "hub"), VIDEOS)
    for number in range(2):  # from a file of its own, then from the one of the whole processor
        folder = save_vlm(load_vlm(folder), tmp_path / f"saved {number}")
        assert json.loads((folder / "processor_config.json").read_text())["video_processor"] == VIDEOS


@without_torchvision
def test_settings_for_pictures_are_not_taken_for_a_video_processor(tmp_path):
    loaded = load_vlm(as_on_the_hub(save_vlm(FAMILIES["qwen2_5_vl"](0), tmp_path / "hub")))
    written = loaded.processor.video_processor.to_dict()
    assert written["merge_size"] == 2 and not {"image_processor_type", "video_processor_type"} & written.keys()


@without_torchvision
def test_videos_are_refused_in_words(vlm):
    if hasattr(vlm.processor, "video_processor"):
        with pytest.raises(ValueError, match="videos need torchvision, which is not installed"):
            vlm.processor.video_processor([[0]])


# What the chat templates of families do differently.


def test_a_turn_ends_as_the_template_ends_it():
    vlm = FAMILIES["idefics3"](0)
    assert vlm.tokenizer.decode([end_of_turn(vlm.processor)]) == "<|end|>"
    vlm.processor.chat_template = vlm.processor.chat_template.replace("<|end|>", "<end_of_utterance>\n")
    ending = vlm.tokenizer.convert_tokens_to_ids("<end_of_utterance>")
    assert end_of_turn(vlm.processor) == ending != vlm.tokenizer.eos_token_id
    assert completion_ids(vlm, "7")[-1] == ending
    control = control_tokens(vlm)
    assert control.turn_ends == {ending, vlm.tokenizer.eos_token_id} <= control.answer_ends
    assert not control.turn_ends & set(control.forbidden)
    vlm.processor.chat_template = vlm.processor.chat_template.replace("<end_of_utterance>\n", " ")
    assert end_of_turn(vlm.processor) == vlm.tokenizer.eos_token_id


@pytest.mark.parametrize("written", [False, True])
def test_a_chat_begins_with_one_start_of_sequence(written, examples):
    vlm = FAMILIES["llava_next"](0)
    before = encode_prompt(vlm, examples[0]).ids
    vlm.tokenizer.add_special_tokens({"bos_token": "<s>"})
    start = vlm.tokenizer.bos_token_id
    vlm.tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<s> $A", None, [("<s>", start)])
    if written:
        vlm.processor.chat_template = "{{ '<s>' }}" + vlm.processor.chat_template
    assert encode_prompt(vlm, examples[0]).ids.tolist() == [start, *before.tolist()]


def test_placeholders_spelled_out_stay_text(vlm, examples):
    """In a question and in an answer, whether or not the tokenizer calls them special."""
    spelled = replace(examples[0], question=" ".join(control_texts(vlm.processor)))
    known, image_id = encode_prompt(vlm, examples[0]), vlm.model.config.image_token_id
    assert (encode_prompt(vlm, spelled).ids == image_id).sum() == (known.ids == image_id).sum()
    *answer, _ = completion_ids(vlm, spelled.question)
    assert not set(answer) & set(vlm.tokenizer.convert_tokens_to_ids(list(control_texts(vlm.processor))))


def test_several_pictures_of_onevision_have_no_tiles(examples):
    """As it was trained; one picture alone has tiles."""
    vlm = FAMILIES["llava_onevision"](0)
    two = replace(examples[0], images=(*examples[0].images, *examples[1].images))
    one, both = (encode_prompt(vlm, example) for example in (examples[0], two))
    image_id = vlm.model.config.image_token_id
    assert ((one.ids == image_id).sum(), (both.ids == image_id).sum()) == (9 + 36 + 6, 2 * (9 + 1))
    assert both.images["batch_num_images"].tolist() == [2]


# Half precision.


def test_bfloat16_weights_see_about_the_same(vlm, examples, tmp_path):
    half = load_vlm(save_vlm(vlm, tmp_path / "saved"), dtype="bfloat16")
    assert {tensor.dtype for tensor in half.model.parameters()} == {torch.bfloat16}
    prompt = encode_prompt(vlm, examples[0])
    plain, rounded = (logits(one, prompt, **prompt.images)[0].float().log_softmax(-1) for one in (vlm, half))
    assert (plain.exp() * (plain - rounded)).sum(-1).mean() < 0.3
    assert Engine(half).sample([Request(examples[0], 2, max_tokens=3)])[0][1].index == 1
