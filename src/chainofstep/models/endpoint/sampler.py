"""`EndpointSampler`: rollouts from servers of one model."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from chainofstep.llm.records import EndpointDown
from chainofstep.models.endpoint.chat import chat, prompt_key, read_rollout, sampling
from chainofstep.models.endpoint.check import check_policy
from chainofstep.models.endpoint.pool import Open, Server, Session, together
from chainofstep.models.endpoint.tokens import Tokens
from chainofstep.records import Request, Rollout, SamplingErrors

AT_ONCE = 16  # samples of one HTTP request, where a server can tell them apart by their seeds


class ServersDown(SamplingErrors, EndpointDown):
    """No server answers any more in the middle of a call: `results` holds what was sampled until then."""


class EndpointSampler:
    """A `Sampler` over servers of one model (`endpoint.endpoint_sampler` makes it).

    Sample i of a request is asked for with a seed that depends on the request's seed and i alone, so the same server
    gives the same text again as far as its own sums are the same in every batch; which server answers, and in which
    order, is no part of it. At temperature 0 one sample is asked for and given `n` times. `logprobs` asks for the
    log-probabilities of sampled tokens, `progress` is called with (samples finished, samples of the call).
    `servers` tells what each did, `sampled_tokens` what all calls came to. Not to be called from a running event loop.
    """

    def __init__(
        self,
        model: str,
        servers: Sequence[Server],
        tokenizer: str | None = None,
        dialect: str | None = None,
        logprobs: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ):
        self.model, self.servers, self.tokenizer, self.dialect = model, list(servers), tokenizer, dialect
        self.logprobs, self.progress = logprobs, progress
        self.sampled_tokens = 0

    def sample(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """For each request its `n` rollouts, in order.

        `token_ids` holds an end-of-turn token that was sampled; `text` leaves it out. `SamplingErrors` (a ValueError),
        after all others are sampled, if requests cannot be met; ValueError for a server that holds another model or
        changes texts, before anything is sampled. Where no server answers any more, `EndpointDown`: a `ServersDown`,
        with the requests that were met, if there are any.
        """
        with asyncio.Runner() as runner:
            found = runner.run(_Call(self, requests).run())
        if found.failures:
            names = [request.example.id for request in requests]
            results = [None if n in found.failures else rollouts for n, rollouts in enumerate(found.rollouts)]
            raise (ServersDown if found.down else SamplingErrors)(results, found.failures, names)
        return found.rollouts

    async def check(self, each: Open) -> None:
        await check_policy(each, self.model, self.dialect, self.tokenizer)
        same_kind(self.servers, each)


def same_kind(servers: Sequence[Server], each: Open) -> None:
    """ValueError if servers of one model are of two kinds: seeds and tokens mean another thing to each."""
    for other in servers:
        if other.checked and other.dialect != each.server.dialect:
            assert other.dialect is not None and each.server.dialect is not None
            raise ValueError(
                f"{other.url} speaks {other.dialect.name} and {each.server.url} {each.server.dialect.name}: "
                "name servers of one kind together"
            )


class _Call:
    """One call of `sample`."""

    def __init__(self, sampler: EndpointSampler, requests: Sequence[Request]) -> None:
        self.sampler, self.requests = sampler, requests
        self.rollouts: list[list[Rollout]] = [[] for _ in requests]
        self.failures: dict[int, str] = {}
        self.down = False  # no server answers any more
        self.finished, self.total = 0, sum(request.n for request in requests)

    async def run(self) -> "_Call":
        if self.requests:
            async with Session(self.sampler.servers, self.sampler.check) as session:
                try:
                    await together(self._request(session, number) for number in range(len(self.requests)))
                except EndpointDown as error:
                    self._end(error)
        return self

    def _end(self, error: EndpointDown) -> None:
        """Keep what was sampled before no server answered any more; the error again if that is nothing."""
        if not any(self.rollouts):
            raise error
        missing = {n: str(error) for n, rollouts in enumerate(self.rollouts) if not rollouts}
        self.failures, self.down = missing | self.failures, True

    async def _request(self, session: Session, number: int) -> None:
        request = self.requests[number]
        server = session.anyone()
        assert server.dialect is not None and server.tokens is not None
        try:
            _check(request, server.tokens)
            if request.temperature == 0:
                [rollout] = await self._samples(session, request, 0, 1)
                self.rollouts[number] = [replace(rollout, index=request.first + i) for i in range(request.n)]
            else:
                most = AT_ONCE if server.dialect.samples_by_seed else 1
                places = range(0, request.n, most)
                parts = [self._samples(session, request, place, min(most, request.n - place)) for place in places]
                self.rollouts[number] = [rollout for part in await together(parts) for rollout in part]
        except EndpointDown:
            raise
        except ValueError as error:
            self.failures[number] = str(error)
        else:
            self._count(request.n)

    def _count(self, samples: int) -> None:
        self.finished += samples
        if self.sampler.progress is not None:
            self.sampler.progress(self.finished, self.total)

    async def _samples(self, session: Session, request: Request, place: int, count: int) -> list[Rollout]:
        """Samples `place` .. `place + count - 1` of a request, by one HTTP request."""

        def body(server: Server) -> bytes:
            assert server.dialect is not None and server.tokens is not None
            chosen = sampling(request, server.dialect, server.tokens, place, count, self.sampler.logprobs)
            fields = chat(self.sampler.model, server.dialect, server.tokens, request.example, request.prefix)
            return json.dumps(fields | chosen).encode("ascii")

        answer = await session.post(prompt_key(request.example), count, "/v1/chat/completions", body)
        tokens = session.anyone().tokens
        assert tokens is not None
        choices = sorted(answer.get("choices") or [], key=lambda choice: int(choice["index"]))
        if len(choices) != count:
            raise ValueError(f"the server returned {len(choices)} samples of {count}")
        rollouts = [
            read_rollout(choice, request, request.first + place + i, tokens) for i, choice in enumerate(choices)
        ]
        self.sampler.sampled_tokens += sum(len(rollout.token_ids) for rollout in rollouts)
        return rollouts


def _check(request: Request, tokens: Tokens) -> None:
    """ValueError for what a server would not refuse."""
    if request.n <= 0 or request.first < 0:
        raise ValueError(f"n={request.n}, first={request.first}: ask for at least one sample, counted from 0")
    for name in tokens.names.values():
        if name in request.prefix and (name in tokens.ends or tokens.ids[name] in tokens.forbidden):
            raise ValueError(f"the prefix holds the control token {name!r}, which no answer contains; take it out")
