"""The small VLMs of many families work as the stock classes promise: they encode, see, take features, save and load."""

import inspect

import pytest

torch = pytest.importorskip("torch")
from chainofstep.chain import ALL_TOKENS  # noqa: E402
from chainofstep.models.encode import encode_prompt  # noqa: E402
from chainofstep.models.vlm import add_step_tokens, load_vlm, save_vlm  # noqa: E402
from chainofstep.problems.tasks.build import write_problems  # noqa: E402
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
