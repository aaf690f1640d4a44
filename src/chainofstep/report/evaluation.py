"""What `cos eval` found, as tables: for a terminal, and as Markdown beside the figures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chainofstep.benchmarks.scores import ALL, Row
from chainofstep.report.wording import ONE_SAMPLE, counted, interval, mean, method_name, percent
from chainofstep.search import POOL_METHODS

INTERVAL = "95% interval"
OUTCOMES = ("right", "wrong", "unparseable", "failed")


@dataclass(frozen=True)
class Sheet:
    """A table as texts, to be written as Markdown or on a terminal."""

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]
    labels: int = 2  # the first columns, which say what a row is of


def sheets(results: Mapping[str, Any]) -> Iterator[Sheet]:
    """The table of the methods, who read the replies, then a table for each official breakdown."""
    rows = _without_copies(results["rows"])
    whole = [row for row in rows if row["group"] == ALL and not row["breakdown"]]
    official = any(row["credited"] != row["right"] for row in whole)
    spent = any("sampled_tokens" in row for row in whole)
    headings: tuple[str, ...] = ("Method", "N", "Accuracy", INTERVAL)
    headings += ("Right", "Wrong", "Unparseable", "Failed")
    headings += ("Official",) * official + ("Tokens",) * spent
    yield Sheet(_title(results), headings, [_whole(row, official, spent) for row in whole])
    if readings := results.get("readings"):
        headings = ("Method", "N", "By rules", f"By {results['extractor']}", "In vain", "No reply", "Asked")
        yield Sheet("Who read the replies", headings, [_reading(row) for row in readings])
    for breakdown in dict.fromkeys(row["breakdown"] for row in rows if row["breakdown"]):
        parts = [row for row in rows if row["breakdown"] == breakdown]
        words = breakdown.replace("_", " ")
        headings = ("Method", "N", words.capitalize(), "Accuracy", INTERVAL, "Right", "All")
        headings += ("Official",) * official
        yield Sheet(f"By {words}", headings, [_part(row, official) for row in parts], labels=3)


def _without_copies(rows: Sequence[Row]) -> list[Row]:
    """Of the methods that choose from one sample the first, under a name of its own, where the others came to the same.

    A PRM that failed on samples makes another figure of them.
    """
    counts: dict[str, list[list[Any]]] = {}
    for row in rows:
        if row["method"] in POOL_METHODS and row["n"] == 1:
            same = counts.setdefault(row["method"], [])
            same.append([row[name] for name in ("breakdown", "group", *OUTCOMES)])
    first = next(iter(counts), "")
    copies = {method for method in counts if method != first and counts[method] == counts[first]}
    kept = [row for row in rows if row["n"] > 1 or row["method"] not in copies]
    return [row | {"method": ONE_SAMPLE} if row["n"] == 1 and row["method"] == first else row for row in kept]


def _title(results: Mapping[str, Any]) -> str:
    split = f", {results['split']}" if results.get("split") else ""
    return f"{results['title']}{split}: {counted(results['items'], 'item')}"


def _label(row: Row) -> tuple[str, str]:
    name = ONE_SAMPLE if row["method"] == ONE_SAMPLE else method_name(row["method"])
    if row["method"] == "step_beam":
        name += f", width {row['width']}"
    return name, str(row["n"])


def _share(row: Row) -> tuple[str, str]:
    return percent(row["accuracy"]), interval(row["low"], row["high"])


def _whole(row: Row, official: bool, spent: bool) -> tuple[str, ...]:
    cells = (*_label(row), *_share(row), *(str(row[kind]) for kind in OUTCOMES))
    cells += (percent(row["official"]),) * official
    tokens = mean(row["sampled_tokens"] / row["total"]) if "sampled_tokens" in row else ""
    return cells + (tokens,) * spent


def _part(row: Row, official: bool) -> tuple[str, ...]:
    cells = (*_label(row), row["group"], *_share(row), str(row["right"]), str(row["total"]))
    return cells + (percent(row["official"]),) * official


def _reading(row: Row) -> tuple[str, ...]:
    counts = (str(row[who]) for who in ("rules", "model", "failed", "nothing"))
    return (*_label(row), *counts, percent(row["fallback_share"]))


def caption(results: Mapping[str, Any]) -> list[str]:
    """What must be known to read the tables, a sentence a line."""
    methods = {row["method"] for row in results["rows"]}
    tokens = "; tokens are those sampled a question" if any("sampled_tokens" in row for row in results["rows"]) else ""
    lines = [f"Unparseable and failed items count as not right; intervals are Wilson's{tokens}."]
    if methods & POOL_METHODS.keys():
        lines.append("Pool methods at every N choose from the first N of one pool of samples, scored once by the PRM.")
    if "step_beam" in methods:
        lines.append("Beam search is sampled anew for each N; its N is samples a level.")
    if any(row["credited"] != row["right"] for row in results["rows"]):
        lines.append("The official score credits what the benchmark's own script does, its guesses too.")
    if results.get("extractor") == "rules":
        lines.append("Extractor: rules alone.")
    elif results.get("extractor"):
        prompt = results["extraction_prompt"]
        lines.append(
            f"Extractor: {results['extractor']}, asked as {prompt['file']} here says (SHA-256 {prompt['hash']})."
        )
    if results["rejected"]:
        one = len(results["rejected"]) == 1
        ends = "a failed item, in no group" if one else "failed items, in no group"
        lines.append(f"{counted(len(results['rejected']), 'row')} could not be read: {ends}.")
    return lines + ([results["note"]] if results.get("note") else []) + list(results["problems"])


def markdown(results: Mapping[str, Any]) -> str:
    """The tables and what must be known to read them."""
    parts = []
    for sheet in sheets(results):
        lines = [_line(sheet.headings), "|" + "---|" * len(sheet.headings), *map(_line, sheet.rows)]
        parts.append(f"## {_escaped(sheet.title)}\n\n" + "\n".join(lines) + "\n")
    parts.insert(1, "\n".join(f"- {_escaped(line)}" for line in caption(results)) + "\n")
    return "\n".join(parts)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _escaped(text: str) -> str:
    """Text that neither ends a cell nor is taken for markup."""
    plain = " ".join(text.split()).replace("\\", "\\\\").replace("<", "&lt;")
    return plain.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_").replace("`", "\\`")
