"""Very small VLMs of many families, with random weights: stock classes, a tokenizer made on the spot, no downloads.

`FAMILIES[name](seed)` is a fresh VLM without step tokens. Sizes are as small as the families allow, but every one has
what makes its family odd: grouped keys and values, windows, tiles, three-part positions, bidirectional pictures.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import transformers as hf
from transformers import PreTrainedTokenizerFast

from chainofstep.models.processors import NoVideos, allow_no_torchvision
from chainofstep.models.tiny import CHAT_TEMPLATE, END, IMAGE, PAD, ROLES, build_processor, build_tokenizer, language
from chainofstep.models.vlm import VLM
from chainofstep.problems.tasks.canvas import CELL, SIZE

WIDTH, LAYERS, HEADS, KEY_VALUE_HEADS, HEAD_SIZE = 64, 3, 4, 2, 16
VISION_WIDTH, VISION_LAYERS = 32, 2
TILE = SIZE // 2  # families that cut pictures up see four tiles and the whole


allow_no_torchvision()
texts = cache(language)


def tokenizer_with(extra: Sequence[str] = (), named: dict[str, str] | None = None) -> PreTrainedTokenizerFast:
    """The small models' tokenizer with a family's special tokens; `named` ones are attributes of it, too."""
    core = build_tokenizer(texts()).backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        padding_side="right",
        extra_special_tokens=dict(named or {}),
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE, *ROLES, *extra]})
    return tokenizer


def chat(picture: str) -> str:
    """The chat template, with what the family's processor expects in the place of a picture."""
    return CHAT_TEMPLATE.replace(IMAGE, picture)


def ends(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}


def decoder(config_class: type, tokenizer: PreTrainedTokenizerFast, tied: bool = False, **more: Any) -> Any:
    """A decoder's config: grouped keys and values, everything else as `more` says."""
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": tied,
    }
    return config_class(**{**sizes, **ends(tokenizer), **more})


def tower(config_class: type, image_size: int, patch_size: int, **more: Any) -> Any:
    """A vision tower's config."""
    return config_class(
        hidden_size=VISION_WIDTH,
        intermediate_size=2 * VISION_WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=2,
        image_size=image_size,
        patch_size=patch_size,
        **more,
    )


def finish(model_class: type, config: Any, processor: Any, seed: int) -> VLM:
    """The model with weights from `seed`."""
    torch.manual_seed(seed)  # biases, and whatever else `initialize` leaves as the family draws it
    model = model_class(config)
    initialize(model, seed)
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    return VLM(model.eval(), processor)


def initialize(model: torch.nn.Module, seed: int) -> None:
    """Weights whose outputs are as large as their inputs, a sharp head and sharp attention.

    So logits are far from flat, and a wrong mask, position or picture shows in them. Token embeddings are small, or a
    tied head would only ever repeat the last token; for the same reason Gemma's norms behind its layers are large.
    """
    generator = torch.Generator().manual_seed(seed)
    tables = ("embed", "wte", "cls_token", "image_newline")
    sharp = {"lm_head": 3.0, "q_proj": 2.0, "multi_modal_projector.linear_2": 2.0}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(table in name for table in tables) and "patch_embed" not in name:
                weight.normal_(0, 0.3, generator=generator)
            elif weight.dim() >= 2:
                scale = next((scale for part, scale in sharp.items() if part in name), 1.0)
                weight.normal_(0, scale * weight[0].numel() ** -0.5, generator=generator)
            elif name.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
                weight.fill_(1.5)


def llava_of(text: Any, tokenizer: PreTrainedTokenizerFast, seed: int) -> VLM:
    """LLaVA with a SigLIP tower and this decoder; a picture is 36 tokens."""
    config = hf.LlavaConfig(
        vision_config=tower(hf.SiglipVisionConfig, SIZE, CELL, vision_use_head=False),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(SIZE // CELL) ** 2,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=text.tie_word_embeddings,
        **ends(tokenizer),
    )
    return finish(hf.LlavaForConditionalGeneration, config, build_processor(tokenizer), seed)


def llava(seed: int) -> VLM:
    """LLaVA with a Llama decoder."""
    tokenizer = tokenizer_with()
    return llava_of(decoder(hf.LlamaConfig, tokenizer), tokenizer, seed)


def llava_mistral(seed: int) -> VLM:
    """LLaVA with a Mistral decoder: every layer sees the last 24 tokens only."""
    tokenizer = tokenizer_with()
    return llava_of(decoder(hf.MistralConfig, tokenizer, sliding_window=24), tokenizer, seed)


def llava_gemma2(seed: int) -> VLM:
    """LLaVA with a Gemma 2 decoder: capped attention scores, and a window of 16 in every other layer. Tied head."""
    tokenizer = tokenizer_with()
    text = decoder(
        hf.Gemma2Config,
        tokenizer,
        tied=True,
        head_dim=HEAD_SIZE,
        query_pre_attn_scalar=HEAD_SIZE,
        sliding_window=16,
        attn_logit_softcapping=2.0,
    )
    return llava_of(text, tokenizer, seed)


def llava_legacy(seed: int) -> VLM:
    """LLaVA with a GPT-J decoder: attention code of its own, which no attention interface reaches. No groups."""
    tokenizer = tokenizer_with()
    text = hf.GPTJConfig(
        vocab_size=len(tokenizer),
        n_positions=1024,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        rotary_dim=HEAD_SIZE // 2,
        n_inner=2 * WIDTH,
        **ends(tokenizer),
    )
    return llava_of(text, tokenizer, seed)


def llava_next(seed: int) -> VLM:
    """LLaVA-NeXT: a CLIP tower with a class token, a picture as a whole and in tiles with line ends, 51 tokens."""
    tokenizer = tokenizer_with()
    grid = [[TILE, SIZE], [SIZE, TILE], [SIZE, SIZE]]
    images = hf.LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE}, image_grid_pinpoints=grid
    )
    processor = hf.LlavaNextProcessor(images, tokenizer, CELL, "default", chat(IMAGE), num_additional_image_tokens=1)
    config = hf.LlavaNextConfig(
        vision_config=tower(hf.CLIPVisionConfig, TILE, CELL),
        text_config=decoder(hf.LlamaConfig, tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(TILE // CELL) ** 2,
        image_grid_pinpoints=grid,
        **ends(tokenizer),
    )
    return finish(hf.LlavaNextForConditionalGeneration, config, processor, seed)


def llava_onevision(seed: int) -> VLM:
    """LLaVA-OneVision: a SigLIP tower and a Qwen 2 decoder, tiles as LLaVA-NeXT has them, 51 tokens. Tied head."""
    tokenizer = tokenizer_with(["<video>"])
    grid = [[TILE, SIZE], [SIZE, TILE], [SIZE, SIZE]]
    images = hf.LlavaOnevisionImageProcessorPil(size={"height": TILE, "width": TILE}, image_grid_pinpoints=grid)
    patches = (TILE // CELL) ** 2
    processor = hf.LlavaOnevisionProcessor(images, tokenizer, NoVideos(), patches, "full", chat(IMAGE))
    config = hf.LlavaOnevisionConfig(
        vision_config=tower(hf.SiglipVisionConfig, TILE, CELL, vision_use_head=False),
        text_config=decoder(hf.Qwen2Config, tokenizer, tied=True),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
        tie_word_embeddings=True,
        **ends(tokenizer),
    )
    return finish(hf.LlavaOnevisionForConditionalGeneration, config, processor, seed)


QWEN_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
QWEN_PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_PATCH = CELL // 2  # two by two of them are one token


def qwen_processor(processor_class: type, tokenizer: PreTrainedTokenizerFast) -> Any:
    images = hf.Qwen2VLImageProcessorPil(
        size={"shortest_edge": CELL**2, "longest_edge": SIZE**2}, patch_size=QWEN_PATCH, merge_size=2
    )
    return processor_class(images, tokenizer, NoVideos(), chat_template=chat(QWEN_PICTURE))


def qwen_tower(config_class: type, **more: Any) -> Any:
    return config_class(
        depth=VISION_LAYERS,
        hidden_size=VISION_WIDTH,
        intermediate_size=2 * VISION_WIDTH,
        num_heads=2,
        patch_size=QWEN_PATCH,
        out_hidden_size=WIDTH,
        **more,
    )


def qwen_positions(**more: Any) -> dict[str, Any]:
    """Positions in three parts: time, row, column."""
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], **more}


def qwen2_5_vl(seed: int) -> VLM:
    """Qwen 2.5 VL: positions in three parts, a tower with windows and as many patches as the picture has; 36 tokens."""
    tokenizer = tokenizer_with(list(QWEN_TOKENS.values()))
    config = hf.Qwen2_5_VLConfig(
        vision_config=qwen_tower(
            hf.Qwen2_5_VLConfig.sub_configs["vision_config"], window_size=2 * CELL, fullatt_block_indexes=[1]
        ),
        text_config=decoder(hf.Qwen2_5_VLTextConfig, tokenizer, rope_parameters=qwen_positions()),
        tie_word_embeddings=False,
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in QWEN_TOKENS.items()},
        **ends(tokenizer),
    )
    processor = qwen_processor(hf.Qwen2_5_VLProcessor, tokenizer)
    return finish(hf.Qwen2_5_VLForConditionalGeneration, config, processor, seed)


def qwen3_vl(seed: int) -> VLM:
    """Qwen 3 VL: as before, and features of the tower's lower layers are added to the decoder's. Tied head."""
    tokenizer = tokenizer_with(list(QWEN_TOKENS.values()))
    config = hf.Qwen3VLConfig(
        vision_config=qwen_tower(
            hf.Qwen3VLConfig.sub_configs["vision_config"], num_position_embeddings=36, deepstack_visual_indexes=[0, 1]
        ),
        text_config=decoder(
            hf.Qwen3VLTextConfig,
            tokenizer,
            tied=True,
            head_dim=HEAD_SIZE,
            rope_parameters=qwen_positions(mrope_interleaved=True),
        ),
        tie_word_embeddings=True,
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in QWEN_TOKENS.items()},
        **ends(tokenizer),
    )
    return finish(hf.Qwen3VLForConditionalGeneration, config, qwen_processor(hf.Qwen3VLProcessor, tokenizer), seed)


def internvl(seed: int) -> VLM:
    """InternVL with a Qwen 2 decoder: a picture is four tiles and the whole, 4 tokens each. Tied head."""
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tokenizer = tokenizer_with(named={**named, "video_token": "<video>"})
    images = hf.GotOcr2ImageProcessorPil(size={"height": TILE, "width": TILE}, crop_to_patches=True, max_patches=4)
    patch = CELL * 3 // 4
    tokens = (TILE // patch // 2) ** 2
    processor = hf.InternVLProcessor(images, tokenizer, NoVideos(), tokens, chat("<IMG_CONTEXT>"))
    config = hf.InternVLConfig(
        vision_config=tower(hf.InternVLVisionConfig, TILE, patch),
        text_config=decoder(hf.Qwen2Config, tokenizer, tied=True),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=tokens,
        tie_word_embeddings=True,
        **ends(tokenizer),
    )
    return finish(hf.InternVLForConditionalGeneration, config, processor, seed)


TILE_TOKENS = ["<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
TILE_TOKENS += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]


def idefics3(seed: int) -> VLM:
    """Idefics 3: a picture is four tiles and the whole, 9 tokens each, every tile named by its row and column."""
    tokenizer = tokenizer_with(TILE_TOKENS)
    images = hf.Idefics3ImageProcessorPil(size={"longest_edge": SIZE}, max_image_size={"longest_edge": TILE})
    patch, scale = CELL // 2, 2
    processor = hf.Idefics3Processor(images, tokenizer, (TILE // patch // scale) ** 2, chat(IMAGE))
    config = hf.Idefics3Config(
        vision_config=tower(hf.Idefics3VisionConfig, TILE, patch),
        text_config=decoder(hf.LlamaConfig, tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        scale_factor=scale,
        **ends(tokenizer),
    )
    return finish(hf.Idefics3ForConditionalGeneration, config, processor, seed)


def smolvlm(seed: int) -> VLM:
    """SmolVLM: as Idefics 3, with 4 tokens for a tile. Tied head."""
    tokenizer = tokenizer_with(TILE_TOKENS)
    images = hf.SmolVLMImageProcessorPil(size={"longest_edge": SIZE}, max_image_size={"longest_edge": TILE})
    patch, scale = CELL // 2, 3
    processor = hf.SmolVLMProcessor(images, tokenizer, NoVideos(), (TILE // patch // scale) ** 2, chat(IMAGE))
    config = hf.SmolVLMConfig(
        vision_config=tower(hf.SmolVLMVisionConfig, TILE, patch),
        text_config=decoder(hf.LlamaConfig, tokenizer, tied=True),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        scale_factor=scale,
        tie_word_embeddings=True,
        **ends(tokenizer),
    )
    return finish(hf.SmolVLMForConditionalGeneration, config, processor, seed)


def gemma3(seed: int) -> VLM:
    """Gemma 3: a window of 16 in every other layer, and a picture's 36 tokens see one another. Tied head."""
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = tokenizer_with(named=named)
    images = hf.Gemma3ImageProcessorPil(size={"height": SIZE, "width": SIZE})
    tokens = (SIZE // CELL) ** 2
    processor = hf.Gemma3Processor(images, tokenizer, chat(named["boi_token"]), tokens)
    text = decoder(
        hf.Gemma3TextConfig,
        tokenizer,
        tied=True,
        num_hidden_layers=4,
        head_dim=HEAD_SIZE,
        query_pre_attn_scalar=HEAD_SIZE,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
    config = hf.Gemma3Config(
        text_config=text,
        vision_config=tower(hf.SiglipVisionConfig, SIZE, CELL // 2, vision_use_head=False),
        mm_tokens_per_image=tokens,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
        tie_word_embeddings=True,
        **ends(tokenizer),
    )
    return finish(hf.Gemma3ForConditionalGeneration, config, processor, seed)


FAMILIES: dict[str, Callable[[int], VLM]] = {
    "llava": llava,
    "llava_mistral": llava_mistral,
    "llava_gemma2": llava_gemma2,
    "llava_legacy": llava_legacy,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "internvl": internvl,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "gemma3": gemma3,
}
