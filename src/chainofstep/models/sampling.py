"""Choosing tokens: uniform numbers that depend on nothing but seed, sample and step, and the choice they make.

Shapes: B rows, V vocabulary.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from chainofstep.chain import ANSWER_END, PRM_TOKENS, REASONING_TOKENS, STEP_END
from chainofstep.models.vlm import VLM
from chainofstep.records import Ending

FIRST_CANDIDATES = 64  # how many of the largest probabilities top_p looks at before it sorts them all
UNUSED = "<|reasoning_backtrack|>"  # in the authors' set, in no chain


@dataclass(frozen=True, order=True)
class Settings:
    """How a request wants its tokens chosen; requests with the same settings are sampled side by side."""

    temperature: float
    top_p: float
    top_k: int
    stop: Literal["answer", "step"]


def _signed(number: int) -> int:
    """The 64 bits of a number as torch's int64 holds them."""
    return (number + 2**63) % 2**64 - 2**63


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _shifted(bits: torch.Tensor, count: int) -> torch.Tensor:
    """A logical right shift; torch's own keeps the sign."""
    return (bits >> count) & (2 ** (64 - count) - 1)


def _mixed(bits: torch.Tensor) -> torch.Tensor:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014), in wrapping int64 arithmetic."""
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def stream_keys(seeds: list[int], indices: list[int], device: torch.device) -> torch.Tensor:
    """One key [B] for each row's stream of uniform numbers, from its request's seed and its index there."""
    seed = torch.tensor([_signed(seed) for seed in seeds], device=device)
    return _mixed(_mixed(seed + _GOLDEN) + (torch.tensor(indices, device=device) + 1) * _GOLDEN)


def uniforms(keys: torch.Tensor, step: int) -> torch.Tensor:
    """Uniform numbers [B] in [0, 1), multiples of 2^-24, for step `step` of the streams `keys` [B]."""
    return _shifted(_mixed(keys + _signed((step + 1) * _GOLDEN)), 40).float() * 2.0**-24


def choose(logits: torch.Tensor, uniform: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Token ids [B] from logits [B, V]: the inverse of the cumulative distribution at `uniform` [B].

    The distribution is summed in the order of token ids, which no rounding of logits can change.
    """
    if settings.temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits / settings.temperature, -1)
    if settings.top_k or settings.top_p < 1:
        least = least_kept(probabilities, settings.top_p, settings.top_k)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    cumulative = probabilities.cumsum(-1)
    # u <= 1 - 2^-24, so u * total rounds to less than the total, and the token found has a probability above 0.
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


def least_kept(probabilities: torch.Tensor, top_p: float, top_k: int) -> torch.Tensor:
    """The smallest probability [B, 1] that top_k, then top_p of what top_k leaves, keep; equals are kept together."""
    vocabulary = probabilities.shape[-1]
    count = min(top_k or FIRST_CANDIDATES, vocabulary)
    ranked = probabilities.topk(count, dim=-1).values
    if top_p == 1:
        return ranked[:, -1:]
    mass = ranked.sum(-1, keepdim=True) if top_k else probabilities.sum(-1, keepdim=True)
    before = ranked.cumsum(-1) - ranked
    enough = (before[:, -1:] + ranked[:, -1:]) >= top_p * mass
    if not top_k and count < vocabulary and not bool(enough.all()):
        ranked = probabilities.sort(-1, descending=True).values
        before = ranked.cumsum(-1) - ranked
    kept = (before < top_p * mass).sum(-1, keepdim=True).clamp_min(1)
    return ranked.gather(-1, kept - 1)


def forbidden_ids(vlm: VLM) -> list[int]:
    """Ids that no answer can contain: padding, picture and role tokens, step tags, and rows beyond the tokenizer."""
    vocabulary, tokenizer = vlm.tokenizer.get_vocab(), vlm.tokenizer
    allowed = {vocabulary[token] for token in REASONING_TOKENS if token in vocabulary and token != UNUSED}
    allowed.add(tokenizer.eos_token_id)
    special = {*tokenizer.all_special_ids, vlm.model.config.image_token_id}
    special |= {vocabulary[token] for token in (*PRM_TOKENS, UNUSED) if token in vocabulary}
    rows = vlm.model.get_output_embeddings().weight.shape[0]
    unused = set(range(max(vocabulary.values()) + 1, rows))
    return sorted(token for token in (special | unused) - allowed if token is not None)


def ending_ids(vlm: VLM, stop: Literal["answer", "step"]) -> dict[int, Ending]:
    """The ids that end a sample, and how. ValueError if samples shall stop at steps and there is no such token."""
    vocabulary = vlm.tokenizer.get_vocab()
    ends: dict[int, Ending] = {}
    if vlm.tokenizer.eos_token_id is not None:
        ends[vlm.tokenizer.eos_token_id] = "answer"
    if ANSWER_END in vocabulary:
        ends[vocabulary[ANSWER_END]] = "answer"
    if stop == "step":
        ends[vlm.token_id(STEP_END)] = "step"
    return ends
