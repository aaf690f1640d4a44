"""A chat's reply as server-sent events, while it is made."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chainofstep.answering import AnswerMade, Event, Progress, StepMade, TextMade
from chainofstep.chain import Step
from chainofstep.serve.asking import Asked
from chainofstep.serve.errors import Refusal, as_json, refusal_of
from chainofstep.serve.guard import Receive, Send, answer
from chainofstep.serve.jobs import CLIENT_GONE, Channel, Gone, Job, left
from chainofstep.serve.replies import Row, Said, step_row, step_text

if TYPE_CHECKING:
    from fastapi.responses import Response

KEEP_ALIVE = 15.0  # seconds without an event after which a comment keeps proxies from closing the connection
HEADERS_WAIT = 2.0  # seconds in which a request that cannot be met still gets a status of its own
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx passes each event on as it comes
]


@dataclass
class Sent:
    """What a choice's reader has."""

    content: str = ""
    steps: list[Step] = field(default_factory=list)
    reasoning: bool = False
    answered: bool = False


class Deltas:
    """From events to the `delta`s of chunks, each new thing once; `last` makes up for all that was not told.

    A chain that may still be cut at a text is told at the end, for what was said cannot be taken back.
    """

    def __init__(self, asked: Asked, begun: int) -> None:
        self.asked, self.begun = asked, begun
        self.choices = 1 if asked.method else asked.config.n
        self.sent = [Sent() for _ in range(self.choices)]
        self.progress = Progress(0, self.choices)
        self.held = max((len(cut) - 1 for cut in asked.cuts), default=0)

    def first(self) -> Iterator[tuple[int, Row]]:
        for index in range(self.choices):
            yield index, {"role": "assistant", "content": ""}

    def of(self, event: Event) -> Iterator[tuple[int, Row]]:
        if isinstance(event, Progress):
            yield from self._progress(event)
        elif isinstance(event, TextMade):
            yield from self._text(event.choice, event.text)
        elif self.asked.cuts:
            return
        elif isinstance(event, StepMade):
            yield from self._step(event.choice, event.number, event.step, event.score)
        else:
            assert isinstance(event, AnswerMade)
            yield from self._answer(event.choice, event.answer, event.score)

    def last(self, index: int, said: Said) -> Iterator[tuple[int, Row]]:
        """All of a finished choice that its reader has not got."""
        sent = self.sent[index]
        for number, (step, row) in enumerate(zip(said.chain.steps, said.steps, strict=True)):
            if number >= self.begun and (number >= len(sent.steps) or sent.steps[number] != step):
                yield from self._step(index, number, step, row["score"])
        if said.chain.answer is not None:
            yield from self._answer(index, said.chain.answer, said.answer_score)
        content = said.content(self.asked.raw)
        if content.startswith(sent.content) and content != sent.content:
            yield index, {"content": content[len(sent.content) :]}
            sent.content = content

    def _progress(self, event: Progress) -> Iterator[tuple[int, Row]]:
        """Of pools, and only where there is some."""
        if event.of > 1 and event != self.progress:
            self.progress = event
            yield 0, {"progress": {"samples": event.samples, "of": event.of}}

    def _text(self, index: int, text: str) -> Iterator[tuple[int, Row]]:
        """The new part of a raw text, up to where it may yet be cut, or begins a character."""
        sent, cuts = self.sent[index], self.asked.cuts
        ends = [place for cut in cuts if (place := text.find(cut)) >= 0]
        safe = text[: min(ends)] if ends else text[: len(text) - self.held].rstrip("\ufffd")
        if self.asked.raw and safe.startswith(sent.content) and len(safe) > len(sent.content):
            yield index, {"content": safe[len(sent.content) :]}
            sent.content = safe

    def _step(self, index: int, number: int, step: Step, score: float | None) -> Iterator[tuple[int, Row]]:
        sent = self.sent[index]
        del sent.steps[number:]
        sent.steps += [step]
        if number < self.begun:
            return
        row: Row = {"step": {"number": number, **step_row(step, score)}}
        if not self.asked.raw:
            row["reasoning_content"] = step_text(step, not sent.reasoning)
            sent.reasoning = True
        yield index, row

    def _answer(self, index: int, answer: str, score: float | None) -> Iterator[tuple[int, Row]]:
        sent = self.sent[index]
        if sent.answered:
            return
        sent.answered = True
        row: Row = {"answer": {"answer": answer, "score": score}}
        if not self.asked.raw:
            row, sent.content = {"content": answer, **row}, answer
        yield index, row


Ended = Callable[["Stream", Any], Iterator[Row]]  # from the call's result to the last chunks


@dataclass
class Stream:
    """One streamed reply."""

    chunk: Row  # what each chunk begins with
    deltas: Deltas
    job: Job[Any]
    channel: Channel
    ended: Ended
    held: AbstractAsyncContextManager[Any]  # pictures, until the end
    seconds: float  # in which the client must take each part
    gone: Callable[[], None]  # the client went
    started: bool = False

    async def serve(self, receive: Receive, send: Send) -> None:
        leaving = asyncio.ensure_future(left(receive))
        try:
            async with self.held:
                with self.job:
                    await self._all(send, leaving)
        except (Gone, TimeoutError):
            self.gone()
            if not self.started:
                await answer(send, CLIENT_GONE)
        except Exception as error:
            await self._failed(send, refusal_of(error))
        finally:
            leaving.cancel()

    async def _all(self, send: Send, leaving: "asyncio.Future[None]") -> None:
        await self._wait(leaving, HEADERS_WAIT)
        if self.job.future.done():
            self.job.result()  # an error that is known by now gets a status of its own
        self.started = True
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await self._rows(send, self._chunks(self.deltas.first()))
        while not self.job.future.done():
            events = self.channel.take()
            await self._rows(send, self._chunks(delta for event in events for delta in self.deltas.of(event)))
            if not events:
                await self._put(send, b": it goes on\n\n")
            await self._wait(leaving, KEEP_ALIVE)
        result = self.job.result()
        for event in self.channel.take():
            await self._rows(send, self._chunks(self.deltas.of(event)))
        await self._rows(send, self.ended(self, result))
        await self._put(send, b"data: [DONE]\n\n", more=False)

    async def _wait(self, leaving: "asyncio.Future[None]", seconds: float) -> None:
        """Until there is something to send, or for so long; `Gone` if the client goes."""
        ready = asyncio.ensure_future(self.channel.ready.wait())
        try:
            await asyncio.wait({self.job.future, leaving, ready}, timeout=seconds, return_when="FIRST_COMPLETED")
        finally:
            ready.cancel()
        if leaving.done() and not self.job.future.done():
            raise Gone

    def _chunks(self, deltas: Any) -> Iterator[Row]:
        for index, delta in deltas:
            yield self.of(index, delta)

    def of(self, index: int, delta: Row, finish: str | None = None, logprobs: Row | None = None) -> Row:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**self.chunk, "choices": [choice]}

    async def _rows(self, send: Send, rows: Iterator[Row]) -> None:
        for row in rows:
            await self._put(send, b"data: " + as_json(row) + b"\n\n")

    async def _put(self, send: Send, content: bytes, more: bool = True) -> None:
        """`TimeoutError` for a client that does not take what it is sent."""
        async with asyncio.timeout(self.seconds):
            await send({"type": "http.response.body", "body": content, "more_body": more})

    async def _failed(self, send: Send, refusal: Refusal) -> None:
        """As a reply of its own, or as the last event where the reply has begun."""
        if not self.started:
            return await answer(send, refusal)
        await self._put(send, b"data: " + refusal.body + b"\n\n", more=False)


def response(stream: Stream) -> "Response":
    """What a route returns."""
    from fastapi.responses import Response

    class Events(Response):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await stream.serve(receive, send)

    return Events(media_type="text/event-stream")
