"""`cos data build`: from training sets to checked SFT and PRM files, in one folder that can be killed anywhere.

data/
  images/SOURCE/...                the pictures, linked
  examples/examples.jsonl          questions with pictures and reference answers; overlap with evaluation sets removed
  teach/replies.jsonl              the teacher's texts
  sft/examples.jsonl               those with a chain that passed the filters
  solve/rollouts.jsonl             solutions without the reference, right and wrong
  judge-1/replies.jsonl            each judge's texts
  prm/scores.jsonl                 step labels of the solutions
  replies.sqlite                   every reply that was paid for
  sft.jsonl  prm_raw.jsonl  prm_train.jsonl  *.parquet     the same in the formats of other projects
  sft.card.html  prm.card.html     what is in them
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from types import TracebackType
from typing import Any

from chainofstep.llm import Endpoint, Estimate, Spending, estimate, estimated_prompt_tokens
from chainofstep.pipeline.asking import (
    Asking,
    Examples,
    Pools,
    ask_for_steps,
    ask_for_verdicts,
    draft_or_reason,
    judged_scores,
    read_answers,
    rollouts_of,
    spent_words,
    text_settings,
)
from chainofstep.pipeline.corpus_files import (
    PRM_FILES,
    SFT_FILES,
    Judges,
    prm_card,
    prm_rows,
    sft_card,
    sft_rows,
    token_counter,
    write_set,
)
from chainofstep.problems.filters import FilterConfig, FilterReport, refusal
from chainofstep.problems.overlap import OverlapIndex, Overlaps, Rule
from chainofstep.problems.pictures import link_file
from chainofstep.problems.skeleton import Draft
from chainofstep.problems.sources import SOURCES, load, load_hub
from chainofstep.problems.teacher import steps_prompt
from chainofstep.progress import progress
from chainofstep.records import Example, Reject, Rollout, Scored, ScoreFailure, to_row
from chainofstep.row_index import RowIndex
from chainofstep.scoring.judge import Neutral
from chainofstep.scoring.merge import Agreement, agreement_of
from chainofstep.settings import difference, resolved
from chainofstep.store import Log, RunFolder, write_json, write_text

#: Stages made of what others wrote, for nothing.
DERIVED = ("sft", "sft-files", "prm", "prm-files")
SAMPLED = 50  # prompts that an estimate is made from
#: Guesses of what is written: 5 to 10 steps, and a sentence on each.
STEPS_TOKENS, VERDICT_TOKENS = 900, 300


@dataclass(frozen=True)
class SourceAt:
    """One of the training sets, the folder of its files (none: the hub), and which split is read (none: all)."""

    name: str
    path: str = ""
    split: str = ""


@dataclass(frozen=True)
class BuildConfig:
    """What is built, and who is asked."""

    sources: tuple[SourceAt, ...]
    against: tuple[SourceAt, ...] = ()  # evaluation sets whose items are removed
    overlap_rule: Rule = "both"
    limit: int = 0  # examples of a source at most, 0 for all
    teacher: Endpoint | None = None
    solver: Endpoint | None = None  # None: no PRM data
    solutions: int = 4
    judges: tuple[Endpoint, ...] = ()
    votes: int = 1
    neutral: Neutral = "by_answer"
    filters: FilterConfig = field(default_factory=FilterConfig)
    tokenizer: str = ""  # whose tokens the cards count; without one they count words
    note: str = ""  # shown at the top of the cards

    def __post_init__(self) -> None:
        for name, least in (("limit", 0), ("solutions", 1), ("votes", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)}; give {least} or more")
        names = [(place.name, place.path, place.split) for place in self.sources]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"source {twice[0]} is given twice; give it once")


def empty_log(path: Path) -> Log:
    """A log that is there though nothing is in it."""
    write_text(path, "")
    return Log(path)


def counted(log: Log) -> int:
    """How many rows it has."""
    with log.path.open("rb") as file:
        return sum(1 for _ in file)


class Build:
    """The stages of one build, each run once; a killed one goes on where it was. A context manager while it works."""

    def __init__(self, config: BuildConfig, out: Path, say: Callable[[str], None]):
        self.config, self.folder, self.say = config, RunFolder(out), say
        self.folder.claim({"name": "data"})  # what decides a stage is kept with the stage
        self.spent: dict[str, str] = {}  # by stage, in words

    def __enter__(self) -> "Build":
        self.lock = self.folder.lock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lock.release()

    def path(self, *parts: str) -> Path:
        return self.folder.path.joinpath(*parts)

    def stage(
        self, name: str, work: Callable[[Path], Sequence[Path]], after: Sequence[str] = (), **inputs: Any
    ) -> None:
        """Run a stage unless it is finished. It is made from settings and from what the stages `after` which it comes
        wrote; one that asks nobody is simply made again where these have changed.
        """
        known, made_from = self.folder.stage(name), inputs | {earlier: self.outputs(earlier) for earlier in after}
        if known is not None and name in DERIVED and difference(known.inputs, json.loads(json.dumps(made_from))):
            self.path("stages", f"{name}.json").unlink()
            known = None
        stage = self.folder.run_stage(name, made_from, work)
        if known is None or known.seconds is None:
            self.say(f"done {name} in {stage.seconds:.1f} s{self.spent.get(name, '')}")

    def _note(self, name: str, asking: Asking, spending: Spending) -> None:
        cached = f", {spending.cached:,} replies from the cache" if spending.cached else ""
        retried = f", {spending.retries:,} retries" if spending.retries else ""
        plain = f", {spending.unstructured:,} without a schema" if spending.unstructured else ""
        self.spent[name] = f": {spent_words(spending, asking.endpoint)}{cached}{retried}{plain}"

    def outputs(self, name: str) -> str:
        """What a stage wrote, as one short hash."""
        stage = self.folder.stage(name)
        return hashlib.sha256(json.dumps(stage.outputs if stage else {}).encode()).hexdigest()[:12]

    def questions(self) -> None:
        """The stage before anything is asked: questions, less those that evaluation sets have."""
        config = self.config
        self.stage(
            "examples",
            self._examples,
            sources=[asdict(place) for place in config.sources],
            against=[asdict(place) for place in config.against],
            overlap_rule=config.overlap_rule,
            limit=config.limit,
        )

    def ask(self) -> None:
        """All other stages."""
        config = self.config
        if config.teacher is not None:
            self.stage("teach", self._teach, ["examples"], teacher=text_settings(config.teacher))
            self.stage("sft", self._sft, ["teach"], filters=resolved(config.filters))
            shown = {"note": config.note, "tokenizer": config.tokenizer}
            self.stage("sft-files", self._sft_files, ["sft"], filters=resolved(config.filters), **shown)
        if config.solver is not None:
            solver = text_settings(config.solver)
            self.stage("solve", self._solve, ["examples"], solver=solver, solutions=config.solutions)
            judges = {f"judge-{number}": judge for number, judge in enumerate(config.judges, start=1)}
            for name, judge in judges.items():
                self.stage(name, self._judge(name, judge), ["solve"], judge=text_settings(judge), votes=config.votes)
            self.stage("prm", self._prm, ["solve", *judges], neutral=config.neutral)
            self.stage("prm-files", self._prm_files, ["prm"], note=config.note, tokenizer=config.tokenizer)

    def estimates(self) -> list[tuple[str, Estimate]]:
        """What each stage that asks will take, as far as it is not done yet."""
        config, examples = self.config, self.examples()
        names = list(examples)
        if not names:
            raise ValueError(f"{self.path('examples')} has no question")
        shown = list(examples.read(names[:: max(1, len(names) // SAMPLED)]))
        steps = [(estimated_prompt_tokens(steps_prompt(each, "teach")), STEPS_TOKENS) for each in shown]
        verdicts = [(prompt + STEPS_TOKENS, VERDICT_TOKENS) for prompt, _ in steps]
        stages: list[tuple[str, Endpoint | None, int, list[tuple[int, int]]]] = [
            ("teach", config.teacher, 1, steps),
            ("solve", config.solver, config.solutions, steps),
        ]
        for number, judge in enumerate(config.judges, start=1):
            stages.append((f"judge-{number}", judge, config.solutions * config.votes, verdicts))
        found = []
        for name, endpoint, times, tokens in stages:
            missing = len(names) - len(RowIndex(self.path(name, "replies.jsonl")))
            if endpoint is not None and missing:
                found.append((name, estimate(endpoint, missing * times, tokens)))
        return found

    def examples(self, stage: str = "examples") -> Examples:
        return Examples(self.path(stage, "examples.jsonl"), lambda image: str(self.path(image)))

    # Questions

    def _examples(self, folder: Path) -> Sequence[Path]:
        shutil.rmtree(folder, ignore_errors=True)  # nothing was paid for, and pictures already linked stay
        index = OverlapIndex()
        for place in self.config.against:
            for found in self._load(place):
                if isinstance(found, Example):
                    index.add(found, SOURCES[place.name].title)
        overlaps = Overlaps(self.config.overlap_rule, index.threshold)
        log, rejects = empty_log(folder / "examples.jsonl"), empty_log(folder / "rejects.jsonl")
        for place in self.config.sources:
            self._import(place, index, overlaps, log, rejects)
        if self.config.against:
            write_json(folder / "overlap.json", to_row(overlaps))
        self.say(f"examples: {counted(log)} questions, {counted(rejects)} rejects")
        if not counted(log):
            raise ValueError(f"no question could be used: {counted(rejects)} rows were rejected, see {rejects.path}")
        return sorted(folder.glob("*.json*"))

    def _import(self, place: SourceAt, index: OverlapIndex, overlaps: Overlaps, log: Log, rejects: Log) -> None:
        kept = 0
        with progress(f"import {place.name}", self.config.limit or None) as tick:
            for found in self._load(place):
                if isinstance(found, Example) and (overlap := overlaps.removes(found, index.matches(found))):
                    reason = f"overlap: {overlap.matched} of {overlap.set_name} {overlap.example_id}"
                    found = Reject(found.id, reason, to_row(found))
                if isinstance(found, Reject):
                    rejects.append(to_row(found))
                    continue
                log.append(to_row(self._with_own_pictures(found, place)))
                kept += 1
                tick(kept)
                if kept == self.config.limit:
                    break

    def _load(self, place: SourceAt) -> Iterator[Example | Reject]:
        source, pictures = SOURCES[place.name], self.path("images", place.name)
        if not place.path:
            return load_hub(source, place.split or source.train_split, pictures)
        return load(source, Path(place.path), place.split or None, pictures=pictures)

    def _with_own_pictures(self, example: Example, place: SourceAt) -> Example:
        """The example with its pictures under `images/SOURCE`, and paths from the build's folder."""
        own, images = self.path("images", place.name), []
        for image in map(Path, example.images):
            if not image.is_relative_to(own):
                target = own / image.relative_to(place.path)
                link_file(image, target)
                image = target
            images.append(image.relative_to(self.folder.path).as_posix())
        return replace(example, images=tuple(images))

    # Chains to learn from

    def _teach(self, folder: Path) -> Sequence[Path]:
        log = Log(folder / "replies.jsonl")
        assert self.config.teacher is not None
        asking = Asking(self.config.teacher, self.path("replies.sqlite"), "teach")
        self._note("teach", asking, ask_for_steps(asking, log, self.examples(), "teach"))
        return [log.path]

    def _sft(self, folder: Path) -> Sequence[Path]:
        shutil.rmtree(folder, ignore_errors=True)  # made from stored texts alone
        report = FilterReport()
        log, rejects = empty_log(folder / "examples.jsonl"), empty_log(folder / "rejects.jsonl")
        examples = Examples(self.path("examples", "examples.jsonl"))
        names = list(examples)
        answers = read_answers(self.path("teach", "replies.jsonl"), names)
        for example, (answer,) in zip(examples.read(names), answers, strict=True):
            draft = draft_or_reason(answer)
            reason = draft if isinstance(draft, str) else refusal(example, draft, self.config.filters)
            if isinstance(draft, Draft) and reason is None:
                log.append(to_row(replace(example, chain=draft.chain)))
                report.keep()
            else:
                reject = Reject(example.id, reason or "", to_row(answer))
                rejects.append(to_row(reject))
                report.remove(reject)
        write_json(folder / "filters.json", to_row(report))
        removed = ", ".join(f"{name} {count:,}" for name, count in report.removed.items())
        self.say(f"sft: {report.kept:,} of {report.read:,} chains kept" + (f"; removed: {removed}" if removed else ""))
        return [log.path, rejects.path, folder / "filters.json"]

    def _sft_files(self, folder: Path) -> Sequence[Path]:
        examples = Examples(self.path("sft", "examples.jsonl"))
        counter = token_counter(self.config.tokenizer)
        stats = write_set(sft_rows(examples.read(list(examples))), self.folder.path, SFT_FILES, counter)
        assert self.config.teacher is not None
        cards = sft_card(stats, self.folder.path, self.config.teacher, self.config.filters, self.config.note)
        return [*map(self.path, SFT_FILES), *cards]

    # Solutions and their step labels

    def _solve(self, folder: Path) -> Sequence[Path]:
        log = Log(folder / "replies.jsonl")
        assert self.config.solver is not None
        asking = Asking(self.config.solver, self.path("replies.sqlite"), "solve")
        examples = self.examples()
        self._note("solve", asking, ask_for_steps(asking, log, examples, "solve", self.config.solutions))
        names, rollouts = list(examples), empty_log(folder / "rollouts.jsonl")
        pools = map(rollouts_of, examples.read(names), read_answers(log.path, names))
        for name, pool in zip(names, pools, strict=True):
            rollouts.append({"id": name, "rollouts": [to_row(rollout) for rollout in pool]})
        return [log.path, rollouts.path]

    def _judge(self, name: str, judge: Endpoint) -> Callable[[Path], Sequence[Path]]:
        def work(folder: Path) -> Sequence[Path]:
            log = Log(folder / "replies.jsonl")
            asking = Asking(judge, self.path("replies.sqlite"), name)
            pools = Pools(self.path("solve", "rollouts.jsonl"))
            self._note(name, asking, ask_for_verdicts(asking, log, self.examples(), pools, self.config.votes))
            return [log.path]

        return work

    def _prm(self, folder: Path) -> Sequence[Path]:
        shutil.rmtree(folder, ignore_errors=True)
        log, rejects = empty_log(folder / "scores.jsonl"), empty_log(folder / "rejects.jsonl")
        for example, pool, scored in self._scored():
            log.append({"id": example.id, "scores": [to_row(scores) for scores in scored]})
            for rollout, scores in zip(pool, scored, strict=True):
                if isinstance(scores, ScoreFailure):
                    place = f"{example.id}#{rollout.index}"
                    rejects.append(to_row(Reject(place, scores.reason, {"text": rollout.text})))
        self.say(f"prm: {counted(rejects):,} solutions without labels")
        return [log.path, rejects.path]

    def _prm_files(self, folder: Path) -> Sequence[Path]:
        config = self.config
        assert config.solver is not None
        stats = write_set(prm_rows(self._scored()), self.folder.path, PRM_FILES, token_counter(config.tokenizer))
        failed = len(list(Log(self.path("prm", "rejects.jsonl")).rows()))
        judges = Judges(config.judges, config.votes, failed, self._agreements())
        cards = prm_card(stats, self.folder.path, config.solver, judges, config.note)
        return [*map(self.path, PRM_FILES), *cards]

    def _agreements(self) -> dict[tuple[str, str], Agreement]:
        """How far each two judges agree, by steps."""
        names = [f"judge-{number}" for number in range(1, len(self.config.judges) + 1)]
        pairs = list(combinations(names, 2))
        found = {pair: Agreement() for pair in pairs}
        if pairs:
            for scored in zip(*(self._scored([name]) for name in names), strict=True):
                own = {name: scores for name, (_, _, scores) in zip(names, scored, strict=True)}
                for first, second in pairs:
                    for one, other in zip(own[first], own[second], strict=True):
                        found[first, second] += agreement_of(one, other)
        return found

    def _scored(self, judges: Sequence[str] = ()) -> Iterator[tuple[Example, list[Rollout], list[Scored]]]:
        """Each question with its solutions and their scores, by all judges or these."""
        judges = judges or [f"judge-{number}" for number in range(1, len(self.config.judges) + 1)]
        examples = Examples(self.path("examples", "examples.jsonl"))
        names = list(examples)
        answers = zip(*(read_answers(self.path(judge, "replies.jsonl"), names) for judge in judges), strict=True)
        pools = Pools(self.path("solve", "rollouts.jsonl")).read(names)
        for example, pool, found in zip(examples.read(names), pools, answers, strict=True):
            yield example, pool, judged_scores(example, pool, found, self.config.votes, self.config.neutral)
