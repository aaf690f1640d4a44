"""`cos data build`: training sets to SFT and PRM files, through any OpenAI-compatible endpoint."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from rich.console import Console

from chainofstep.llm import Endpoint, Estimate
from chainofstep.pipeline.corpus import Build, BuildConfig, SourceAt
from chainofstep.pipeline.stand_in import MODEL, NOTE, ScriptedModel
from chainofstep.problems.filters import FilterConfig
from chainofstep.problems.overlap import RULES, Rule
from chainofstep.problems.sources import SOURCES
from chainofstep.scoring.judge import Neutral
from chainofstep.settings import apply_overrides
from chainofstep.verbs.files import choose

OPENAI = "https://api.openai.com/v1"
STAND_IN = "http://stand-in.invalid"  # until the server has begun


def endpoint(spec: str, settings: "EndpointSettings") -> Endpoint:
    """The endpoint that `MODEL@URL` names (OpenAI's without a URL); `stand-in` alone is the scripted one.

    OpenAI's key goes to OpenAI; to another server only the one whose variable is named.
    """
    model, at, url = spec.partition("@")
    if not model or (at and not url):
        raise ValueError(f"endpoint {spec!r}; give MODEL@URL, such as gpt-4o or Qwen3-VL@http://localhost:8000/v1")
    if not at:
        url = STAND_IN if model == MODEL else OPENAI
    prompt_price, completion_price = settings.prices or (None, None)
    return Endpoint(
        base_url=url,
        model=model,
        key_variable=settings.key_variable or ("OPENAI_API_KEY" if url == OPENAI else ""),
        concurrency=settings.concurrency,
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        seed=0 if url == STAND_IN else None,  # by which the script tells the samples of one question apart
        dollars_per_million_prompt_tokens=prompt_price,
        dollars_per_million_completion_tokens=completion_price,
    )


@dataclass(frozen=True)
class EndpointSettings:
    """What all endpoints of a command have in common."""

    key_variable: str = ""  # none: OPENAI_API_KEY for OpenAI's own endpoint, no key for others
    concurrency: int = 64
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_tokens: int = 4096
    temperature: float = 1.0
    prices: tuple[float, float] | None = None  # dollars per million prompt tokens, completion tokens


def source_at(spec: str) -> SourceAt:
    """The set that `NAME`, `NAME=DIR` or `NAME=DIR:SPLIT` names; without a folder it comes from the hub."""
    name, _, place = spec.partition("=")
    path, _, split = place.rpartition(":") if ":" in place else (place, "", "")
    source = SOURCES[choose(name, SOURCES, "source")]
    if path and not Path(path).is_dir():
        raise ValueError(f"source {name}: {path} is no folder; give the folder of its files")
    if split and split not in source.splits:
        raise ValueError(f"source {name} has no split {split!r}; there are {', '.join(source.splits)}")
    return SourceAt(name, path, split)


def build(config: BuildConfig, out: Path, only_estimate: bool = False) -> list[tuple[str, Estimate]]:
    """Build a set in the folder `out`, or go on with it. `only_estimate` imports the questions and asks for nothing.

    The estimate of what is still to be asked.
    """
    console = Console(stderr=True)
    if not config.sources:
        raise ValueError("no source; give at least one with --source, `cos data sources` lists them")
    if config.solver and not config.judges:
        raise ValueError("solutions without a judge have no labels; give --judge too, or no --solver")
    with Build(config, out, lambda line: console.print(line, highlight=False, soft_wrap=True)) as build:
        build.questions()
        estimates = build.estimates()
        for name, estimate in estimates:
            build.say(f"{name}: about {estimate_words(estimate)}")
        if not only_estimate:
            with _stand_in(build):
                build.ask()
    return estimates


def estimate_words(estimate: Estimate) -> str:
    """An estimate on one line."""
    tokens = f"{estimate.prompt_tokens:,} + {estimate.completion_tokens:,} tokens"
    price = "" if estimate.dollars is None else f", ${estimate.dollars:,.2f}"
    return f"{estimate.requests:,} requests, {tokens}{price}, {max(1, round(estimate.seconds / 60))} min"


@contextmanager
def _stand_in(build: Build) -> Iterator[None]:
    """While the block runs, endpoints of the stand-in's name are served by it."""
    config = build.config
    if not any(each.base_url == STAND_IN for each in (config.teacher, config.solver, *config.judges) if each):
        yield
        return
    from chainofstep.llm.stand_in import StandIn

    examples = build.examples()
    with StandIn(ScriptedModel(examples.read(list(examples)))) as server:

        def served(each: Endpoint) -> Endpoint:
            return replace(each, base_url=server.base_url) if each.base_url == STAND_IN else each

        build.config = replace(
            config,
            teacher=served(config.teacher) if config.teacher else None,
            solver=served(config.solver) if config.solver else None,
            judges=tuple(map(served, config.judges)),
            note=NOTE,
        )
        yield


def build_config(
    sources: Sequence[str],
    against: Sequence[str],
    overlap: str,
    teacher: str | None,
    solver: str | None,
    judges: Sequence[str],
    shared: EndpointSettings,
    settings: Sequence[str] = (),
    without: Sequence[str] = (),
    **others: Any,
) -> BuildConfig:
    """The settings of a build from words of the command line: see `endpoint` and `source_at`."""
    config = BuildConfig(
        sources=tuple(map(source_at, sources)),
        against=tuple(map(source_at, against)),
        overlap_rule=cast(Rule, choose(overlap, RULES, "overlap rule")),
        teacher=endpoint(teacher, shared) if teacher else None,
        solver=endpoint(solver, shared) if solver else None,
        judges=judge_endpoints(judges, shared, others.get("votes", 1)),
        filters=FilterConfig(without=tuple(without)),
        **others,
    )
    choose(config.neutral, get_args(Neutral), "neutral")
    return apply_overrides(config, settings)


def judge_endpoints(specs: Sequence[str], shared: EndpointSettings, votes: int) -> tuple[Endpoint, ...]:
    """The judges that `MODEL@URL` names, asked for their likeliest verdict, or for several that can differ."""
    names = Counter(spec.partition("@")[0] for spec in specs)
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise ValueError(f"judge {twice} is given twice: one judge votes several times by --votes")
    return tuple(replace(endpoint(spec, shared), temperature=1.0 if votes > 1 else 0.0) for spec in specs)
