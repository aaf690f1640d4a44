"""Pretraining of the small VLMs: first to look, then (a PRM's backbone) to check.

Real users start from a pretrained model; the mini recipe starts from what this makes (`mini_base.make_base`). Both
stages draw problems of the train split without end, so nothing is seen twice and nothing of the tests is seen at all.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from chainofstep.chain import BAD, GOOD, REFLECTION_START, STEP_TAG, THOUGHT_START, Chain, render
from chainofstep.models.vlm import VLM
from chainofstep.problems.tasks.build import TRAINED, Problem
from chainofstep.problems.tasks.drills import drill
from chainofstep.problems.tasks.lessons import (
    TO_CHECK,
    CheckedChain,
    checked,
    checking_lesson,
    explaining_turns,
    lesson_problems,
    looking_turns,
)
from chainofstep.store import write_bytes

IGNORED = -100


@dataclass(frozen=True)
class PretrainConfig:
    """How long and how fast. `turns` are the turns of a looking lesson."""

    updates: int = 4000
    schedule: int = 0  # updates over which the rate would fall to its end; 0 for `updates`
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.02
    turns: int = 5
    captions_first: int = 600  # updates of captions alone, before other turns join
    looking_share: float = 0.0  # of checking lessons, how many are looking lessons instead
    drill_share: float = 0.0  # of checking lessons, how many are drills in reckoning instead
    mistakes_share: float = 0.5  # of chains to check, how many are a policy's own, where there are any
    seed: int = 0
    first_problem: int = 10_000_000  # far from the seeds that a run draws


@dataclass
class Lesson:
    """One encoded row: ids [T], language labels [T], tag labels [T] and claim labels [T] (-1 where there is none), and
    `expected` [T], the token that would be right where another one stands."""

    ids: list[int]
    labels: list[int]
    tags: list[float]
    claims: list[float]
    expected: list[int]
    picture: torch.Tensor | None


class Encoder:
    """Encodes lessons; pictures skip the processor's per-picture overhead but get the very same pixels."""

    def __init__(self, vlm: VLM):
        self.vlm, self.tokenizer = vlm, vlm.tokenizer
        self.picture = [vlm.model.config.image_token_id] * vlm.model.config.image_seq_length
        self.user, self.assistant = self.id("<|user|>"), self.id("<|assistant|>")
        self.end = self.tokenizer.eos_token_id

    def id(self, token: str) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(token))

    def pixels(self, problem: Problem) -> torch.Tensor:
        array = torch.from_numpy(np.array(problem.picture)).permute(2, 0, 1).float()
        return array / 127.5 - 1.0

    def looking(self, problem: Problem, turns: Sequence[tuple[str, str]]) -> Lesson:
        ids, labels = [], []
        for place, (question, answer) in enumerate(turns):
            asked = [self.user, *(self.picture if place == 0 else []), *self._text(question), self.end, self.assistant]
            said = [*self._text(answer), self.end]
            ids += asked + said
            labels += [IGNORED] * len(asked) + said
        blank = [-1.0] * len(ids)
        return Lesson(ids, labels, blank, blank, [IGNORED] * len(ids), self.pixels(problem))

    def checking(self, problem: Problem, checked: CheckedChain) -> Lesson:
        """A chain to check; where it is right throughout, its text is learnt too."""
        question = [self.user, *self.picture, *self._text(problem.example().question), self.end, self.assistant]
        right = all(checked.steps) and (checked.chain.answer is None or checked.answer)
        lesson = self._checked(question, checked, self.pixels(problem))
        return replace(lesson, labels=[IGNORED] * len(question) + lesson.ids[len(question) :]) if right else lesson

    def drill(self, checked: CheckedChain) -> Lesson:
        """Steps of pure reckoning, without a picture. Of the text, the right results alone are learnt."""
        lesson = self._checked([self.user, self.end, self.assistant], checked, None)
        right = [e if e != IGNORED else said for e, said in zip(lesson.expected, lesson.ids, strict=True)]
        (equals,) = self._text(" =")
        before = zip([self.end, *lesson.ids], right, strict=False)
        return replace(lesson, labels=[token if last == equals else IGNORED for last, token in before])

    def _checked(self, question: list[int], checked: CheckedChain, picture: torch.Tensor | None) -> Lesson:
        text = render(checked.chain, STEP_TAG)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, ends = list(encoded.input_ids), [end for _, end in encoded.offset_mapping]
        answer = [] if checked.chain.answer is None else [checked.answer]
        tags = _at_tags(ids, self.id(STEP_TAG), [*checked.steps, *answer])
        claims = _at_ends(ends, _claim_places(text, checked))
        skipped, blank = [IGNORED] * len(question), [-1.0] * len(question)
        expected = skipped + self._expected(checked, ids)
        silent = skipped + [IGNORED] * len(ids)
        return Lesson(question + ids, silent, blank + tags, blank + claims, expected, picture)

    def _expected(self, checked: CheckedChain, ids: list[int]) -> list[int]:
        """The gold chain's token wherever it differs; nothing where the two chains do not line up."""
        right = self._text(render(checked.gold, STEP_TAG))
        if len(right) != len(ids):
            return [IGNORED] * len(ids)
        return [IGNORED if token == wanted else wanted for token, wanted in zip(ids, right, strict=True)]

    def _text(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)


def _at_tags(ids: Sequence[int], tag: int, labels: Sequence[bool]) -> list[float]:
    queue = iter(labels)
    return [float(next(queue)) if token == tag else -1.0 for token in ids]


def _claim_places(text: str, checked: CheckedChain) -> dict[int, bool]:
    """Character at which each claim ends in the rendered text, and whether it holds."""
    places, position = {}, 0
    for claims in checked.claims:
        thought = text.index(THOUGHT_START, position) + len(THOUGHT_START)
        position = text.index(REFLECTION_START, thought) + len(REFLECTION_START)
        for part, end, holds in claims:
            places[(thought if part == "thought" else position) + end] = holds
    return places


def _at_ends(ends: Sequence[int], places: dict[int, bool]) -> list[float]:
    return [float(places[end]) if end in places else -1.0 for end in ends]


Lessons = dict[str, torch.Tensor]


def collate(lessons: Sequence[Lesson], pad: int) -> Lessons:
    """Right-padded tensors [B, T], and the pictures [P, 3, H, W] of the lessons that have one, if any has."""
    width = max(len(lesson.ids) for lesson in lessons)

    def padded(rows: list, fill: float, kind: torch.dtype) -> torch.Tensor:
        return torch.tensor([row + [fill] * (width - len(row)) for row in rows], dtype=kind)

    pictures = [lesson.picture for lesson in lessons if lesson.picture is not None]
    rows = {
        "input_ids": padded([lesson.ids for lesson in lessons], pad, torch.long),
        "labels": padded([lesson.labels for lesson in lessons], IGNORED, torch.long),
        "tags": padded([lesson.tags for lesson in lessons], -1.0, torch.float),
        "claims": padded([lesson.claims for lesson in lessons], -1.0, torch.float),
        "expected": padded([lesson.expected for lesson in lessons], IGNORED, torch.long),
    }
    return rows | ({"pixel_values": torch.stack(pictures)} if pictures else {})


def batches(
    make: Callable[[Problem], Lesson], config: PretrainConfig, pad: int, kinds: Sequence[str] = TRAINED
) -> Iterator[Lessons]:
    """Endless batches; eight batches' worth of lessons are sorted by length before they are cut, to pad little."""
    generator = np.random.default_rng(config.seed)
    source = lesson_problems(config.first_problem + config.seed * 10_000_000, kinds)
    while True:
        lessons = sorted((make(next(source)) for _ in range(8 * config.batch_size)), key=lambda row: len(row.ids))
        for index in generator.permutation(8):
            yield collate(lessons[index * config.batch_size : (index + 1) * config.batch_size], pad)


def language_loss(hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Next-token cross-entropy over the labelled tokens alone (0 if there are none).

    Logits are made where a label stands and nowhere else: on a small model the head is a third of the work.
    """
    wanted = labels[:, 1:]
    where = wanted != IGNORED
    logits = hidden[:, :-1][where] @ head.T
    return functional.cross_entropy(logits, wanted[where], reduction="sum") / where.sum().clamp(min=1)


def verdict_loss(hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Cross-entropy of (good, bad) at every labelled position, and the accuracy there (both 0 if there are none)."""
    where = labels >= 0
    if not where.any():
        return hidden.sum() * 0, 0.0
    wanted = (1 - labels[where]).long()
    logits = hidden[where] @ head.T
    return functional.cross_entropy(logits, wanted), float((logits.argmax(-1) == wanted).float().mean())


def correction_loss(hidden: torch.Tensor, head: torch.Tensor, expected: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Cross-entropy of the right token at every position that holds a wrong one, and how often it is the first."""
    where = expected != IGNORED
    logits = hidden[where] @ head.T
    loss = functional.cross_entropy(logits, expected[where], reduction="sum") / where.sum().clamp(min=1)
    found = (logits.argmax(-1) == expected[where]).float().sum() / where.sum().clamp(min=1)
    return loss, float(found)


Losses = Callable[[VLM, Lessons], tuple[torch.Tensor, dict[str, float]]]


def looking_losses(vlm: VLM, batch: Lessons) -> tuple[torch.Tensor, dict[str, float]]:
    mask = (batch["input_ids"] != vlm.tokenizer.pad_token_id).long()
    output = vlm.model.model(batch["input_ids"], pixel_values=batch.get("pixel_values"), attention_mask=mask)
    loss = language_loss(output.last_hidden_state, vlm.model.get_output_embeddings().weight, batch["labels"])
    return loss, {"language": float(loss.detach())}


def checking_losses(vlm: VLM, batch: Lessons) -> tuple[torch.Tensor, dict[str, float]]:
    """Step tags from the last layer, single claims from the layer below, and the language loss of right chains.

    To check a claim is to compare what stands there with what the model would have said, which is known after the
    layers that the backbone shares with the policy. So the layers above them compare, the last one gathers for each
    tag what was found wrong in its step, and the claims' own labels teach the comparing. As a yes or no is a thin
    signal, the same layer also names the token that should stand where a wrong one stands. Looking lessons count as
    language alone.
    """
    mask = (batch["input_ids"] != vlm.tokenizer.pad_token_id).long()
    output = vlm.model.model(
        batch["input_ids"], pixel_values=batch.get("pixel_values"), attention_mask=mask, output_hidden_states=True
    )
    head = vlm.model.get_output_embeddings().weight
    verdicts = head[[vlm.token_id(GOOD), vlm.token_id(BAD)]]
    below = vlm.model.model.language_model.norm(output.hidden_states[-2])
    claims, claim_accuracy = verdict_loss(below, verdicts, batch["claims"])
    steps, step_accuracy = verdict_loss(output.last_hidden_state, verdicts, batch["tags"])
    language = language_loss(output.last_hidden_state, head, batch["labels"])
    measured = {"claim_accuracy": claim_accuracy, "step_accuracy": step_accuracy}
    corrected, recall = correction_loss(below, head, batch["expected"])
    losses = {"claims": claims, "steps": steps, "language": language, "corrected": corrected}
    values = {name: float(loss.detach()) for name, loss in losses.items()}
    measured |= {"recall": recall}
    return claims + steps + language + 0.5 * corrected, values | measured


Mistakes = Sequence[tuple[Problem, Chain]]


def pretrain(
    vlm: VLM,
    stage: str,
    config: PretrainConfig,
    log: Callable[[int, dict[str, float]], None],
    every: int = 100,
    mistakes: Mistakes = (),
    checkpoint: Path | None = None,
) -> VLM:
    """Train in place on endless lessons: stage "looking", "explaining" or "checking".

    Killed and called again with the same `checkpoint`, it goes on from the last report and ends in the same weights.
    `log` gets the mean losses of each `every` updates. `mistakes` are chains that a policy made.
    """
    encoder, generator = Encoder(vlm), np.random.default_rng(config.seed + 1)
    if stage == "looking":
        losses, make = looking_losses, _looking_lessons(encoder, generator, config)
    elif stage == "explaining":
        losses, make = looking_losses, lambda p: encoder.looking(p, explaining_turns(p, generator, config.turns))
    elif stage == "checking":
        losses, make = checking_losses, _checking_lessons(encoder, generator, config, mistakes)
    else:
        raise ValueError(f"stage must be 'looking', 'explaining' or 'checking', not {stage!r}")
    vlm.model.train()
    optimizer, schedule = _optimizer(vlm, config)
    done = _restore(checkpoint, vlm, optimizer, schedule)
    seen: list[dict[str, float]] = []
    # What was trained on before is drawn again, which costs little, so that the same lessons follow.
    kinds = TO_CHECK if stage == "checking" else TRAINED
    drawn = batches(make, config, vlm.tokenizer.pad_token_id, kinds) if done < config.updates else ()
    for update, batch in zip(range(1, config.updates + 1), drawn, strict=False):
        if update <= done:
            continue
        loss, values = losses(vlm, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vlm.model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        seen.append(values)
        if update % every == 0 or update == config.updates:
            log(update, {name: sum(row[name] for row in seen) / len(seen) for name in values})
            seen.clear()
            _keep(checkpoint, update, vlm, optimizer, schedule)
    vlm.model.eval()
    return vlm


def _restore(checkpoint: Path | None, vlm: VLM, *parts: Any) -> int:
    """The updates that the checkpoint holds, after loading it; 0 if there is none."""
    if checkpoint is None or not checkpoint.exists():
        return 0
    kept = torch.load(checkpoint, weights_only=True)
    vlm.model.load_state_dict(kept["model"])
    for part, state in zip(parts, kept["parts"], strict=True):
        part.load_state_dict(state)
    return int(kept["update"])


def _keep(checkpoint: Path | None, update: int, vlm: VLM, *parts: Any) -> None:
    if checkpoint is not None:
        content = BytesIO()
        states = [part.state_dict() for part in parts]
        torch.save({"update": update, "model": vlm.model.state_dict(), "parts": states}, content)
        write_bytes(checkpoint, content.getvalue())


def _looking_lessons(
    encoder: Encoder, generator: np.random.Generator, config: PretrainConfig
) -> Callable[[Problem], Lesson]:
    numbers = count()

    def make(problem: Problem) -> Lesson:
        early = next(numbers) < config.captions_first * config.batch_size
        return encoder.looking(problem, looking_turns(problem, generator, 0 if early else config.turns))

    return make


def _checking_lessons(
    encoder: Encoder, generator: np.random.Generator, config: PretrainConfig, mistakes: Mistakes
) -> Callable[[Problem], Lesson]:
    def make(problem: Problem) -> Lesson:
        draw = generator.random()
        if draw < config.looking_share:
            return encoder.looking(problem, looking_turns(problem, generator, config.turns))
        if draw < config.looking_share + config.drill_share:
            return encoder.drill(drill(generator))
        if mistakes and generator.random() < config.mistakes_share:
            other, chain = mistakes[int(generator.integers(len(mistakes)))]
            return encoder.checking(other, checked(other, chain))
        return encoder.checking(problem, checking_lesson(problem, generator))

    return make


def _optimizer(vlm: VLM, config: PretrainConfig) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    optimizer = torch.optim.AdamW(
        vlm.model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )

    def rate(update: int) -> float:
        if update < config.warmup:
            return (update + 1) / config.warmup
        done = (update - config.warmup) / max(1, (config.schedule or config.updates) - config.warmup)
        return 0.05 + 0.95 * 0.5 * (1 + float(np.cos(np.pi * min(1.0, done))))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
