"""The stages of the mini run, in order: problems, base, SFT, labels, PRM, rounds of DPO, search, report."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from chainofstep.chain import REASONING_TOKENS, Chain, render
from chainofstep.models.vlm import add_step_tokens, load_vlm
from chainofstep.pipeline.measure import write_results
from chainofstep.pipeline.recipe import beams
from chainofstep.pipeline.run import SHIPPED, Run
from chainofstep.pipeline.workers import Scorer
from chainofstep.problems.tasks.build import HELD_OUT, TRAINED, write_problems
from chainofstep.problems.tasks.lessons import uneven
from chainofstep.problems.tasks.problem import Split
from chainofstep.records import Example, Pair, StepScores, to_row
from chainofstep.report import write_report
from chainofstep.scoring.monte_carlo import derive_seed
from chainofstep.scoring.pairs import PairRule, choose_pairs
from chainofstep.settings import resolved
from chainofstep.store import read_records
from chainofstep.training.dpo import train_dpo
from chainofstep.training.mini_base import make_base
from chainofstep.training.prm import PrmRow, train_prm
from chainofstep.training.sft import SftRow, train_sft

TRAIN_BLOCK = 1_000_000  # train problems of seed s start at s times this; pretraining starts at ten blocks


def run_recipe(run: Run) -> Path:
    """All stages; the path of the report."""
    make_problems(run)
    prepare_base(run)
    fine_tune(run)
    label_steps(run)
    train_reward_model(run)
    for number in range(1, run.recipe.rounds.rounds + 1):
        dpo_round(run, "dpo", number)
    for number in range(1, run.recipe.rounds.outcome_rounds + 1):
        dpo_round(run, "outcome", number)
    search(run)
    write_results(run)
    return write_report(run.folder.path)


def make_problems(run: Run) -> None:
    """Train problems for each stage, unseen test problems, and held-out kinds; pictures as PNG."""
    sizes, start = run.recipe.problems, run.recipe.seed * TRAIN_BLOCK
    rounds = max(run.recipe.rounds.rounds, run.recipe.rounds.outcome_rounds)
    counts = {"sft": sizes.sft, "labels": sizes.labels} | {f"dpo-{n}": sizes.dpo for n in range(1, rounds + 1)}

    def work() -> Sequence[Path]:
        folder, first = run.path("problems"), start
        for name, count in counts.items():
            _write_set(run, name, _made(run, "train", range(first, first + count), TRAINED))
            first += count
        _write_set(run, "test", _made(run, "test", range(sizes.test), TRAINED))
        _write_set(run, "held-out", _made(run, "test", range(sizes.held_out), HELD_OUT))
        return sorted(folder.glob("*.jsonl"))

    run.stage("problems", work, sizes=asdict(sizes), seed=run.recipe.seed)


def _made(run: Run, split: Split, seeds: range, kinds: Sequence[str]) -> Iterator[Example]:
    """The examples of these seeds, made by the workers in equal parts."""
    folder, parts = run.path("problems", "held-out" if kinds == HELD_OUT else split), run.recipe.threads
    cuts = [len(seeds) * part // parts for part in range(parts + 1)]
    slices = [seeds[start:end] for start, end in pairwise(cuts)]
    count = len(slices)
    each = map if run.workers is None else run.workers.map
    for made in each(write_problems, [split] * count, slices, [folder] * count, [kinds] * count):
        yield from made


def _write_set(run: Run, name: str, examples: Iterable[Example]) -> None:
    """A set's rows, its pictures by their path in the run folder, so that the folder can be moved."""
    log = run.folder.log(f"problems/{name}")
    log.path.unlink(missing_ok=True)  # a killed attempt left a part
    for example in examples:
        inside = tuple(str(Path(image).relative_to(run.folder.path)) for image in example.images)
        log.append(to_row(replace(example, images=inside)))


def prepare_base(run: Run) -> None:
    """The policy's base and the PRM's backbone: shipped, or pretrained here; and the base's answers without steps."""
    if run.recipe.base == "scratch":

        def work() -> Sequence[Path]:
            return [make_base(run.recipe.pretraining, run.recipe.seed, base_folder(run))]

        run.stage("pretraining", work, config=resolved(run.recipe.pretraining))

    config = run.sampling("base", n=1, temperature=0.0, top_p=1.0, max_tokens=24)
    run.sample("base", str(base_folder(run) / "policy"), run.examples("test"), config)


def base_folder(run: Run) -> Path:
    return run.path("models", "mini_base") if run.recipe.base == "scratch" else SHIPPED


def fine_tune(run: Run) -> None:
    """SFT on gold chains (paper A2), some of them hasty, from the base with the reasoning tokens added."""

    def work() -> Sequence[Path]:
        vlm = load_vlm(base_folder(run) / "policy")
        add_step_tokens(vlm, REASONING_TOKENS)
        rows = [SftRow(example, render(_taught(run, example))) for example in run.examples("sft")]
        config = replace(run.recipe.sft, seed=derive_seed(run.recipe.seed, "sft") % 2**31)
        train_sft(vlm, rows, config, run.path("models", "sft"))
        return [run.path("models", "sft")]

    run.stage("sft", work, config=resolved(run.recipe.sft), hasty=run.recipe.problems.hasty)
    greedy_answers(run, "sft")


def _taught(run: Run, example: Example) -> Chain:
    """The chain that SFT learns for an example: whole or, in the recipe's share, hasty.

    A policy taught by chains of one kind alone has no choice of how to go about a question. Taught by thorough and
    by hasty ones it knows both ways, and the rewards must tell it which to take.
    """
    if example.chain is None:
        raise ValueError(f"{example.id}: no gold chain to learn")
    generator = np.random.default_rng(derive_seed(run.recipe.seed, "hasty", example.id))
    return uneven(example.chain, run.recipe.problems.hasty, generator)


def greedy_answers(run: Run, model: str) -> None:
    """A model's greedy chains on the unseen questions and on the held-out kinds."""
    config = run.sampling("greedy", n=1, temperature=0.0, top_p=1.0)
    run.sample(f"greedy/{model}", run.model_folder(model), run.examples("test"), config)
    if model in ("sft", f"dpo-{run.recipe.rounds.rounds}"):
        run.sample(f"held-out/{model}", run.model_folder(model), run.examples("held-out"), config)


def label_steps(run: Run) -> None:
    """Chains of the SFT model on the PRM's questions, and on some test questions, with Monte-Carlo labels (A3)."""
    sizes = run.recipe.labels
    seen, unseen = run.examples("labels"), run.examples("test")[: sizes.unseen_chains]
    sft = run.model_folder("sft")
    run.sample("labels/seen", sft, seen, run.sampling("labels", n=sizes.chains))
    run.sample("labels/unseen", sft, unseen, run.sampling("labels/unseen", n=1))
    # Rollouts that stop early need to know what label they are for; all of them serve any threshold afterwards.
    threshold = sizes.hard_threshold if sizes.adaptive and not sizes.soft else None
    sampling = run.sampling("monte-carlo", n=sizes.rollouts)
    scorer = Scorer("monte-carlo", sft, sampling, threshold, sizes.adaptive)
    run.score("labels/seen", "labels/seen", seen, scorer)
    run.score("labels/unseen", "labels/unseen", unseen, scorer)


def train_reward_model(run: Run) -> None:
    """The PRM, from its backbone, on the labelled chains (A4). Unparseable chains go to the rejects."""

    def work() -> Sequence[Path]:
        rows = []
        examples = run.examples("labels")
        run.folder.rejects("prm").path.unlink(missing_ok=True)
        pools, scores = run.pools("labels/seen", examples), run.scores("labels/seen", examples)
        for example, pool, labels in zip(examples, pools, scores, strict=True):
            for rollout, label in zip(pool, labels, strict=True):
                if rollout.chain is None or not isinstance(label, StepScores):
                    run.folder.reject("prm", example.id, "no labelled chain", {"text": rollout.text})
                else:
                    rows.append(PrmRow(example, rollout.chain, _labels(run, label), label.answer))
        vlm = load_vlm(base_folder(run) / "prm")
        config = replace(run.recipe.prm, seed=derive_seed(run.recipe.seed, "prm") % 2**31)
        train_prm(vlm, rows, config, run.path("models", "prm"))
        return [run.path("models", "prm")]

    run.stage("prm", work, config=resolved(run.recipe.prm))


def _labels(run: Run, shares: StepScores) -> tuple[float, ...]:
    """Labels from the shares of right continuations: the shares themselves, or whether they exceed the threshold."""
    settings = run.recipe.labels
    return shares.steps if settings.soft else tuple(float(share > settings.hard_threshold) for share in shares.steps)


def dpo_round(run: Run, reward: str, number: int) -> None:
    """A round: sample with the last policy, score, pair, train against the SFT model (A6). `reward`: dpo or outcome.

    The first round of both rewards scores the same rollouts, for both start from the SFT model.
    """
    name, last = f"{reward}-{number}", "sft" if number == 1 else f"{reward}-{number - 1}"
    examples = run.examples(f"dpo-{number}")
    sampled = f"dpo-{number}" if number == 1 else name
    run.sample(sampled, run.model_folder(last), examples, run.sampling(f"dpo-{number}"))
    run.score(name, sampled, examples, prm(run) if reward == "dpo" else Scorer("outcome"))
    rule = run.recipe.pairs if reward == "dpo" else run.recipe.outcome_pairs
    run.stage(f"{name}/pairs", lambda: _write_pairs(run, name, sampled, examples, rule), rule=resolved(rule))

    def work() -> Sequence[Path]:
        by_id = {example.id: example for example in examples}
        pairs = [(by_id[pair.example_id], pair) for pair in read_records(run.path(name, "pairs.jsonl"), Pair)]
        start = last if run.recipe.rounds.weights == "continue" else "sft"
        config = replace(run.recipe.dpo, seed=derive_seed(run.recipe.seed, name) % 2**31)
        train_dpo(run.model(start), run.model("sft"), pairs, config, run.path("models", name))
        return [run.path("models", name)]

    run.stage(f"{name}/train", work, config=resolved(run.recipe.dpo), weights=run.recipe.rounds.weights)
    greedy_answers(run, name)


def _write_pairs(run: Run, name: str, sampled: str, examples: Sequence[Example], rule: PairRule) -> list[Path]:
    log, rejects = run.folder.log(f"{name}/pairs"), run.folder.rejects(name)
    for part in (log, rejects):
        part.path.unlink(missing_ok=True)  # a killed attempt left a part
    pools, scores = run.pools(sampled, examples), run.scores(name, examples)
    for example, pool, scored in zip(examples, pools, scores, strict=True):
        pairs, refused = choose_pairs(example, pool, scored, rule)
        for pair in pairs:
            log.append(to_row(pair))
        for example_id, reason in refused:
            run.folder.reject(name, example_id, reason, {})
    if not log.path.exists():
        raise ValueError(f"{name}: no question gave a pair; lower the threshold (--set pairs.threshold=...)")
    return [log.path]


def prm(run: Run) -> Scorer:
    return Scorer("prm", run.model_folder("prm"))


def search(run: Run) -> None:
    """Pools of the SFT model on the unseen questions, the PRM's and the checker's scores of them, and beam search."""
    test, seen, sft = run.examples("test"), run.examples("labels"), run.model_folder("sft")
    unseen, checker = test[: run.recipe.labels.unseen_chains], Scorer("checker")
    run.sample("search/pool", sft, test, run.sampling("search"))
    run.score("search/prm", "search/pool", test, prm(run))
    run.score("search/checker", "search/pool", test, checker)
    run.sample("search/seen", sft, seen, run.sampling("seen", n=2))
    run.score("search/seen-prm", "search/seen", seen, prm(run))
    run.score("search/seen-checker", "search/seen", seen, checker)
    run.score("search/labels-seen", "labels/seen", seen, prm(run))
    run.score("search/labels-unseen", "labels/unseen", unseen, prm(run))
    for n, width in beams(run.recipe):
        run.beam_search(f"search/beam-{n}-{width}", sft, test, run.sampling("beam", n=n, width=width))
