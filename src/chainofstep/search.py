"""Spending more samples on a question: every method has one signature and counts what it spent.

`method(examples, sampler, scorer, config) -> one SearchResult per example`; `METHODS` names them. All but `greedy` and
`step_beam` choose from a pool of rollouts sampled once, and `pool_results` chooses from a pool that exists already, so
that all of them, at every N, can share one pool (the first N rollouts of it).

Choosing from a pool. Rollouts that are no chain never vote and are never picked, but their tokens are in the cost; with
no chain at all there is no answer. A chain that the scorer failed on has no score: methods that go by score leave it
out, and a question whose every chain failed has failed. Ties go to the first.
- self_consistency: the answer most rollouts give (grouped by `answer_key`).
- best_of_n: the text with the best path score among distinct texts; equal scores go to the more frequent one.
- weighted_vote: the answer with the largest sum of path scores over its rollouts, by its best-scored chain.
- pass_at_n: a right chain if there is one. It looks at the gold answer: a ceiling, not a method.

Step-level beam search (paper A8, Fig. 4c). At each level `n` next steps are sampled from the kept chain, equal ones are
merged, all are scored, and the best goes on. What the paper leaves open is decided here:
- Ranking. At width 1 a candidate ranks by the score of what it added: its last step's score, or its answer's score if
  it finished. Wider beams rank by the mean of all scores so far, since candidates of different pasts compete.
- Finished and unfinished candidates of a level compete in one ranking. At width 1 the search ends when the best one is
  finished. Wider, a finished chain that was kept keeps its place in the width and is not expanded; the rest of the
  width goes on, until nothing is left to expand. Of the finished kept chains the best path score wins.
- Ties go to the candidate sampled more often, then to the first.
- Duplicates (equal chains) are one candidate, scored once.
- Samples. The first level spends `n` samples on the empty chain, later ones `n // width` on each kept chain. A chain
  may spend `max_tokens` over all its levels, as in the other methods.
- Dead ends. A sample that is cut, unparseable, refused by the scorer, or unfinished at `max_steps` steps or at
  `max_tokens` is no candidate. If the search ends with no finished chain kept, the best finished one that it passed
  over is the result; without one the search has failed.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field, replace

from chainofstep.answers import answer_key, is_right
from chainofstep.chain import Chain, ChainError, parse_prefix, render
from chainofstep.records import Example, Request, Rollout, Sampler, Scored, ScoreFailure, StepScorer, StepScores
from chainofstep.scoring.monte_carlo import derive_seed
from chainofstep.scoring.path_score import STEP_WEIGHT, path_score, score_pools


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


def _whole_chains(example: Example, config: SearchConfig) -> Request:
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
    return sampler.sample([_whole_chains(example, config) for example in examples])


def greedy(
    examples: Sequence[Example], sampler: Sampler, scorer: StepScorer | None, config: SearchConfig
) -> list[SearchResult]:
    """The one chain at temperature 0. The scorer is not used."""
    pools = sample_pools(examples, sampler, replace(config, n=1, temperature=0.0, top_p=1.0))
    return pool_results(examples, pools, None, "self_consistency", 1)


# Choosing from a pool


@dataclass(frozen=True)
class _Entry:
    """A distinct chain of a pool."""

    chain: Chain
    text: str
    key: str  # what its answer votes for
    count: int
    scored: Scored | None
    value: float | None  # its path score, where it has scores


_Rank = tuple[float, float]  # the higher the better, the second for ties; the first entry wins what is left


def _best_of_n(example: Example, entries: Sequence[_Entry]) -> list[_Rank | None]:
    return [None if entry.value is None else (entry.value, entry.count) for entry in entries]


def _self_consistency(example: Example, entries: Sequence[_Entry]) -> list[_Rank | None]:
    votes: Counter[str] = Counter()
    for entry in entries:
        votes[entry.key] += entry.count
    return [(votes[entry.key], 0.0) for entry in entries]


def _weighted_vote(example: Example, entries: Sequence[_Entry]) -> list[_Rank | None]:
    weights: dict[str, float] = {}
    for entry in entries:
        weights[entry.key] = weights.get(entry.key, 0.0) + (entry.value or 0.0) * entry.count
    return [None if entry.value is None else (weights[entry.key], entry.value) for entry in entries]


def _pass_at_n(example: Example, entries: Sequence[_Entry]) -> list[_Rank | None]:
    return [(float(is_right(example, entry.chain.answer)), 0.0) for entry in entries]


POOL_METHODS: dict[str, Callable[[Example, Sequence[_Entry]], list[_Rank | None]]] = {
    "self_consistency": _self_consistency,
    "best_of_n": _best_of_n,
    "weighted_vote": _weighted_vote,
    "pass_at_n": _pass_at_n,
}
BY_SCORE = frozenset({"best_of_n", "weighted_vote"})  # the pool methods that need scores


def pool_results(
    examples: Sequence[Example],
    pools: Sequence[Sequence[Rollout]],
    scores: Sequence[Sequence[Scored]] | None,
    method: str,
    n: int,
    step_weight: float = STEP_WEIGHT,
) -> list[SearchResult]:
    """Choose by `method` (a key of `POOL_METHODS`) from the first `n` rollouts of each example's pool.

    `scores[i][j]` belongs to `pools[i][j]` (see `score_pools`); methods that do not go by score ignore them.
    """
    if method not in POOL_METHODS:
        raise ValueError(f"no pool method {method!r}; choose one of {', '.join(POOL_METHODS)}")
    if method in BY_SCORE and scores is None:
        raise ValueError(f"{method} goes by score, and there are no scores; pass them")
    results = []
    for place, (example, pool) in enumerate(zip(examples, pools, strict=True)):
        if not 1 <= n <= len(pool):
            raise ValueError(f"example {example.id}: n is {n}, its pool has {len(pool)} rollouts; lower n")
        used = scores[place] if method in BY_SCORE and scores is not None else None
        results.append(_pick(example, pool[:n], _entries(example, pool[:n], used, step_weight), method))
    return results


def _entries(
    example: Example, pool: Sequence[Rollout], scored: Sequence[Scored] | None, step_weight: float
) -> list[_Entry]:
    """The distinct chains of a pool in order of first appearance."""
    counts = Counter(rollout.chain for rollout in pool)
    entries: dict[Chain, _Entry] = {}
    for index, rollout in enumerate(pool):
        chain = rollout.chain
        if chain is None or chain.answer is None or chain in entries:
            continue
        own = None if scored is None else scored[index]
        value = path_score(own, step_weight) if isinstance(own, StepScores) else None
        key = answer_key(example, chain.answer)
        entries[chain] = _Entry(chain, rollout.text, key, counts[chain], own, value)
    return list(entries.values())


def _pick(example: Example, pool: Sequence[Rollout], entries: Sequence[_Entry], method: str) -> SearchResult:
    ranks = POOL_METHODS[method](example, entries)
    ranked = [(rank, entry) for rank, entry in zip(ranks, entries, strict=True) if rank is not None]
    best = max(ranked, key=lambda pair: pair[0])[1] if ranked else None
    cost = Cost(sum(len(rollout.token_ids) for rollout in pool))
    if method in BY_SCORE:
        cost += Cost(0, len(entries), sum(len(entry.chain.steps) for entry in entries))
    trace = (_pool_trace(pool, entries, ranks, best),)
    if best is None:
        why = UNSCORED if entries else ""
        return SearchResult(example.id, None, pool[0].text, None, None, cost, trace, why)
    return SearchResult(example.id, best.chain.answer, best.text, best.chain, best.scored, cost, trace)


def _pool_trace(
    pool: Sequence[Rollout], entries: Sequence[_Entry], ranks: Sequence[_Rank | None], best: _Entry | None
) -> tuple[Candidate, ...]:
    seen = []
    for entry, rank in zip(entries, ranks, strict=True):
        problem = entry.scored.reason if isinstance(entry.scored, ScoreFailure) else ""
        seen.append(Candidate(entry.text, entry.count, rank[0] if rank else None, entry is best, problem))
    broken = [Candidate(rollout.text, 1, problem=str(rollout.parsed)) for rollout in pool if rollout.chain is None]
    return (*seen, *broken)


def _pool_method(name: str) -> Method:
    """The method that samples a pool, scores it where it must, and chooses by the pool method `name`."""

    def method(
        examples: Sequence[Example], sampler: Sampler, scorer: StepScorer | None, config: SearchConfig
    ) -> list[SearchResult]:
        if name not in BY_SCORE:
            return pool_results(examples, sample_pools(examples, sampler, config), None, name, config.n)
        if scorer is None:
            raise ValueError(f"{name} goes by score, and there is no scorer; pass one")
        pools = sample_pools(examples, sampler, config)
        return pool_results(examples, pools, score_pools(examples, pools, scorer), name, config.n, config.step_weight)

    method.__name__ = name
    return method


# Step-level beam search


@dataclass
class _Beam:
    """A chain that is being built: a candidate of one level, then perhaps a kept one."""

    chain: Chain
    tokens: int = 0  # sampled on the way here
    count: int = 1  # samples that gave it
    scored: Scored | None = None

    def value(self, width: int) -> float:
        """What it ranks by: the score of what it added, or for wider beams the mean of all scores so far."""
        assert isinstance(self.scored, StepScores)
        nodes = self.scored.steps if self.scored.answer is None else (*self.scored.steps, self.scored.answer)
        return nodes[-1] if width == 1 else sum(nodes) / len(nodes)


@dataclass
class _Search:
    """One example's search. All examples advance level by level together."""

    example: Example
    config: SearchConfig
    live: list[_Beam] = field(default_factory=lambda: [_Beam(Chain(()))])
    options: dict[Chain, _Beam] = field(default_factory=dict)  # the distinct candidates of this level
    broken: list[Candidate] = field(default_factory=list)  # the samples of this level that are none
    finished: list[_Beam] = field(default_factory=list)  # kept in the width
    passed_over: list[_Beam] = field(default_factory=list)  # finished, but not kept
    cost: Cost = field(default_factory=Cost)
    trace: list[tuple[Candidate, ...]] = field(default_factory=list)
    refused: bool = False  # the last level had candidates, and the scorer failed on each

    def requests(self) -> list[Request]:
        """One request per live beam, each with its own seed."""
        level, config = len(self.trace), self.config
        return [
            replace(
                _whole_chains(self.example, config),
                n=config.n if level == 0 else config.n // config.width,
                prefix=render(beam.chain),
                seed=derive_seed(config.seed, self.example.id, level, place),
                max_tokens=config.max_tokens - beam.tokens,
                stop="step",
            )
            for place, beam in enumerate(self.live)
        ]

    def expand(self, beam: _Beam, rollouts: Sequence[Rollout]) -> None:
        """Merge the samples that continue one beam into this level's candidates."""
        self.cost += Cost(sum(len(rollout.token_ids) for rollout in rollouts))
        for rollout in rollouts:
            tokens = beam.tokens + len(rollout.token_ids)
            chain = _continued(beam.chain, rollout)
            if not isinstance(chain, str) and chain.answer is None:
                chain = self._with_room(chain, tokens)
            if isinstance(chain, str):
                self.broken.append(Candidate(rollout.text, 1, problem=chain))
            elif chain in self.options:
                self.options[chain].count += 1
            else:
                self.options[chain] = _Beam(chain, tokens)

    def _with_room(self, chain: Chain, tokens: int) -> Chain | str:
        """The unfinished chain, or why it cannot go on."""
        if len(chain.steps) > self.config.max_steps:
            return f"unfinished after {self.config.max_steps} steps"
        return chain if tokens < self.config.max_tokens else f"unfinished after {self.config.max_tokens} tokens"

    def keep_best(self) -> None:
        """Fill the free places of the width with this level's best, and note the rest."""
        options, width = list(self.options.values()), self.config.width
        ranked = [option for option in options if isinstance(option.scored, StepScores)]
        ranked.sort(key=lambda option: (-option.value(width), -option.count))
        kept = ranked[: width - len(self.finished)]
        done = [option for option in ranked if option.chain.answer is not None]
        self.live = [option for option in kept if option.chain.answer is None]
        self.finished += [option for option in done if option in kept]
        self.passed_over += [option for option in done if option not in kept]
        self.cost += Cost(0, len(options), sum(len(option.chain.steps) for option in options))
        seen = [Candidate(render(o.chain), o.count, o.value(width), o in kept) for o in ranked]
        failed = [(option, option.scored) for option in options if isinstance(option.scored, ScoreFailure)]
        self.broken += [Candidate(render(o.chain), o.count, problem=failure.reason) for o, failure in failed]
        self.trace.append((*seen, *self.broken))
        self.refused = bool(options) and not ranked
        self.options, self.broken = {}, []

    def result(self) -> SearchResult:
        """The best finished chain: of those kept, else of those passed over."""
        trace = tuple(self.trace)
        best = max(self.finished or self.passed_over, key=self._path_score, default=None)
        if best is None:
            why = UNSCORED if self.refused else UNFINISHED
            return SearchResult(self.example.id, None, "", None, None, self.cost, trace, why)
        text = render(best.chain)
        return SearchResult(self.example.id, best.chain.answer, text, best.chain, best.scored, self.cost, trace)

    def _path_score(self, beam: _Beam) -> float:
        assert isinstance(beam.scored, StepScores)
        return path_score(beam.scored, self.config.step_weight)


def _continued(chain: Chain, rollout: Rollout) -> Chain | str:
    """The chain one step or one answer further on, or what is wrong with the sample."""
    try:
        prefix = parse_prefix(rollout.text)
    except ChainError as error:
        return f"unparseable: {error}"
    added = len(prefix.chain.steps) - len(chain.steps)
    if added > 1 or (added == 1 and prefix.finished):
        raise ValueError(
            f"example {rollout.example_id}: a request with stop='step' ran on after its step; "
            "the sampler must stop at <|reasoning_step_end|>"
        )
    if prefix.finished or (added == 1 and not prefix.rest.strip()):
        return prefix.chain
    return "cut by the token limit" if rollout.ending == "length" else "unparseable: neither a step nor an answer"


def step_beam(
    examples: Sequence[Example], sampler: Sampler, scorer: StepScorer | None, config: SearchConfig
) -> list[SearchResult]:
    """Step-level beam search; the module's text gives the rules. One sampler and one scorer call per level."""
    if scorer is None:
        raise ValueError("step_beam goes by score, and there is no scorer; pass one")
    if config.width < 1 or config.n < 1 or config.n % config.width:
        raise ValueError(f"n is {config.n} and width {config.width}; choose a width that divides n")
    searches = [_Search(example, config) for example in examples]
    while active := [search for search in searches if search.live]:
        expanded = [(search, beam) for search in active for beam in search.live]
        sampled = sampler.sample([request for search in active for request in search.requests()])
        for (search, beam), rollouts in zip(expanded, sampled, strict=True):
            search.expand(beam, rollouts)
        options = [(search.example, option) for search in active for option in search.options.values()]
        scored = scorer.score([(example, option.chain) for example, option in options]) if options else []
        for (_, option), scores in zip(options, scored, strict=True):
            option.scored = scores
        for search in active:
            search.keep_best()
    return [search.result() for search in searches]


METHODS: dict[str, Method] = {
    "greedy": greedy,
    "self_consistency": _pool_method("self_consistency"),
    "best_of_n": _pool_method("best_of_n"),
    "weighted_vote": _pool_method("weighted_vote"),
    "step_beam": step_beam,
    "pass_at_n": _pool_method("pass_at_n"),
}
