"""InternVL's own layout: a small checkpoint computes after conversion what a plain forward of the layout computes."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from torch.nn import functional  # noqa: E402
from transformers import Qwen2Config, Qwen2ForCausalLM  # noqa: E402

from chainofstep.chain import REASONING_TOKENS, Chain, Step, render  # noqa: E402
from chainofstep.models.batch import completion_ids  # noqa: E402
from chainofstep.models.checks import check_policy  # noqa: E402
from chainofstep.models.conversion import convert_internvl  # noqa: E402
from chainofstep.models.encode import encode_prompt  # noqa: E402
from chainofstep.models.vlm import load_vlm  # noqa: E402
from chainofstep.problems.tasks.build import write_problems  # noqa: E402
from families import tokenizer_with  # noqa: E402

WIDTH, HEADS, KEY_VALUE_HEADS, LAYERS = 32, 4, 2, 2
VISION_WIDTH, VISION_HEADS, PATCH, TILE = 16, 2, 12, 48
EPSILON = 1e-5
EXTRA = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "<|im_start|>", "<|im_end|>", *REASONING_TOKENS]


def tower_weights(draw: Any) -> dict[str, torch.Tensor]:
    places = (TILE // PATCH) ** 2
    root, wide = "vision_model.embeddings", 2 * VISION_WIDTH
    made = {
        f"{root}.class_embedding": draw(1, 1, VISION_WIDTH),
        f"{root}.position_embedding": draw(1, places + 1, VISION_WIDTH),
        f"{root}.patch_embedding.weight": draw(VISION_WIDTH, 3, PATCH, PATCH),
        f"{root}.patch_embedding.bias": draw(VISION_WIDTH),
    }
    shapes = {"attn.qkv": (3 * VISION_WIDTH, VISION_WIDTH), "attn.proj": (VISION_WIDTH, VISION_WIDTH)}
    shapes |= {"mlp.fc1": (wide, VISION_WIDTH), "mlp.fc2": (VISION_WIDTH, wide)}
    shapes |= {"norm1": (VISION_WIDTH,), "norm2": (VISION_WIDTH,)}
    for layer in range(LAYERS):
        root = f"vision_model.encoder.layers.{layer}"
        for name, shape in shapes.items():
            made |= {f"{root}.{name}.weight": draw(*shape), f"{root}.{name}.bias": draw(shape[0])}
        made |= {f"{root}.{name}.weight": draw(VISION_WIDTH) for name in ("attn.q_norm", "attn.k_norm")}
        made |= {f"{root}.{name}": draw(VISION_WIDTH) for name in ("ls1", "ls2")}
    for place, shape in {"0": (4 * VISION_WIDTH,), "1": (WIDTH, 4 * VISION_WIDTH), "3": (WIDTH, WIDTH)}.items():
        made |= {f"mlp1.{place}.weight": draw(*shape), f"mlp1.{place}.bias": draw(shape[0])}
    return made


def internlm2_weights(draw: Any, vocabulary: int) -> dict[str, torch.Tensor]:
    head, wide = WIDTH // HEADS, 2 * WIDTH
    root = "language_model.model"
    made = {f"{root}.tok_embeddings.weight": draw(vocabulary, WIDTH), f"{root}.norm.weight": draw(WIDTH)}
    made["language_model.output.weight"] = draw(vocabulary, WIDTH)
    shapes = {"attention.wqkv": ((HEADS + 2 * KEY_VALUE_HEADS) * head, WIDTH), "attention.wo": (WIDTH, WIDTH)}
    shapes |= {"feed_forward.w1": (wide, WIDTH), "feed_forward.w2": (WIDTH, wide), "feed_forward.w3": (wide, WIDTH)}
    shapes |= {"attention_norm": (WIDTH,), "ffn_norm": (WIDTH,)}
    for layer in range(LAYERS):
        made |= {f"{root}.layers.{layer}.{name}.weight": draw(*shape) for name, shape in shapes.items()}
    return made


def text_config(**more: Any) -> dict[str, Any]:
    """As the checkpoints' config.json has it; `vocab_size` is from before tokens were added."""
    sizes = {"vocab_size": 11, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "intermediate_size": 2 * WIDTH}
    sizes |= {"num_attention_heads": HEADS, "num_key_value_heads": KEY_VALUE_HEADS, "hidden_act": "silu"}
    sizes |= {"max_position_embeddings": 1024, "rms_norm_eps": EPSILON, "rope_theta": 1000.0}
    dynamic = {"type": "dynamic", "factor": 2.0}
    return (
        {"architectures": ["InternLM2ForCausalLM"], "rope_scaling": dynamic, "tie_word_embeddings": False}
        | sizes
        | more
    )


def write_remote(folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """A checkpoint in the remote layout in two files, its config and its tokenizer."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * shape[-1] ** -0.5 + (len(shape) == 1)

    folder.mkdir()
    tokenizer = tokenizer_with(EXTRA)
    tokenizer.save_pretrained(folder)
    tower, decoder = tower_weights(draw), internlm2_weights(draw, len(tokenizer))
    save_file(tower, folder / "model-00001-of-00002.safetensors")
    save_file(decoder, folder / "model-00002-of-00002.safetensors")
    vision = {"hidden_size": VISION_WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": VISION_HEADS}
    vision |= {"intermediate_size": 2 * VISION_WIDTH, "image_size": TILE, "patch_size": PATCH, "hidden_act": "gelu"}
    vision |= {"layer_norm_eps": EPSILON, "norm_type": "layer_norm", "qkv_bias": True, "qk_normalization": True}
    config = {"model_type": "internvl_chat", "ps_version": "v2", "template": "internvl2_5", "select_layer": -1}
    config |= {"downsample_ratio": 0.5, "max_dynamic_patch": 4, "force_image_size": TILE}
    (folder / "config.json").write_text(
        json.dumps(config | {"vision_config": vision, "llm_config": text_config()} | changes)
    )
    return tower | decoder


# The layout's own computation, written from its definition.


def linear(weights: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def normed(weights: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.pow(2).mean(-1, keepdim=True) + EPSILON).sqrt() * weights[f"{name}.weight"]
        + weights[f"{name}.bias"]
    )


def scaled(weight: torch.Tensor, x: torch.Tensor, epsilon: float = EPSILON) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + epsilon).sqrt() * weight


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    """Attention of [heads, T, D]; the heads side by side [T, heads * D]."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -math.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)


def see(weights: dict[str, torch.Tensor], tile: torch.Tensor) -> torch.Tensor:
    """Tokens [4, WIDTH] of a tile [3, TILE, TILE]."""
    root = "vision_model.embeddings"
    patches = functional.conv2d(
        tile[None], weights[f"{root}.patch_embedding.weight"], weights[f"{root}.patch_embedding.bias"], stride=PATCH
    )[0]
    x = torch.cat([weights[f"{root}.class_embedding"][0], patches.flatten(1).T])
    x = x + weights[f"{root}.position_embedding"][0]
    for layer in range(LAYERS):
        root = f"vision_model.encoder.layers.{layer}"
        q, k, v = linear(weights, f"{root}.attn.qkv", normed(weights, f"{root}.norm1", x)).chunk(3, dim=-1)
        q, k = (scaled(weights[f"{root}.attn.{n}_norm.weight"], z, 1e-6) for n, z in (("q", q), ("k", k)))
        q, k, v = (part.unflatten(-1, (VISION_HEADS, -1)).transpose(0, 1) for part in (q, k, v))
        x = x + linear(weights, f"{root}.attn.proj", attend(q, k, v, causal=False)) * weights[f"{root}.ls1"]
        inner = functional.gelu(linear(weights, f"{root}.mlp.fc1", normed(weights, f"{root}.norm2", x)))
        x = x + linear(weights, f"{root}.mlp.fc2", inner) * weights[f"{root}.ls2"]
    side = TILE // PATCH
    grid = x[1:].view(side, side, VISION_WIDTH)
    # Two by two patches are one token: first the pair of a row, then the row below.
    tokens = [
        torch.cat([grid[r, c], grid[r, c + 1], grid[r + 1, c], grid[r + 1, c + 1]])
        for r in range(0, side, 2)
        for c in range(0, side, 2)
    ]
    inner = functional.gelu(linear(weights, "mlp1.1", normed(weights, "mlp1.0", torch.stack(tokens))))
    return linear(weights, "mlp1.3", inner)


def rotated(x: torch.Tensor, theta: float = 1000.0) -> torch.Tensor:
    """[heads, T, D] with rotary positions, halves of a head as the two parts of complex numbers."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] * theta ** (-torch.arange(half) / half)
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * angles.cos() - right * angles.sin(), right * angles.cos() + left * angles.sin()], dim=-1)


def read(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Logits [T, V] of embedded tokens [T, WIDTH], by InternLM 2."""
    groups, head = HEADS // KEY_VALUE_HEADS, WIDTH // HEADS
    for layer in range(LAYERS):
        root = f"language_model.model.layers.{layer}"
        fused = linear(weights, f"{root}.attention.wqkv", scaled(weights[f"{root}.attention_norm.weight"], x))
        fused = fused.view(len(x), KEY_VALUE_HEADS, groups + 2, head)
        q = fused[:, :, :groups].reshape(len(x), HEADS, head).transpose(0, 1)
        k, v = (fused[:, :, place].repeat_interleave(groups, dim=1).transpose(0, 1) for place in (groups, groups + 1))
        seen = attend(rotated(q), rotated(k), v, causal=True)
        x = x + linear(weights, f"{root}.attention.wo", seen)
        inner = scaled(weights[f"{root}.ffn_norm.weight"], x)
        gate = functional.silu(linear(weights, f"{root}.feed_forward.w1", inner))
        x = x + linear(weights, f"{root}.feed_forward.w2", gate * linear(weights, f"{root}.feed_forward.w3", inner))
    return linear(weights, "language_model.output", scaled(weights["language_model.model.norm.weight"], x))


def test_a_converted_checkpoint_computes_the_same(tmp_path: Path) -> None:
    weights = write_remote(tmp_path / "remote")
    vlm = load_vlm(convert_internvl(tmp_path / "remote", tmp_path / "converted"))
    example = write_problems("test", range(1), tmp_path)[0]
    prompt = encode_prompt(vlm, example)
    ids = torch.cat([prompt.ids, torch.tensor(completion_ids(vlm, render(Chain((Step("look", "3 + 4", ""),), "7"))))])
    with torch.no_grad():
        found = vlm.model(input_ids=ids[None], pixel_values=prompt.images["pixel_values"]).logits[0]
    embedded = weights["language_model.model.tok_embeddings.weight"][ids].clone()
    seen = torch.cat([see(weights, tile) for tile in prompt.images["pixel_values"]])
    embedded[ids == vlm.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")] = seen
    assert len(prompt.images["pixel_values"]) == 5 and len(seen) == 20
    torch.testing.assert_close(found, read(weights, embedded), atol=1e-4, rtol=1e-4)


def test_a_converted_checkpoint_is_a_policy_with_the_authors_template(tmp_path: Path) -> None:
    write_remote(tmp_path / "remote")
    vlm = load_vlm(convert_internvl(tmp_path / "remote", tmp_path / "converted"))
    check_policy(vlm)
    example = write_problems("test", range(1), tmp_path)[0]
    text = vlm.tokenizer.decode(encode_prompt(vlm, example).ids, clean_up_tokenization_spaces=False)
    assert text.startswith("<|im_start|>system\n你是书生·万象")
    assert f"<|im_start|>user\n<img>{'<IMG_CONTEXT>' * 20}</img>\n{example.question}<|im_end|>\n" in text
    assert text.endswith("<|im_start|>assistant\n")
    assert completion_ids(vlm, "7")[-1] == vlm.tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_qwen_decoder_keeps_its_weights(tmp_path: Path) -> None:
    write_remote(tmp_path / "remote")
    decoder = tmp_path / "remote" / "model-00002-of-00002.safetensors"
    stated = text_config(architectures=["Qwen2ForCausalLM"], rope_scaling=None)
    own = {name: value for name, value in stated.items() if name != "architectures"}
    torch.manual_seed(1)
    qwen = Qwen2ForCausalLM(Qwen2Config(**own | {"vocab_size": len(tokenizer_with(EXTRA))})).eval()
    save_file({f"language_model.{name}": tensor for name, tensor in qwen.state_dict().items()}, decoder)
    config = json.loads((tmp_path / "remote" / "config.json").read_text())
    (tmp_path / "remote" / "config.json").write_text(json.dumps(config | {"llm_config": stated}))
    vlm = load_vlm(convert_internvl(tmp_path / "remote", tmp_path / "converted"))
    ids = torch.tensor([vlm.tokenizer("The sum of row 2 is 12.").input_ids])
    with torch.no_grad():
        torch.testing.assert_close(vlm.model(ids).logits, qwen(ids).logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ps_version": "v1"}, "ps_version is 'v1', not 'v2'"),
        ({"template": "Hermes-2"}, "template is 'Hermes-2'"),
        ({"model_type": "internvl"}, "model_type is 'internvl', not 'internvl_chat'"),
        ({"llm_config": text_config(architectures=["Phi3ForCausalLM"])}, "the decoder is Phi3ForCausalLM"),
        (
            {"llm_config": text_config(num_hidden_layers=3)},
            r"layers\.2\.input_layernorm.weight is missing, not \(32,\)",
        ),
        (
            {"llm_config": text_config(intermediate_size=7)},
            r"layers\.0\.mlp.down_proj.weight is \(32, 64\), not \(32, 7\)",
        ),
    ],
)
def test_what_the_class_cannot_hold_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_remote(tmp_path / "remote", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        convert_internvl(tmp_path / "remote", tmp_path / "converted")
    assert "\n" not in str(caught.value) and not (tmp_path / "converted").exists()


def test_a_tokenizer_of_code_is_refused_and_another_taken(tmp_path: Path) -> None:
    write_remote(tmp_path / "remote")
    for file in (tmp_path / "remote").glob("*token*"):
        file.unlink()
    with pytest.raises(ValueError, match="no tokenizer that transformers reads without code"):
        convert_internvl(tmp_path / "remote", tmp_path / "converted")
    tokenizer_with(EXTRA).save_pretrained(tmp_path / "other")
    assert load_vlm(convert_internvl(tmp_path / "remote", tmp_path / "converted", tmp_path / "other"))
    with pytest.raises(ValueError, match="converted is not empty"):
        convert_internvl(tmp_path / "remote", tmp_path / "converted", tmp_path / "other")
