"""Step-level beam search (paper A8, Fig. 4c).

At each level `n` next steps are sampled from the kept chain, equal ones are merged, all are scored, and the best goes
on. What the paper leaves open is decided here:

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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from chainofstep.chain import Chain, ChainError, Step, parse_prefix, render
from chainofstep.records import Example, Request, Rollout, Sampler, Scored, ScoreFailure, StepScorer, StepScores
from chainofstep.scoring.monte_carlo import derive_seed
from chainofstep.scoring.path_score import path_score
from chainofstep.search.results import (
    UNFINISHED,
    UNSCORED,
    Candidate,
    Cost,
    SearchConfig,
    SearchResult,
    whole_chains,
)

Settled = tuple[tuple[Step, float], ...]  # steps that a search has decided on, with their scores


def _ignore(example: Example, settled: Settled) -> None:
    pass


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
                whole_chains(self.example, config),
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

    def settled(self) -> Settled:
        """The first steps of all kept chains, as far as they are the same, with their scores."""
        kept = [beam for beam in (*self.live, *self.finished) if isinstance(beam.scored, StepScores)]
        if not kept:
            return ()
        places = zip(*(beam.chain.steps for beam in kept), strict=False)  # chains may differ in length
        alike = [steps[0] for steps in takewhile(lambda steps: len(set(steps)) == 1, places)]
        assert isinstance(kept[0].scored, StepScores)
        return tuple(zip(alike, kept[0].scored.steps, strict=False))

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
    examples: Sequence[Example],
    sampler: Sampler,
    scorer: StepScorer | None,
    config: SearchConfig,
    watch: Callable[[Example, Settled], None] = _ignore,
) -> list[SearchResult]:
    """Step-level beam search; the module's text gives the rules. One sampler and one scorer call per level.

    `watch` is told after each level which steps are decided. What it was told holds, unless the search ends with no
    finished chain kept.
    """
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
            watch(search.example, search.settled())
    return [search.result() for search in searches]
