"""The plain way, for decoders whose attention cannot take the shared form: every row has its own copy of its prefix.

All of it is the model's stock forward with the stock cache, so whatever a family does with pictures, positions or
windows is done as its authors wrote it. The rows of one such cohort have one prefix, as in
`generate(num_return_sequences=n)`.
"""

import torch
from transformers import DynamicCache

from chainofstep.models.encode import Prompt, PromptKey
from chainofstep.models.families import TOKEN_TYPES, longer
from chainofstep.models.packing import Ids
from chainofstep.models.pictures import PictureFeatures, other_inputs
from chainofstep.models.vlm import VLM


class CopiedKV:
    """The cache of `rows` rows that continue one prefix: a question, then the ids `text`."""

    def __init__(self, vlm: VLM, features: PictureFeatures, key: PromptKey, prompt: Prompt, text: Ids, rows: int):
        self.vlm, self.age, self.rows = vlm, 0, rows
        self.start = torch.zeros(rows, dtype=torch.long, device=vlm.device)  # all begin at once
        self.cache = DynamicCache()
        hidden, self.offset = _prefill(vlm, features, key, prompt, text, self.cache)
        self.length = hidden.shape[1]
        self.cache.crop(-1)  # the last token is fed as the first decode step
        self.cache.batch_repeat_interleave(rows)

    def __len__(self) -> int:
        return self.rows

    @property
    def nbytes(self) -> int:
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.cache.layers)

    def positions(self, more: int) -> int:
        """Key-value positions of its rows, their prefixes included, after so many more tokens."""
        return self.rows * (self.length + self.age + more)

    def advance(self) -> None:
        self.age += 1

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [B, V] after one more token [B] of each row."""
        positions = torch.full_like(tokens[:, None], self.length - 1 + self.age + self.offset)
        output = self.vlm.model(
            input_ids=tokens[:, None], position_ids=positions, past_key_values=self.cache, use_cache=True
        )
        return output.logits[:, -1]

    def keep(self, rows: torch.Tensor, first: int) -> None:
        """Drop all rows but these; all began at `first` 0."""
        self.start = self.start[rows]
        self.cache.batch_select_indices(rows)
        self.rows = len(rows)


def hidden_states(vlm: VLM, features: PictureFeatures, key: PromptKey, prompt: Prompt, text: Ids) -> torch.Tensor:
    """Hidden states [T, W] of a question and the text after it, by one stock forward."""
    return _prefill(vlm, features, key, prompt, text, None)[0][0]


def _prefill(
    vlm: VLM, features: PictureFeatures, key: PromptKey, prompt: Prompt, text: Ids, cache: DynamicCache | None
) -> tuple[torch.Tensor, int]:
    """Hidden states [1, T, W], and what is added to the index of a later token to get its position."""
    device, base = vlm.device, vlm.model.model
    ids = torch.cat([prompt.ids, torch.tensor(text, dtype=prompt.ids.dtype)])[None].to(device)
    others = {
        name: longer(tensor, ids.shape[1]) if name in TOKEN_TYPES else tensor
        for name, tensor in other_inputs(prompt, device).items()
    }
    found = features.of({key[1]: prompt})
    pictures = {"mm_encoder_outputs": {"image": found[key[1]]}} if found else {}
    if hasattr(base, "rope_deltas"):
        base.rope_deltas = None  # of the question before
    output = base(input_ids=ids, past_key_values=cache, use_cache=cache is not None, **others, **pictures)
    deltas = getattr(base, "rope_deltas", None)
    return output.last_hidden_state, 0 if deltas is None else int(deltas[0, 0])
