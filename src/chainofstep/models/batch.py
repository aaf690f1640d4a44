"""Encoded rows as padded batches: what training and PRM scoring feed to a model.

Shapes: B rows, T tokens of the longest row.
"""

from collections.abc import Sequence

import torch

from chainofstep.chain import ALL_TOKENS, JOINER, STEP_END
from chainofstep.models.encode import Prompt, PromptKey, encode_prompt, encode_text, prompt_key
from chainofstep.models.families import control_texts, end_of_turn, join_tensors
from chainofstep.models.vlm import VLM
from chainofstep.records import Example

Batch = dict[str, torch.Tensor]


def assistant_ids(vlm: VLM, text: str) -> list[int]:
    """Ids of assistant text in which the model's own control tokens, written out, stay text.

    A sampled chain may spell out `<image>` or the end-of-turn token; taken for the token, it would break the count of
    picture features or end the turn. The step tokens of a rendered chain are meant, and stay tokens.
    """
    for token in control_texts(vlm.processor):
        if token not in ALL_TOKENS:
            text = text.replace(token, f"{token[0]}{JOINER}{token[1:]}")
    return encode_text(vlm, text)


def completion_ids(vlm: VLM, text: str) -> list[int]:
    """Ids of a whole assistant turn: the text, then the end of the turn. A text that ends on a step goes on: no end."""
    ids = assistant_ids(vlm, text)
    return ids if text.rstrip().endswith(STEP_END) else [*ids, end_of_turn(vlm.processor)]


class PromptCache:
    """Encoded prompts by question and pictures; image tensors are kept while they fit in `image_bytes`.

    Beyond that they are read again whenever a batch needs them: slower by a millisecond a picture, the same tensors.
    The first ones stay, as suits prompts that come again and again in turn (epochs); with `newest` the last ones.
    Of more prompts than `most`, the oldest are encoded again.
    """

    def __init__(self, vlm: VLM, image_bytes: int = 2**29, most: int = 2**16, newest: bool = False):
        self.vlm, self.free, self.most, self.newest = vlm, image_bytes, most, newest
        self.ids: dict[PromptKey, torch.Tensor] = {}
        self.images: dict[PromptKey, Batch] = {}

    def encode(self, example: Example) -> Prompt:
        """The encoded prompt; ValueError if a picture cannot be read."""
        key = prompt_key(example)
        if key in self.ids and key in self.images:
            return Prompt(self.ids[key], self.images[key])
        prompt = encode_prompt(self.vlm, example)
        self.ids[key] = prompt.ids
        if len(self.ids) > self.most:
            self._drop(next(iter(self.ids)))
        size = sum(tensor.nbytes for tensor in prompt.images.values())
        while self.newest and self.images and size > self.free:
            self._drop(next(iter(self.images)))
        if key not in self.images and size <= self.free:
            self.images[key] = prompt.images
            self.free -= size
        return prompt

    def _drop(self, key: PromptKey) -> None:
        self.ids.pop(key, None)
        self.free += sum(tensor.nbytes for tensor in self.images.pop(key, {}).values())

    def prompt_ids(self, example: Example) -> torch.Tensor:
        """The prompt's ids [T] alone."""
        key = prompt_key(example)
        return self.ids[key] if key in self.ids else self.encode(example).ids


def pad_right(rows: Sequence[torch.Tensor], value: int) -> torch.Tensor:
    """Rows [T] of any lengths as one tensor [B, T]."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


def join_rows(vlm: VLM, ids: Sequence[torch.Tensor], images: Sequence[Batch]) -> Batch:
    """A batch for the model's forward: input ids and attention mask [B, T], and the processor's tensors `images`.

    `images` are those of the rows' prompts, with whose tokens the rows begin.
    """
    lengths = torch.tensor([len(row) for row in ids])
    padded = pad_right(ids, padding_id(vlm))
    mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
    return {"input_ids": padded, "attention_mask": mask, **join_tensors(images, padded.shape[1])}


def padding_id(vlm: VLM) -> int:
    """The padding token; a tokenizer without one (Llama's) is padded with its end of sequence, which a mask hides."""
    pad = vlm.tokenizer.pad_token_id
    return int(vlm.tokenizer.eos_token_id if pad is None else pad)
