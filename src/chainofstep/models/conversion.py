"""InternVL checkpoints in the layout of their own code (`InternVLChatModel`) as those of transformers' InternVL class.

InternVL2.5, InternVL3 and the authors' checkpoints are published so. Their code would come with the weights; here only
names change, and fused query-key-value weights are taken apart. One file of weights is in memory at a time, and at the
end names and shapes are those of the class, or nothing was converted. The format of the sources: InternVL's
`modeling_internvl_chat.py`, `modeling_intern_vit.py` and `modeling_internlm2.py`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVisionConfig,
    LlamaConfig,
    Qwen2Config,
)

from chainofstep.models.checks import REMOTE_LAYOUT
from chainofstep.models.processors import NoVideos, allow_no_torchvision
from chainofstep.store import read_json, write_json

#: Beginnings of names, longest first where one begins another.
_NAMES = {
    "vision_model.embeddings.class_embedding": "model.vision_tower.embeddings.cls_token",
    "vision_model.embeddings.position_embedding": "model.vision_tower.embeddings.position_embeddings",
    "vision_model.embeddings.patch_embedding": "model.vision_tower.embeddings.patch_embeddings.projection",
    "vision_model.encoder.layers": "model.vision_tower.encoder.layer",
    "mlp1.0": "model.multi_modal_projector.layer_norm",
    "mlp1.1": "model.multi_modal_projector.linear_1",
    "mlp1.3": "model.multi_modal_projector.linear_2",
    "language_model.lm_head": "lm_head",
    "language_model.output": "lm_head",
    "language_model.model.tok_embeddings": "model.language_model.embed_tokens",
    "language_model.model": "model.language_model",
}
#: Names inside a layer, of InternViT and of InternLM 2.
_INSIDE = {
    "attn.proj": "attention.projection_layer",
    "attn.q_norm": "attention.q_norm",
    "attn.k_norm": "attention.k_norm",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "ls1": "lambda_1",
    "ls2": "lambda_2",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_INSIDE_PATTERN = re.compile(r"(\.layers?\.\d+\.)(" + "|".join(re.escape(name) for name in _INSIDE) + r")(?=\.|$)")
_DECODERS = {"Qwen2ForCausalLM": Qwen2Config, "LlamaForCausalLM": LlamaConfig, "InternLM2ForCausalLM": LlamaConfig}
_DECODER_FIELDS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling"),
    *("tie_word_embeddings", "initializer_range"),
)
_TOWER_FIELDS = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "hidden_act": "hidden_act",
    "norm_type": "norm_type",
    "layer_norm_eps": "layer_norm_eps",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "qkv_bias": "attention_bias",
    "qk_normalization": "use_qk_norm",
}
_PICTURE_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    # The processor class asks for a video token, too. One that no text uses is taken: a new one would have the id of
    # the first row behind the embedding.
    "video_token": "<quad>",
}
TURN_END = "<|im_end|>"
#: The system message of InternVL's template `internvl2_5`, which the authors trained with.
_SYSTEM = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
_TEMPLATE = (
    "{%- if not messages or messages[0]['role'] != 'system' -%}"
    "{{ '<|im_start|>system\n" + _SYSTEM + "<|im_end|>\n' }}{%- endif -%}"
    "{%- for message in messages -%}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<IMG_CONTEXT>\n' }}{%- elif part['type'] == 'text' -%}{{ part['text'] }}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}{{ '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


def convert_internvl(folder: str | Path, out: str | Path, tokenizer: str | Path | None = None) -> Path:
    """Write the checkpoint of a local folder to the empty folder `out`, as `load_vlm` and the Auto classes read it.

    `tokenizer` is a folder or hub id to take the tokenizer from where the checkpoint's own is code (InternLM 2).
    ValueError for a checkpoint that the class cannot hold.
    """
    source, target = Path(folder), Path(out)
    files = sorted(source.glob("*.safetensors"))
    if not (source / "config.json").exists() or not files:
        raise ValueError(f"{folder} has no config.json or no *.safetensors; give a downloaded InternVL checkpoint")
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{out} is not empty; give a new folder")
    stated = read_json(source / "config.json")
    _check_stated(stated, folder)
    read = _tokenizer(source, tokenizer)
    shapes = _shapes(files)
    config = _config(stated, read, _vocabulary(shapes, folder))
    _check_shapes(shapes, config)
    target.mkdir(parents=True, exist_ok=True)
    _convert_weights(files, config, target)
    config.save_pretrained(target)
    _processor(stated, config, read).save_pretrained(target)
    ends = sorted({read.eos_token_id, read.convert_tokens_to_ids(TURN_END)} - {None})
    GenerationConfig(eos_token_id=ends, pad_token_id=read.pad_token_id).save_pretrained(target)
    return target


def _check_stated(stated: Mapping[str, Any], folder: str | Path) -> None:
    """ValueError for settings that the class in transformers computes otherwise."""
    expected = {"model_type": REMOTE_LAYOUT, "ps_version": "v2", "template": "internvl2_5", "select_layer": -1}
    for name, value in expected.items():
        if stated.get(name) != value:
            raise ValueError(
                f"{folder}/config.json: {name} is {stated.get(name)!r}, not {value!r};"
                " InternVL2.5, InternVL3 and what was trained from them can be converted"
            )
    decoder = stated["llm_config"].get("architectures", ["nothing"])[0]
    if decoder not in _DECODERS:
        raise ValueError(f"{folder}/config.json: the decoder is {decoder}; convertible are {', '.join(_DECODERS)}")


def _tokenizer(source: Path, other: str | Path | None) -> Any:
    """The tokenizer, with the names by which the processor asks for its picture tokens."""
    try:
        known = AutoTokenizer.from_pretrained(other or source).get_vocab()
        tokenizer = AutoTokenizer.from_pretrained(other or source, extra_special_tokens=_PICTURE_TOKENS)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{other or source} has no tokenizer that transformers reads without code ({reason}); give `tokenizer=` the"
            " folder or hub id of the same model in -hf layout"
        ) from error
    missing = [token for token in (*_PICTURE_TOKENS.values(), TURN_END) if token not in known]
    if missing:
        raise ValueError(f"{other or source}: the tokenizer has no token {missing[0]!r}; give an InternVL checkpoint's")
    return tokenizer


def _config(stated: Mapping[str, Any], tokenizer: Any, vocabulary: int) -> InternVLConfig:
    decoder, tower = stated["llm_config"], stated["vision_config"]
    text = {name: decoder[name] for name in _DECODER_FIELDS if decoder.get(name) is not None}
    text |= {"vocab_size": vocabulary, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision = {ours: tower[theirs] for theirs, ours in _TOWER_FIELDS.items() if theirs in tower}
    tied = bool(text.get("tie_word_embeddings", False))
    size, patch, ratio = tower["image_size"], tower["patch_size"], stated.get("downsample_ratio", 0.5)
    return InternVLConfig(
        text_config=_DECODERS[decoder["architectures"][0]](**text, pad_token_id=tokenizer.pad_token_id),
        vision_config=InternVLVisionConfig(**vision),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=int((size // patch * ratio) ** 2),
        downsample_ratio=ratio,
        tie_word_embeddings=tied,
        architectures=["InternVLForConditionalGeneration"],
    )


def _shapes(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Every weight by name as a tensor without memory."""
    shapes = {}
    for file in files:
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118, it is no dict
                shapes[name] = torch.empty(weights.get_slice(name).get_shape(), device="meta")
    return shapes


def _vocabulary(shapes: Mapping[str, torch.Tensor], folder: str | Path) -> int:
    """Rows of the input embedding: tokens may have been added since the config was written."""
    for name, tensor in shapes.items():
        if name.endswith(("embed_tokens.weight", "tok_embeddings.weight")):
            return len(tensor)
    raise ValueError(f"{folder}: no embedding among its weights; copy the checkpoint again")


def _convert_weights(files: Sequence[Path], config: InternVLConfig, target: Path) -> None:
    """Write every file's weights under their new names, and the index."""
    places: dict[str, str] = {}
    size = 0
    for number, file in enumerate(files, 1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        with safe_open(file, "pt") as weights:
            found = (new for old in weights.keys() for new in _converted(old, weights.get_tensor(old), config))  # noqa: SIM118
            converted = {new: tensor.contiguous() for new, tensor in found}
        save_file(converted, target / name, {"format": "pt"})
        places |= dict.fromkeys(converted, name)
        size += sum(tensor.nbytes for tensor in converted.values())
    write_json(target / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": places})


def _converted(name: str, tensor: torch.Tensor, config: InternVLConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """The new name and tensor, or three of them for fused queries, keys and values."""
    begin = next((old for old in _NAMES if name == old or name.startswith(f"{old}.")), "")
    renamed = _NAMES[begin] + name.removeprefix(begin) if begin else name
    if ".attn.qkv." in renamed:
        for letter, part in zip("qkv", tensor.chunk(3), strict=True):
            yield renamed.replace(".attn.qkv.", f".attention.{letter}_proj."), part
    elif ".attention.wqkv." in renamed:
        for letter, part in zip("qkv", _apart(tensor, config.text_config), strict=True):
            yield renamed.replace(".attention.wqkv.", f".self_attn.{letter}_proj."), part
    else:
        yield _INSIDE_PATTERN.sub(lambda match: match.group(1) + _INSIDE[match.group(2)], renamed), tensor


def _apart(fused: torch.Tensor, decoder: Any) -> list[torch.Tensor]:
    """Queries, keys and values of InternLM 2, whose rows are grouped by key-value head: queries, one key, one value."""
    groups = decoder.num_attention_heads // decoder.num_key_value_heads
    heads = fused.unflatten(0, (decoder.num_key_value_heads, groups + 2, -1))
    return [part.flatten(0, 2) for part in heads.split([groups, 1, 1], dim=1)]


def _check_shapes(shapes: Mapping[str, torch.Tensor], config: InternVLConfig) -> None:
    """ValueError unless the new names and shapes are those of the class."""
    with torch.device("meta"):
        model = InternVLForConditionalGeneration(config)
    found = {new: tuple(part.shape) for old, tensor in shapes.items() for new, part in _converted(old, tensor, config)}
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        found.setdefault("lm_head.weight", expected["lm_head.weight"])
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            wanted, there = expected.get(name, "no weight of the class"), found.get(name, "missing")
            raise ValueError(
                f"the weight {name} is {there}, not {wanted}: config.json is not that of these weights, or the"
                " checkpoint is of another model"
            )


def _processor(stated: Mapping[str, Any], config: InternVLConfig, tokenizer: Any) -> InternVLProcessor:
    """Tiles as InternVL cuts them, up to the checkpoint's `max_dynamic_patch`, and its template."""
    allow_no_torchvision()
    size = stated.get("force_image_size") or config.vision_config.image_size[0]
    images = GotOcr2ImageProcessorPil(
        size={"height": size, "width": size},
        crop_to_patches=bool(stated.get("dynamic_image_size", True)),
        min_patches=stated.get("min_dynamic_patch", 1),
        max_patches=stated.get("max_dynamic_patch", 12),
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    return InternVLProcessor(images, tokenizer, NoVideos(), config.image_seq_length, _TEMPLATE)
