"""Shapes of published models as transformers configs, so that a plan needs no download.

Sizes are those of the models' own `config.json`. They were written from memory and then checked: a model built from
them has exactly the number of parameters that the hub counts, where that number could be looked up (`PUBLISHED`). Those
of LLaVA-NeXT and Qwen2.5-VL-72B could not; of the latter's tower the published table has the same width.
"""

from collections.abc import Callable
from typing import Any

from transformers import (
    CLIPVisionConfig,
    InternVLConfig,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLTextConfig,
    Qwen2Config,
    Qwen3VLConfig,
    Qwen3VLTextConfig,
)

INTERNVL_8B = "OpenGVLab/InternVL2_5-8B-MPO-hf"
INTERNVL_38B = "OpenGVLab/InternVL2_5-38B-MPO"  # in its own format: transformers' script for InternVL converts it
LLAVA_NEXT_8B = "llava-hf/llama3-llava-next-8b-hf"
QWEN3_2B = "Qwen/Qwen3-VL-2B-Instruct"
QWEN3_8B = "Qwen/Qwen3-VL-8B-Instruct"
QWEN2_5_72B = "Qwen/Qwen2.5-VL-72B-Instruct"

#: Parameters as the hub counts them: bytes of the index file by two, or the model page's safetensors total.
PUBLISHED = {
    INTERNVL_8B: 8_075_365_376,
    INTERNVL_38B: 38_388_164_992,
    QWEN3_2B: 2_127_532_032,
    QWEN3_8B: 8_767_123_696,
}


def internvl2_5_8b() -> InternVLConfig:
    """InternViT-300M and InternLM2.5-7B, whose joint query-key-value matrix the -hf format splits: a Llama."""
    decoder = LlamaConfig(vocab_size=92553, max_position_embeddings=32768, **_llama_8b())
    tower = InternVLVisionConfig(attention_bias=True)
    return InternVLConfig(vision_config=tower, text_config=decoder, tie_word_embeddings=False)


def internvl2_5_38b() -> InternVLConfig:
    """InternViT-6B, with norms of queries and keys, and Qwen2.5-32B."""
    decoder = Qwen2Config(
        vocab_size=151674,
        hidden_size=5120,
        intermediate_size=27648,
        num_hidden_layers=64,
        num_attention_heads=40,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )
    tower = InternVLVisionConfig(
        hidden_size=3200,
        intermediate_size=12800,
        num_hidden_layers=45,
        num_attention_heads=25,
        use_qk_norm=True,
        norm_type="rms_norm",
    )
    return InternVLConfig(vision_config=tower, text_config=decoder, tie_word_embeddings=False)


def llava_next_8b() -> LlavaNextConfig:
    """CLIP-L at 336 pixels and Llama 3 8B, its vocabulary padded to 128,320."""
    tower = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    decoder = LlamaConfig(vocab_size=128320, max_position_embeddings=8192, **_llama_8b())
    return LlavaNextConfig(vision_config=tower, text_config=decoder, tie_word_embeddings=False)


def qwen3_vl_2b() -> Qwen3VLConfig:
    """A smaller tower than the other sizes have, and a head tied to the embedding."""
    tower = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
    return _qwen3_vl(
        tower, True, hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16
    )


def qwen3_vl_8b() -> Qwen3VLConfig:
    """The tower of SigLIP-2 So400m."""
    tower = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]}
    return _qwen3_vl(
        tower, False, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32
    )


def qwen2_5_vl_72b() -> Qwen2_5_VLConfig:
    """A tower with gated feed-forward layers, and Qwen2.5-72B."""
    decoder = Qwen2_5_VLTextConfig(
        vocab_size=152064,
        hidden_size=8192,
        intermediate_size=29568,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    )
    tower = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3456, "out_hidden_size": 8192}
    return Qwen2_5_VLConfig(text_config=decoder, vision_config=tower, tie_word_embeddings=False)


#: Shapes by hub id.
SHAPES: dict[str, Callable[[], Any]] = {
    INTERNVL_8B: internvl2_5_8b,
    INTERNVL_38B: internvl2_5_38b,
    LLAVA_NEXT_8B: llava_next_8b,
    QWEN3_2B: qwen3_vl_2b,
    QWEN3_8B: qwen3_vl_8b,
    QWEN2_5_72B: qwen2_5_vl_72b,
}


def _llama_8b() -> dict[str, Any]:
    """What Llama 3 8B and InternLM2.5-7B have in common."""
    return {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    }


def _qwen3_vl(tower: dict[str, Any], tied: bool, **sizes: Any) -> Qwen3VLConfig:
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    decoder = Qwen3VLTextConfig(
        vocab_size=151936,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=tied,
        rope_parameters=rope,
        **sizes,
    )
    tower = {**tower, "num_heads": 16, "out_hidden_size": sizes["hidden_size"]}
    return Qwen3VLConfig(text_config=decoder, vision_config=tower, tie_word_embeddings=tied)
