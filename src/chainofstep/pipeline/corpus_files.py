"""What a build hands on: its rows in the formats of other projects, and a data card for each set."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from chainofstep.chain import render
from chainofstep.llm import Endpoint
from chainofstep.pipeline.asking import text_settings
from chainofstep.problems import teacher
from chainofstep.problems.filters import FilterConfig
from chainofstep.problems.formats import FORMATS, harden
from chainofstep.problems.formats.files import StepWriter
from chainofstep.problems.sources import SOURCES
from chainofstep.problems.stats import Stats
from chainofstep.records import Example, Rollout, Scored, StepRow, StepScores
from chainofstep.report.card import Card, SourceFacts, write_card
from chainofstep.scoring import judge
from chainofstep.scoring.merge import Agreement
from chainofstep.store import read_json

PACKAGES = ("chain-of-step", "openai", "datasets", "pillow")
NEUTRAL = 0.5  # a hard label is right above it
#: Files of a set in the build's folder, and the format of each. Pictures count from that folder.
SFT_FILES = {"sft.jsonl": "sharegpt-step", "sft.parquet": "rows"}
PRM_FILES = {"prm_raw.jsonl": "prm-raw", "prm_train.jsonl": "prm-train", "prm.parquet": "rows"}


def sft_rows(examples: Iterator[Example]) -> Iterator[StepRow]:
    """Examples with a chain as rows."""
    for example in examples:
        if example.chain is not None:
            yield StepRow(example, render(example.chain))


def prm_rows(scored: Iterator[tuple[Example, list[Rollout], list[Scored]]]) -> Iterator[StepRow]:
    """A row for each rollout with labels; several of a question have its id and the rollout's number."""
    for example, pool, scores in scored:
        for rollout, labels in zip(pool, scores, strict=True):
            if isinstance(labels, StepScores):
                yield StepRow(_numbered(example, rollout.index), rollout.text, labels)


def _numbered(example: Example, index: int) -> Example:
    return replace(example, id=f"{example.id}#{index}")


def token_counter(tokenizer: str) -> Callable[[str], int] | None:
    """How many tokens a text has for the tokenizer of this folder or hub id; None without one."""
    if not tokenizer:
        return None
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError) as error:
        raise ValueError(f"tokenizer {tokenizer} cannot be loaded: give a model's folder or hub id") from error
    return lambda text: len(loaded(text, add_special_tokens=False)["input_ids"])


def write_set(
    rows: Iterator[StepRow], folder: Path, files: Mapping[str, str], counter: Callable[[str], int] | None = None
) -> Stats:
    """Every row into every file; what the rows were. Files of hard labels alone take Neutral as wrong."""
    stats = Stats(count_tokens=counter)
    with ExitStack() as stack:
        writers = [
            (name, stack.enter_context(StepWriter(folder / file, FORMATS[name]))) for file, name in files.items()
        ]
        for row in rows:
            stats.add(row)
            for name, writer in writers:
                writer.write(harden(row, NEUTRAL) if name == "prm-train" else row)
    return stats


def source_facts(stats: Stats) -> tuple[SourceFacts, ...]:
    """What is known of the sources of a set's rows."""
    found = []
    for name, rows in sorted(stats.by_source.items()):
        source = SOURCES.get(name)
        if source is None:
            found.append(SourceFacts(name, name or "not stated", "not stated", "not stated", rows, (), ""))
        else:
            found.append(
                SourceFacts(name, source.title, source.kind, source.licence, rows, source.overlaps, source.note)
            )
    return tuple(found)


def versions() -> dict[str, str]:
    """The packages that made the set."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def endpoint_facts(endpoint: Endpoint, prompt: str) -> dict[str, str]:
    """Who was asked, and how."""
    settings = {name: str(value) for name, value in text_settings(endpoint).items() if value is not None}
    return {**settings, "prompt": prompt}


def sft_card(stats: Stats, folder: Path, endpoint: Endpoint, filters: FilterConfig, note: str) -> Sequence[Path]:
    """The card of the SFT set, with the filters' settings that are not the usual ones."""
    facts = endpoint_facts(endpoint, teacher.prompt_hash("teach"))
    usual = vars(FilterConfig())
    changed = {name: value for name, value in vars(filters).items() if value != usual[name]}
    shown = {name: ", ".join(value) if isinstance(value, tuple) else str(value) for name, value in changed.items()}
    made_by = [("Teacher", facts), *([("Filters", shown)] if shown else [])]
    return _card("SFT chains", "sft", stats, folder, made_by, note, filters=_read(folder / "sft" / "filters.json"))


@dataclass(frozen=True)
class Judges:
    """Who judged a set, and how far they agree."""

    endpoints: Sequence[Endpoint]
    votes: int  # of each, on each solution
    failed: int  # solutions that got no labels
    agreements: Mapping[tuple[str, str], Agreement]


def prm_card(stats: Stats, folder: Path, solver: Endpoint, judges: Judges, note: str) -> Sequence[Path]:
    """The card of the PRM set."""
    made_by = [("Solver", endpoint_facts(solver, teacher.prompt_hash("solve")))]
    for number, each in enumerate(judges.endpoints, start=1):
        facts = endpoint_facts(each, judge.prompt_hash()) | {"votes on a solution": str(judges.votes)}
        made_by.append((f"Judge {number}", facts))
    made_by.append(("Left out", {"solutions without labels": f"{judges.failed:,}"}))
    agreed = [(*pair, found.steps, found.observed, found.kappa) for pair, found in judges.agreements.items()]
    return _card("PRM labels", "prm", stats, folder, made_by, note, agreed=agreed)


def _card(
    purpose: str,
    name: str,
    stats: Stats,
    folder: Path,
    made_by: Sequence[tuple[str, Mapping[str, str]]],
    note: str,
    filters: Mapping[str, Any] | None = None,
    agreed: Sequence[tuple[str, str, int, float | None, float | None]] = (),
) -> Sequence[Path]:
    sources = source_facts(stats)
    title = f"{purpose} of {', '.join(source.title for source in sources) or 'nothing'}"
    overlap = _read(folder / "examples" / "overlap.json")
    warnings = (note,) if note else ()
    card = Card(title, purpose, stats, sources, tuple(made_by), filters, overlap, tuple(agreed), warnings, versions())
    return write_card(card, folder / name, folder)


def _read(path: Path) -> Mapping[str, Any] | None:
    return read_json(path) if path.is_file() else None
