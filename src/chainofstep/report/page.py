"""One HTML page a run: it opens offline, loads nothing, and everything from data is escaped."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chainofstep.report import frame, tables
from chainofstep.report.frame import document, figure, figures, fold, header, note, own_file, section
from chainofstep.report.gallery import ShownChain, gallery
from chainofstep.report.markup import Child, Html, element
from chainofstep.report.plots import (
    accuracy_plot,
    calibration_error,
    calibration_plot,
    family_plot,
    policies_of,
    rounds_plot,
    scaling_plot,
    step_weight_plot,
)
from chainofstep.report.schema import Accuracy, Results
from chainofstep.report.wording import count, decimal, duration, percent, stage_label

#: The page's own script may run.
POLICY = f"{frame.POLICY}; script-src 'unsafe-inline'"

HEADLINE = "Accuracy of the greedy answer on unseen questions, all families. Intervals are 95%."
TOKENS = "The same over the tokens sampled, without the ceiling."
SCALING = "Accuracy over N. Pass@N is a ceiling, not a method."


@dataclass(frozen=True)
class Run:
    """What a page is made from. `chains` is None where the run has no gallery."""

    results: Results
    chains: Sequence[ShownChain] | None
    folder: Path


def page(run: Run) -> str:
    """The whole document."""
    name = str(run.results.recipe["name"])
    sections = [section(title, make(run)) for title, make in SECTIONS.items()]
    script = element("script", Html(own_file("page.js")))
    return document(f"{name}: chain-of-step run", POLICY, _header(run, name), element("main", sections), script)


def _header(run: Run, name: str) -> Html:
    results = run.results
    facts = [f"seed {results.recipe['seed']}"]
    if results.wall_seconds:
        facts.append(f"{duration(sum(results.wall_seconds.values()))} of wall time")
    if results.peak_memory_mb:
        facts.append(f"{max(results.peak_memory_mb.values()) / 1000:.1f} GB of memory at most")
    if results.tokens:
        facts.append(f"{count(sum(results.tokens.values()))} sampled tokens")
    return header("Chain-of-step run", name, facts, SECTIONS)


def _missing(key: str) -> Html:
    return element("p", f"Not in this run: results.json has no rows under “{key}”.", class_="missing")


# The sections, in the order of the page


def _summary(run: Run) -> Child:
    results = run.results
    headline = tables.headline_table(results.accuracy)
    claims = tables.claim_list(results.claims)
    return [
        note(HEADLINE) if headline else None,
        headline or _missing("accuracy"),
        element("h3", "What the paper claims, and what this run shows"),
        claims or _missing("claims"),
    ]


def _accuracy(run: Run) -> Child:
    rows = run.results.accuracy
    if not rows:
        return _missing("accuracy")
    splits = tables.split_table(rows)
    return [
        figures(
            figure(accuracy_plot(rows), "accuracy", "Accuracy by stage, all families. Bands are 95% intervals."),
            figure(family_plot(rows), "family", "Accuracy by stage, each family by itself."),
        ),
        element("h3", "Unseen questions, by family"),
        tables.accuracy_table(rows, "unseen") or _missing("accuracy of unseen questions"),
        [element("h3", "Unseen, seen and held-out questions, all families"), splits] if splits else None,
        [_by_family(rows, split) for split in dict.fromkeys(row.split for row in rows if row.split != "unseen")],
        fold("What became of every question", tables.outcome_table(rows)),
    ]


def _by_family(rows: Sequence[Accuracy], split: str) -> Html | None:
    """The families of another split, folded; None where it has all families together only."""
    apart = any(row.split == split and row.family != "all" for row in rows)
    return fold(f"By family: {split}", tables.accuracy_table(rows, split)) if apart else None


def _search(run: Run) -> Child:
    rows = run.results.methods
    if not rows:
        return _missing("methods")
    return [_policy_search(run, policy, number) for number, policy in enumerate(policies_of(rows))]


def _policy_search(run: Run, policy: str, number: int) -> Child:
    rows = run.results.methods
    return [
        element("h3", f"Policy: {stage_label(policy)}"),
        figures(
            figure(scaling_plot(rows, policy), f"scaling-{number}", SCALING),
            figure(scaling_plot(rows, policy, by_tokens=True), f"tokens-{number}", TOKENS),
        ),
        tables.method_table(rows, policy),
        element("h4", "What a question costs, on average"),
        tables.cost_table(rows, policy),
    ]


def _step_weight(run: Run) -> Child:
    rows = run.results.step_weight
    if not rows:
        return _missing("step_weight")
    best = max(rows, key=lambda row: row.accuracy)
    found = f"Best here at {decimal(best.weight, 1)}, with {percent(best.accuracy)}; in the paper (Fig. 3) at 0.2."
    shown = figure(step_weight_plot(run.results), "weight", f"Best-of-N over the step weight. {found}")
    return figures(shown, tables.step_weight_table(rows))


def _rounds(run: Run) -> Child:
    rows = run.results.rounds
    if not rows:
        return _missing("rounds")
    caption = (
        "Mean steps per chain. In the paper (Fig. 6) three rounds go from 6.22 to 5.01 steps with the PRM's reward, "
        "and to 6.37 with the outcome's."
    )
    return figures(figure(rounds_plot(run.results), "rounds", caption), tables.rounds_table(rows))


def _prm(run: Run) -> Child:
    results = run.results
    quality, caught = tables.prm_table(results.prm), tables.caught_table(results.prm_by_error)
    checked = not results.prm or any(row.against == "checker" for row in results.prm)
    return [
        note("“Majority class” is what always saying the more frequent label would score.") if quality else None,
        quality or _missing("prm"),
        element("h3", "Wrong steps caught, by kind of error"),
        caught or _missing("prm_by_error"),
        element("h3", f"Calibration against {'the exact checker' if checked else 'Monte-Carlo labels'}"),
        _calibration(run),
    ]


def _calibration(run: Run) -> Child:
    rows = run.results.calibration
    if not rows:
        return _missing("calibration")
    errors = [(f"{part}s", calibration_error(rows, part)) for part in ("step", "answer")]
    found = ", ".join(f"{percent(error)} for {what}" for what, error in errors if error is not None)
    caption = (
        f"On the diagonal scores mean what they say; a dot grows with its count. Mean distance: {found or 'none'}."
    )
    shown = figure(calibration_plot(rows), "calibration", caption)
    return figures(shown, fold("The numbers", tables.calibration_table(rows)))


def _cost(run: Run) -> Child:
    results = run.results
    labels = tables.label_table(results.labels)
    rejects = tables.rejects_table(results.rejects)
    return [
        tables.stage_table(results),
        _missing("wall_seconds") if not results.wall_seconds else None,
        _missing("peak_memory_mb") if not results.peak_memory_mb else None,
        _missing("tokens") if not results.tokens else None,
        element("h3", "Monte-Carlo labels"),
        labels or _missing("labels"),
        element("h3", "Rows that could not be used"),
        rejects or _missing("rejects"),
    ]


def _recipe(run: Run) -> Child:
    recipe: Mapping[str, object] = run.results.recipe
    return [
        fold("The resolved recipe", tables.fields_table(recipe, ("Field", "Value"))),
        fold("Versions", tables.fields_table(run.results.versions, ("Package", "Version"))),
    ]


def _gallery(run: Run) -> Child:
    if not run.chains:
        return element("p", "Not in this run: no rows in gallery.jsonl.", class_="missing")
    return gallery(run.chains, run.folder)


SECTIONS: dict[str, Callable[[Run], Child]] = {
    "Summary": _summary,
    "Accuracy": _accuracy,
    "Search": _search,
    "Step weight": _step_weight,
    "Chain length": _rounds,
    "Process reward model": _prm,
    "Cost": _cost,
    "Recipe": _recipe,
    "Gallery": _gallery,
}
