"""What `results.json` and `gallery.jsonl` hold (`docs/results_schema.md` says it in words).

Only `recipe` and `versions` must be there: a partial run lacks the rest, and the report says what is missing. Shares
(accuracy, low, high, ...) lie in [0, 1]; costs are sums over all questions of a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from chainofstep.records import Example, StepScores, from_row

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Verdict = Literal["holds", "does not hold", "undecided"]
Part = Literal["step", "answer"]


@dataclass(frozen=True)
class Accuracy:
    """A stage's greedy answers on one split, for one family or for all."""

    stage: str  # base, sft, dpo-1 .. dpo-3, outcome-1 .. outcome-3
    split: str  # unseen, seen, held-out kinds
    family: str  # all, or a family of problems
    right: Count
    wrong: Count
    unparseable: Count
    failed: Count
    total: Count
    accuracy: Share  # right / total
    low: Share  # 95% interval
    high: Share

    def __post_init__(self) -> None:
        parts = (self.right, self.wrong, self.unparseable, self.failed)
        if sum(parts) != self.total:
            raise ValueError(f"right, wrong, unparseable and failed are {parts}, which is not the total {self.total}")


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and what this run says of it."""

    name: str
    paper: str  # what the paper reports
    difference: Finite  # in `unit`, as are `low` and `high`
    low: Finite
    high: Finite
    unit: str  # points
    verdict: Verdict


@dataclass(frozen=True)
class MethodResult:
    """A search method with one policy, at one N, on the unseen questions."""

    policy: str
    method: str  # greedy, self_consistency, best_of_n, weighted_vote, step_beam, pass_at_n
    n: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    right: Count
    total: Annotated[int, Field(ge=1)]
    accuracy: Share
    low: Share
    high: Share
    sampled_tokens: Count
    scored_chains: Count  # passes of the PRM
    scored_steps: Count


@dataclass(frozen=True)
class StepWeight:
    """Best-of-N when the steps have this weight in the path score and the answer has the rest."""

    weight: Share
    accuracy: Share
    low: Share
    high: Share
    total: Count


@dataclass(frozen=True)
class Round:
    """The greedy chains after a round of DPO; round 0 is SFT."""

    reward: Literal["prm", "outcome"]
    round: Count
    mean_steps: Amount
    mean_tokens: Amount
    accuracy: Share
    low: Share
    high: Share


@dataclass(frozen=True)
class PrmQuality:
    """How far the PRM's tags agree with the exact checker, or with the labels that it was trained on."""

    questions: str  # seen, unseen
    part: Part
    against: Literal["checker", "labels"]
    threshold: Share
    accuracy: Share
    low: Share
    high: Share
    majority: Share  # accuracy of always saying the more frequent label
    auc: Share | None  # None where only one label occurs
    total: Count
    failed: Count


@dataclass(frozen=True)
class PrmCaught:
    """Wrong steps of one kind, and how many of them the PRM calls wrong."""

    questions: str
    error: str
    caught: Count
    total: Count

    def __post_init__(self) -> None:
        if self.caught > self.total:
            raise ValueError(f"caught {self.caught} of {self.total}")


@dataclass(frozen=True)
class CalibrationBin:
    """Tags whose score lies in [low, high)."""

    part: Part
    low: Share
    high: Share
    mean_score: Share | None  # None for an empty bin
    share_right: Share | None
    total: Count


@dataclass(frozen=True)
class Results:
    """All of `results.json`."""

    recipe: dict[str, Any]  # the resolved recipe: name, seed, and all fields that decided the run
    versions: dict[str, str]
    wall_seconds: dict[str, Amount] = field(default_factory=dict)  # by stage, in the order they ran
    peak_memory_mb: dict[str, Amount] = field(default_factory=dict)  # by stage, over all processes
    accuracy: tuple[Accuracy, ...] = ()
    claims: tuple[Claim, ...] = ()
    methods: tuple[MethodResult, ...] = ()
    step_weight: tuple[StepWeight, ...] = ()
    rounds: tuple[Round, ...] = ()
    prm: tuple[PrmQuality, ...] = ()
    prm_by_error: tuple[PrmCaught, ...] = ()
    calibration: tuple[CalibrationBin, ...] = ()
    labels: dict[str, Any] = field(default_factory=dict)  # rollouts_used, tokens, agreement_with_checker, ...
    tokens: dict[str, Count] = field(default_factory=dict)  # sampled, by stage
    rejects: dict[str, dict[str, Count]] = field(default_factory=dict)  # stage: reason: rows


@dataclass(frozen=True)
class GalleryRow:
    """A chain to show: whose scores and truths belong to its steps, in order."""

    example: Example
    picture: str  # relative to the run folder
    method: str
    text: str  # the whole chain as text, parseable or not
    answer: str | None
    answer_right: bool
    scores: StepScores | None = None  # the PRM's
    truth: tuple[bool, ...] | None = None  # the checker's, one for each step
    note: str = ""


def check_results(results: Mapping[str, Any]) -> Results:
    """The results as records; a `ValueError` in one line names the first key that is missing, unknown or wrong."""
    unknown = sorted(results.keys() - {known.name for known in fields(Results)})
    if unknown:
        raise ValueError(f"results.json: unknown key {unknown[0]!r}; docs/results_schema.md lists the known ones")
    try:
        checked = from_row(Results, dict(results))
    except ValidationError as error:
        raise ValueError(f"results.json: {_first_problem(error)}; see docs/results_schema.md") from error
    for key in ("name", "seed"):
        if key not in checked.recipe:
            raise ValueError(f"results.json: recipe.{key}: missing; see docs/results_schema.md")
    return checked


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{place}: missing"
    found = first["input"]
    shown = f", found {found!r:.60}" if isinstance(found, str | int | float) else ""
    return f"{place}: {first['msg'].removeprefix('Value error, ')}{shown}"
