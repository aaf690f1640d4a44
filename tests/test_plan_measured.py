"""Plans against what small models really take: parameters, bytes of an update, operations, files.

The models are small, but wide enough that activations dominate as they do in large ones.
"""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
from torch.autograd.graph import saved_tensors_hooks  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel  # noqa: E402

import families  # noqa: E402
from chainofstep.chain import render  # noqa: E402
from chainofstep.models.vlm import add_step_tokens, save_vlm  # noqa: E402
from chainofstep.planning import work  # noqa: E402
from chainofstep.planning.memory import Pass, layer_bytes, training_memory  # noqa: E402
from chainofstep.planning.shape import Stack, count_parameters, shape_from_config  # noqa: E402
from chainofstep.planning.sizes import Lengths  # noqa: E402
from chainofstep.planning.stages import model_bytes, rollout_bytes  # noqa: E402
from chainofstep.problems.tasks.build import write_problems  # noqa: E402
from chainofstep.records import Pair, Rollout, to_row  # noqa: E402
from chainofstep.store import Log  # noqa: E402
from chainofstep.training.adapters import with_adapter  # noqa: E402
from chainofstep.training.common import Lora, Machine  # noqa: E402
from chainofstep.training.dpo import DpoCollator, DpoConfig, train_dpo  # noqa: E402
from chainofstep.training.prm import PrmCollator, PrmConfig, PrmRow, train_prm  # noqa: E402
from chainofstep.training.sft import SftCollator, SftConfig, SftRow, train_sft  # noqa: E402

ROWS = 6
WIDE = {"WIDTH": 256, "LAYERS": 5, "HEADS": 8, "HEAD_SIZE": 32, "VISION_WIDTH": 64, "VISION_LAYERS": 3}


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return write_problems("train", range(ROWS), tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def wide():
    """Builds wide models of any family."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in WIDE.items():
            patch.setattr(families, name, size)
        yield lambda family: _with_tokens(families.FAMILIES[family](0))


def _with_tokens(vlm):
    add_step_tokens(vlm)
    return vlm


def events(work):
    """Bytes of every allocation, and less than nothing of every release, in their order."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        work()
    found = [event for event in measured.profiler.kineto_results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(found, key=lambda event: event.start_ns())]


def peak(work):
    """The most bytes that torch held at once of what it allocated since the beginning."""
    now = most = 0
    for size in events(work):
        now += size
        most = max(most, now)
    return most


def saved_bytes(model, run):
    """Bytes that autograd keeps of one forward pass, weights apart; a storage counts once."""
    weights, kept, tensors = {w.untyped_storage().data_ptr() for w in model.parameters()}, {}, []

    def pack(tensor):
        tensors.append(tensor)  # or its place might be used again
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = run(model)
    assert loss.requires_grad
    return sum(size for place, size in kept.items() if place not in weights)


def of_a_layer(build, run):
    """Saved bytes of one layer: what four layers keep more than three."""
    return saved_bytes(build(4), run) - saved_bytes(build(3), run)


@pytest.mark.parametrize("padded", [False, True])
def test_a_decoder_layer_keeps_what_is_planned_to_the_byte(padded):
    def build(layers):
        torch.manual_seed(0)
        sizes = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_key_value_heads": 2}
        return LlamaForCausalLM(LlamaConfig(vocab_size=32, num_hidden_layers=layers, **sizes)).train()

    def run(model):
        mask = torch.ones(2, 30, dtype=torch.long)
        mask[1, 25:] = 0 if padded else 1
        ids = torch.zeros(2, 30, dtype=torch.long)
        return model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1).logits.sum()

    stack = Stack(64, 1, 64, 4, 32, 160, gated=True, activation_tensors=4, rms=True)
    assert of_a_layer(build, run) == 60 * layer_bytes(stack, 4, mask=30 if padded else 0)


def test_a_tower_layer_keeps_what_is_planned_to_the_byte():
    def build(layers):
        torch.manual_seed(0)
        sizes = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "vision_use_head": False}
        config = SiglipVisionConfig(num_hidden_layers=layers, image_size=48, patch_size=8, **sizes)
        return SiglipVisionModel(config).train()

    stack = Stack(64, 1, 64, 4, 64, 160, gated=False, activation_tensors=2, rms=False)
    real = of_a_layer(build, lambda model: model(torch.zeros(2, 3, 48, 48)).last_hidden_state.sum())
    assert real == 72 * layer_bytes(stack, 4)


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl", "qwen3_vl", "internvl", "idefics3", "gemma3"])
def test_a_model_on_no_device_has_the_parameters_of_a_real_one(family):
    vlm = families.FAMILIES[family](0)
    shape = shape_from_config(family, vlm.model.config)
    assert shape.parameters == count_parameters(vlm.model)
    assert shape.total == sum(weight.numel() for weight in vlm.model.parameters())


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_adapters_have_the_parameters_that_are_planned(family):
    vlm = _with_tokens(families.FAMILIES[family](0))
    config = SftConfig(lora=Lora(rank=4), trained=("projector", "decoder"))
    planned_count = shape_from_config(family, vlm.model.config).adapter(config.trained, 4)
    wrapped = with_adapter(vlm, config)
    assert planned_count == sum(weight.numel() for weight in wrapped.parameters() if weight.requires_grad)


def test_weights_gradients_and_moments_are_as_many_bytes_as_planned(wide):
    """AdamW keeps, beside its moments, a count of four bytes for each tensor."""
    vlm = wide("llava")
    weights = list(vlm.model.parameters())
    optimizer = torch.optim.AdamW(weights)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    shape = shape_from_config("llava", vlm.model.config)
    memory = training_memory(shape, SftConfig(batch_size=2, forward_rows=1), Pass(1, 1, 1, 1), 1, "ddp")
    assert memory.weights == sum(weight.nbytes for weight in weights)
    assert memory.gradients == sum(weight.grad.nbytes for weight in weights)
    moments = [value for state in optimizer.state.values() for value in state.values()]
    assert memory.optimizer == sum(value.nbytes for value in moments) - 4 * len(weights)


def settings(kind, **more):
    """Two updates of one pass each: in the second, the moments are there."""
    machine = Machine(gradient_checkpointing=more.pop("recomputed", False), precision=more.pop("precision", "float32"))
    return kind(learning_rate=1e-4, epochs=2, batch_size=ROWS, forward_rows=ROWS, machine=machine, **more)


def planned_peak(vlm, config, batch, kept, loss_bytes):
    """Bytes beyond the weights that the plan gives for this batch."""
    shape = shape_from_config("it", vlm.model.config)
    rows, tokens = batch["input_ids"].shape
    pictures = int((batch["input_ids"] == vlm.model.config.image_token_id).sum())
    work = Pass(rows, tokens, int(pictures * shape.patches_per_token), kept, loss_bytes)
    memory = training_memory(shape, config, work, 1, "ddp")
    return memory.total - 4 * shape.total


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("family", ["llava", "internvl"])
def test_an_update_of_sft_takes_the_planned_bytes(wide, examples, tmp_path, family, recomputed):
    vlm, config = wide(family), settings(SftConfig, recomputed=recomputed)
    rows = [SftRow(example, render(example.chain)) for example in examples]
    batch = SftCollator(vlm, rows)([{"row": number} for number in range(ROWS)])
    kept = int((batch["labels"][:, 1:] != -100).any(dim=0).sum())
    expected = planned_peak(vlm, config, batch, kept, 12)
    assert peak(lambda: train_sft(vlm, rows, config, tmp_path)) == pytest.approx(expected, rel=0.1)


def test_an_update_in_bfloat16_takes_the_planned_bytes(wide, examples, tmp_path):
    vlm, config = wide("llava"), settings(SftConfig, precision="bfloat16")
    rows = [SftRow(example, render(example.chain)) for example in examples]
    batch = SftCollator(vlm, rows)([{"row": number} for number in range(ROWS)])
    kept = int((batch["labels"][:, 1:] != -100).any(dim=0).sum())
    expected = planned_peak(vlm, config, batch, kept, 12)
    assert peak(lambda: train_sft(vlm, rows, config, tmp_path)) == pytest.approx(expected, rel=0.1)


def test_an_update_of_the_prm_takes_the_planned_bytes(wide, examples, tmp_path):
    vlm, config = wide("llava"), settings(PrmConfig)
    rows = [PrmRow(example, example.chain, (1.0,) * len(example.chain.steps), 1.0) for example in examples]
    batch = PrmCollator(vlm, rows)([{"row": number} for number in range(ROWS)])
    expected = planned_peak(vlm, config, batch, len(batch["tag_positions"].unique()), 8)
    assert peak(lambda: train_prm(vlm, rows, config, tmp_path)) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("recomputed", [False, True])
def test_an_update_of_dpo_takes_the_planned_bytes(wide, examples, tmp_path, recomputed):
    vlm, reference, config = wide("llava"), wide("llava"), settings(DpoConfig, recomputed=recomputed)
    config = replace(config, batch_size=3, forward_rows=3)
    texts = [render(example.chain) for example in examples]
    pairs = [(e, Pair(e.id, text, texts[-1], 1.0, 0.0, "")) for e, text in zip(examples[:3], texts, strict=False)]
    batch = DpoCollator(vlm, pairs)([{"row": number} for number in range(3)])
    kept = int(batch["completion_mask"][:, 1:].any(dim=0).sum())
    expected = planned_peak(vlm, config, batch, kept, 12)
    assert peak(lambda: train_dpo(vlm, reference, pairs, config, tmp_path)) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("trained", [("projector", "decoder"), ("vision", "projector", "decoder")])
def test_operations_of_a_row_are_as_many_as_planned(wide, examples, trained):
    """Written out, a decoder's attention works on all pairs of tokens, twice what is planned of it."""
    vlm, config = wide("llava"), SftConfig(trained=trained)
    rows = [SftRow(example, render(example.chain)) for example in examples[:1]]
    batch = SftCollator(vlm, rows)([{"row": 0}])
    shape, tokens = shape_from_config("llava", vlm.model.config), batch["input_ids"].shape[1]
    vlm.model.set_attn_implementation("eager")  # torch does not count the fused one on a CPU
    vlm.model.model.vision_tower.requires_grad_("vision" in trained)
    with FlopCounterMode(display=False) as counter:
        batch.pop("labels")
        vlm.model(**batch, use_cache=False).logits.sum().backward()
    pictures = int((batch["input_ids"] == vlm.model.config.image_token_id).sum())
    lengths = Lengths(question=0, picture=pictures, chain=tokens - pictures)
    expected = work.training_flops(shape, config, lengths, kept=tokens)
    twice = 3 * shape.decoder.layers * 2 * shape.decoder.queries * tokens**2
    assert counter.get_total_flops() == pytest.approx(expected + twice, rel=0.05)


def test_a_saved_model_has_the_planned_bytes(wide, tmp_path):
    vlm = wide("llava")
    vlm.model.to(torch.bfloat16)
    written = (save_vlm(vlm, tmp_path) / "model.safetensors").stat().st_size
    assert written == pytest.approx(model_bytes(shape_from_config("llava", vlm.model.config)), rel=0.01)


def test_stored_rollouts_have_about_the_planned_bytes(examples, tmp_path):
    tokenizer, log = _with_tokens(families.FAMILIES["llava"](0)).tokenizer, Log(tmp_path / "rollouts.jsonl")
    tokens, steps = [], []
    for number, example in enumerate(examples):
        ids = tuple(tokenizer(render(example.chain)).input_ids)
        log.append(to_row(Rollout(example.id, render(example.chain), ids, "answer", seed=2**40 + number)))
        tokens.append(len(ids))
        steps.append(len(example.chain.steps))
    lengths = Lengths(chain=sum(tokens) // ROWS, steps=sum(steps) / ROWS)
    assert log.path.stat().st_size / ROWS == pytest.approx(rollout_bytes(lengths, len(tokenizer)), rel=0.1)
