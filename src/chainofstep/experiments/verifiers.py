"""Experiments on process reward models: Table 3, noise of labels, judges, distillation, and policies that game one."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from chainofstep.answers import is_right
from chainofstep.chain import REASONING_TOKENS, Chain, render
from chainofstep.evaluate import StepAgreement, auc, step_agreement
from chainofstep.experiments.arms import greedy_right, pooled, prepare, prepare_prm, rounds
from chainofstep.experiments.experiment import Cells
from chainofstep.experiments.searches import right
from chainofstep.models.tiny import Shape, build_tiny, shrink
from chainofstep.models.vlm import add_step_tokens, load_vlm
from chainofstep.pipeline.rows import write_chunks
from chainofstep.pipeline.run import SHIPPED, Run
from chainofstep.pipeline.stages import Reward, by_prm
from chainofstep.pipeline.trainings import labelled, verifying
from chainofstep.pipeline.workers import Scorer, sampler
from chainofstep.problems.tasks.checker import check_steps
from chainofstep.records import Example, Request, Scored, StepScores
from chainofstep.scoring.merge import merge
from chainofstep.scoring.monte_carlo import derive_seed
from chainofstep.scoring.path_score import path_score
from chainofstep.search import SearchConfig, pool_results
from chainofstep.settings import resolved
from chainofstep.training.loading import load_for_training
from chainofstep.training.prm import PrmConfig, PrmRow, train_prm

Sets = dict[str, list[Scored]]


# How good a PRM is


def chains_to_score(run: Run) -> None:
    """Two chains of each question that the PRM was trained on, one of each that it never saw, and the truth of them."""
    prepare(run)
    sft = run.model_folder("sft")
    for name, questions, n in (("seen", "labels", 2), ("unseen", "test", 1)):
        examples = run.examples(questions)
        run.sample(f"verify/{name}", sft, examples, run.sampling(f"verify/{name}", n=n))
        run.score(f"verify/{name}-truth", f"verify/{name}", examples, Scorer("checker"))


def agreement(run: Run, name: str, questions: str) -> StepAgreement:
    """A PRM against the exact checker."""
    examples = run.examples("labels" if questions == "seen" else "test")
    run.score(f"verify/{questions}-{name}", f"verify/{questions}", examples, Scorer("prm", run.model_folder(name)))
    guesses = [s for pool in run.scores(f"verify/{questions}-{name}", examples) for s in pool]
    truths = [s for pool in run.scores(f"verify/{questions}-truth", examples) for s in pool]
    kept = [(guess, truth) for guess, truth in zip(guesses, truths, strict=True) if isinstance(truth, StepScores)]
    return step_agreement([guess for guess, _ in kept], [truth for _, truth in kept])


def quality(run: Run, row: str, name: str, questions: Sequence[str] = ("seen", "unseen")) -> Cells:
    cells: Cells = {}
    for kind in questions:
        found = agreement(run, name, kind)
        cells[row, f"steps, {kind}"] = found.steps.accuracy
        cells[row, f"answers, {kind}"] = found.answers.accuracy
        if kind == "unseen":
            cells[row, "AUC of steps"] = found.steps.auc or 0.0
    return cells


def verify(run: Run, name: str, rows: Sequence[PrmRow], backbone: str, **inputs: Any) -> None:
    """Train a PRM on labelled chains in this process."""

    def here() -> Sequence[Path]:
        return verifying(run, name, rows, backbone)

    run.train(name, here, config=resolved(run.recipe.prm), backbone=backbone, **inputs)


def table3(run: Run) -> Cells:
    prepare_prm(run)
    chains_to_score(run)
    rows = labelled(run)
    verify(run, "prm-policy", rows, str(SHIPPED / "policy"))
    verify(run, "prm-sft", rows, run.model_folder("sft"))
    cells: Cells = {}
    for row, name in (
        ("the policy's base, 0.8M", "prm-policy"),
        ("the SFT model, 0.8M", "prm-sft"),
        ("a backbone that has learnt to check, 1.1M", "prm"),
    ):
        cells |= quality(run, row, name)
    return cells


# Monte-Carlo labels


ROLLOUTS = tuple(2**power for power in range(9))  # 1 to 256
NOISE_QUESTIONS = 40


def noise(run: Run) -> Cells:
    prepare_prm(run)
    examples = run.examples("labels")[:NOISE_QUESTIONS]
    config = run.sampling("noise", n=max(ROLLOUTS))
    log = run.folder.log("noise/continuations")

    def work() -> list[Path]:
        pools = {e.id: pool for e, pool in zip(examples, run.pools("labels/seen", examples), strict=True)}
        firsts = [(e, pools[e.id][0].chain) for e in examples]
        write_chunks(
            log,
            "noise",
            examples,
            continue_chunk,
            lambda chunk: ([c for e, c in firsts if e in chunk], run.model_folder("sft"), config),
            run.workers,
        )
        return [log.path]

    run.stage("noise", work, sampling=asdict(config), count=len(examples))
    steps = [step for row in log.rows() for step in row["steps"]]
    return noise_cells([step["true"] for step in steps], [step["right"] for step in steps])


def continue_chunk(
    examples: Sequence[Example], chains: Sequence[Chain | None], model: str, config: SearchConfig
) -> list[dict[str, Any]]:
    """For each step of each chain whether it is true, and which continuations from its end came right."""
    asked = [
        (place, number, Chain(chain.steps[: number + 1]))
        for place, chain in enumerate(chains)
        if chain is not None
        for number in range(len(chain.steps))
    ]
    requests = [
        Request(
            examples[place],
            n=config.n,
            prefix=render(prefix),
            seed=derive_seed(config.seed, examples[place].id, number),
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
        )
        for place, number, prefix in asked
    ]
    rows: list[dict[str, Any]] = [{"steps": []} for _ in examples]
    for (place, number, prefix), pool in zip(asked, sampler(model).sample(requests) if requests else [], strict=True):
        example = examples[place]
        answers = [rollout.chain.answer if rollout.chain else None for rollout in pool]
        good = "".join(str(int(is_right(example, answer))) for answer in answers)
        rows[place]["steps"].append({"true": check_steps(example, prefix)[number], "right": good})
    return rows


def noise_cells(truths: Sequence[bool], rights: Sequence[str]) -> Cells:
    """Labels from the first k continuations of every step, against whether it is true."""
    cells: Cells = {}
    for k in ROLLOUTS:
        shares = [good[:k].count("1") / k for good in rights]
        row = f"{k}"
        for column, threshold in (("hard: any is right", 0.0), ("hard: more than half", 0.5)):
            agreeing = [(share > threshold) == truth for share, truth in zip(shares, truths, strict=True)]
            cells[row, column] = fmean(agreeing)
        cells[row, "soft: AUC"] = auc(shares, truths) or 0.0
    return cells


# Judges


JUDGE_ERRORS = (0.05, 0.2)


def judges(run: Run) -> Cells:
    prepare_prm(run)
    chains_to_score(run)
    labels = labelled(run)
    truths = [StepScores(tuple(map(float, check_steps(row.example, row.chain))), row.answer_label) for row in labels]
    monte_carlo: list[Scored] = [StepScores(row.step_labels, row.answer_label) for row in labels]
    sets: Sets = {"Monte-Carlo, 16 rollouts": monte_carlo}
    for error in JUDGE_ERRORS:
        judged = [judge(run, row, truth, error) for row, truth in zip(labels, truths, strict=True)]
        sets[f"judge, wrong on {error:.0%}"] = judged
        both = list(zip(monte_carlo, judged, strict=True))
        sets[f"Monte-Carlo and judge ({error:.0%}): where they agree"] = [merge(pair, "agree") for pair in both]
        sets[f"Monte-Carlo and judge ({error:.0%}): mean"] = [merge(pair, "weight") for pair in both]
    cells: Cells = {}
    for number, (row, scored) in enumerate(sets.items()):
        name = f"prm-labels-{number}" if number else "prm"
        kept = [(old, new) for old, new in zip(labels, scored, strict=True) if isinstance(new, StepScores)]
        if number:
            taught = [PrmRow(old.example, old.chain, new.steps, new.answer) for old, new in kept]
            verify(run, name, taught, run.base("prm"), labels=row)
        cells |= _label_cells(row, scored, truths) | quality(run, row, name, ("unseen",))
    return cells


def judge(run: Run, row: PrmRow, truth: StepScores, error: float) -> Scored:
    """The exact checker's labels, each turned over with probability `error`."""
    generator = Random(derive_seed(run.recipe.seed, "judge", row.example.id, render(row.chain), f"{error}"))
    steps = tuple(abs(label - (generator.random() < error)) for label in truth.steps)
    return StepScores(steps, truth.answer)


def _label_cells(row: str, scored: Sequence[Scored], truths: Sequence[StepScores]) -> Cells:
    """How many steps a set labels, and how many of those as the exact checker does."""
    kept = [(label, truth) for label, truth in zip(scored, truths, strict=True) if isinstance(label, StepScores)]
    pairs = [pair for label, truth in kept for pair in zip(label.steps, truth.steps, strict=True)]
    agreeing = fmean([(label > 0.5) == (truth > 0.5) for label, truth in pairs])
    return {(row, "right labels"): agreeing, (row, "labelled steps"): float(len(pairs))}


# A smaller PRM


STUDENT = PrmConfig(learning_rate=3e-4, epochs=1, batch_size=8, forward_rows=8)
#: A tenth of the teacher has learnt nothing before: it starts from random weights, and sees the same chains often.
TENTH = replace(STUDENT, learning_rate=1.5e-3, epochs=4)
TENTH_SHAPE = Shape(vision_width=32, vision_layers=2, width=32, layers=2, heads=1, key_value_heads=1, feed_forward=64)
TEACHING_ROUNDS = 3


def distilled(run: Run) -> Cells:
    prepare_prm(run)
    chains_to_score(run)
    rounds(run, by_prm(run), TEACHING_ROUNDS)
    rows = taught_by_teacher(run)
    _student(run, "student-half", rows, STUDENT)
    _student(run, "student-tenth", rows, TENTH)
    pools, _ = pooled(run)
    test = run.examples("test")
    cells: Cells = {}
    for row, name in (("teacher", "prm"), ("its first two layers", "student-half"), ("a tenth", "student-tenth")):
        stage = "search/prm" if name == "prm" else f"search/{name}"
        run.score(stage, "search/pool", test, Scorer("prm", run.model_folder(name)))
        cells[row, "size"] = float(weights(run.model_folder(name)) / weights(run.model_folder("prm")))
        cells |= quality(run, row, name, ("unseen",))
        best = pool_results(test, pools, run.scores(stage, test), "best_of_n", run.recipe.sampling.n)
        cells[row, "best of 16"] = right(test, best)
    return cells


def taught_by_teacher(run: Run) -> list[PrmRow]:
    """Every distinct chain of the DPO rounds' pools with the PRM's scores of it as labels."""
    rows: dict[tuple[str, Chain], PrmRow] = {}
    for number in range(1, TEACHING_ROUNDS + 1):
        examples = run.examples(f"dpo-{number}")
        both = zip(examples, run.pools(f"dpo-{number}", examples), run.scores(f"dpo-{number}", examples), strict=True)
        for example, pool, scored in both:
            for rollout, scores in zip(pool, scored, strict=True):
                if rollout.chain is not None and isinstance(scores, StepScores):
                    row = PrmRow(example, rollout.chain, scores.steps, scores.answer)
                    rows.setdefault((example.id, rollout.chain), row)
    return list(rows.values())


def _student(run: Run, name: str, rows: Sequence[PrmRow], config: PrmConfig) -> None:
    seeded = replace(config, seed=derive_seed(run.recipe.seed, name) % 2**31)

    def here() -> Sequence[Path]:
        teacher = load_for_training(run.model_folder("prm"), seeded)
        if name == "student-half":
            student = shrink(teacher, 2)
        else:
            student = build_tiny(TENTH_SHAPE, seeded.seed)
            add_step_tokens(student, REASONING_TOKENS)
            add_step_tokens(student)
        train_prm(student, rows, seeded, run.path("models", name))
        return [run.path("models", name)]

    run.train(name, here, config=resolved(config))


def weights(folder: str) -> int:
    """How many weights a model has."""
    return sum(weight.numel() for weight in load_vlm(folder).model.parameters())


# Gaming a PRM


def gaming(run: Run) -> Cells:
    main, count = prepare_prm(run), run.recipe.rounds.rounds
    verify(run, "prm-policy", labelled(run), str(SHIPPED / "policy"))
    weak = Scorer("prm", run.model_folder("prm-policy"))
    test = run.examples("test")
    cells: Cells = {}
    # The weak PRM's scores lie close together: no pair of a first trial had a margin above the recipe's t.
    any_margin = replace(run.recipe.pairs, threshold=0.0)
    for kind, reward in (("weak PRM", Reward("gamed", weak, any_margin)), ("PRM", by_prm(run))):
        rounds(run, reward, count)
        scorer, before = weak if reward.name == "gamed" else main, (0.0, 0.0)
        for number in range(count + 1):
            model = f"{reward.name}-{number}" if number else "sft"
            run.score(f"gaming/{reward.name}/{model}", f"greedy/{model}", test, scorer)
            scored = [pool[0] for pool in run.scores(f"gaming/{reward.name}/{model}", test)]
            values = [path_score(s) if isinstance(s, StepScores) else 0.0 for s in scored]
            score, answers = fmean(values), greedy_right(run, model)
            cells[f"round {number}", f"score of the {kind}"] = score
            cells[f"round {number}", f"right, by the {kind}"] = answers
            if number:
                cells[f"round {number}", f"gamed the {kind}"] = float(score > before[0] and fmean(answers) < before[1])
            before = (score, fmean(answers))
    return cells
