"""`--extractor`: an evaluation's texts read by a language model where a benchmark's own rules cannot."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from chainofstep.benchmarks.benchmark import Benchmark
from chainofstep.benchmarks.extraction import Reader
from chainofstep.benchmarks.scores import Run
from chainofstep.llm import Endpoint, estimate, estimated_prompt_tokens
from chainofstep.pipeline.asking import spent_words, text_settings
from chainofstep.progress import progress
from chainofstep.store import write_text
from chainofstep.verbs.build import STAND_IN, EndpointSettings, endpoint, estimate_words
from chainofstep.verbs.grading import Answered, write_results
from chainofstep.verbs.items import Items

REPLIES, PROMPT = "extraction.sqlite", "extraction_prompt.txt"
ANSWER_TOKENS = 8  # a guess of what a model writes
#: What each run came to for some items, and how many logged items are none of these.
Grade = Callable[[Items], tuple[Mapping[Run, Answered], int]]


def extractor(spec: str, shared: EndpointSettings) -> Endpoint:
    """The endpoint that `MODEL@URL` names, asked for its likeliest answer."""
    found = replace(endpoint(spec, shared), temperature=0.0)
    if found.base_url == STAND_IN:
        raise ValueError(f"extractor {spec!r}: no stand-in reads replies; give MODEL@URL")
    return found


def check_extractor(benchmark: Benchmark, endpoint: Endpoint | None) -> None:
    """`ValueError` where a model is named and the benchmark has no way to ask it."""
    from chainofstep.benchmarks import BENCHMARKS

    if endpoint is not None and benchmark.extraction is None:
        having = ", ".join(name for name, each in BENCHMARKS.items() if each.extraction is not None)
        raise ValueError(f"{benchmark.title} is graded by rules alone; leave --extractor out, only {having} has one")


def graded(out: Path, items: Items, grade: Grade, facts: dict[str, Any], endpoint: Endpoint | None) -> dict[str, Any]:
    """What `results.json` then holds, the replies read by rules and, where there is an `endpoint`, by its model."""
    if endpoint is None:
        by_rules = {"extractor": "rules"} if items.benchmark.extraction is not None else {}
        return write_results(out, items, *grade(items), facts | by_rules)
    reader = Reader(items.benchmark, endpoint)
    read = replace(items, benchmark=reader.benchmark)
    for found in grade(read)[0].values():
        reader.benchmark.judge(items.examples, found.texts)
    spent = _ask(reader, out)
    answered, unknown = grade(read)
    readings = [_reading(reader, items, run, found) for run, found in answered.items()]
    by_model: dict[str, Any] = {
        "extractor": endpoint.model,
        "extractor_settings": text_settings(endpoint),
        "extraction_prompt": {"hash": reader.extraction.prompt_hash, "file": PROMPT},
        "extraction": spent,
        "readings": readings,
        "note": reader.extraction.note,
        "problems": [*facts.get("problems", ()), *_unread(reader, spent["failed"])],
    }
    return write_results(out, read, answered, unknown, facts | by_model)


def _unread(reader: Reader, unanswered: int) -> list[str]:
    """A line where replies were not read; those that the endpoint did not answer are not in the cache."""
    if not (failures := reader.failures):
        return []
    again = f"; the same command asks about {unanswered:,} of them again" if unanswered else ""
    return [f"replies that nobody read, failed items: {failures.total():,} ({failures.most_common(1)[0][0]}){again}"]


def _ask(reader: Reader, out: Path) -> dict[str, Any]:
    """What the reading took. How much is to be read is said before anybody is asked."""
    endpoint, cache = reader.endpoint, out / REPLIES
    write_text(out / PROMPT, reader.extraction.prompt + "\n")
    prompts, unpaid = reader.prompts(), reader.unpaid(cache)
    say = Console(stderr=True, markup=False)  # a model may have brackets in its name
    there = f", {len(prompts) - len(unpaid):,} more are here already" if len(unpaid) < len(prompts) else ""
    if unpaid:
        tokens = [(estimated_prompt_tokens(prompt), ANSWER_TOKENS) for prompt in unpaid]
        words = f"about {estimate_words(estimate(endpoint, len(unpaid), tokens))}{there}"
    else:
        words = f"nothing to ask{there}"
    say.print(f"replies for {endpoint.model} to read: {words}", highlight=False, soft_wrap=True)
    with progress("read", len(prompts)) as tick:
        spending = reader.ask(cache, tick)
    if unpaid:
        say.print(f"read: {spending.requests:,} requests, {spent_words(spending, endpoint)}", highlight=False)
    return {"replies": len(prompts), **vars(spending), "dollars": spending.dollars(endpoint)}


def _reading(reader: Reader, items: Items, run: Run, found: Answered) -> dict[str, Any]:
    """Who read a run's replies, and the share for which the model was asked."""
    counts = reader.count(items.examples, found.texts)
    asked = counts["model"] + counts["failed"]
    return {
        **{"method": run.method, "n": run.n, "width": run.width},
        **{who: counts[who] for who in ("rules", "model", "failed", "nothing")},
        **{"total": len(found.texts), "fallback_share": asked / len(found.texts)},
    }
