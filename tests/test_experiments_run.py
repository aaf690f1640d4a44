"""The experiments as a run carries them out: all of them with a scripted policy, and arms that train small models."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chainofstep.chain import STEP_END, Chain, Step, parse, render
from chainofstep.experiments import EXPERIMENTS, arms, searches, verifiers
from chainofstep.experiments.document import write_document
from chainofstep.experiments.experiment import carry_out, read_cells
from chainofstep.experiments.verifiers import continue_chunk, verify
from chainofstep.models.batch import completion_ids
from chainofstep.models.tiny import shrink
from chainofstep.models.vlm import load_vlm
from chainofstep.pipeline import memory, trainings, workers
from chainofstep.pipeline.recipe import Labels, Launch, Problems, Rounds
from chainofstep.pipeline.run import Run
from chainofstep.pipeline.stages import Reward
from chainofstep.pipeline.trainings import labelled
from chainofstep.pipeline.workers import Scorer
from chainofstep.recipes import RECIPES
from chainofstep.records import StepScores
from chainofstep.scoring.monte_carlo import MonteCarloScorer, derive_seed
from chainofstep.scoring.pairs import PairRule
from chainofstep.search import SearchConfig
from chainofstep.store import read_json, write_json, write_text
from chainofstep.training.dpo import DpoConfig
from chainofstep.training.prm import PrmConfig
from chainofstep.training.sft import SftConfig
from chainofstep.verbs import run_experiments
from conftest import ScriptedSampler
from small_training import small

RECIPE = replace(
    RECIPES["paper"](0),
    problems=Problems(sft=4, labels=6, dpo=6, test=20, held_out=0),
    labels=Labels(chains=2, rollouts=2, unseen_chains=2),
    sampling=SearchConfig(n=6, max_tokens=5000),  # the scripted policy counts characters
)


# A policy and a PRM without weights


def said(request):
    """Right and wrong chains of one, two or more steps from the prefix on, and text that is no chain."""
    chain, guess = request.example.chain, Step("Guess", "It looks like 999.", "999 is likely.")
    steps = [chain.steps, (guess,), chain.steps[:1], (*chain.steps[:2], guess), (*chain.steps[:1], guess, guess)]
    answers = [chain.answer, "999", chain.answer, "999", "999"]
    texts = [render(Chain(tuple(own), answer)) for own, answer in zip(steps, answers, strict=True)]
    left = [text.removeprefix(request.prefix) for text in texts if text.startswith(request.prefix)] + ["no chain"]
    first = request.seed % len(left)
    return left[first:] + left[:first]


class Says(ScriptedSampler):
    """Samples by script, ten characters a token."""

    def __init__(self, script=said):
        super().__init__(script)

    def sample(self, requests):
        pools = super().sample(requests)
        return [[replace(rollout, token_ids=rollout.token_ids[::10]) for rollout in pool] for pool in pools]


class HashedPrm:
    """Knows right answers, and has an opinion of every step that depends on the PRM's name."""

    def __init__(self, name):
        self.name = Path(name).name

    def score(self, items):
        return [self._score(example, chain) for example, chain in items]

    def _score(self, example, chain):
        opinions = [derive_seed(self.name, example.id, render(chain.prefix(n + 1))) for n in range(len(chain.steps))]
        steps = tuple(opinion % 997 / 1000 for opinion in opinions)
        return StepScores(steps, None if chain.answer is None else 0.01 + 0.98 * (chain.answer == example.answer))


def not_trained(run, name, here=None, **inputs):
    """The stage of a training, with a log and no model."""

    def work():
        folder = run.path("models", name.removesuffix("/train"))
        write_json(folder / "training_log.json", [{"loss": 1.0, "rewards/chosen": 2.5, "rewards/rejected": -1.5}])
        return [folder]

    run.stage(name, work, **inputs)


def scripted(patch, sampler=lambda name, steps=True: Says()):
    """Sample by script, score by hash, train nothing; and a little less of what takes long."""
    for module in (workers, verifiers):
        patch.setattr(module, "sampler", sampler)
    patch.setattr(workers, "prm", HashedPrm)
    patch.setattr(Run, "train", not_trained)
    patch.setattr(verifiers, "weights", lambda folder: 50 if "half" in folder else 100)
    patch.setattr(verifiers, "NOISE_QUESTIONS", 2)
    patch.setattr(memory, "memory_in_use", lambda: 0.0)
    patch.setattr(searches, "SCALING_QUESTIONS", 2)


def refuse(*_, **__):
    raise AssertionError("nothing should be sampled or scored again")


def files_of(folder, *patterns):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in patterns
        for path in sorted(folder.rglob(pattern))
    }


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory):
    """The folder of a run that has carried out every experiment."""
    folder = tmp_path_factory.mktemp("scripted") / "seed-0"
    with pytest.MonkeyPatch.context() as patch:
        scripted(patch)
        with Run(RECIPE, folder) as run:
            for experiment in EXPERIMENTS.values():
                carry_out(run, experiment)
    return folder


def cells(folder, name):
    return read_cells(folder / "experiments" / f"{name}.json")[0]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_is_claimed_and_drawn_is_measured(carried_out, name):
    experiment, measured = EXPERIMENTS[name], cells(carried_out, name)
    claimed = {place for c in experiment.claims for place in (c.better, c.worse, *(c.since or ()))}
    assert claimed and claimed <= set(measured)
    columns, rows = {column for _, column in measured}, {row for row, _ in measured}
    assert {*experiment.numbers, *(experiment.curve.columns if experiment.curve else ())} <= columns
    if experiment.curve:
        assert all(any(letter.isdigit() for letter in row) for row in rows)
    if experiment.paper:
        assert set(experiment.paper.rows) <= rows or not rows & set(experiment.paper.rows)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_is_no_number_is_a_share_or_answers_to_questions(carried_out, name):
    for (_, column), cell in cells(carried_out, name).items():
        if column in EXPERIMENTS[name].numbers:
            assert isinstance(cell, float)
        elif isinstance(cell, float):
            assert 0 <= cell <= 1
        else:
            assert len(cell) <= 20 and cell


def test_the_second_time_no_stage_runs(carried_out, monkeypatch):
    scripted(monkeypatch, refuse)
    monkeypatch.setattr(workers, "prm", refuse)
    before = files_of(carried_out, "*.json", "*.jsonl")
    with Run(RECIPE, carried_out) as run:
        for experiment in EXPERIMENTS.values():
            carry_out(run, experiment)
    assert files_of(carried_out, "*.json", "*.jsonl") == before


def test_one_document_has_every_claim(carried_out, tmp_path):
    text = write_document(
        {0: carried_out}, list(EXPERIMENTS.values()), tmp_path / "results.md", Path("runs")
    ).read_text()
    assert len(list((tmp_path / "images").iterdir())) == len(EXPERIMENTS)
    claims = [claim.text for experiment in EXPERIMENTS.values() for claim in experiment.claims]
    assert all(text.count(f": {claim} | ") and text.count(f"- {claim}") for claim in claims)
    assert text.count("\n## ") == len(EXPERIMENTS) + 1


def test_killed_experiments_go_on(carried_out, tmp_path, monkeypatch):
    """Killed at every second call of a sampler, they end with the rows of those that were not."""
    calls = iter(range(10**6))

    def dies(name, steps=True):
        if next(calls) % 2:
            raise KeyboardInterrupt
        return Says()

    scripted(monkeypatch, dies)
    kills, folder = 0, tmp_path / "seed-0"
    while not (folder / "experiments" / "length.json").exists():
        try:
            with Run(RECIPE, folder) as run:
                for name in ("table9", "noise", "length"):
                    carry_out(run, EXPERIMENTS[name])
        except KeyboardInterrupt:
            kills += 1
            if kills == 1:  # as a kill while pairs are written would leave it
                write_text(folder / "per-step-1" / "pairs.jsonl", '{"example_id": "of the killed attempt"}\n')
    again, whole = (files_of(path, "*.jsonl", "table9.json", "length.json") for path in (folder, carried_out))
    assert kills > 8 and len(again) > 20
    assert [name for name, content in again.items() if whole[name] != content] == []


def test_seeds_run_one_after_the_other_and_end_in_a_document(tmp_path, monkeypatch):
    scripted(monkeypatch)
    sizes = ("sft=4", "labels=6", "dpo=6", "test=20")
    settings = ["launch.workers=1", "sampling.n=6", "sampling.max_tokens=5000", *(f"problems.{size}" for size in sizes)]
    first, again = (run_experiments("length", tmp_path, "0-1", settings).read_bytes() for _ in range(2))
    command = f"cos run length --out {tmp_path} --seeds 0-1"
    assert first == again and f"`{command}`:" in first.decode()
    pools = {(tmp_path / seed / "search" / "pool" / "rollouts.jsonl").read_bytes() for seed in ("seed-0", "seed-1")}
    assert len(pools) == 2 and cells(tmp_path / "seed-1", "length")


# What arms share, and what they do not


def test_an_experiment_names_the_stages_it_took(carried_out):
    prepared = ["problems", "base/sample", "sft", "greedy/sft/sample"]
    labels = [f"labels/{name}" for name in ("seen/sample", "unseen/sample", "seen/score", "unseen/score")]
    stages = read_cells(carried_out / "experiments" / "figure3.json")[1]
    assert stages == [*prepared, *labels, "prm", "search/pool/sample", "search/prm/score"]


def marker(folder, stage):
    return read_json(folder / "stages" / f"{stage}.json")


def test_rewards_of_one_scorer_share_the_first_rounds_scores(carried_out):
    stages = {str(path.relative_to(carried_out / "stages"))[:-5] for path in (carried_out / "stages").rglob("*.json")}
    assert {"dpo-1/sample", "dpo-1/score", "answers-1/pairs", "answers-2/sample", "answers-2/score"} <= stages
    assert not {"answers-1/sample", "answers-1/score", "pairs-0-2-1/score", "outcome-1/sample"} & stages
    assert "outcome-1/score" in stages  # another scorer
    pairs = {name: (carried_out / name / "pairs.jsonl").read_text() for name in ("answers-1", "dpo-1", "outcome-1")}
    assert len(set(pairs.values())) == 3
    assert all(marker(carried_out, stage)["attempts"] == 1 for stage in stages)


def test_another_sft_model_samples_its_own_pool(carried_out):
    models = [Path(marker(carried_out, f"{stage}/sample")["inputs"]["model"]).name for stage in ("bare/pool", "dpo-1")]
    assert models == ["bare", "sft"]
    assert Path(marker(carried_out, "bare-outcome-2/sample")["inputs"]["model"]).name == "bare-outcome-1"
    assert marker(carried_out, "bare-outcome-1/score")["inputs"]["pools"] == "bare/pool"


def test_two_ways_to_choose_the_same_chain_agree(carried_out):
    weights, combined = cells(carried_out, "figure3"), cells(carried_out, "combined")
    for weight, row in (("0.2", "0.2 mean of steps + 0.8 answer"), ("1.0", "mean of steps")):
        assert weights[weight, "best of 16"] == combined[row, "best of 16"]
    assert weights["0.2", "best of 16"] != weights["1.0", "best of 16"]


def test_chains_are_counted_by_their_steps(carried_out):
    """From the rows themselves: chains of one step are guesses (wrong) or the gold chain's first step (right)."""
    measured, rows = cells(carried_out, "length"), (carried_out / "search" / "pool" / "rollouts.jsonl").open()
    with rows:
        rollouts = [rollout for line in rows for rollout in json.loads(line)["rollouts"]]
    chains = [parse(rollout["text"]) for rollout in rollouts if rollout["ending"] == "answer"]
    single = [chain for chain in chains if len(chain.steps) == 1]
    assert 0 < len(single) < len(chains) < len(rollouts)
    assert measured["1", "share of chains"] == pytest.approx(len(single) / len(chains))
    assert measured["1", "right answers"] == sum(chain.answer != "999" for chain in single) / len(single)
    assert sum(cell for (_, column), cell in measured.items() if column == "share of chains") == pytest.approx(1)


def test_every_prm_scores_for_itself(tmp_path, monkeypatch):
    """A run's own PRM may be on servers; another PRM of the run is not, and has other scores."""
    asked = []

    def named(name):
        asked.append(name)
        return HashedPrm(name)

    scripted(monkeypatch)
    monkeypatch.setattr(workers, "prm", named)
    with Run(replace(RECIPE, launch=Launch(scorer="prm@http://localhost:1/v1")), tmp_path / "run") as run:
        arms.prepare(run)
        test = run.examples("test")
        run.sample("pool", run.model_folder("sft"), test, run.sampling("pool"))
        for name in ("prm", "prm-policy"):
            run.score(name, "pool", test, Scorer("prm", run.model_folder(name)))
        own, other = run.scores("prm", test), run.scores("prm-policy", test)
    assert set(asked) == {"prm@http://localhost:1/v1", str(tmp_path / "run" / "models" / "prm-policy")}
    assert own != other


def test_continuations_give_the_labels_of_monte_carlo(carried_out):
    """Of one policy that heeds no seed: the two draw with seeds of their own."""
    with Run(RECIPE, carried_out) as run:
        examples = run.examples("labels")[:3]
    chains = [example.chain for example in examples]
    blind = Says(lambda request: said(replace(request, seed=0)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifiers, "sampler", lambda name: blind)
        rows = continue_chunk(examples, [chains[0], None, chains[2]], "policy", SearchConfig(n=5, max_tokens=5000))
    labels = MonteCarloScorer(blind, 5, max_tokens=5000).score(list(zip(examples, chains, strict=True)))
    assert rows[1] == {"steps": []}
    for place in (0, 2):
        assert [step["right"].count("1") / 5 for step in rows[place]["steps"]] == list(labels[place].steps)
        assert [step["true"] for step in rows[place]["steps"]] == [True] * len(chains[place].steps)
    assert any(0 < label < 1 for label in labels[0].steps)


# Small models, trained


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory):
    """A run whose policy is sampled by script, and whose models are trained and score."""
    recipe = replace(
        RECIPE,
        policy=str(model),
        problems=Problems(sft=16, labels=4, dpo=4, test=4, held_out=0),
        sampling=replace(RECIPE.sampling, n=4),
        rounds=Rounds(rounds=2, outcome_rounds=2),
        pairs=PairRule(threshold=0.0),
        sft=SftConfig(learning_rate=1e-2, batch_size=8, forward_rows=8),
        prm=PrmConfig(learning_rate=1e-2, epochs=1, batch_size=4, forward_rows=4),
        dpo=DpoConfig(learning_rate=1e-9, batch_size=4, forward_rows=4),  # a round all but leaves a model as it was
    )
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "sampler", lambda name, steps=True: Says())
        with Run(recipe, folder) as run:
            arms.prepare_prm(run)
            yield run


def weights_of(run, name):
    return dict(load_vlm(run.model_folder(name)).model.state_dict())


def furthest(run, one, other):
    """The largest difference of a weight of two models."""
    first, second = weights_of(run, one), weights_of(run, other)
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_a_model_learns_chains_told_in_another_way_and_its_rounds_refer_to_it(trained, monkeypatch):
    taught, loaded = [], []
    train_sft, load = trainings.train_sft, trainings.load_for_training

    def teach(vlm, rows, config, out):
        taught.extend(rows)
        return train_sft(vlm, rows, config, out)

    def loads(name, config):
        loaded.append(Path(name).name)
        return load(name, config)

    monkeypatch.setattr(trainings, "train_sft", teach)
    monkeypatch.setattr(trainings, "load_for_training", loads)
    arms.tell(trained, "bare", arms.without_reasoning)
    assert [row.text for row in taught] == [render(Chain((), example.answer)) for example in trained.examples("sft")]
    reward = Reward("bare-outcome", Scorer("outcome"), trained.recipe.outcome_pairs, sft="bare")
    assert arms.rounds(trained, reward, 2) == "bare-outcome-2"
    assert loaded[1:] == ["bare", "bare", "bare-outcome-1", "bare"]  # what a round starts from, and its reference
    assert furthest(trained, "bare-outcome-1", "bare") < 1e-5 < 1e-3 < furthest(trained, "bare", "sft")
    log = [
        entry for entry in read_json(trained.path("models", "bare-outcome-2", "training_log.json")) if "loss" in entry
    ]
    assert log[0]["rewards/chosen"] == pytest.approx(0, abs=1e-3)


def test_two_prms_of_a_run_have_scores_of_their_own(trained):
    """A score stage once replaced every PRM by the run's own."""
    verify(trained, "prm-sft", labelled(trained), trained.model_folder("sft"))
    test = trained.examples("test")
    trained.sample("two/pool", trained.model_folder("sft"), test, trained.sampling("two"))
    for name in ("prm", "prm-sft"):
        trained.score(f"two/{name}", "two/pool", test, Scorer("prm", trained.model_folder(name)))
    own, other = trained.scores("two/prm", test), trained.scores("two/prm-sft", test)
    assert own != other
    pool = trained.pools("two/pool", test)[0]
    for name, scores in (("prm", own), ("prm-sft", other)):
        chains = [(rollout.chain, scored) for rollout, scored in zip(pool, scores[0], strict=True) if rollout.chain]
        alone = workers.prm(trained.model_folder(name)).score([(test[0], chain) for chain, _ in chains])
        assert alone[0].steps == pytest.approx(chains[0][1].steps, abs=1e-3)


def test_dpo_on_single_steps_is_trained(trained):
    carry_out(trained, EXPERIMENTS["table9"])
    measured = cells(trained.folder.path, "table9")
    pairs = [json.loads(line) for line in trained.path("per-step-1", "pairs.jsonl").read_text().splitlines()]
    assert measured["per-step DPO", "pairs"] == len(pairs) > 0
    assert any(pair["chosen"].endswith(f"{STEP_END}\n") for pair in pairs)
    assert all(pair["chosen_score"] > pair["rejected_score"] for pair in pairs)
    assert measured["per-step DPO", "chosen reward"] == pytest.approx(0, abs=1e-3)
    assert len(measured["per-step DPO", "all"]) == 4


def test_a_text_that_ends_on_a_step_goes_on():
    vlm = small()
    step = render(Chain((Step("Read row", "row is 3.", "3 = 3."),)))
    whole = render(Chain((Step("Read row", "row is 3.", "3 = 3."),), "5"))
    end, closed = vlm.tokenizer.eos_token_id, vlm.tokenizer.convert_tokens_to_ids(STEP_END)
    assert completion_ids(vlm, whole)[-1] == end and completion_ids(vlm, whole).count(end) == 1
    assert end not in completion_ids(vlm, step) and closed in completion_ids(vlm, step)[-2:]
    assert completion_ids(vlm, step.rstrip())[-1] == closed


def test_a_shrunk_model_has_the_first_layers_weights():
    vlm = small()
    before = {name: weight.clone() for name, weight in vlm.model.state_dict().items()}
    student = shrink(vlm, 1)
    kept = student.model.state_dict()
    assert {name for name in before if name not in kept} == {
        name for name in before if ".layers.1." in name and "language" in name
    }
    assert all(torch.equal(kept[name], before[name]) for name in kept)
    assert student.model.config.text_config.num_hidden_layers == 1
    assert all(torch.equal(weight, before[name]) for name, weight in vlm.model.state_dict().items())
    with torch.no_grad():
        next(student.model.parameters()).add_(1.0)
    assert all(torch.equal(weight, before[name]) for name, weight in vlm.model.state_dict().items())
