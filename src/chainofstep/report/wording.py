"""Names and numbers as the report prints them."""

from collections.abc import Sequence

from chainofstep.report.schema import Claim, MethodResult

STAGES = {"base": "Base, no steps", "sft": "SFT"}
METHODS = {
    "greedy": "Greedy",
    "self_consistency": "Self-consistency",
    "best_of_n": "Best-of-N by PRM",
    "weighted_vote": "PRM-weighted vote",
    "step_beam": "Step beam",
    "pass_at_n": "Pass@N (ceiling)",
    "predictions": "Predictions",
}
#: Of a pool of one sample all methods make the same.
ONE_SAMPLE = "One sample"
REWARDS = {"prm": "PRM", "outcome": "Outcome"}
#: Prefix of a stage's name, before the number of its round.
ROUND_STAGES = {"dpo": "DPO", "outcome": "Outcome DPO"}
VERDICTS = {"holds": "Holds", "does not hold": "Does not hold", "undecided": "Undecided"}


def stage_label(stage: str) -> str:
    """`dpo-2` is "DPO, round 2"; a name that is not known stays as it is."""
    kind, _, number = stage.rpartition("-")
    if kind in ROUND_STAGES:
        return f"{ROUND_STAGES[kind]}, round {number}"
    return STAGES.get(stage, stage)


def method_name(method: str) -> str:
    return METHODS.get(method, method.replace("_", " "))


def method_label(row: MethodResult) -> str:
    """The method, with its beam width where that matters."""
    return _with_width(row.method, row.width)


def _with_width(method: str, width: int) -> str:
    return f"{method_name(method)}, width {width}" if method == "step_beam" else method_name(method)


def run_label(method: str, n: int, width: int = 1) -> str:
    """A method at one N: "Greedy", "One sample", "Step beam, width 2, N = 4"."""
    if method in ("greedy", "predictions"):
        return method_name(method)
    if n == 1 and method != "step_beam":
        return ONE_SAMPLE
    return f"{_with_width(method, width)}, N\u00a0=\u00a0{n}"  # not to be broken over two lines


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def interval(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f}"


def decimal(value: float | None, places: int = 2) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def count(number: float) -> str:
    return f"{number:,.0f}"


def counted(number: int, noun: str) -> str:
    """`1 row`, `2 rows`; `noun` is one of them."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are."""
    more = f" and {count(len(names) - most)} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def mean(value: float) -> str:
    """A mean count: decimals only where they tell something."""
    return count(value) if value >= 100 or value == 0 else f"{value:.1f}"


def signed(value: float) -> str:
    """With a sign, and the minus of typography."""
    return f"{value:+.1f}".replace("-", "\u2212")


def duration(seconds: float) -> str:
    """`75` is "1 min 15 s"; under ten seconds one decimal is kept."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def evidence(claim: Claim) -> str:
    """What this run found for a claim: the difference and its interval."""
    return f"{signed(claim.difference)} {claim.unit} here, 95% interval {signed(claim.low)} to {signed(claim.high)}"
