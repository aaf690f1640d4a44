"""The process reward model (paper A4): a VLM that says at each step tag how likely the step is right.

No head of its own: at the position of each tag the LM logits of that same position (no shift to the next token) are
read in two columns, good and bad, and their softmax is the score.

Shapes: B rows, T tokens, K tags, W hidden width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from chainofstep.chain import BAD, GOOD, STEP_TAG, Chain, render
from chainofstep.models.batch import assistant_ids, join_images, join_rows
from chainofstep.models.encode import Prompt, encode_prompt, picture_key
from chainofstep.models.vlm import VLM
from chainofstep.records import Example, Scored, ScoreFailure, StepScores

PICTURES = 256  # distinct pictures whose features are held at once
Key = tuple[str, tuple[str, ...], Chain]  # question, pictures, chain


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

    A forward pass holds chains of about the same length, at most `token_budget` padded tokens. `progress` is called
    with (chains scored, chains of the call). Equal chains of one question are scored once; `scored_chains`,
    `scored_steps` (tags, answers included) and `forward_tokens` count what was computed.
    """

    def __init__(self, vlm: VLM, token_budget: int = 2048, progress: Callable[[int, int], None] | None = None):
        if vlm.model.config.model_type != "llava":
            raise ValueError(f"the PRM scores with LLaVA models, not {vlm.model.config.model_type!r}; train one")
        if token_budget <= 0:
            raise ValueError(f"token_budget={token_budget}: give the number of tokens that fit in one forward pass")
        vlm.token_id(STEP_TAG)  # a tokenizer without the tags fails here, not once for every chain
        self.vlm, self.token_budget, self.progress, self.columns = vlm, token_budget, progress, verdict_ids(vlm)
        self.scored_chains = self.scored_steps = self.forward_tokens = 0

    def score(self, items: Sequence[tuple[Example, Chain]]) -> list[Scored]:
        """P(good) of each step and of the answer; `ScoreFailure` for a chain that does not fit or cannot be read."""
        keys: list[Key] = [(example.question, picture_key(example), chain) for example, chain in items]
        distinct = dict(zip(keys, items, strict=True))
        results: dict[Key, Scored] = {}
        was_training = self.vlm.model.training
        self.vlm.model.eval()
        try:
            for window in _windows(distinct):
                encoded = self._encode({key: distinct[key] for key in window}, results)
                self._score_encoded(encoded, results, len(distinct))
        finally:
            self.vlm.model.train(was_training)
        return [results[key] for key in keys]

    def _encode(self, items: dict[Key, tuple[Example, Chain]], results: dict[Key, Scored]) -> dict[Key, EncodedChain]:
        """Encode what can be scored; failures, and prefixes without a step, go to `results` at once."""
        prompts: dict[tuple[str, tuple[str, ...]], Prompt | ValueError] = {}
        encoded: dict[Key, EncodedChain] = {}
        for key, (example, chain) in items.items():
            question = key[:2]
            try:
                if question not in prompts:
                    prompts[question] = _prompt_or_error(self.vlm, example)
                prompt = prompts[question]
                if isinstance(prompt, ValueError):
                    raise prompt
                row = encode_chain_for_prm(self.vlm, example, chain, prompt)
            except ValueError as error:
                results[key] = ScoreFailure(str(error))
                continue
            if row.tags:
                encoded[key] = row
            else:
                results[key] = StepScores(())
        return encoded

    @torch.inference_mode()
    def _score_encoded(self, encoded: dict[Key, EncodedChain], results: dict[Key, Scored], total: int) -> None:
        features = self._features({key[1]: row.prompt for key, row in encoded.items() if key[1]})
        for keys in _groups(encoded, self.token_budget):
            rows = [encoded[key] for key in keys]
            scores = self._forward(rows, [features[key[1]] for key in keys if key[1]])
            for key, values in zip(keys, scores, strict=True):
                steps = len(key[2].steps)
                results[key] = StepScores(tuple(values[:steps]), None if key[2].answer is None else values[steps])
            if self.progress is not None:
                self.progress(len(results), total)

    def _features(self, prompts: dict[tuple[str, ...], Prompt]) -> dict[tuple[str, ...], torch.Tensor]:
        """Features [picture tokens, W] of each distinct set of pictures."""
        found: dict[tuple[str, ...], torch.Tensor] = {}
        pictures = list(prompts)
        for begin in range(0, len(pictures), 32):
            some = pictures[begin : begin + 32]
            images = join_images([prompts[key].images for key in some])
            images = {name: tensor.to(self.vlm.device) for name, tensor in images.items()}
            images["pixel_values"] = images["pixel_values"].to(self.vlm.model.dtype)
            outputs = iter(self.vlm.model.get_image_features(**images, return_dict=True).pooler_output)
            found |= {key: torch.cat([next(outputs) for _ in key]) for key in some}
        return found

    def _forward(self, rows: Sequence[EncodedChain], features: Sequence[torch.Tensor]) -> list[list[float]]:
        """Scores of each row's tags, from one pass through the decoder."""
        model, device = self.vlm.model, self.vlm.device
        batch = join_rows(self.vlm, [row.ids for row in rows], [])
        ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        embedded = model.get_input_embeddings()(ids)
        if features:
            places = (ids == model.config.image_token_id)[..., None]
            embedded = embedded.masked_scatter(places, torch.cat(list(features)).to(embedded.dtype))
        # Padding stands at the end, where causal attention never lets a real token see it: no mask is needed.
        hidden = model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        where = torch.tensor([(i, tag) for i, row in enumerate(rows) for tag in row.tags], device=device)
        good = self._good(hidden[where[:, 0], where[:, 1]]).tolist()
        self.scored_chains += len(rows)
        self.scored_steps += len(good)
        self.forward_tokens += int(mask.sum())
        scores = iter(good)
        return [[next(scores) for _ in row.tags] for row in rows]

    def _good(self, hidden: torch.Tensor) -> torch.Tensor:
        """P(good) [K] of hidden states [K, W], in float32."""
        head = self.vlm.model.get_output_embeddings()
        bias = None if head.bias is None else head.bias[self.columns].float()
        return functional.linear(hidden.float(), head.weight[self.columns].float(), bias).softmax(-1)[:, 0]


def _prompt_or_error(vlm: VLM, example: Example) -> Prompt | ValueError:
    try:
        return encode_prompt(vlm, example)
    except ValueError as error:
        return error


def _windows(keys: Iterable[Key]) -> Iterator[list[Key]]:
    """Keys with the same pictures side by side, cut where `PICTURES` distinct ones are together."""
    groups: dict[tuple[str, ...], list[Key]] = {}
    for key in keys:
        groups.setdefault(key[1], []).append(key)
    pictures = list(groups)
    for begin in range(0, len(pictures), PICTURES):
        yield [key for key_pictures in pictures[begin : begin + PICTURES] for key in groups[key_pictures]]


def _groups(encoded: dict[Key, EncodedChain], token_budget: int) -> Iterator[list[Key]]:
    """Keys of about the same length, longest first, at most `token_budget` padded tokens or a single row."""
    group: list[Key] = []
    for key in sorted(encoded, key=lambda key: -len(encoded[key].ids)):
        if group and (len(group) + 1) * len(encoded[group[0]].ids) > token_budget:
            yield group
            group = []
        group.append(key)
    if group:
        yield group
