"""The in-process sampler: many continuations of shared prefixes from a Hugging Face VLM, on CPU or GPU.

A call goes through four things: `plan` checks requests and finds the distinct prefixes (trunks), `_prefill` computes
each trunk once, a `Cohort` holds the rows of trunks that were admitted together, and every decode step feeds one
token of every row in flight through the model's stock forward. Rows that have ended make room for the next trunks.

Shapes: B rows in flight, P trunks, T tokens, V vocabulary.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from transformers import DynamicCache

from chainofstep.models.cohort import Cohort, Sampled
from chainofstep.models.prefix_attention import SharedPrefix, require_supported, sampling_mode
from chainofstep.models.sampling import ControlTokens, Settings
from chainofstep.models.trunks import Plan, PromptKey, Trunk, next_cohort, plan
from chainofstep.models.vlm import VLM
from chainofstep.records import Request, Rollout

POLL = 4  # decode steps between two looks at which rows have ended; each look waits for the device
REFILL = 4  # trunks are admitted when one part in so many of the budget is free
PREFILL_TOKENS = 16_384  # padded tokens of one prefill forward


class Engine:
    """A `Sampler` over one VLM.

    `token_budget` bounds the key-value positions held at once, reserved for prefixes and for all tokens that rows
    may still sample; a row that alone needs more than all of it is sampled by itself. `progress` is called with
    (samples finished, samples of the call). `logprobs` asks for the log-probabilities of sampled tokens.
    `sampled_tokens` counts the tokens of all rollouts so far.
    """

    def __init__(
        self,
        vlm: VLM,
        token_budget: int = 2**18,
        progress: Callable[[int, int], None] | None = None,
        logprobs: bool = False,
    ):
        require_supported(vlm.model)
        if token_budget <= 0:
            raise ValueError(f"token_budget={token_budget}: give the number of key-value positions that fit in memory")
        self.vlm, self.token_budget, self.progress, self.logprobs = vlm, token_budget, progress, logprobs
        self.sampled_tokens = 0

    def sample(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """For each request its `n` rollouts, in order; ValueError before any sampling if a request cannot be met.

        `token_ids` holds an end-of-sequence token that was sampled; `text` leaves it out.
        """
        planned = plan(self.vlm, requests, self.token_budget)
        finished: dict[tuple[int, int], Rollout] = {}
        with sampling_mode(self.vlm.model):
            call = _Call(self.vlm, planned, self.token_budget, self.logprobs)
            while call.unfinished:
                rollouts = self._rollouts(requests, call.advance(), planned.control)
                finished |= rollouts
                if self.progress is not None and rollouts:
                    self.progress(len(finished), sum(request.n for request in requests))
        return [[finished[number, i] for i in range(request.n)] for number, request in enumerate(requests)]

    def _rollouts(
        self, requests: Sequence[Request], done: list[Sampled], control: ControlTokens
    ) -> dict[tuple[int, int], Rollout]:
        texts = _decode(self.vlm, done, control.end_of_sequence)
        rollouts = {}
        for sampled, text in zip(done, texts, strict=True):
            row, request = sampled.row, requests[sampled.row.request]
            self.sampled_tokens += len(sampled.ids)
            rollouts[row.request, row.index] = Rollout(
                request.example.id,
                request.prefix + text,
                tuple(sampled.ids),
                control.endings(request.stop).get(sampled.ids[-1], "length"),
                request.seed,
                row.index,
                None if sampled.logprobs is None else tuple(sampled.logprobs),
            )
        return rollouts


def _decode(vlm: VLM, done: list[Sampled], end: int | None) -> list[str]:
    """Texts of sampled ids, without end-of-sequence tokens.

    They are decoded behind the last token of their prefix, because some tokenizers drop a space at the beginning.
    """
    if not done:
        return []
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    starts = {row.last: vlm.tokenizer.decode([row.last], **options) for row in {sampled.row for sampled in done}}
    ids = [[s.row.last, *(s.ids[:-1] if s.ids[-1] == end else s.ids)] for s in done]
    texts = vlm.tokenizer.batch_decode(ids, **options)
    return [text[len(starts[s.row.last]) :] for s, text in zip(done, texts, strict=True)]


class _Call:
    """The state of one `sample` call: trunks that wait, cohorts in flight, picture features still needed."""

    def __init__(self, vlm: VLM, planned: Plan, token_budget: int, logprobs: bool):
        self.vlm, self.prompts, self.control, self.pending = vlm, planned.prompts, planned.control, list(planned.trunks)
        self.token_budget, self.logprobs = token_budget, logprobs
        self.cohorts: list[Cohort] = []
        self.waiting = Counter(trunk.prompt for trunk in planned.trunks)
        self.features: dict[tuple[str, ...], torch.Tensor] = {}
        self.forbidden = torch.tensor(planned.control.forbidden, device=vlm.device)
        self.ends: dict[Settings, torch.Tensor] = {}

    @property
    def unfinished(self) -> bool:
        return bool(self.pending or self.cohorts)

    def advance(self) -> list[Sampled]:
        """Admit what fits, sample a few tokens of every row in flight, and return the rows taken out."""
        self._admit()
        for _ in range(min(POLL, max(cohort.remaining for cohort in self.cohorts))):
            self._step()
        done = [sampled for cohort in self.cohorts for sampled in cohort.harvest()]
        self.cohorts = [cohort for cohort in self.cohorts if len(cohort)]
        return done

    def _admit(self) -> None:
        free = self.token_budget - sum(cohort.cost for cohort in self.cohorts)
        if self.cohorts and free * REFILL < self.token_budget:
            return
        while trunks := next_cohort(self.pending, free):
            self._start(trunks)
            free = self.token_budget - sum(cohort.cost for cohort in self.cohorts)
        if not self.cohorts and self.pending:
            self._start([self.pending.pop(0)])

    def _start(self, trunks: list[Trunk]) -> None:
        settings = trunks[0].settings
        if settings not in self.ends:
            rows = self.vlm.model.get_output_embeddings().weight.shape[0]
            self.ends[settings] = torch.zeros(rows, dtype=torch.bool, device=self.vlm.device)
            self.ends[settings][list(self.control.endings(settings.stop))] = True
        self.cohorts.append(Cohort(trunks, self._prefill(trunks), self.ends[settings], self.logprobs))

    def _step(self) -> None:
        """One token for every row."""
        tokens = torch.cat([cohort.last for cohort in self.cohorts])[:, None]
        positions = torch.cat([cohort.positions for cohort in self.cohorts])[:, None]
        shared = SharedPrefix([cohort.kv for cohort in self.cohorts])
        output = self.vlm.model(input_ids=tokens, position_ids=positions, use_cache=False, shared_prefix=shared)
        logits = output.logits[:, -1].float()
        for cohort, rows in zip(self.cohorts, logits.split(shared.sizes), strict=True):
            cohort.take(rows, self.forbidden)

    def _prefill(self, trunks: list[Trunk]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values [P, K, T, D] of each layer, T the longest trunk; shorter ones are padded at the end."""
        longest = max(len(trunk.ids) for trunk in trunks)
        count = max(1, PREFILL_TOKENS // longest)
        pieces = [self._prefill_piece(trunks[start : start + count], longest) for start in range(0, len(trunks), count)]
        if len(pieces) == 1:
            return pieces[0]
        layers = zip(*pieces, strict=True)
        return [(torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in layers]

    def _prefill_piece(self, trunks: list[Trunk], length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        model, device = self.vlm.model, self.vlm.device
        padding = trunks[0].rows[0].last  # any token that is no picture's
        padded = [[*trunk.ids, *[padding] * (length - len(trunk.ids))] for trunk in trunks]
        ids = torch.tensor(padded, device=device)
        embedded = model.get_input_embeddings()(ids)
        pictures = self._pictures(trunks)
        if pictures:
            places = (ids == model.config.image_token_id)[..., None]
            embedded = embedded.masked_scatter(places, torch.cat(pictures).to(embedded.dtype))
        cache = DynamicCache()
        # Padding stands at the end, where causal attention never lets a real token see it: no mask is needed.
        model(inputs_embeds=embedded, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return [(layer.keys, layer.values) for layer in cache.layers]

    def _pictures(self, trunks: list[Trunk]) -> list[torch.Tensor]:
        """The features [tokens, width] of each trunk's pictures; computed once for a set of pictures."""
        wanted: dict[PromptKey, None] = dict.fromkeys(trunk.prompt for trunk in trunks if trunk.prompt[1])
        fresh = {key[1]: key for key in wanted if key[1] not in self.features}
        if fresh:
            self._compute_features(fresh)
        found = [self.features[trunk.prompt[1]] for trunk in trunks if trunk.prompt[1]]
        self.waiting.subtract(trunk.prompt for trunk in trunks)
        needed = {key[1] for key, count in self.waiting.items() if count > 0}
        self.features = {pictures: tensor for pictures, tensor in self.features.items() if pictures in needed}
        return found

    def _compute_features(self, fresh: dict[tuple[str, ...], PromptKey]) -> None:
        images = [self.prompts[key].images for key in fresh.values()]
        joined = {name: torch.cat([image[name] for image in images]).to(self.vlm.device) for name in images[0]}
        joined["pixel_values"] = joined["pixel_values"].to(self.vlm.model.dtype)
        outputs = list(self.vlm.model.get_image_features(**joined, return_dict=True).pooler_output)
        for pictures in fresh:
            self.features[pictures] = torch.cat([outputs.pop(0) for _ in pictures])
