"""What each stage of a recipe needs: tokens, operations, bytes on a GPU and on disk."""

import json
from dataclasses import dataclass, replace
from typing import Literal

from chainofstep.chain import Chain, Step, render
from chainofstep.pipeline.recipe import Recipe
from chainofstep.pipeline.recipe import beams as beam_searches
from chainofstep.pipeline.run import SHIPPED
from chainofstep.planning import work
from chainofstep.planning.memory import (
    FOUR_BITS,
    Memory,
    Pass,
    Sharing,
    number_bytes,
    trained_parameters,
    training_memory,
)
from chainofstep.planning.shape import ModelShape, shape_of
from chainofstep.planning.sizes import Lengths, Sizes, sizes_of
from chainofstep.training.common import TrainConfig
from chainofstep.training.dpo import DpoConfig
from chainofstep.training.grpo import GrpoConfig
from chainofstep.training.prm import PrmConfig

Kind = Literal["training", "scoring", "decoding"]
WORD_BYTES = 4  # of a token of ordinary text
ROW_BYTES = 160  # of a stored rollout or score beside its text and ids
SAVED_BYTES = 2  # models are saved in what they came in, bfloat16


@dataclass(frozen=True)
class Stage:
    """A stage of one round; `times` says how many rounds there are. Tokens, operations and disk are of one."""

    name: str
    kind: Kind
    model: ModelShape
    tokens: float
    flops: float
    disk: float
    times: int = 1
    scratch: float = 0.0  # bytes on disk of checkpoints and features, while it runs
    config: TrainConfig | None = None  # of a training
    rows: int = 0  # in flight, of a sampler; scored at once, of a scorer
    beside: ModelShape | None = None  # the PRM, where one process holds it with the model


@dataclass(frozen=True)
class Planned:
    """What all stages share."""

    recipe: Recipe
    policy: ModelShape
    backbone: ModelShape
    sizes: Sizes

    @property
    def beside(self) -> ModelShape | None:
        """The PRM that is loaded where a policy is; none where `launch.scorer` serves it."""
        return None if self.recipe.launch.scorer else self.backbone


def planned(recipe: Recipe) -> Planned:
    """ValueError for a recipe whose models or sizes are not known."""
    policy = recipe.policy or str(SHIPPED / "policy")
    start = "" if recipe.backbone == "sft" else recipe.backbone
    backbone = start or recipe.policy or str(SHIPPED / "prm")
    return Planned(recipe, shape_of(policy), shape_of(backbone), sizes_of(recipe))


def stages(plan: Planned) -> list[Stage]:
    """All stages in the order of a run."""
    rounds = plan.recipe.rounds
    found = [_sft(plan), *_labels(plan), _prm(plan)]
    for reward, times in (("dpo", rounds.rounds), ("outcome", rounds.outcome_rounds)):
        if times:
            found += _round(plan, reward, times)
    if plan.recipe.grpo is not None:
        found += _grpo(plan, plan.recipe.grpo)
    return [*found, *_search(plan)]


def _sft(plan: Planned) -> Stage:
    lengths, config = plan.sizes.lengths, plan.recipe.sft
    rows = plan.sizes.sft * config.epochs
    flops = rows * work.training_flops(plan.policy, config, lengths, lengths.chain)
    return _training(plan, "sft", plan.policy, config, rows * lengths.row, flops, plan.sizes.sft)


def _labels(plan: Planned) -> list[Stage]:
    """Chains of the labels' questions, then a continuation of each step, `rollouts` times."""
    sizes, labels = plan.sizes, plan.recipe.labels
    sampled = _sampled(plan, "labels/sample", sizes.labels, labels.chains)
    continued = sizes.labelled_chains * labels.rollouts * sizes.lengths.continuation
    flops = 2 * plan.policy.total * continued + sizes.labels * work.reading_flops(
        plan.policy, sizes.lengths, sizes.lengths.row
    )
    disk = sizes.labelled_chains * ROW_BYTES
    return [
        sampled,
        Stage("labels/monte-carlo", "decoding", plan.policy, continued, flops, disk, rows=labels.rollouts),
    ]


def _prm(plan: Planned) -> Stage:
    lengths, config = plan.sizes.lengths, plan.recipe.prm
    rows = plan.sizes.labelled_chains * config.epochs
    flops = rows * work.training_flops(plan.backbone, config, lengths, lengths.steps + 1)
    return _training(plan, "prm", plan.backbone, config, rows * lengths.row, flops, plan.sizes.labels)


def _round(plan: Planned, reward: str, times: int) -> list[Stage]:
    sizes, config, n = plan.sizes, plan.recipe.dpo, plan.recipe.sampling.n
    sampled = replace(_sampled(plan, f"{reward}/sample", sizes.questions, n), times=times)
    scored = replace(_scored(plan, f"{reward}/score", sizes.questions, n), times=times)
    flops = sizes.pairs * config.epochs * work.dpo_flops(plan.policy, config, sizes.lengths)
    tokens = 2 * sizes.pairs * config.epochs * sizes.lengths.row
    trained = _training(plan, f"{reward}/train", plan.policy, config, tokens, flops, sizes.questions)
    return [sampled, *([scored] if reward == "dpo" else []), replace(trained, times=times)]


def _grpo(plan: Planned, config: GrpoConfig) -> list[Stage]:
    """The rollouts of all updates, their scores, and the training on them."""
    lengths, questions = plan.sizes.lengths, config.updates // config.iterations * config.batch_size
    rows = questions * config.samples * config.iterations
    flops = rows * work.training_flops(plan.policy, config, lengths, lengths.row)
    trained = _training(plan, "grpo/train", plan.policy, config, rows * lengths.row, flops, questions)
    return [
        _sampled(plan, "grpo/sample", questions, config.samples),
        _scored(plan, "grpo/score", questions, config.samples),
        replace(trained, rows=config.samples, beside=plan.beside),
    ]


def _search(plan: Planned) -> list[Stage]:
    """Greedy answers of every model, a pool of the SFT model with its scores, and beam searches."""
    recipe, test = plan.recipe, plan.sizes.test
    models = 2 + recipe.rounds.rounds + recipe.rounds.outcome_rounds
    beams = [n for n, _ in beam_searches(recipe)]
    found = [
        _sampled(plan, "eval/greedy", test * models, 1),
        _sampled(plan, "search/pool", test, recipe.sampling.n),
        _scored(plan, "search/score", test, recipe.sampling.n),
    ]
    if beams:
        sampled = _sampled(plan, "search/beam", test, sum(beams))
        scored = _scored(plan, "search/beam-score", test, sum(beams))
        found += [replace(sampled, rows=max(beams), beside=plan.beside), replace(scored, rows=max(beams))]
    return found


def _sampled(plan: Planned, name: str, questions: int, n: int) -> Stage:
    """`n` chains of each question, which is read once."""
    lengths, model = plan.sizes.lengths, plan.policy
    tokens = questions * n * lengths.chain
    flops = 2 * model.total * tokens + questions * work.reading_flops(model, lengths, lengths.prompt)
    disk = questions * n * rollout_bytes(lengths, model.vocabulary)
    return Stage(name, "decoding", model, tokens, flops, disk, rows=n)


def rollout_bytes(lengths: Lengths, vocabulary: int) -> float:
    """Of a stored rollout: its words, the tags of its steps, which are long for one token each, and all ids."""
    one, two = (render(Chain((Step("", "", ""),) * count)) for count in (1, 2))
    tags = len(json.dumps(two)) - len(json.dumps(one))
    tag_tokens = sum(two.count(mark) - one.count(mark) for mark in ("<|", "\n"))
    text = WORD_BYTES * (lengths.chain - tag_tokens * lengths.steps) + tags * lengths.steps
    return text + lengths.chain * (len(str(vocabulary)) + 2) + ROW_BYTES


def _scored(plan: Planned, name: str, questions: int, n: int) -> Stage:
    """The PRM reads a question once and each of its chains after it."""
    lengths, model = plan.sizes.lengths, plan.backbone
    tokens = questions * (lengths.prompt + n * lengths.chain)
    chains = work.stack_flops(
        model.decoder, model.parameters["decoder"], n * lengths.chain, lengths.prompt + lengths.chain / 2
    )
    flops = questions * (work.reading_flops(model, lengths, lengths.prompt) + chains)
    return Stage(name, "scoring", model, tokens, flops, questions * n * ROW_BYTES, rows=n)


def model_bytes(model: ModelShape) -> int:
    return SAVED_BYTES * model.total


def _training(
    plan: Planned, name: str, model: ModelShape, config: TrainConfig, tokens: float, flops: float, pictures: int
) -> Stage:
    """With the saved model and, while it runs, two checkpoints and the features of its pictures if they are kept."""
    trained = trained_parameters(model, config)
    frozen = 0 if config.lora.rank else model.total - trained
    checkpoint = (4 + 8) * trained + number_bytes(config) * frozen if config.machine.save_every else 0
    patches = plan.sizes.lengths.picture * model.patches_per_token
    features = pictures * patches * model.tower.width * number_bytes(config) if config.machine.cached_features else 0
    scratch = 2 * checkpoint + features
    return Stage(name, "training", model, tokens, flops, model_bytes(model), scratch=scratch, config=config)


def stage_memory(plan: Planned, stage: Stage, gpus: int, sharing: Sharing) -> Memory:
    """Bytes on one GPU at the stage's fullest moment: of a training with the longest rows that it takes.

    GRPO shares nothing, since its engine samples from whole weights; its cache, and the PRM where that is not served,
    are counted as if they were there during an update too.
    """
    config = stage.config
    if config is None:
        served = stage.kind == "scoring" and plan.recipe.launch.scorer
        return Memory() if served else serving_memory(plan, stage, gpus=1)
    alone = isinstance(config, GrpoConfig)
    sharing = "ddp" if alone else sharing
    memory = training_memory(stage.model, config, _longest_pass(plan, stage, config), gpus, sharing)
    more = _reference_bytes(plan, stage, config) // (1 if sharing == "ddp" else gpus) + _bytes_beside(stage)
    cache = cache_bytes(plan, stage, plan.sizes.lengths.chain) if alone else 0
    return replace(memory, weights=memory.weights + more, cache=cache)


def _reference_bytes(plan: Planned, stage: Stage, config: TrainConfig) -> int:
    """Of a second model. With its adapter off, a policy is what it started from: the reference, if that was SFT's.

    A DPO that goes on from the last round's weights loads SFT's from the second round on.
    """
    if isinstance(config, DpoConfig):
        continues = plan.recipe.rounds.weights == "continue" and stage.times > 1
        needed = not config.lora.rank or continues
    else:
        needed = isinstance(config, GrpoConfig) and config.kl > 0 and not config.lora.rank
    each = FOUR_BITS if config.lora.four_bit else number_bytes(config)
    return int(each * stage.model.total) if needed else 0


def _bytes_beside(stage: Stage) -> int:
    return 2 * stage.beside.total if stage.beside else 0


def _longest_pass(plan: Planned, stage: Stage, config: TrainConfig) -> Pass:
    lengths = plan.sizes.lengths
    longest = config.max_tokens or 2 * lengths.row
    rows = config.forward_rows * (2 if isinstance(config, DpoConfig) else 1)
    kept, loss_bytes = longest - lengths.prompt, 12
    if isinstance(config, PrmConfig):
        kept, loss_bytes = rows * round(lengths.steps + 1), 2 * number_bytes(config)  # tags of all rows, in each row
    elif isinstance(config, DpoConfig) and number_bytes(config) == 2:
        loss_bytes = 14
    elif isinstance(config, GrpoConfig):
        loss_bytes = 0
    patches = int(rows * lengths.picture * stage.model.patches_per_token)
    return Pass(rows, longest, patches, kept, loss_bytes)


def serving_memory(plan: Planned, stage: Stage, gpus: int) -> Memory:
    """Weights in bfloat16, and keys and values of one question with its rows at average length, cut over so many GPUs.

    More questions at once are faster; with less room, rows wait for one another.
    """
    cache = cache_bytes(plan, stage, plan.sizes.lengths.chain)
    return Memory(weights=(2 * stage.model.total + _bytes_beside(stage)) // gpus, cache=cache // gpus)


def cache_bytes(plan: Planned, stage: Stage, tokens: int) -> int:
    """Of the keys and values of one question with its rows, each of so many tokens."""
    return (plan.sizes.lengths.prompt + stage.rows * tokens) * stage.model.key_value_bytes
