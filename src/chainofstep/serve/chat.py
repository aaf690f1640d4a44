"""POST /v1/chat/completions: plain samples and searches, whole or streamed."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from chainofstep.answering import Completion, Event, Models, StepMade, Watch, answer, complete, ignore
from chainofstep.records import Example
from chainofstep.search import Cost, SearchResult
from chainofstep.serve.asking import Asked, read_chat
from chainofstep.serve.jobs import CLIENT_GONE, Channel, Crew, Gone, Job, Receive, finished
from chainofstep.serve.metrics import Metrics
from chainofstep.serve.pictures import Pictures
from chainofstep.serve.replies import (
    Row,
    Said,
    choice_row,
    closed_steps,
    cost_of,
    cost_row,
    envelope,
    last_fields,
    said_of,
    said_of_search,
    search_row,
    usage,
)
from chainofstep.serve.schema import ChatRequest
from chainofstep.serve.settings import ServeSettings
from chainofstep.serve.streaming import Deltas, Stream, response

if TYPE_CHECKING:
    from fastapi import Request, Response

Result = list[Completion] | SearchResult


@dataclass(frozen=True)
class Desk:
    """What routes work with."""

    models: Models
    settings: ServeSettings
    pictures: Pictures
    metrics: Metrics
    crew: Crew


@dataclass(frozen=True)
class Chat:
    """One chat, read and with its pictures at hand."""

    desk: Desk
    model: str  # as the request names it
    asked: Asked
    paths: tuple[str, ...]
    began: float

    def work(self, watch: Watch = ignore) -> Job[Result]:
        """The call of the models, begun."""
        caller = self.desk.models.caller()
        return Job(self.desk.crew, caller, partial(self._call, caller, watch))

    def _call(self, caller: Any, watch: Watch) -> Result:
        asked = self.asked
        if asked.method:
            example = asked.example(self.paths)
            return answer(caller, example, asked.method, asked.config, watch, asked.scored)
        return complete(caller, asked.request(self.paths), watch, asked.scored, asked.stream and asked.raw)

    def said(self, result: Result) -> list[Said]:
        if isinstance(result, SearchResult):
            return [said_of_search(result)]
        return [said_of(completion, self.asked) for completion in result]

    def ending(self, result: Result, said: list[Said]) -> Row:
        """What the reply says besides its choices, usage apart."""
        seconds = time.perf_counter() - self.began
        search = {"search": search_row(self.asked, result)} if isinstance(result, SearchResult) else {}
        return {"cost": cost_row(self._cost(result, said), seconds), "seed": self.asked.config.seed, **search}

    def usage(self, result: Result, said: list[Said]) -> Row:
        prompt = prompt_tokens(self.desk.models, self.asked.example(self.paths), self.asked.prefix)
        return usage(prompt, self._cost(result, said).sampled_tokens)

    def _cost(self, result: Result, said: list[Said]) -> Cost:
        return result.cost if isinstance(result, SearchResult) else cost_of(said)


async def chat(desk: Desk, body: ChatRequest, request: "Request") -> "Response | Row":
    """The reply, or for `stream` the response that makes it. `Refusal` and ValueError for what cannot be met."""
    began = time.perf_counter()
    asked = read_chat(body, desk.models.name, desk.models.prm_name, desk.models.context, desk.settings)
    if asked.logprobs or asked.token_ids:
        desk.models.token_texts([])  # ValueError where the tokenizer is not here
    async with AsyncExitStack() as held:
        paths = await held.enter_async_context(desk.pictures.used(asked.urls))
        one = Chat(desk, body.model, asked, paths, began)
        if asked.stream:
            return response(_streamed(one, held.pop_all()))
        return await _whole(one, request.receive)


async def _whole(one: Chat, receive: Receive) -> Row:
    job = one.work()
    try:
        result = await finished(job, receive)
    except Gone:
        one.desk.metrics.cancelled.inc()
        raise CLIENT_GONE from None
    said = one.said(result)
    tokens = one.desk.models.token_texts
    choices = [choice_row(index, each, one.asked, tokens) for index, each in enumerate(said)]
    head = envelope(one.model, "chat.completion")
    return {**head, "choices": choices, "usage": one.usage(result, said), **one.ending(result, said)}


def _streamed(one: Chat, held: AsyncExitStack) -> Stream:
    channel = Channel(asyncio.get_running_loop())
    job = one.work(_timed(channel.put, one))
    return Stream(
        envelope(one.model, "chat.completion.chunk"),
        Deltas(one.asked, closed_steps(one.asked.prefix)),
        job,
        channel,
        partial(_last_chunks, one),
        held,
        one.desk.settings.send_seconds,
        one.desk.metrics.cancelled.inc,
    )


def _timed(put: Callable[[Event], None], one: Chat) -> Watch:
    """Pass events on, and note when the first step came."""
    waiting = [True]

    def watch(event: Event) -> None:
        if waiting and isinstance(event, StepMade):
            waiting.clear()
            one.desk.metrics.first_step.observe(time.perf_counter() - one.began)
        put(event)

    return watch


def _last_chunks(one: Chat, stream: Stream, result: Result) -> Iterator[Row]:
    """What the reader has not got of each choice, how each ended, what it cost, and usage where it is asked for."""
    said, tokens = one.said(result), one.desk.models.token_texts
    for index, each in enumerate(said):
        for place, delta in stream.deltas.last(index, each):
            yield stream.of(place, delta)
    for index, each in enumerate(said):
        logprobs, more = last_fields(each, one.asked, tokens)
        row = stream.of(index, {"chain": each.row, **more}, each.finish, logprobs)
        yield {**row, **one.ending(result, said)} if index == len(said) - 1 else row
    if one.asked.usage:
        yield {**stream.chunk, "choices": [], "usage": one.usage(result, said)}


def prompt_tokens(models: Models, example: Example, prefix: str) -> int:
    """Tokens of a question that was just answered, pictures included, and of the text it went on from; 0 if unknown."""
    engine = models.live.engine if models.live is not None else None
    if engine is None:
        return 0
    from chainofstep.models.encode import encode_text, prompt_key

    ids = engine.prefixes.prompts.ids.get(prompt_key(example))
    return (0 if ids is None else len(ids)) + (len(encode_text(engine.vlm, prefix)) if prefix else 0)
