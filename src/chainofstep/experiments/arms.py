"""What the experiments compare: other fine-tunings, rewards and scorers, as stages of one run.

All arms of a run share its problems, its SFT model, its labels and whatever else they have in common: a stage that is
finished is not run again.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from chainofstep.chain import Chain, Step
from chainofstep.evaluate import family, grade
from chainofstep.experiments.experiment import Cells
from chainofstep.pipeline.measure import answer_of
from chainofstep.pipeline.run import Run
from chainofstep.pipeline.sets import make_sets
from chainofstep.pipeline.stages import Reward, dpo_round, fine_tune, greedy_answers, label_steps, prepare_base
from chainofstep.pipeline.stages import prm as main_prm
from chainofstep.pipeline.trainings import fine_tuned, preferred
from chainofstep.pipeline.workers import Scorer
from chainofstep.records import Example, Rollout, Scored
from chainofstep.settings import resolved

Told = Callable[[Chain], Chain]


def without_reasoning(chain: Chain) -> Chain:
    """The answer alone (Table 4, No Reasoning)."""
    return Chain((), chain.answer)


def in_one_piece(chain: Chain) -> Chain:
    """All thoughts as one text, without names and reflections (Table 4, Direct Prompt)."""
    return Chain((Step("", " ".join(step.thought for step in chain.steps), ""),), chain.answer)


def without_part(part: str) -> Told:
    """Steps with an empty name, thought or reflection."""

    def told(chain: Chain) -> Chain:
        steps = tuple(Step(**{**asdict(step), part: ""}) for step in chain.steps)
        return Chain(steps, chain.answer)

    return told


def prepare(run: Run) -> None:
    """Problems, the base's answers, and the SFT model."""
    make_sets(run)
    prepare_base(run)
    fine_tune(run)


def prepare_prm(run: Run) -> Scorer:
    """All that the run's own PRM needs, and the PRM."""
    prepare(run)
    label_steps(run)
    run.train("prm", config=resolved(run.recipe.prm))
    return main_prm(run)


def tell(run: Run, name: str, told: Told) -> None:
    """An SFT model that learns the same chains told in another way, and its greedy answers."""

    def here() -> Sequence[Path]:
        return fine_tuned(run, name, told)

    run.train(name, here, config=resolved(run.recipe.sft), hasty=run.recipe.problems.hasty)
    greedy_answers(run, name)


def rounds(run: Run, reward: Reward, count: int) -> str:
    """`count` rounds of DPO; the name of the last model."""
    for number in range(1, count + 1):
        dpo_round(run, reward, number, lambda number=number: preferred(run, reward.name, number, reward.sft))  # type: ignore[misc]
    return f"{reward.name}-{count}"


# What they come to


def greedy(run: Run, model: str) -> list[Rollout]:
    """A model's greedy chain for each test question."""
    return [pool[0] for pool in run.pools(f"greedy/{model}", run.examples("test"))]


def right(examples: Sequence[Example], answers: Sequence[str | None]) -> list[bool]:
    return [outcome == "right" for outcome in grade(examples, answers)]


def greedy_right(run: Run, model: str) -> list[bool]:
    """Whether a model's greedy answer is right, by test question; "base" answers without steps."""
    test = run.examples("test")
    if model == "base":
        return right(test, [pool[0].text.strip() for pool in run.pools("base", test)])
    return right(test, [answer_of(rollout) for rollout in greedy(run, model)])


def by_family(run: Run, row: str, model: str) -> Cells:
    """The row of a model: its greedy answers in each family, and in all."""
    found, test = greedy_right(run, model), run.examples("test")
    names = [family(example) for example in test]
    cells: Cells = {
        (row, name): [good for good, own in zip(found, names, strict=True) if own == name]
        for name in sorted(set(names))
    }
    return cells | {(row, "all"): found}


def mean_steps(run: Run, model: str) -> float:
    """Steps of the greedy chains on average; text that is no chain is left out."""
    counts = [len(rollout.chain.steps) for rollout in greedy(run, model) if rollout.chain is not None]
    return sum(counts) / max(1, len(counts))


def pooled(run: Run) -> tuple[list[list[Rollout]], list[list[Scored]]]:
    """The SFT model's pool of 16 on the test questions, with the PRM's scores."""
    prm, test = prepare_prm(run), run.examples("test")
    run.sample("search/pool", run.model_folder("sft"), test, run.sampling("search"))
    run.score("search/prm", "search/pool", test, prm)
    return run.pools("search/pool", test), run.scores("search/prm", test)
