"""Several runs side by side as one HTML page: it opens offline, runs no script, and everything from data is escaped."""

from collections.abc import Sequence
from math import ceil

from chainofstep.report.comparison import (
    NO_SUCH,
    NOT_KNOWN,
    ComparedRun,
    Pairing,
    differing_settings,
    labels_of,
    pairings,
    shared_questions,
    unknown_settings,
)
from chainofstep.report.frame import POLICY, document, fold, header, note, section
from chainofstep.report.markup import Child, Html, element, join
from chainofstep.report.tables import interval_bar, table
from chainofstep.report.wording import count, counted, duration, interval, listed, percent, signed

SECTIONS = ("Accuracy", "Differences", "Settings", "Questions", "Cost")
COST_HEAD = ("Run", "Wall time", "Sampled tokens", "Peak memory")
SERIES = 6  # colours of the palette
NAMED = 200  # ids that a list shows
PAIRED = (
    "Paired: only questions that both runs answered count, each with both its outcomes. Intervals are 95% (bootstrap "
    "over questions), p is the exact two-sided McNemar test of the row by itself: where nothing differs, one row in "
    "twenty still falls below 0.05. Both speak for other questions of the same kind, not for other seeds of a recipe."
)


def compare_page(runs: Sequence[ComparedRun]) -> str:
    """The whole document. The first run is what the others are compared to."""
    names = [run.name for run in runs]
    title = f"{', '.join(names[:-1])} and {names[-1]}"
    facts = [
        f"{len(runs)} runs",
        f"compared to {names[0]}",
        f"{counted(len(runs[0].questions), 'question')} in {names[0]}",
    ]
    contents = (_accuracy(runs), _differences(runs), _settings(runs), _questions(runs), _cost(runs))
    shown = [section(title, content) for title, content in zip(SECTIONS, contents, strict=True)]
    main = element("main", shown)
    return document(f"{title}: comparison", POLICY, header("Comparison of runs", title, facts, SECTIONS), main)


def points(share: float) -> str:
    """A difference of shares in points, with its sign."""
    return signed(100 * share)


def p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


# Accuracy


def _accuracy(runs: Sequence[ComparedRun]) -> Child:
    head = ("Stage or method", *(_heading(run.name, place) for place, run in enumerate(runs)), "0 – 100%")
    rows = [(label, *(_cell(run, key) for run in runs), _bars(runs, key)) for key, label in labels_of(runs).items()]
    last = len(runs) + 1
    text = "Every question counts, also one without a readable answer. Intervals are 95% (Wilson's)."
    return [note(text), table(head, rows, text=(last,), wide=last) or _missing("No run has a finished measurement.")]


def _missing(text: str) -> Html:
    return element("p", text, class_="missing")


def _colour(place: int) -> str:
    return f"var(--series-{place % SERIES + 1})"


def _heading(name: str, place: int) -> Html:
    """A run's name with the colour of its bars."""
    dot = "display:inline-block;width:.6rem;height:.6rem;margin-right:.35rem;border-radius:50%"
    return join(element("span", style=f"{dot};background:{_colour(place)}", aria_hidden="true"), name)


def _cell(run: ComparedRun, key: str) -> Child:
    measured = run.by_key.get(key)
    if measured is None or not measured.total:
        return "–"
    value, low, high = measured.share
    return [percent(value), element("small", interval(low, high))]


def _bars(runs: Sequence[ComparedRun], key: str) -> Html:
    """A bar for each run, one below the other, in the middle of the row."""
    bars = [_bar(run, key, place) for place, run in enumerate(runs)]
    return element("span", bars, style="display:inline-block;width:100%;vertical-align:middle")


def _bar(run: ComparedRun, key: str, place: int) -> Html | None:
    measured = run.by_key.get(key)
    if measured is None or not measured.total:
        return None
    return element("span", interval_bar(*measured.share), style=f"--accent:{_colour(place)}")


# Differences


def _differences(runs: Sequence[ComparedRun]) -> Child:
    found = [(run, pairings(runs[0], run)) for run in runs[1:]]
    ends = (abs(end) for _, rows in found for row in rows for end in row.difference)
    widest = ceil(20 * max(ends, default=0.0)) / 20 or 0.05  # whole steps of five points
    return [note(PAIRED), [_against(runs[0], run, rows, widest) for run, rows in found]]


def _against(first: ComparedRun, run: ComparedRun, rows: Sequence[Pairing], widest: float) -> Child:
    """One run against the first. `widest` is the end of the scale, the same for all."""
    title = element("h3", f"{run.name} against {first.name}")
    if not rows:
        return [title, _missing("They have no measurement of the same questions.")]
    head = (
        "Stage or method",
        "Points",
        "95% interval",
        f"±{100 * widest:.0f} points",
        "p",
        "Gained",
        "Lost",
        "Questions",
    )
    cells = [
        (
            row.label,
            *_difference(row, widest),
            count(row.test.second_only),
            count(row.test.first_only),
            count(row.questions),
        )
        for row in rows
    ]
    verdicts = [row.verdict for row in rows]
    numbers = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in ("better", "worse", "undecided"))
    text = f"{run.name} is, of {counted(len(rows), 'row')}: {numbers} (the interval holds 0)."
    return [title, element("p", text), table(head, cells, text=(3,), wide=3)]


def _difference(row: Pairing, widest: float) -> tuple[Child, ...]:
    """Points, interval, bar and p; of two that never differ there is none to show."""
    if row.same:
        return "–", no_difference(row), None, "–"
    value, low, high = row.difference
    shown = points(value) if row.verdict == "undecided" else element("strong", points(value))
    return shown, f"{points(low)} to {points(high)}", difference_bar(row, widest), p_value(row.test.p)


def no_difference(row: Pairing) -> str:
    return f"no difference on {counted(row.questions, 'question')}"


def difference_bar(row: Pairing, widest: float) -> Html:
    """A difference and its interval on a track with 0 in the middle: green better, red worse, grey undecided."""
    tone = {"better": "var(--right)", "worse": "var(--wrong)", "undecided": "var(--muted)"}[row.verdict]
    bar = interval_bar(*(0.5 + end / (2 * widest) for end in row.difference))
    zero = "position:absolute;left:50%;top:-.15rem;bottom:-.15rem;width:1px;background:var(--muted)"
    line = element("span", style=zero, aria_hidden="true")
    return element("span", bar, line, style=f"display:block;position:relative;--accent:{tone}")


# What else differs


def _settings(runs: Sequence[ComparedRun]) -> Child:
    differing = differing_settings(runs)
    rows = [
        (name, *(value if value in (NO_SUCH, NOT_KNOWN) else element("code", value) for value in values))
        for name, values in differing.items()
    ]
    shown = table(("Setting", *(run.name for run in runs)), rows, text=range(1, len(runs) + 1))
    unknown = unknown_settings(runs)
    same = len({name for run in runs for name in run.settings}) - len(differing) - len(unknown)
    text = f"Settings that are the same: {count(same)}."
    text += f" Not known of every run: {listed(unknown, NAMED)}." if unknown else ""
    return [note(text if shown is None else f"Only those that differ. {text}"), shown]


def _questions(runs: Sequence[ComparedRun]) -> Child:
    first = runs[0]
    shared = [(run, shared_questions(first, run)) for run in runs[1:]]
    head = ("Run", f"In {first.name} too", f"Only in {first.name}", "Only here", "Same id, another question")
    rows = [
        (run.name, *map(count, (found.both, len(found.first_only), len(found.second_only), len(found.other))))
        for run, found in shared
    ]
    lists = [
        [
            fold(f"Only in {first.name}, not in {run.name}", _ids(found.first_only)),
            fold(f"Only in {run.name}, not in {first.name}", _ids(found.second_only)),
            fold(f"Same id in {run.name} and {first.name}, another question", _ids(found.other)),
        ]
        for run, found in shared
    ]
    notes = [note(text) for run in runs for text in run.notes]
    return [table(head, rows), lists, notes]


def _ids(names: Sequence[str]) -> Html | None:
    if not names:
        return None
    return element("p", element("code", listed(names, NAMED)))


def cost_rows(runs: Sequence[ComparedRun]) -> list[tuple[str, str, str, str]]:
    """What each run cost, under `COST_HEAD`."""
    return [
        (
            run.name,
            "–" if run.spent.seconds is None else duration(run.spent.seconds),
            "–" if run.spent.tokens is None else count(run.spent.tokens),
            "–" if run.spent.peak_mb is None else f"{run.spent.peak_mb / 1000:.1f} GB",
        )
        for run in runs
    ]


def _cost(runs: Sequence[ComparedRun]) -> Child:
    stages = dict.fromkeys(name for run in runs for name in run.spent.stages or ())
    by_stage = [
        (name, *(duration(seconds) if (seconds := (r.spent.stages or {}).get(name)) is not None else "–" for r in runs))
        for name in stages
    ]
    return [
        table(COST_HEAD, cost_rows(runs)),
        fold("Wall time by stage", table(("Stage", *(run.name for run in runs)), by_stage)),
    ]
