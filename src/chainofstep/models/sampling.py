"""Choosing tokens: uniform numbers that depend on nothing but seed, sample and step, and the choice they make.

Shapes: B rows, V vocabulary.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from chainofstep.chain import ANSWER_END, PRM_TOKENS, REASONING_TOKENS, STEP_END, UNUSED
from chainofstep.models.families import control_texts, end_of_turn
from chainofstep.models.vlm import VLM
from chainofstep.records import Ending

COLDEST = 1e-6  # a temperature below it is greedy: logits divided by it may be infinite
FIRST_CANDIDATES = 64  # how many of the largest probabilities top_p looks at before it sorts them all


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


def uniforms(keys: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Uniform numbers [B] in [0, 1), multiples of 2^-24, for the `steps`-th numbers [B] of the streams `keys` [B]."""
    return _shifted(_mixed(keys + (steps + 1) * _GOLDEN), 40).float() * 2.0**-24


def choose(logits: torch.Tensor, uniform: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Token ids [B] from logits [B, V]: the inverse of the cumulative distribution at `uniform` [B].

    The distribution is summed in the order of token ids, which no rounding of logits can change.
    """
    if settings.temperature < COLDEST:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits / settings.temperature, -1)
    if settings.top_p == 1 or logits.is_cuda:  # looking which rows are certain would wait for the GPU
        return _chosen(probabilities, uniform, settings)
    peak, chosen = probabilities.max(-1)
    # Above a half no other token is as likely, so a nucleus that the first token fills is that token alone.
    open_rows = (~(peak >= max(settings.top_p, 0.5 + 1e-6))).nonzero()[:, 0]
    if len(open_rows):
        chosen[open_rows] = _chosen(probabilities[open_rows], uniform[open_rows], settings)
    return chosen


def _chosen(probabilities: torch.Tensor, uniform: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Token ids [B] from probabilities [B, V], which it may overwrite."""
    if settings.top_k or settings.top_p < 1:
        least = least_kept(probabilities, settings.top_p, settings.top_k)
        probabilities = probabilities.masked_fill_(probabilities < least, 0.0)
    cumulative = probabilities.cumsum(-1)
    # u <= 1 - 2^-24, so u * total rounds to less than the total, and the token found has a probability above 0.
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


def least_kept(probabilities: torch.Tensor, top_p: float, top_k: int) -> torch.Tensor:
    """The smallest probability [B, 1] that top_k, then top_p of what top_k leaves, keep; equals are kept together."""
    vocabulary = probabilities.shape[-1]
    ranked = probabilities.topk(min(top_k or FIRST_CANDIDATES, vocabulary), dim=-1).values
    if top_p == 1:
        return ranked[:, -1:]
    if top_k:
        return _nucleus_end(ranked, top_p * ranked.sum(-1, keepdim=True))
    mass = top_p * probabilities.sum(-1, keepdim=True)
    if probabilities.is_cuda:  # sorting all costs less than waiting to learn whose largest do not reach it
        return _nucleus_end(probabilities.sort(-1, descending=True).values, mass)
    least = _nucleus_end(ranked, mass)
    short = (ranked.sum(-1) < mass[:, 0]).nonzero()[:, 0]
    if len(short) and ranked.shape[-1] < vocabulary:  # the number of rows waits for the device
        least[short] = _nucleus_end(probabilities[short].sort(-1, descending=True).values, mass[short])
    return least


def _nucleus_end(ranked: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """The probability [B, 1] with which the sum of `ranked` [B, X], largest first, reaches `mass` [B, 1]."""
    before = ranked.cumsum(-1) - ranked
    kept = (before < mass).sum(-1, keepdim=True).clamp_min(1)
    return ranked.gather(-1, kept - 1)


@dataclass(frozen=True)
class ControlTokens:
    """What a tokenizer's control tokens mean to a sampler."""

    unknown: frozenset[str]  # step tokens that the tokenizer does not have
    forbidden: tuple[int, ...]  # ids that no answer can contain
    answer_ends: frozenset[int]
    step_end: int | None
    turn_ends: frozenset[int]  # end of turn and of sequence: among `answer_ends`, but not part of a text

    def endings(self, stop: Literal["answer", "step"]) -> dict[int, Ending]:
        """The ids that end a sample, and how; ValueError if it shall stop at steps and there is no such token."""
        ends: dict[int, Ending] = dict.fromkeys(self.answer_ends, "answer")
        if stop == "step":
            if self.step_end is None:
                raise ValueError(f"stop='step', but the tokenizer has no token {STEP_END!r}: add the step tokens first")
            ends[self.step_end] = "step"
        return ends


def control_tokens(vlm: VLM) -> ControlTokens:
    """Forbidden are padding, picture and role tokens, step tags, and rows of the LM head beyond the tokenizer."""
    vocabulary, tokenizer = vlm.tokenizer.get_vocab(), vlm.tokenizer
    ends = frozenset({tokenizer.eos_token_id, end_of_turn(vlm.processor)} - {None})
    allowed = {vocabulary[token] for token in REASONING_TOKENS if token in vocabulary and token != UNUSED} | ends
    special = {vocabulary[text] for text in control_texts(vlm.processor) if text in vocabulary}
    special |= {tokenizer.pad_token_id, vlm.model.config.image_token_id}
    special |= {vocabulary[token] for token in (*PRM_TOKENS, UNUSED) if token in vocabulary}
    rows = vlm.model.get_output_embeddings().weight.shape[0]
    special |= set(range(max(vocabulary.values()) + 1, rows))
    return ControlTokens(
        frozenset(REASONING_TOKENS) - vocabulary.keys(),
        tuple(sorted(special - allowed - {None})),
        frozenset({*ends, vocabulary.get(ANSWER_END)} - {None}),
        vocabulary.get(STEP_END),
        ends,
    )
