"""Samples in flight: requests join, their rows are sampled side by side, and requests may leave.

`plan` finds the distinct texts (trunks) of requests that join together; a `Cohort` holds the rows of trunks that were
admitted together. Rows that have ended make room for the next trunks. A sample depends on its own seed and index
alone, so whatever memory runs out of is put back and sampled again, to the same text.
"""

import gc
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from chainofstep.models.cohort import Cohort, Sampled
from chainofstep.models.copied import CopiedKV
from chainofstep.models.encode import PromptKey, prompt_key
from chainofstep.models.levels import Level
from chainofstep.models.memory import first_line, out_of_memory
from chainofstep.models.prefix_attention import SharedKV, SharedPrefix
from chainofstep.models.prefixes import Piece
from chainofstep.models.sampling import Settings, control_tokens
from chainofstep.models.trunks import Row, Trunk, is_small, next_cohort, pieces, plan
from chainofstep.models.vlm import VLM
from chainofstep.records import Example, Request, Rollout

if TYPE_CHECKING:
    from chainofstep.models.engine import Engine

POLL = 4  # decode steps between two looks at which rows have ended; each look waits for the device
REFILL = 4  # trunks are admitted when one part in so many of the budget is free
FEW, GATHER = 8, 16  # rows that are fewer than one in so many of those in flight wait for others so many decode steps
SMALL_COHORT = 64  # rows up to which a cohort joins another
COPIED = 8  # as long as the prefixes copied for it are no more than one part in so many of the budget
LOGITS = 2**27  # float32 logits of one decode step that are held at once
log = logging.getLogger(__name__)


@dataclass
class _Joined:
    """A request that is not finished."""

    request: Request
    key: PromptKey
    left: int  # rows that have not ended


class Flight:
    """The requests that an engine samples now. `advance` samples a few tokens of every row in flight.

    Requests have numbers, in the order in which they joined. `failures` says why some cannot be met; they have left.
    `waiting` counts rows that are not in flight yet. To be used in `sampling_mode`, from one thread.
    """

    def __init__(self, engine: "Engine"):
        self.engine, self.vlm, self.prefixes = engine, engine.vlm, engine.prefixes
        self.prefixes.begin()
        self.control = control_tokens(self.vlm)
        self.forbidden = torch.tensor(self.control.forbidden, device=self.vlm.device)
        self.ends: dict[Settings, torch.Tensor] = {}
        self.vocabulary = self.vlm.model.get_output_embeddings().weight.shape[0]
        self.most_rows = max(1, LOGITS // self.vocabulary)
        self.joined = 0
        self.open: dict[int, _Joined] = {}
        self.failures: dict[int, str] = {}
        self.users: Counter[PromptKey] = Counter()  # unfinished requests of each question
        self.lengths: dict[PromptKey, int] = {}  # of questions that have users
        self.examples: dict[PromptKey, Example] = {}
        self.pending: list[Trunk] = []
        self.cohorts: list[Cohort] = []
        self.starting: list[Trunk] = []  # what memory ran out on before it was in flight
        self.steps = self.admitted = 0  # decode steps so far, and when rows were last admitted

    @property
    def unfinished(self) -> bool:
        return bool(self.pending or self.cohorts)

    @property
    def waiting(self) -> int:
        return sum(len(trunk.rows) for trunk in self.pending)

    @property
    def running(self) -> int:
        return sum(len(cohort) for cohort in self.cohorts)

    @property
    def budget(self) -> int:
        return self.engine.token_budget

    # Coming and going

    def join(self, requests: Sequence[Request]) -> range:
        """Take requests in, behind those that wait; their numbers. Which of them cannot be met is in `failures`."""
        numbers = range(self.joined, self.joined + len(requests))
        self.joined += len(requests)
        planned = plan(self.vlm, requests, self.prefixes.prompts, self.control, numbers.start)
        self.failures |= planned.failures
        for number, request in zip(numbers, requests, strict=True):
            if number not in planned.failures:
                key = prompt_key(request.example)
                self.open[number] = _Joined(request, key, request.n)
                self.users[key] += 1
        for key in planned.prompts.keys() & self.users.keys():
            self.lengths[key], self.examples[key] = len(planned.prompts[key]), planned.examples[key]
        self.pending += self._fitting(planned.trunks)
        return numbers

    def leave(self, numbers: Collection[int]) -> None:
        """Drop requests, finished or not; what was sampled of them is lost."""
        for number in numbers:
            self._release(number)
        for cohort in self.cohorts:
            cohort.drop(set(numbers))
        self.cohorts = [cohort for cohort in self.cohorts if len(cohort)]
        self.pending = self._wanted(self.pending)

    def _release(self, number: int) -> None:
        gone = self.open.pop(number, None)
        if gone is None:
            return
        self.users[gone.key] -= 1
        if not self.users[gone.key]:
            del self.users[gone.key], self.lengths[gone.key], self.examples[gone.key]

    def _wanted(self, trunks: Sequence[Trunk]) -> list[Trunk]:
        """The trunks without rows of requests that have left."""
        left = [replace(t, rows=tuple(row for row in t.rows if row.request in self.open)) for t in trunks]
        return [trunk for trunk in left if trunk.rows]

    def _fail(self, rows: Sequence[Row], reason: str) -> None:
        """The requests of these rows cannot be met, and leave."""
        for row in rows:
            self.failures.setdefault(row.request, reason)
        self.leave({row.request for row in rows})

    def texts(self, numbers: Collection[int]) -> dict[tuple[int, int], str]:
        """What is sampled so far of the rows in flight of these requests, by request and sample, without prefixes."""
        rows = [sampled for cohort in self.cohorts for sampled in cohort.so_far(numbers)]
        decoded = _decode(self.vlm, rows, self.control.turn_ends)
        return {(s.row.request, s.row.index): text for s, text in zip(rows, decoded, strict=True)}

    def close(self) -> None:
        """Keep what is computed of questions for the next flight, as far as it fits."""
        self.prefixes.end(self.budget)

    def rest(self) -> None:
        """Between two requests of a flight that never ends: forget texts that nobody goes on from any more."""
        self.prefixes.end(self.budget)
        self.prefixes.begin()

    def _finished(self, done: Sequence[Sampled]) -> list[tuple[int, Rollout]]:
        """The rollouts of rows that have ended, with the numbers of their requests."""
        found = []
        for sampled, text in zip(done, _decode(self.vlm, done, self.control.turn_ends), strict=True):
            number = sampled.row.request
            joined = self.open[number]
            self.engine.sampled_tokens += len(sampled.ids)
            found.append((number, self._rollout(sampled, joined.request, text)))
            joined.left -= 1
            if not joined.left:
                self._release(number)
        return found

    def _rollout(self, sampled: Sampled, request: Request, text: str) -> Rollout:
        return Rollout(
            request.example.id,
            request.prefix + text,
            tuple(sampled.ids),
            self.control.endings(request.stop).get(sampled.ids[-1], "length"),
            request.seed,
            sampled.row.index,
            None if sampled.logprobs is None else tuple(sampled.logprobs),
        )

    def _fitting(self, trunks: Sequence[Trunk]) -> list[Trunk]:
        """The trunks cut so that each fits the budget; one prefix a trunk where prefixes are copied."""
        if self.engine.share:
            return [piece for t in trunks for piece in pieces(t, self.lengths[t.key], self.budget, self.most_rows)]
        return [piece for t in trunks for piece in _copied_trunks(t, self.lengths[t.key], self.budget)]

    def advance(self) -> list[tuple[int, Rollout]]:
        """Admit what fits, sample a few tokens of every row in flight, and return the rollouts of rows taken out."""
        try:
            self._admit()
            self._make_room()
            for _ in range(min(POLL, max((cohort.remaining for cohort in self.cohorts), default=0))):
                self._step()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            self._retreat(error)
        self._measure()
        done = [sampled for cohort in self.cohorts for sampled in cohort.harvest()]
        self.cohorts = [cohort for cohort in self.cohorts if len(cohort)]
        for sampled in done:
            if sampled.broken:
                self._fail([sampled.row], f"the model's logits are NaN after {len(sampled.ids) - 1} sampled tokens")
        return self._finished([sampled for sampled in done if sampled.row.request in self.open])

    # Memory

    def _reserved(self) -> int:
        return self.prefixes.positions + sum(cohort.likely for cohort in self.cohorts)

    def _make_room(self) -> None:
        """Where rows grow beyond the budget, the newest wait: they are put back and begin again later."""
        while True:
            own = sum(cohort.kv.positions(POLL) for cohort in self.cohorts)
            if own + self.prefixes.positions > self.budget:
                self.prefixes.shrink(self.budget - own, {trunk.key for trunk in self.pending})
            if own + self.prefixes.positions <= self.budget:
                return
            if sum(len(cohort) for cohort in self.cohorts) <= 1:
                return  # it alone needs more than there is, and goes on by itself
            newest = self.cohorts[-1]
            back = newest.give_back(0 if len(self.cohorts) > 1 else len(newest) // 2)
            self.pending = [*back, *self.pending]
            self.cohorts = [cohort for cohort in self.cohorts if len(cohort)]

    def _measure(self) -> None:
        own = sum(_own_bytes(cohort.kv) for cohort in self.cohorts)
        self.engine.peak_kv_bytes = max(self.engine.peak_kv_bytes, self.prefixes.nbytes + own)

    def _retreat(self, error: BaseException) -> None:
        """After running out of memory: put all rows back, forget what was kept, and go on with half the budget."""
        unfinished = self._wanted(self.starting + [t for cohort in self.cohorts for t in cohort.give_back()])
        self.cohorts, self.starting = [], []
        self.prefixes.retreat()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if sum(len(trunk.rows) for trunk in unfinished) <= 1:
            rows = [row for trunk in unfinished for row in trunk.rows]
            self._fail(rows, f"out of memory with nothing else in flight ({first_line(error)})")
            return
        self.engine.token_budget = max(1, min(self.budget, self._largest(unfinished)) // 2)
        log.warning("out of memory: the engine's token_budget is now %d", self.budget)
        self.pending = self._fitting([*unfinished, *self.pending])

    def _largest(self, trunks: Sequence[Trunk]) -> int:
        """Positions that these trunks would have come to: a budget above it would change nothing."""
        return sum(trunk.likely + self.lengths[trunk.key] for trunk in trunks) or self.budget

    # Cohorts

    def _admit(self) -> None:
        free = self.budget - self._reserved()
        if self.cohorts and (free * REFILL < self.budget or self._gathers()):
            return
        if self.pending:  # what no row of this call waits for may stay while prefixes fill no more than a part
            self.prefixes.shrink(self.budget // REFILL, {trunk.key for trunk in self.pending})
        while trunks := self._next(self.budget - self._reserved()):
            self._start(trunks)
        while not self.cohorts and self.pending:
            self.prefixes.shrink(0, {self.pending[0].key})
            trunks = self._next(self.budget - self._reserved()) or [self.pending.pop(0)]
            self._start(trunks)

    def _gathers(self) -> bool:
        """Whether the few rows that wait should wait for more: taking some in costs as much as taking in many."""
        return self.steps - self.admitted < GATHER and self.waiting * FEW < self.running

    def _next(self, free: int) -> list[Trunk]:
        if not self.engine.share:
            fits = self.pending and free >= self._copied_cost(self.pending[0])
            return [self.pending.pop(0)] if fits else []
        rows = self.most_rows - sum(len(cohort) for cohort in self.cohorts)
        return next_cohort(self.pending, self.lengths, free, rows)

    def _copied_cost(self, trunk: Trunk) -> int:
        return sum(self.lengths[trunk.key] + len(trunk.ids) + row.likely for row in trunk.rows)

    def _start(self, trunks: list[Trunk]) -> None:
        """Put a cohort in flight; where that fails, its questions one by one, to find the one at fault."""
        try:
            self._depart(self._cohort(trunks))
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if out_of_memory(error):
                self.starting = trunks
                raise
            questions = list(dict.fromkeys(trunk.key for trunk in trunks))
            if len(questions) == 1:
                rows = [row for trunk in trunks for row in trunk.rows]
                self._fail(rows, f"the model cannot compute its prefix ({first_line(error)})")
            else:
                self._start_apart([[trunk for trunk in trunks if trunk.key == key] for key in questions])

    def _start_apart(self, questions: list[list[Trunk]]) -> None:
        """One cohort for each question; where memory runs out, those that have not begun are put back."""
        for number, trunks in enumerate(questions):
            try:
                self._start(trunks)
            except (RuntimeError, MemoryError):
                self.starting += [trunk for later in questions[number + 1 :] for trunk in later]
                raise

    def _depart(self, cohort: Cohort) -> None:
        """Put a cohort in flight, with an older one if it is small: each cohort costs calls of its own in each step."""
        self.admitted = self.steps
        host = next((other for other in self.cohorts if self._goes_with(cohort, other)), None)
        if host is None:
            self.cohorts.append(cohort)
        else:
            host.take_in(cohort)

    def _goes_with(self, cohort: Cohort, host: Cohort) -> bool:
        """Whether a cohort of few rows may join another, which copies the prefixes of both."""
        mine, others = cohort.kv, host.kv
        if not isinstance(mine, SharedKV) or not isinstance(others, SharedKV) or len(cohort) > SMALL_COHORT:
            return False
        copied = sum(level.prefixes * level.length for level in (*mine.levels, *others.levels))
        alike = cohort.settings == host.settings and len(mine.levels) == len(others.levels)
        return alike and copied * COPIED <= self.budget

    def _cohort(self, trunks: list[Trunk]) -> Cohort:
        settings = trunks[0].settings
        if settings not in self.ends:
            self.ends[settings] = torch.zeros(self.vocabulary, dtype=torch.bool, device=self.vlm.device)
            self.ends[settings][list(self.control.endings(settings.stop))] = True
        kv, offsets = self._shared(trunks) if self.engine.share else self._copied(trunks[0])
        return Cohort(trunks, kv, self.ends[settings], offsets, self.engine.logprobs)

    def _shared(self, trunks: list[Trunk]) -> tuple[SharedKV, list[int]]:
        keys = list(dict.fromkeys(trunk.key for trunk in trunks))
        questions = self.prefixes.compute({key: self.examples[key] for key in keys})
        number = {key: i for i, key in enumerate(keys)}
        rows = [(trunk, row) for trunk in trunks for row in trunk.rows]
        owners = [number[trunk.key] for trunk, _ in rows]
        texts = self.prefixes.texts([(trunk.key, trunk.ids) for trunk in trunks]) if trunks[0].ids else []
        asked = [row.asked for _, row in rows]
        if texts:
            levels = self._text_levels(trunks, texts, keys, owners)
        else:
            levels = [self.prefixes.question_level(keys, owners, asked)]
        most = max(row.max_tokens for _, row in rows)
        return SharedKV(levels, most), [questions[owner].offset for owner in owners]

    def _text_levels(
        self, trunks: list[Trunk], texts: list[Piece], keys: list[PromptKey], owners: list[int]
    ) -> list[Level]:
        """Questions and texts; rows that go on from one place of a trunk have a copy of its beginning (it is short)."""
        places = [(number, row.seen) for number, trunk in enumerate(trunks) for row in trunk.rows]
        longest_first = sorted(dict.fromkeys(places), key=lambda place: -place[1])  # like by like, for padding
        numbers = {place: i for i, place in enumerate(longest_first)}
        begun = [texts[number] for number, _ in numbers]
        hangs_on, seen = [numbers[place] for place in places], [count for _, count in places]
        if is_small(trunks, self.lengths):
            return [self.prefixes.joined_level([trunks[number].key for number, _ in numbers], begun, hangs_on, seen)]
        asked = [row.asked for trunk in trunks for row in trunk.rows]
        text_level = self.prefixes.text_level(begun, hangs_on, seen, asked)
        return [self.prefixes.question_level(keys, owners, asked), text_level]

    def _copied(self, trunk: Trunk) -> tuple[CopiedKV, list[int]]:
        prompt, rows = self.prefixes.prompts.encode(self.examples[trunk.key]), len(trunk.rows)
        kv = CopiedKV(self.vlm, self.prefixes.features, trunk.key, prompt, trunk.ids, rows)
        return kv, [kv.offset] * rows

    def _step(self) -> None:
        """One token for every row."""
        self.steps += 1
        shared = [cohort for cohort in self.cohorts if isinstance(cohort.kv, SharedKV)]
        for cohort in self.cohorts:
            if isinstance(cohort.kv, CopiedKV):
                cohort.take(cohort.kv.logits(cohort.last).float(), self.forbidden)
        if not shared:
            return
        tokens = torch.cat([cohort.last for cohort in shared])[:, None]
        positions = torch.cat([cohort.positions for cohort in shared])[:, None]
        attended = SharedPrefix([cohort.kv for cohort in shared if isinstance(cohort.kv, SharedKV)])
        output = self.vlm.model(input_ids=tokens, position_ids=positions, use_cache=False, shared_prefix=attended)
        logits = output.logits[:, -1].float()
        for cohort, rows in zip(shared, logits.split(attended.sizes), strict=True):
            cohort.take(rows, self.forbidden)


def _own_bytes(kv: Any) -> int:
    if isinstance(kv, CopiedKV):
        return kv.nbytes
    own = sum(keys.nbytes + values.nbytes for keys, values in kv.own)
    return own + sum(level.private_bytes for level in kv.levels)


def _copied_trunks(trunk: Trunk, question: int, budget: int) -> list[Trunk]:
    """One trunk for each distinct prefix, its last token included, of as many rows as fit."""
    prefixes: dict[tuple[int, int, int], list[Row]] = {}
    for row in trunk.rows:
        prefixes.setdefault((row.asked, row.seen, row.last), []).append(row)
    found = []
    for (asked, seen, last), rows in prefixes.items():
        ids = (*trunk.ids[:seen], last) if asked == question else ()
        count = max(1, budget // (question + len(ids) + max(row.cost for row in rows)))
        starts = range(0, len(rows), count)
        found += [Trunk(trunk.key, ids, trunk.settings, tuple(rows[start : start + count])) for start in starts]
    return found


def _decode(vlm: VLM, done: Sequence[Sampled], ends: frozenset[int]) -> list[str]:
    """Texts of sampled ids, without the token that ends the turn.

    They are decoded behind the last token of their prefix, because some tokenizers drop a space at the beginning.
    """
    if not done:
        return []
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    starts = {row.last: vlm.tokenizer.decode([row.last], **options) for row in {sampled.row for sampled in done}}
    ids = [[s.row.last, *(s.ids[:-1] if s.ids[-1] in ends else s.ids)] for s in done]
    texts = vlm.tokenizer.batch_decode(ids, **options)
    return [text[len(starts[s.row.last]) :] for s, text in zip(done, texts, strict=True)]
