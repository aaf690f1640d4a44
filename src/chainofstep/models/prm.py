"""The process reward model (paper A4): a VLM that says at each step tag how likely the step is right.

No head of its own: at the position of each tag the LM logits of that same position (no shift to the next token) are
read in two columns, good and bad, and their softmax is the score.

Shapes: B rows, T tokens, K tags, W hidden width.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch.nn import functional

from chainofstep.chain import BAD, GOOD, STEP_TAG, Chain, render
from chainofstep.models.batch import assistant_ids
from chainofstep.models.checks import check_verdicts
from chainofstep.models.copied import hidden_states
from chainofstep.models.encode import Prompt, PromptKey, encode_prompt, picture_key, prompt_key
from chainofstep.models.memory import first_line, out_of_memory, planned_positions
from chainofstep.models.prefix_attention import NAME, sampling_mode
from chainofstep.models.prefixes import Extended, Piece, Prefixes, Text
from chainofstep.models.shareable import warn_if_copied
from chainofstep.models.vlm import VLM
from chainofstep.records import Example, Scored, ScoreFailure, StepScores

QUESTIONS = 64  # questions whose keys and values are computed before their chains are scored
Key = tuple[str, tuple[str, ...], Chain]  # question, pictures, chain
Items = Mapping[Key, tuple[Example, Chain]]
log = logging.getLogger(__name__)


def prm_loss(tag_logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of logits [K, 2] (good, bad) against labels [K] in [0, 1], which may be soft; mean over tags.

    The authors' loss: binary cross-entropy of both softmax columns, summed. The columns say the same thing twice, so
    it is exactly 2 x cross-entropy; the factor is kept so that their learning rates carry over (paper A4).
    `accuracy` is the share of tags on whose side of 0.5 the label lies. ValueError if there is no tag.
    """
    if len(labels) == 0:
        raise ValueError("no step tag in the batch: a mean over 0 tags is undefined; give chains with labelled steps")
    logs = functional.log_softmax(tag_logits.float(), dim=-1)
    good, bad = logs.unbind(-1)
    loss = -2 * (labels * good + (1 - labels) * bad).mean()
    agreed = (good >= bad) == (labels >= 0.5)
    return loss, {"accuracy": float(agreed.float().mean())}


@dataclass(frozen=True)
class EncodedChain:
    """A prompt and a tagged chain as ids [T], the positions of its tags, and where the chain begins."""

    ids: torch.Tensor
    tags: tuple[int, ...]  # one for each step, and a last one for the answer if there is one
    start: int
    prompt: Prompt

    @property
    def text(self) -> tuple[int, ...]:
        """The ids after the prompt."""
        return tuple(self.ids[self.start :].tolist())

    @property
    def places(self) -> tuple[int, ...]:
        """The positions of the tags in `text`."""
        return tuple(tag - self.start for tag in self.tags)


def encode_chain_for_prm(vlm: VLM, example: Example, chain: Chain, prompt: Prompt | None = None) -> EncodedChain:
    """Prompt ids and ids of the chain with a tag after each step and after the answer.

    ValueError if a picture cannot be read or the chain is longer than the model's context.
    """
    prompt = prompt or encode_prompt(vlm, example)
    written = assistant_ids(vlm, render(chain, STEP_TAG))
    tag, start = vlm.token_id(STEP_TAG), len(prompt.ids)
    ids = torch.cat([prompt.ids, torch.tensor(written, dtype=prompt.ids.dtype)])
    limit = vlm.model.config.get_text_config().max_position_embeddings
    if len(ids) > limit:
        raise ValueError(f"{example.id}: {len(ids)} tokens are more than the PRM's context of {limit}; shorten it")
    return EncodedChain(ids, tuple(start + i for i, token in enumerate(written) if token == tag), start, prompt)


def verdict_ids(vlm: VLM) -> list[int]:
    """The columns of the logits that are read: good, bad."""
    return [vlm.token_id(GOOD), vlm.token_id(BAD)]


class PRM:
    """A `StepScorer` over one VLM.

    A question is computed once for all of its chains, a chain by its new tokens only; what one call scored of an
    unfinished chain is known to the next, so in beam search a candidate costs its own step. A forward pass holds
    chains of about the same length, at most `token_budget` padded new tokens. `progress` is called with (chains
    scored, chains of the call). Equal chains of one question are scored once; `scored_chains`, `scored_steps` (tags
    computed, answers included) and `forward_tokens` count what was computed.
    """

    def __init__(
        self,
        vlm: VLM,
        token_budget: int = 2048,
        progress: Callable[[int, int], None] | None = None,
        share: bool = True,
    ):
        if token_budget <= 0:
            raise ValueError(f"token_budget={token_budget}: give the number of tokens that fit in one forward pass")
        check_verdicts(vlm)  # a tokenizer without the tags fails here, not once for every chain
        self.vlm, self.token_budget, self.progress, self.columns = vlm, token_budget, progress, verdict_ids(vlm)
        self.share = share and not warn_if_copied(vlm.model)
        self.room = planned_positions(vlm.model) // 2
        self.prefixes = Prefixes(vlm)
        self.known: WeakKeyDictionary[Piece, dict[int, float]] = WeakKeyDictionary()
        self.scored_chains = self.scored_steps = self.forward_tokens = 0

    def score(self, items: Sequence[tuple[Example, Chain]]) -> list[Scored]:
        """P(good) of each step and of the answer; `ScoreFailure` for a chain that does not fit or cannot be read."""
        keys: list[Key] = [(example.question, picture_key(example), chain) for example, chain in items]
        distinct = dict(zip(keys, items, strict=True))
        results: dict[Key, Scored] = {}
        with sampling_mode(self.vlm.model, NAME if self.share else None):
            for window in _windows(distinct):
                self.prefixes.begin()
                self._score_window({key: distinct[key] for key in window}, results, len(distinct))
                self.prefixes.end(self.room)
        return [results[key] for key in keys]

    def _score_window(self, items: Items, results: dict[Key, Scored], total: int) -> None:
        """Score what can be scored; where memory runs out, go on with half as many tokens in a forward."""
        encoded = self._encode(items, results)
        while waiting := {key: row for key, row in encoded.items() if key not in results}:
            try:
                for key, scores in self._scored(waiting, items, results):
                    steps = len(key[2].steps)
                    results[key] = StepScores(tuple(scores[:steps]), None if key[2].answer is None else scores[steps])
                    self.scored_chains += 1
                    if self.progress is not None:
                        self.progress(len(results), total)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self.token_budget == 1:
                    raise
                self.token_budget //= 2
                log.warning("out of memory: the PRM's token_budget is now %d", self.token_budget)
                self.prefixes.retreat()

    def _encode(self, items: Items, results: dict[Key, Scored]) -> dict[Key, EncodedChain]:
        """Each chain encoded; what cannot be encoded, or has nothing to score, gets its result here."""
        encoded: dict[Key, EncodedChain] = {}
        for key, (example, chain) in items.items():
            try:
                prompt = Prompt(self.prefixes.prompts.prompt_ids(example), {})
                row = encode_chain_for_prm(self.vlm, example, chain, prompt)
            except (ValueError, TypeError) as error:  # a tokenizer's TypeError: half a surrogate
                results[key] = ScoreFailure(str(error))
                continue
            if row.tags:
                encoded[key] = row
            else:
                results[key] = StepScores(())
        return encoded

    def _scored(
        self, encoded: Mapping[Key, EncodedChain], items: Items, results: dict[Key, Scored]
    ) -> Iterator[tuple[Key, list[float]]]:
        """Each chain with the scores of its tags, as found; those of a question that the model refuses fail."""
        if not self.share:
            yield from ((key, self._plainly(items[key][0], row)) for key, row in encoded.items())
            return
        before = self.prefixes.computed_tokens
        refused = self._compute({key[:2]: items[key][0] for key in encoded})
        results |= {key: ScoreFailure(refused[key[:2]]) for key in encoded if key[:2] in refused}
        keys = [key for key in encoded if key[:2] not in refused]
        texts = [self.prefixes.find(key[:2], encoded[key].text) for key in keys]
        for extended in self.prefixes.extend(texts, self.token_budget):
            yield from self._read(extended, keys, encoded, texts)
        for key, text in zip(keys, texts, strict=True):
            if not text.new:
                yield key, [self._known(text)[tag] for tag in encoded[key].places]
        self.forward_tokens += self.prefixes.computed_tokens - before

    def _compute(self, examples: Mapping[PromptKey, Example]) -> dict[PromptKey, str]:
        """Compute the questions; why some cannot be, one by one where together they fail."""
        try:
            self.prefixes.compute(examples)
            return {}
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if out_of_memory(error):
                raise
            if len(examples) == 1:
                return dict.fromkeys(examples, f"the PRM cannot compute its question ({first_line(error)})")
        return {k: reason for key in examples for k, reason in self._compute({key: examples[key]}).items()}

    def _known(self, text: Text) -> dict[int, float]:
        """Scores of the tags in the part of a text that was known before, by their places in it."""
        scores = {} if text.base is None else self.known.get(text.base, {})
        return {place: score for place, score in scores.items() if place < text.shared}

    def _read(
        self, extended: Extended, keys: Sequence[Key], encoded: Mapping[Key, EncodedChain], texts: Sequence[Text]
    ) -> Iterator[tuple[Key, list[float]]]:
        """Each chain of one forward with the scores of its tags, which are kept where the chain is unfinished."""
        fresh, where = [], []
        for number, row, path, _ in extended.texts:
            shared = texts[number].shared
            fresh.append([place for place in encoded[keys[number]].places if place >= shared])
            where += [(row, path[place - shared]) for place in fresh[-1]]
        rows, columns = torch.tensor(where, device=extended.hidden.device).reshape(-1, 2).unbind(1)
        good = iter(self._good(extended.hidden[rows, columns]).tolist())
        self.scored_steps += len(where)
        for (number, _, _, piece), places in zip(extended.texts, fresh, strict=True):
            key, text = keys[number], texts[number]
            scores = self._known(text) | {place: next(good) for place in places}
            if key[2].answer is None:
                self.prefixes.keep(text.key, piece)
                self.known[piece] = scores
            yield key, [scores[place] for place in encoded[key].places]

    def _plainly(self, example: Example, row: EncodedChain) -> list[float]:
        """Scores from one stock forward over question and chain."""
        prompt = self.prefixes.prompts.encode(example)
        hidden = hidden_states(self.vlm, self.prefixes.features, prompt_key(example), prompt, row.text)
        self.scored_steps += len(row.tags)
        self.forward_tokens += len(row.ids)
        return list(self._good(hidden[list(row.tags)]).tolist())

    def _good(self, hidden: torch.Tensor) -> torch.Tensor:
        """P(good) [K] of hidden states [K, W], in float32."""
        head = self.vlm.model.get_output_embeddings()
        bias = None if head.bias is None else head.bias[self.columns].float()
        return functional.linear(hidden.float(), head.weight[self.columns].float(), bias).softmax(-1)[:, 0]


def _windows(keys: Iterable[Key]) -> Iterator[list[Key]]:
    """Keys of one question side by side, those with the same pictures after one another, `QUESTIONS` at a time."""
    pictures: dict[tuple[str, ...], dict[PromptKey, list[Key]]] = {}
    for key in keys:
        pictures.setdefault(key[1], {}).setdefault(key[:2], []).append(key)
    questions = [chains for asked in pictures.values() for chains in asked.values()]
    for begin in range(0, len(questions), QUESTIONS):
        yield [key for chains in questions[begin : begin + QUESTIONS] for key in chains]
