"""`cos data ...`: step data built, checked, counted, and exchanged with other projects."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chainofstep.cli.common import (
    Concurrency,
    Judges,
    KeyVariable,
    OutFile,
    OutFolder,
    Price,
    RequestsPerMinute,
    Seed,
    Settings,
    TokensPerMinute,
    command,
    left_out,
)

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Step data: build, check, exchange.")

FORMAT_NAMES = (
    "rows (this project's own), sharegpt-step, prm-raw, prm-scored, prm-train, dpo, visualprm400k, "
    "visualprm400k-chat, visualprocessbench, prm800k, processbench, trl, trl-preference, trl-stepwise, ms-swift, "
    "ms-swift-prompts, llama-factory, verl"
)
Source = Annotated[
    Path, typer.Argument(metavar="ROWS", help=".jsonl, .json, .parquet, or a folder of this project's own.")
]
OutRows = Annotated[
    Path, typer.Option("--out", metavar="FILE", help=".jsonl, .parquet, or a folder.", show_default=False)
]
FormatName = Annotated[
    str | None, typer.Option("--format", help=f"{FORMAT_NAMES}.", show_default="recognised from the first rows")
]
Pictures = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where picture paths count from.", show_default="ROWS' folder")
]
Tokenizer = Annotated[
    str, typer.Option(help="Count tokens as this model's tokenizer does: a folder or hub id.", show_default="words")
]
CheckPictures = Annotated[str, typer.Option("--check", help="Pictures: decode, header or none.")]
WithCard = Annotated[bool, typer.Option("--card", help="Write a data card beside the file, too.")]
SourceSpecs = Annotated[
    list[str],
    typer.Option("--source", metavar="NAME=DIR[:SPLIT]", help="A training set; NAME alone: the hub. Repeatable."),
]


@command(data_app, "sources", "cos data sources --notes")
def sources_command(
    notes: Annotated[
        bool, typer.Option("--notes", help="Hub ids, where each layout was found, what is left out.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all fields as JSON lines.")] = False,
) -> None:
    """The seventeen training sets: licence, splits, and which evaluation sets have items of them."""
    from chainofstep.problems.sources import SOURCES

    if as_json:
        import json

        for source in SOURCES.values():
            fields = {name: value for name, value in vars(source).items() if name != "read"}
            typer.echo(json.dumps(fields, ensure_ascii=False))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("Name", "Kind", "Licence", "Splits", "In evaluation sets"):
        table.add_column(heading, overflow="fold")
    for source in SOURCES.values():
        splits = ", ".join(f"{name}*" if name in source.evaluation_splits else name for name in source.splits)
        cells = (source.name, source.kind, source.licence, splits, ", ".join(source.overlaps) or "–")
        table.add_row(*map(Text, cells))
    console = Console()
    console.print(table)
    console.print(Text("* evaluation split: measure on it, never train on it"))
    if notes:
        for source in SOURCES.values():
            hub = f"hub id {source.hub}" if source.hub else "not on the hub"
            console.print(Text.assemble((source.name, "bold"), f": {hub}. {source.note}"))


@command(data_app, "import", "cos data import prm_train.jsonl --out data/prm.parquet --pictures images")
def import_command(
    rows: Source,
    out: OutRows,
    format: FormatName = None,
    pictures: Pictures = None,
    check: CheckPictures = "decode",
    with_card: WithCard = False,
) -> None:
    """Another project's rows as this project's. Rows that cannot be used go beside FILE with their reasons."""
    from chainofstep import verbs

    _converted(verbs.import_rows(rows, out, format, pictures, _choice(check)), out, with_card)


@command(data_app, "export", "cos data export data/prm.parquet --format visualprm400k --out visualprm.jsonl")
def export_command(
    rows: Source,
    out: OutRows,
    format: Annotated[str, typer.Option("--format", help=f"{FORMAT_NAMES}.", show_default=False)],
    hard_threshold: Annotated[
        float | None, typer.Option(help="Make soft labels hard: right above this score.", show_default=False)
    ] = None,
    embed: Annotated[bool, typer.Option("--embed", help="Put the pictures into a parquet file.")] = False,
) -> None:
    """This project's rows in another project's format."""
    from chainofstep import verbs

    _converted(verbs.export_rows(rows, out, format, hard_threshold, embed), out)
    if format.startswith("llama-factory"):
        import json

        from chainofstep.problems.formats import llama_factory_entry
        from chainofstep.store import read_rows

        _, first = next(read_rows(out), (0, {}))
        entry = llama_factory_entry(out.stem, out.name, pairs="chosen" in first)
        typer.echo(f"for dataset_info.json: {json.dumps(entry)}")


@command(data_app, "check", "cos data check sft.jsonl --out clean.parquet --without repeats --set minimum_steps=3")
def check_command(
    rows: Source,
    out: OutRows,
    format: FormatName = None,
    without: Annotated[list[str], typer.Option("--without", metavar="FILTER", help="Off; repeatable.")] = [],  # noqa: B006
    settings: Settings = [],  # noqa: B006
    pictures: Pictures = None,
    check: CheckPictures = "decode",
    with_card: WithCard = False,
) -> None:
    """The rows that pass the format filters, the others beside FILE with their reasons, and what each removed."""
    from chainofstep import verbs
    from chainofstep.problems.filters import MEANINGS, FilterConfig
    from chainofstep.settings import apply_overrides

    filters = apply_overrides(FilterConfig(without=tuple(without)), settings)
    checked = verbs.check_rows(rows, out, format, filters, pictures, _choice(check))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("Filter")
    table.add_column("Wants")
    table.add_column("Removed", justify="right")
    others = [name for name in checked.report.removed if name not in MEANINGS]
    for name in [*MEANINGS, *others]:
        removed = "off" if name in filters.without else f"{checked.report.removed.get(name, 0):,}"
        table.add_row(*map(Text, (name, MEANINGS.get(name, "a row that can be read"), removed)))
    Console().print(table)
    _converted(checked.converted, out, with_card)


@command(data_app, "stats", "cos data stats data/prm.parquet")
def stats_command(
    rows: Source,
    format: FormatName = None,
    tokenizer: Tokenizer = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print all counts as JSON.")] = False,
) -> None:
    """What a file holds: rows, questions, sources, steps, labels."""
    from chainofstep import verbs
    from chainofstep.verbs.printed import print_stats

    found, rejects = verbs.stats(rows, format, tokenizer)
    if as_json:
        import json

        from chainofstep.records import to_row

        typer.echo(json.dumps(to_row(found), ensure_ascii=False))
    else:
        print_stats(found, Console())
    left_out("not read", rejects)


@command(data_app, "split", "cos data split data/prm.parquet --share 0.05 --out data/split")
def split_command(
    rows: Source,
    out: OutFolder,
    share: Annotated[float, typer.Option(help="Of the groups, for test.jsonl; about.")] = 0.05,
    by: Annotated[str, typer.Option(help="picture, question or id: rows that share it stay together.")] = "picture",
    seed: Seed = 0,
    format: FormatName = None,
    with_card: WithCard = False,
) -> None:
    """train.jsonl and test.jsonl, with no picture in both."""
    from chainofstep import verbs

    _written(verbs.split(rows, out, share, _group(by), seed, format), with_card)


@command(data_app, "mix", "cos data mix math.jsonl=2 charts.parquet=0.5 --out mixed.parquet")
def mix_command(
    rows: Annotated[list[str], typer.Argument(metavar="FILE=WEIGHT...", help="2: every row twice; 0.5: half of them.")],
    out: OutRows,
    seed: Seed = 0,
    with_card: WithCard = False,
) -> None:
    """Several files as one, each as often as its weight says."""
    from chainofstep import verbs

    _written(verbs.mix([_weighted(spec) for spec in rows], out, seed), with_card)


@command(data_app, "merge", "cos data merge monte_carlo.jsonl judge.jsonl --rule agree --out scores.jsonl")
def merge_command(
    scores: Annotated[list[Path], typer.Argument(metavar="SCORES.jsonl...", help="Labels of the same rollouts.")],
    out: OutFile,
    rule: Annotated[str, typer.Option(help="agree: keep what all label alike; weight: the weighted mean.")] = "agree",
    weight: Annotated[list[float], typer.Option("--weight", help="One a file, in order; equal without.")] = [],  # noqa: B006
) -> None:
    """Several sets of step labels as one, and how far they agree: the table of steps and Cohen's kappa."""
    from chainofstep import verbs
    from chainofstep.verbs.printed import agreement_table

    merged = verbs.merge_scores(scores, out, _rule(rule), weight)
    console = Console()
    for files, agreement in merged.agreements.items():
        console.print(agreement_table(files, agreement))
    typer.echo(f"{merged.kinds.pop('scored', 0)} rollouts with labels in {out}")
    left_out("without", merged.kinds)


@command(data_app, "card", "cos data card data/prm.parquet --name 'PRM labels of charts'")
def card_command(
    rows: Source,
    name: Annotated[str, typer.Option(help="Title of the card.", show_default="the file's name")] = "",
    format: FormatName = None,
    tokenizer: Tokenizer = "",
) -> None:
    """A data card beside the file, in Markdown and HTML: counts, licences, lengths, labels, samples with pictures."""
    _card(rows, name or rows.stem, format, tokenizer)


@command(
    data_app,
    "build",
    "cos data build data --source tabmwp=sets/tabmwp:train --teacher gpt-4o --solver Qwen3-VL@http://localhost:8000/v1 "
    "--judge gpt-4o --concurrency 64",
)
def build_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write, or to go on with.")],
    source: SourceSpecs = [],  # noqa: B006
    against: Annotated[
        list[str],
        typer.Option("--against", metavar="NAME=DIR[:SPLIT]", help="An evaluation set whose items are removed."),
    ] = [],  # noqa: B006
    overlap: Annotated[str, typer.Option(help="What must match to be removed: both, picture, question or either.")] = (
        "both"
    ),
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL@URL", help="Writes chains from the answers; stand-in: a script.", show_default=False
        ),
    ] = None,
    solver: Annotated[
        str | None, typer.Option(metavar="MODEL@URL", help="Solves without the answers.", show_default=False)
    ] = None,
    judge: Judges = [],  # noqa: B006
    solutions: Annotated[int, typer.Option(help="Of the solver, for each question.")] = 4,
    votes: Annotated[int, typer.Option(help="Of each judge, on each solution.")] = 1,
    neutral: Annotated[str, typer.Option(help="Neutral steps: by_answer (the paper's rule) or half.")] = "by_answer",
    without: Annotated[list[str], typer.Option("--without", metavar="FILTER", help="Off; repeatable.")] = [],  # noqa: B006
    limit: Annotated[int, typer.Option(help="Questions of each source; 0: all.")] = 0,
    tokenizer: Tokenizer = "",
    key_variable: KeyVariable = "",
    concurrency: Concurrency = 64,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    price: Price = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Only say what it would take.")] = False,
    settings: Settings = [],  # noqa: B006
) -> None:
    """Training sets to SFT chains and step labels, with data cards. The same command goes on with a stopped one."""
    from chainofstep import verbs

    shared = verbs.EndpointSettings(key_variable, concurrency, requests_per_minute, tokens_per_minute, prices=price)
    config = verbs.build_config(
        source, against, overlap, teacher, solver, judge, shared, settings,
        solutions=solutions, votes=votes, neutral=neutral, without=without, limit=limit,
        tokenizer=tokenizer,
    )  # fmt: skip
    verbs.build(config, out, estimate)
    typer.echo(f"the questions are in {out}/examples" if estimate else f"wrote {out}")


def _card(rows: Path, name: str, format: str | None = None, tokenizer: str = "") -> None:
    from chainofstep import verbs

    for path in verbs.card(rows, name, format, tokenizer):
        typer.echo(f"wrote {path}")


def _converted(converted: Any, out: Path, with_card: bool = False) -> None:
    typer.echo(f"{converted.read:,} rows read, {converted.written:,} in {out}")
    left_out("rejected", converted.rejects)
    if converted.rejects:
        typer.echo(f"rejects: {converted.rejects_path}")
    if with_card:
        _card(out, out.stem)


def _written(written: Any, with_card: bool = False) -> None:
    for path, count in written.rows.items():
        typer.echo(f"{count:,} rows in {path}")
        if with_card and count:
            _card(path, path.stem)
    if written.rejects:
        typer.echo(f"{written.rejects:,} rejected: {written.rejects_path}")


def _choice(check: str) -> Any:
    return _one_of(check, ("decode", "header", "none"), "check")


def _group(by: str) -> Any:
    return _one_of(by, ("picture", "question", "id"), "--by")


def _rule(rule: str) -> Any:
    return _one_of(rule, ("agree", "weight"), "rule")


def _one_of(name: str, options: tuple[str, ...], what: str) -> str:
    from chainofstep.verbs.files import choose

    return choose(name, options, what)


def _weighted(spec: str) -> tuple[Path, float]:
    path, equals, weight = spec.rpartition("=")
    try:
        return (Path(path), float(weight)) if equals else (Path(spec), 1.0)
    except ValueError:
        raise ValueError(f"{spec!r}: the weight {weight!r} is no number; give FILE=WEIGHT") from None
