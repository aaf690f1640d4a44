"""The plots of a run, made from its results. A plot whose rows are missing is None."""

from collections.abc import Callable, Sequence
from math import log2
from pathlib import Path

from chainofstep.report.drawing import Plot, Series, to_png
from chainofstep.report.schema import Accuracy, CalibrationBin, MethodResult, Results
from chainofstep.report.wording import METHODS, REWARDS, STAGES, count, method_label
from chainofstep.store import write_bytes

PAPER_STEP_WEIGHT = 0.2
#: A method has one colour wherever it is drawn.
METHOD_COLORS = {
    "best_of_n": "series-1",
    "step_beam": "series-3",
    "weighted_vote": "series-4",
    "self_consistency": "series-2",
    "greedy": "muted",
    "pass_at_n": "muted",
}
SPARE_COLORS = ("series-5", "series-6", "series-1", "series-2", "series-3", "series-4")
FAMILY_COLORS = ("series-1", "series-2", "series-3", "series-4", "series-5", "series-6")


def save_plots(results: Results, folder: Path) -> list[Path]:
    """Write `accuracy.png` and `scaling.png` into the folder, as far as the results have their rows."""
    policies = policies_of(results.methods)
    plots = {
        "accuracy": accuracy_plot(results.accuracy),
        "scaling": scaling_plot(results.methods, policies[0]) if policies else None,
    }
    return [write_bytes(folder / f"{name}.png", to_png(plot)) for name, plot in plots.items() if plot]


def policies_of(methods: Sequence[MethodResult]) -> list[str]:
    """The policies that methods were run with, in the order they first occur."""
    return list(dict.fromkeys(row.policy for row in methods))


# Accuracy by stage


def accuracy_plot(rows: Sequence[Accuracy]) -> Plot | None:
    """All families on unseen questions: base, SFT and each round with the PRM's reward, and with the outcome's."""
    shown = [row for row in rows if (row.split, row.family) == ("unseen", "all")]
    series = [_stage_series("DPO by PRM" if _has(shown, "dpo") else "Accuracy", "series-1", _path(shown, "dpo"))]
    if _has(shown, "outcome"):
        series.append(_stage_series("DPO by outcome", "series-2", _path(shown, "outcome"), dashed=True))
    return _stage_plot(tuple(line for line in series if line.x))


def family_plot(rows: Sequence[Accuracy]) -> Plot | None:
    """Each family on unseen questions, from base to the last round with the PRM's reward."""
    shown = [row for row in rows if row.split == "unseen" and row.family != "all"]
    families = list(dict.fromkeys(row.family for row in shown))
    series = [
        _stage_series(name, color, _path([row for row in shown if row.family == name], "dpo"))
        for name, color in zip(families, FAMILY_COLORS * len(families), strict=False)
    ]
    return _stage_plot(tuple(line for line in series if line.x))


def _has(rows: Sequence[Accuracy], kind: str) -> bool:
    return any(row.stage.startswith(f"{kind}-") for row in rows)


def _path(rows: Sequence[Accuracy], kind: str) -> list[tuple[int, Accuracy]]:
    """(place, row) of the stages that lead to rounds of this kind: base 0, SFT 1, round 1 at 2."""
    places = [(place, row) for row in rows if (place := _place(row.stage, kind)) is not None]
    return sorted(places, key=lambda placed: placed[0])


def _place(stage: str, kind: str) -> int | None:
    if stage in STAGES and (kind == "dpo" or stage == "sft"):  # the outcome's path leaves the PRM's at SFT
        return list(STAGES).index(stage)
    prefix, _, number = stage.rpartition("-")
    return int(number) + 1 if prefix == kind and number.isdigit() else None


def _stage_series(label: str, color: str, path: Sequence[tuple[int, Accuracy]], dashed: bool = False) -> Series:
    places = [float(place) for place, _ in path]
    rows = [row for _, row in path]
    return Series(label, color, places, *_with_band(rows), dashed=dashed)


def _with_band(rows: Sequence[Accuracy]) -> tuple[list[float], list[float], list[float]]:
    return [row.accuracy for row in rows], [row.low for row in rows], [row.high for row in rows]


def _stage_plot(series: tuple[Series, ...]) -> Plot | None:
    if not series:
        return None
    last = max((int(x) for line in series for x in line.x), default=0)
    names = ("Base", "SFT", *(f"Round {number}" for number in range(1, last)))
    ticks = tuple((float(place), name) for place, name in enumerate(names[: last + 1]))
    return Plot(series, "Stage", "Accuracy, unseen questions", ticks)


# Search over N


def scaling_plot(rows: Sequence[MethodResult], policy: str, by_tokens: bool = False) -> Plot | None:
    """Accuracy of each method over N, or over the tokens sampled per question (then without the ceiling)."""
    shown = [row for row in rows if row.policy == policy and not (by_tokens and row.method == "pass_at_n")]
    if not shown:
        return None
    across: Callable[[MethodResult], float] = tokens_per_question if by_tokens else _samples
    labels = list(dict.fromkeys(method_label(row) for row in shown))
    spare = iter(SPARE_COLORS * len(labels))
    used: set[str] = set()
    series = []
    for label in labels:
        own = sorted((row for row in shown if method_label(row) == label), key=across)
        color = METHOD_COLORS.get(own[0].method, "")
        color = color if color and (color == "muted" or color not in used) else next(spare)
        used.add(color)
        series.append(_method_series(label, color, own, [across(row) for row in own]))
    x_label = "Sampled tokens per question" if by_tokens else "N, samples per question (step beam: per level)"
    marked = _powers_of_two([across(row) for row in shown]) if by_tokens else sorted({row.n for row in shown})
    ticks = tuple((float(x), count(x)) for x in marked)
    return Plot(tuple(series), x_label, "Accuracy, unseen questions", ticks, log=True)


def _powers_of_two(values: Sequence[float]) -> list[int]:
    """The powers of two within the range of the values, and the next one below it."""
    return [2**power for power in range(int(log2(min(values))), int(log2(max(values))) + 1)]


def tokens_per_question(row: MethodResult) -> float:
    return max(1.0, row.sampled_tokens / row.total)


def _samples(row: MethodResult) -> float:
    return float(row.n)


def _method_series(label: str, color: str, rows: Sequence[MethodResult], across: Sequence[float]) -> Series:
    """A line with its band; the ceiling is dashed, without one."""
    accuracy = [row.accuracy for row in rows]
    if rows[0].method == "pass_at_n":
        return Series(label, color, across, accuracy, dashed=True)
    return Series(label, color, across, accuracy, [row.low for row in rows], [row.high for row in rows])


# Step weight, rounds, calibration


def step_weight_plot(results: Results) -> Plot | None:
    """Best-of-N accuracy over the weight of the steps in the path score (paper Fig. 3)."""
    rows = sorted(results.step_weight, key=lambda row: row.weight)
    if not rows:
        return None
    line = Series(
        METHODS["best_of_n"],
        "series-1",
        [row.weight for row in rows],
        [row.accuracy for row in rows],
        [row.low for row in rows],
        [row.high for row in rows],
    )
    ticks = tuple((tenth / 5, f"{tenth / 5:.1f}") for tenth in range(6))
    mark = ((PAPER_STEP_WEIGHT, "the paper's choice"),)
    return Plot((line,), "Weight of the steps; the answer has the rest", "Accuracy", ticks, marks=mark)


def rounds_plot(results: Results) -> Plot | None:
    """Mean steps of a chain per round of DPO, for both rewards (paper Fig. 6)."""
    series = []
    for reward, color in (("prm", "series-1"), ("outcome", "series-2")):
        rows = sorted((row for row in results.rounds if row.reward == reward), key=lambda row: row.round)
        if rows:
            x, y = [float(row.round) for row in rows], [row.mean_steps for row in rows]
            series.append(Series(f"{REWARDS[reward]} reward", color, x, y, dashed=reward == "outcome"))
    last = max((row.round for row in results.rounds), default=0)
    ticks = tuple((float(number), str(number) if number else "SFT") for number in range(last + 1))
    return Plot(tuple(series), "Round of DPO", "Mean steps per chain", ticks, shares=False) if series else None


def calibration_plot(bins: Sequence[CalibrationBin]) -> Plot | None:
    """How often tags of about one score are right. The diagonal is a perfect PRM; a dot's area shows its tags."""
    series = []
    largest = max((row.total for row in bins), default=0)
    for part, label, color in (("step", "Steps", "series-1"), ("answer", "Answers", "series-2")):
        points = [
            (row.mean_score, row.share_right, row.total)
            for row in bins
            if row.part == part and row.mean_score is not None and row.share_right is not None
        ]
        if points:
            scores, shares, totals = zip(*sorted(points), strict=True)
            series.append(Series(label, color, scores, shares, sizes=[10 + 90 * total / largest for total in totals]))
    ticks = tuple((fifth / 5, f"{fifth / 5:.1f}") for fifth in range(6))
    return Plot(tuple(series), "PRM score", "Share that is right", ticks, diagonal=True) if series else None


def calibration_error(bins: Sequence[CalibrationBin], part: str) -> float | None:
    """The mean distance of score and share of right ones, bins weighted by their tags; None without any tag."""
    rows = [row for row in bins if row.part == part and row.mean_score is not None and row.share_right is not None]
    total = sum(row.total for row in rows)
    distances = [row.total * abs((row.mean_score or 0) - (row.share_right or 0)) for row in rows]
    return sum(distances) / total if total else None
