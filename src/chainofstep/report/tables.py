"""The tables of a run. Each takes rows of the results and gives a `<table>`; without rows it gives None."""

from collections.abc import Mapping, Sequence
from typing import Any

from chainofstep.report.markup import Child, Html, element
from chainofstep.report.schema import (
    Accuracy,
    CalibrationBin,
    Claim,
    MethodResult,
    PrmCaught,
    PrmQuality,
    Results,
    Round,
    StepWeight,
)
from chainofstep.report.wording import (
    REWARDS,
    VERDICTS,
    count,
    decimal,
    duration,
    evidence,
    interval,
    mean,
    method_label,
    percent,
    stage_label,
)

MARKS = {"holds": "✓", "does not hold": "✗", "undecided": "?"}
AGAINST = {"checker": "exact checker", "labels": "its own labels"}
PRM_HEAD = (
    *("Tags", "Questions", "Against", "Accuracy", "95% interval"),
    *("Majority class", "AUC", "Threshold", "Count", "Failed"),
)


def table(
    head: Sequence[str], rows: Sequence[Sequence[Child]], text: Sequence[int] = (), wide: int = -1
) -> Html | None:
    """A table that scrolls sideways where it does not fit. The first column heads its row; the columns at `text` are
    words, the others numbers; the column at `wide` holds bars, which a phone leaves out."""
    if not rows:
        return None
    kinds = ["words" if index in (0, *text) else "number" for index in range(len(head))]
    kinds = [f"{kind} wide graphic" if index == wide else kind for index, kind in enumerate(kinds)]
    titles = (element("th", title, scope="col", class_=kind) for title, kind in zip(head, kinds, strict=True))
    body = (element("tr", _cells(row, kinds)) for row in rows)
    content = element("table", element("thead", element("tr", titles)), element("tbody", body))
    return element("div", content, class_="scroll", tabindex="0")


def _cells(row: Sequence[Child], kinds: Sequence[str]) -> list[Html]:
    cells = list(zip(row, kinds, strict=True))
    first, kind = cells[0]
    return [
        element("th", first, scope="row", class_=kind),
        *(element("td", cell, class_=kind) for cell, kind in cells[1:]),
    ]


def interval_bar(value: float, low: float, high: float) -> Html:
    """A share on a track from 0 to 1: a dot, and its interval around it."""
    style = f"--value:{100 * value:.2f}%;--low:{100 * low:.2f}%;--width:{100 * (high - low):.2f}%"
    return element("span", element("i"), element("b"), class_="interval", style=style, aria_hidden="true")


def share_bar(share: float) -> Html:
    return element("span", element("i"), class_="bar", style=f"--value:{100 * share:.2f}%", aria_hidden="true")


# Summary and accuracy


def headline_table(rows: Sequence[Accuracy]) -> Html | None:
    """Accuracy by stage: all families, unseen questions."""
    shown = [row for row in rows if (row.split, row.family) == ("unseen", "all")]
    cells = [
        (
            stage_label(row.stage),
            element("strong", percent(row.accuracy)),
            interval(row.low, row.high),
            interval_bar(row.accuracy, row.low, row.high),
            f"{count(row.right)} / {count(row.total)}",
        )
        for row in shown
    ]
    return table(("Stage", "Accuracy", "95% interval", "0 – 100%", "Right"), cells, text=(3,), wide=3)


def claim_list(claims: Sequence[Claim]) -> Html | None:
    """A sentence for each claim of the paper: the verdict, what was found, what the paper says."""
    items = [
        element(
            "li",
            element("span", MARKS[claim.verdict], class_="mark", aria_hidden="true"),
            element(
                "p",
                element("strong", f"{VERDICTS[claim.verdict]}: "),
                f"{claim.name}. ",
                element("span", f"{evidence(claim)}. Paper: {claim.paper}.", class_="evidence"),
            ),
            class_=f"claim {claim.verdict.replace(' ', '-')}",
        )
        for claim in claims
    ]
    return element("ul", items, class_="claims") if items else None


def accuracy_table(rows: Sequence[Accuracy], split: str) -> Html | None:
    """Stages down, families across, for one split."""
    own = [row for row in rows if row.split == split]
    families = list(dict.fromkeys(row.family for row in own))
    found = {(row.stage, row.family): row for row in own}
    cells = [
        (stage_label(stage), *(_with_interval(found.get((stage, family))) for family in families))
        for stage in dict.fromkeys(row.stage for row in own)
    ]
    return table(("Stage", *families), cells)


def split_table(rows: Sequence[Accuracy]) -> Html | None:
    """Stages down, splits across, all families; None where there is only one split."""
    own = [row for row in rows if row.family == "all"]
    splits = list(dict.fromkeys(row.split for row in own))
    found = {(row.stage, row.split): row for row in own}
    cells = [
        (stage_label(stage), *(_with_interval(found.get((stage, split))) for split in splits))
        for stage in dict.fromkeys(row.stage for row in own)
    ]
    return table(("Stage", *splits), cells) if len(splits) > 1 else None


def _with_interval(row: Accuracy | MethodResult | Round | None) -> Child:
    if row is None:
        return "–"
    return [percent(row.accuracy), element("small", interval(row.low, row.high))]


def outcome_table(rows: Sequence[Accuracy]) -> Html | None:
    """What became of every question: nothing leaves the denominator."""
    cells = [
        (stage_label(row.stage), row.split, *map(count, (row.right, row.wrong, row.unparseable, row.failed, row.total)))
        for row in rows
        if row.family == "all"
    ]
    return table(("Stage", "Questions", "Right", "Wrong", "Unparseable", "Failed", "Total"), cells, text=(1,))


# Search


def method_table(rows: Sequence[MethodResult], policy: str) -> Html | None:
    """Methods down, N across."""
    own = [row for row in rows if row.policy == policy]
    sizes = sorted({row.n for row in own})
    found = {(method_label(row), row.n): row for row in own}
    cells = [
        (label, *(_with_interval(found.get((label, n))) for n in sizes))
        for label in dict.fromkeys(method_label(row) for row in own)
    ]
    return table(("Method", *(f"N = {n}" for n in sizes)), cells)


def cost_table(rows: Sequence[MethodResult], policy: str) -> Html | None:
    """What each method spends on a question, on average."""
    cells = [
        (
            method_label(row),
            str(row.n),
            percent(row.accuracy),
            *(mean(spent / row.total) for spent in (row.sampled_tokens, row.scored_chains, row.scored_steps)),
            f"{count(row.right)} / {count(row.total)}",
        )
        for row in rows
        if row.policy == policy
    ]
    return table(("Method", "N", "Accuracy", "Sampled tokens", "PRM passes", "Scored steps", "Right"), cells)


def step_weight_table(rows: Sequence[StepWeight]) -> Html | None:
    cells = [
        (decimal(row.weight, 1), percent(row.accuracy), interval(row.low, row.high), count(row.total)) for row in rows
    ]
    return table(("Step weight", "Accuracy", "95% interval", "Questions"), cells)


def rounds_table(rows: Sequence[Round]) -> Html | None:
    cells = [
        (
            REWARDS[row.reward],
            str(row.round) if row.round else "SFT",
            decimal(row.mean_steps),
            decimal(row.mean_tokens, 1),
            _with_interval(row),
        )
        for row in rows
    ]
    return table(("Reward", "Round", "Mean steps", "Mean tokens", "Accuracy"), cells)


# The PRM


def prm_table(rows: Sequence[PrmQuality]) -> Html | None:
    cells = [
        (
            f"{row.part.capitalize()}s",
            row.questions,
            AGAINST[row.against],
            element("strong", percent(row.accuracy)),
            interval(row.low, row.high),
            percent(row.majority),
            decimal(row.auc, 3),
            decimal(row.threshold),
            count(row.total),
            count(row.failed),
        )
        for row in rows
    ]
    return table(PRM_HEAD, cells, text=(1, 2))


def caught_table(rows: Sequence[PrmCaught]) -> Html | None:
    """The share of wrong steps that the PRM calls wrong, by what is wrong with them."""
    cells = [
        (
            row.error,
            row.questions,
            percent(row.caught / row.total if row.total else None),
            share_bar(row.caught / row.total if row.total else 0),
            f"{count(row.caught)} / {count(row.total)}",
        )
        for row in rows
    ]
    return table(("Error", "Questions", "Caught", "0 – 100%", "Steps"), cells, text=(1, 3), wide=3)


def calibration_table(rows: Sequence[CalibrationBin]) -> Html | None:
    cells = [
        (
            f"{row.part.capitalize()}s",
            f"{row.low:.2f} to {row.high:.2f}",
            decimal(row.mean_score),
            percent(row.share_right),
            count(row.total),
        )
        for row in rows
    ]
    return table(("Tags", "Score", "Mean score", "Right", "Count"), cells)


# Cost and settings


def stage_table(results: Results) -> Html | None:
    """Wall seconds, peak memory and sampled tokens of each stage."""
    longest = max(results.wall_seconds.values(), default=0) or 1
    cells = []
    for stage in dict.fromkeys((*results.wall_seconds, *results.tokens)):
        seconds, tokens = results.wall_seconds.get(stage), results.tokens.get(stage)
        memory = results.peak_memory_mb.get(stage)
        cells.append(
            (
                stage,
                "–" if seconds is None else duration(seconds),
                share_bar((seconds or 0) / longest),
                "–" if memory is None else f"{memory / 1000:.1f} GB",
                "–" if tokens is None else count(tokens),
            )
        )
    return table(("Stage", "Wall time", "", "Peak memory", "Sampled tokens"), cells, text=(2,), wide=2)


def rejects_table(rejects: Mapping[str, Mapping[str, int]]) -> Html | None:
    cells = [(stage, reason, count(number)) for stage, reasons in rejects.items() for reason, number in reasons.items()]
    return table(("Stage", "Reason", "Rows"), cells, text=(1,))


def label_table(labels: Mapping[str, Any]) -> Html | None:
    """What is known of the Monte-Carlo labels, counts with their thousands apart."""
    cells = [
        (key.replace("_", " "), count(value) if isinstance(value, int) else str(value))
        for key, value in flat(labels).items()
    ]
    return table(("Labels", "Value"), cells)


def fields_table(values: Mapping[str, Any], head: tuple[str, str]) -> Html | None:
    """A nested dict with a row per value, its keys joined by dots, as `--set` takes them."""
    cells = [(key, element("code", str(value))) for key, value in flat(values).items()]
    return table(head, cells, text=(1,))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"dpo": {"beta": 0.1}}` as `{"dpo.beta": 0.1}`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return found
