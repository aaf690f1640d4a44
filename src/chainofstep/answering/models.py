"""The models that answer: weights in this process, which all who ask share, or endpoints."""

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainofstep.models.calls import Cancelled, Item, Sampling
from chainofstep.models.endpoint import is_endpoint
from chainofstep.pipeline.workers import PRM_TOKENS_AT_ONCE, model, prm, sampler
from chainofstep.records import Request, Rollout, Sampler, Scored, StepScorer

if TYPE_CHECKING:
    from chainofstep.models.live import Live


class Models:
    """A policy and perhaps a PRM, that any number of threads may ask at once (`open_models` makes it).

    What is no endpoint is in `live`. A context manager: what is asked after it, or not answered by then, is Cancelled.
    """

    def __init__(self, name: str, prm_name: str | None, live: "Live | None", remote: tuple[Any, Any]):
        self.name, self.prm_name, self.live = name, prm_name, live
        self.remote_sampler: Sampler | None = remote[0]
        self.remote_scorer: StepScorer | None = remote[1]
        self._open = ExitStack()

    def __enter__(self) -> "Models":
        if self.live is not None:
            self._open.enter_context(self.live)
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def caller(self) -> "Caller":
        return Caller(self)

    @property
    def waiting(self) -> int:
        """Samples that have not begun."""
        return 0 if self.live is None else self.live.waiting

    @property
    def running(self) -> int:
        """Samples in flight."""
        return 0 if self.live is None else self.live.running

    @property
    def sampled_tokens(self) -> int:
        """Since they were opened."""
        engine = self.remote_sampler if self.live is None or self.live.engine is None else self.live.engine
        return int(engine.sampled_tokens)  # type: ignore[union-attr]  # every sampler of ours counts

    @property
    def scored_chains(self) -> int:
        scorer = self.remote_scorer or (self.live and self.live.prm)
        return 0 if scorer is None else int(scorer.scored_chains)  # type: ignore[union-attr]

    @property
    def context(self) -> int | None:
        """Tokens that the policy can take; None for an endpoint's."""
        if self.live is None or self.live.engine is None:
            return None
        return int(self.live.engine.vlm.model.config.get_text_config().max_position_embeddings)

    def control_tokens(self, of_prm: bool = False) -> dict[str, int]:
        """The control tokens of the policy or the PRM with their ids; none of an endpoint's."""
        live = self.live
        owner = None if live is None else live.prm if of_prm else live.engine
        if owner is None:
            return {}
        from chainofstep.chain import ALL_TOKENS
        from chainofstep.models.families import control_texts

        vocabulary = owner.vlm.tokenizer.get_vocab()
        names = dict.fromkeys((*ALL_TOKENS, *control_texts(owner.vlm.processor)))
        return {name: vocabulary[name] for name in names if name in vocabulary}

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """What each token is as text. ValueError for an endpoint's, whose tokenizer is not here."""
        if self.live is None or self.live.engine is None:
            raise ValueError(f"the tokens of {self.name} are those of a server: leave logprobs and token ids out")
        tokenizer = self.live.engine.vlm.tokenizer
        return [tokenizer.decode([number], skip_special_tokens=False) for number in ids]


class Caller:
    """One question's Sampler and StepScorer. `cancel`, from any thread, ends what it waits for with `Cancelled`.

    `scores` says whether there is a PRM.
    """

    def __init__(self, models: Models):
        self.models, self.scores = models, models.prm_name is not None
        self.own = None if models.live is None else models.live.caller()
        self.cancelled = False

    def begin(self, requests: Sequence[Request], watched: bool = False) -> Sampling:
        """Ask for rollouts without waiting. Endpoints tell nothing on the way."""
        remote = self.models.remote_sampler
        if remote is None:
            assert self.own is not None
            return self.own.begin(requests, watched)
        call = Sampling(requests)
        self._check()
        threading.Thread(target=_sample, args=(remote, call), daemon=True).start()
        return call

    def sample(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        remote = self.models.remote_sampler
        if remote is None:
            assert self.own is not None
            return self.own.sample(requests)
        self._check()
        return remote.sample(requests)

    def score(self, items: Sequence[Item]) -> list[Scored]:
        self._check()
        remote = self.models.remote_scorer
        if remote is not None:
            return remote.score(items) if items else []
        if self.own is None:
            raise ValueError("there is no PRM to score with: give one")
        return self.own.score(items)

    def _check(self) -> None:
        if self.cancelled:
            raise Cancelled

    def cancel(self) -> None:
        self.cancelled = True
        if self.own is not None:
            self.own.cancel()


def _sample(remote: Sampler, call: Sampling) -> None:
    try:
        for number, rollouts in enumerate(remote.sample(call.requests)):
            call.finished |= {(number, rollout.index): rollout for rollout in rollouts}
        call.end()
    except Exception as error:
        call.end(error)


def open_models(
    policy: str, judge: str | None = None, name: str = "", token_budget: int | None = None, logprobs: bool = False
) -> Models:
    """A policy and a PRM, each a folder, a hub id or MODEL@URL. ValueError for one that cannot write or score steps.

    `name` is what the policy is called; without it the last part of its own. `token_budget` and `logprobs` as
    `Engine`'s.
    """
    remote = (sampler(policy) if is_endpoint(policy) else None, prm(judge) if judge and is_endpoint(judge) else None)
    engine = scorer = None
    if remote[0] is None:
        from chainofstep.models.checks import check_policy
        from chainofstep.models.engine import Engine

        check_policy(model(policy))
        engine = Engine(model(policy), token_budget, logprobs=logprobs)
    if judge and remote[1] is None:
        from chainofstep.models.checks import check_prm
        from chainofstep.models.prm import PRM

        check_prm(model(judge))
        scorer = PRM(model(judge), token_budget=PRM_TOKENS_AT_ONCE)
    live = None
    if engine is not None or scorer is not None:
        from chainofstep.models.live import Live

        live = Live(engine, scorer)
    return Models(name or _short(policy), _short(judge) if judge else None, live, remote)


def _short(model_name: str) -> str:
    """The last part of a model's name: "sft" for runs/mini/models/sft, Qwen/sft and sft@http://gpu1:8000/v1."""
    return Path(model_name.partition("@")[0]).name or model_name
