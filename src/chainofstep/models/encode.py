"""From records to tensors: the one place where chat text, pictures and step tags become token ids.

Training, sampling and scoring all encode here, so the tokens trained on are the tokens sampled.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from chainofstep.chain import escape
from chainofstep.models.families import control_texts, needs_start
from chainofstep.models.vlm import VLM
from chainofstep.problems.pictures import PictureError
from chainofstep.problems.pictures import open_picture as opened_picture
from chainofstep.records import Example

PromptKey = tuple[str, tuple[str, ...]]  # question and pictures


@dataclass(frozen=True)
class Prompt:
    """An encoded question: `ids` [T] up to where the assistant's text begins, and the processor's image tensors."""

    ids: torch.Tensor
    images: dict[str, torch.Tensor]  # e.g. {"pixel_values": [number of pictures, 3, height, width]}


def open_picture(path: str) -> Image.Image:
    """A picture as RGB; ValueError in one line if it is missing or unreadable."""
    if not os.path.exists(path):
        raise ValueError(f"picture {path} does not exist; check the example's `images`")
    try:
        return opened_picture(Path(path))
    except PictureError as error:
        raise ValueError(f"picture {path} cannot be read ({error}); replace the file") from error


def question_text(vlm: VLM, example: Example) -> str:
    """The question with control-token look-alikes defused, the model's own control tokens included."""
    return escape(example.question, control_texts(vlm.processor))


def messages(vlm: VLM, example: Example) -> list[dict[str, Any]]:
    """The user turn in chat format: pictures first, then the question."""
    content: list[dict[str, str]] = [{"type": "image"} for _ in example.images]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question_text(vlm, example)}]}]


def encode_prompt(vlm: VLM, example: Example, pictures: list[Image.Image] | None = None) -> Prompt:
    """Encode a question with its pictures (opened from `example.images` unless given)."""
    text = vlm.processor.apply_chat_template(messages(vlm, example), tokenize=False, add_generation_prompt=True)
    opened = [open_picture(path) for path in example.images] if pictures is None else pictures
    # A list for each text: LLaVA-OneVision takes several pictures of one text without tiles, as it was trained.
    pictures_of_text = [opened] if opened else None
    start = needs_start(vlm.processor, text)
    encoded = vlm.processor(text=[text], images=pictures_of_text, return_tensors="pt", add_special_tokens=start)
    ids = encoded.pop("input_ids")[0]
    encoded.pop("attention_mask", None)
    return Prompt(ids, {name: value for name, value in encoded.items() if isinstance(value, torch.Tensor)})


def encode_text(vlm: VLM, text: str) -> list[int]:
    """Ids of assistant text; step tokens become their single ids."""
    return list(vlm.tokenizer(text, add_special_tokens=False).input_ids)


def picture_key(example: Example) -> tuple[str, ...]:
    """What identifies an example's pictures in a feature cache."""
    return tuple(os.path.abspath(path) for path in example.images)


def prompt_key(example: Example) -> PromptKey:
    """What identifies an example's prompt."""
    return example.question, picture_key(example)
