"""What a search method is asked, and what it comes to."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

from chainofstep.chain import Chain
from chainofstep.records import Example, Request, Rollout, Sampler, Scored, StepScorer
from chainofstep.scoring.monte_carlo import derive_seed
from chainofstep.scoring.path_score import STEP_WEIGHT


@dataclass(frozen=True)
class SearchConfig:
    """How much to sample and how."""

    n: int = 16  # samples per question; in step_beam, per level
    width: int = 1  # step_beam alone: chains kept per level; divides n
    temperature: float = 1.0
    top_p: float = 0.95
    max_tokens: int = 256  # sampled tokens of one chain
    max_steps: int = 12  # step_beam alone
    step_weight: float = STEP_WEIGHT
    seed: int = 0


@dataclass(frozen=True)
class Cost:
    """What one question cost."""

    sampled_tokens: int = 0
    scored_chains: int = 0  # passes of the scorer: distinct chains and prefixes
    scored_steps: int = 0  # steps in those passes, the steps of the prefix counted each time

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(mine + more for mine, more in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Candidate:
    """A distinct text that a method looked at."""

    text: str
    count: int  # how many samples gave it
    value: float | None = None  # what it was ranked by
    kept: bool = False
    problem: str = ""  # why it could not be ranked


@dataclass(frozen=True)
class SearchResult:
    """What a method came to. Without an answer, `failure` says what failed; it is empty where nothing parsed."""

    example_id: str
    answer: str | None
    text: str
    chain: Chain | None
    scores: Scored | None  # of `chain`; None where the method does not score
    cost: Cost
    trace: tuple[tuple[Candidate, ...], ...] = ()  # one tuple per level; pool methods have one level
    failure: str = ""


#: `failure` of a beam search that ended without a finished chain, and of one whose scorer scored nothing.
UNFINISHED, UNSCORED = "no chain reached an answer", "the scorer failed on every chain"

Method = Callable[[Sequence[Example], Sampler, StepScorer | None, SearchConfig], list[SearchResult]]


def whole_chains(example: Example, config: SearchConfig) -> Request:
    """`config.n` chains of a question, from its beginning to their answers."""
    return Request(
        example,
        n=config.n,
        seed=derive_seed(config.seed, example.id),
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
    )


def sample_pools(examples: Sequence[Example], sampler: Sampler, config: SearchConfig) -> list[list[Rollout]]:
    """`config.n` whole chains per example, from one call of the sampler."""
    return sampler.sample([whole_chains(example, config) for example in examples])
