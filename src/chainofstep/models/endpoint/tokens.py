"""The control tokens of a model that a server holds: their ids, which end a text, which no answer contains.

They are read from the files of a tokenizer's folder where the user names one. Otherwise the server is asked for the id
of each name that models of the field use; a name that is several ids is plain text to that model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from chainofstep.chain import ALL_TOKENS, ANSWER_END, JOINER, REASONING_TOKENS, STEP_END, UNUSED, escape

#: Tokens that end a turn, and tokens of roles, pictures and padding, in the models of the field.
TURN_ENDS = (
    *("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>", "<end_of_utterance>"),
    *("</s>", "<eos>", "<|end|>"),
)
MARKS = (
    *(
        "<|im_start|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<start_of_turn>",
        "<|begin_of_text|>",
        "<s>",
        "<bos>",
    ),
    *("<|system|>", "<|user|>", "<|assistant|>", "<pad>", "<|pad|>", "<|finetune_right_pad_id|>"),
    *("<image>", "<video>", "<|image|>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
    *("<IMG_CONTEXT>", "<img>", "</img>", "<image_soft_token>", "<start_of_image>", "<end_of_image>"),
    *("<fake_token_around_image>", "<global-img>"),
)
USUAL = (*ALL_TOKENS, *TURN_ENDS, *MARKS)


@dataclass(frozen=True)
class Tokens:
    """Ids by name: of all control tokens that the model is known to have, step tokens included."""

    ids: Mapping[str, int]
    ends: frozenset[str]  # of them, those that may end a turn

    @cached_property
    def own(self) -> tuple[str, ...]:
        """The model's own control tokens, step tokens left out."""
        return tuple(name for name in self.ids if name not in ALL_TOKENS)

    @cached_property
    def forbidden(self) -> Mapping[int, str]:
        """What no answer contains, by id."""
        allowed = (frozenset(REASONING_TOKENS) - {UNUSED}) | self.ends
        return {number: name for name, number in self.ids.items() if name not in allowed}

    @cached_property
    def names(self) -> Mapping[int, str]:
        return {number: name for name, number in self.ids.items()}

    def missing(self, wanted: Mapping[str, str]) -> list[str]:
        """The step tokens among `wanted` that the model does not have as single tokens."""
        return [name for name in wanted if name not in self.ids]

    def endings(self, stop: str) -> list[int]:
        """The ids at which sampling stops: the answer's end, the step's where that is asked for, the turn's."""
        step = [self.ids[STEP_END]] if stop == "step" else []
        return [self.ids[ANSWER_END], *step, *sorted(self.ids[name] for name in self.ends)]

    def question(self, text: str) -> str:
        """A question in which nothing looks like a control token (`encode.question_text`)."""
        return escape(text, self.own)

    def assistant(self, text: str) -> str:
        """Assistant text in which the model's own control tokens stay text (`batch.assistant_ids`)."""
        for name in self.own:
            text = text.replace(name, f"{name[0]}{JOINER}{name[1:]}")
        return text


def read_tokens(folder: str | Path) -> Tokens:
    """The control tokens in a tokenizer's folder; ValueError if there are no such files."""
    place = Path(folder)
    try:
        added = json.loads((place / "tokenizer.json").read_text("utf-8"))["added_tokens"]
        settings = json.loads((place / "tokenizer_config.json").read_text("utf-8"))
        ids = {str(token["content"]): int(token["id"]) for token in added}
        special = {str(token["content"]) for token in added if token["special"]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{folder} holds no tokenizer that can be read ({error}): give the model's folder, with tokenizer.json and "
            "tokenizer_config.json, or leave it out to ask the server"
        ) from error
    end = _text(settings.get("eos_token"))
    kept = {name: number for name, number in ids.items() if name in special or name in ALL_TOKENS}
    return Tokens(kept, frozenset({end, *TURN_ENDS} & set(kept)))


def _text(token: Any) -> str:
    """A token's text, which tokenizer_config.json holds bare or with its settings."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def tokens_of(ids: Mapping[str, int]) -> Tokens:
    """The control tokens of a model by what a server says of the usual names."""
    return Tokens(ids, frozenset(set(TURN_ENDS) & set(ids)))
