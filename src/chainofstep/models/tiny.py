"""Small VLMs of the stock LLaVA classes: a SigLIP tower, a two-layer projector and a Llama decoder.

They are built here from a shape and a seed, with a tokenizer whose words are those of the generated problems and
which falls back to bytes for any other text.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from chainofstep.models.vlm import VLM
from chainofstep.problems.tasks.build import KINDS, problems
from chainofstep.problems.tasks.canvas import CELL, SIZE

PAD, END, IMAGE = "<|pad|>", "<|end|>", "<image>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{ '<|' + message['role'] + '|>' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}<image>{%- else -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{ '<|end|>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a small VLM. Vision and decoder share the head size of 32."""

    vision_width: int = 96
    vision_layers: int = 2
    width: int = 96
    layers: int = 4
    heads: int = 3
    key_value_heads: int = 1
    feed_forward: int = 256


POLICY = Shape()


def language() -> list[str]:
    """Text in which every word of the generated problems occurs, for the tokenizer's vocabulary."""
    texts = [" ".join(str(number) for number in range(100))]
    for problem in problems("test", range(40 * len(KINDS)), list(KINDS)):
        example = problem.example()
        texts += [example.question, f"The {example.answer}.", *(str(v) for v in problem.setup.seen.items())]
        if example.chain is not None:
            texts += [f"{step.name} {step.thought} {step.reflection}" for step in example.chain.steps]
    return texts


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A lossless tokenizer: one token for every word of `texts`, with and without a space before, and all bytes."""
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = {piece for text in texts for piece, _ in splitter.pre_tokenize_str(text)}
    bare = {word.removeprefix("Ġ") for word in words} - {""}
    pieces = sorted(bare | {f"Ġ{word}" for word in bare}, key=lambda piece: (piece.removeprefix("Ġ"), piece))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = {piece for piece in pieces if len(piece) > 1}
    vocabulary = [(byte, -10.0) for byte in alphabet] + [(p, -1.0) for p in pieces if p in known]
    core = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=False))
    core.pre_tokenizer = splitter
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token=PAD, eos_token=END, padding_side="right")
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE, *ROLES]})
    return tokenizer


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    images = SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    return LlavaProcessor(images, tokenizer, CELL, "full", CHAT_TEMPLATE, IMAGE, num_additional_image_tokens=0)


def build_tiny(shape: Shape, seed: int, processor: LlavaProcessor | None = None) -> VLM:
    """A small VLM with random weights from `seed`."""
    processor = processor or build_processor(build_tokenizer(language()))
    tokenizer = processor.tokenizer
    vision = SiglipVisionConfig(
        hidden_size=shape.vision_width,
        intermediate_size=2 * shape.vision_width,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_width // 32,
        image_size=SIZE,
        patch_size=CELL,
        vision_use_head=False,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(SIZE // CELL) ** 2,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(seed)  # the tower draws its biases from it
    model = LlavaForConditionalGeneration(config)
    initialize(model, seed)
    return VLM(model.eval(), processor)


def initialize(model: LlavaForConditionalGeneration, seed: int) -> None:
    """Weights whose outputs are as large as their inputs: normal, with variance 1 / fan-in.

    The stock initialisation, 0.02 whatever the width, is made for wide models. On these, 2,000 updates of captions
    did not get a model to look at the picture; with this one it looks after 250 (docs/performance.md).
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embed_tokens" in name or "position_embedding" in name:
                weight.normal_(0, 0.3, generator=generator)
            elif weight.dim() >= 2:
                weight.normal_(0, weight[0].numel() ** -0.5, generator=generator)


def shrink(vlm: VLM, layers: int) -> VLM:
    """A copy of the first `layers` decoder layers alone: a student that has learnt to look."""
    config = LlavaConfig.from_dict(vlm.model.config.to_dict())
    config.text_config.num_hidden_layers = layers
    config.text_config.layer_types = None
    shrunk = LlavaForConditionalGeneration(config)
    shrunk.load_state_dict({k: w for k, w in vlm.model.state_dict().items() if k in shrunk.state_dict()})
    return VLM(shrunk.eval(), vlm.processor)


def grow(vlm: VLM, layers: int) -> VLM:
    """A deeper copy that computes the same: new decoder layers on top, whose outputs start at zero.

    So a PRM's backbone goes on from a policy's base, larger than it, without learning to look a second time.
    """
    config = LlavaConfig.from_dict(vlm.model.config.to_dict())
    depth = config.text_config.num_hidden_layers
    config.text_config.num_hidden_layers = depth + layers
    config.text_config.layer_types = None
    grown = LlavaForConditionalGeneration(config)
    grown.load_state_dict(vlm.model.state_dict(), strict=False)
    stack = grown.model.language_model.layers
    with torch.no_grad():
        for place in range(depth, depth + layers):
            stack[place].load_state_dict(stack[depth - 1].state_dict())
            stack[place].self_attn.o_proj.weight.zero_()
            stack[place].mlp.down_proj.weight.zero_()
    return VLM(grown.eval(), vlm.processor)
