"""`cos serve` on two cores, clients included: what HTTP and many clients cost the engine, the first step, scores."""

import asyncio
import base64
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import httpx2 as httpx

from benchmarks.common import Goal, Row, cost_row, note, seconds_of, take_in_turn
from benchmarks.models import Bench, trained_policy
from chainofstep.models.engine import Engine
from chainofstep.models.prm import PRM
from chainofstep.records import Example, Request

MAX_TOKENS = 256


@dataclass(frozen=True)
class Sizes:
    clients: int = 64
    questions: int = 512
    first_steps: int = 24
    chains: int = 512
    chains_each: int = 16  # of a request to score


def measure(bench: Bench, sizes: Sizes = Sizes()) -> list[Row]:
    examples = bench.examples(sizes.questions)
    policy, prm = str(bench.policy_folder or trained_policy()), str(bench.prm_folder)
    with _server(policy, prm) as address:
        rows = _rate(bench, sizes, examples, address)
        rows.append(_first_step(bench, examples[: sizes.first_steps], address))
        rows.append(_scores(bench, sizes, examples, address))
    return rows


def _rate(bench: Bench, sizes: Sizes, examples: Sequence[Example], address: str) -> list[Row]:
    """Seconds a sampled token: the engine with all questions, with as many at once as there are clients, and clients.

    Each client waits for its reply before it asks again, so no more than one question a client is ever in flight.
    """
    engine, prm = Engine(bench.policy), PRM(bench.prm)

    def sampled(repeat: int, at_once: int, scored: bool) -> int:
        requests = [Request(e, 1, seed=_seed(repeat, i), max_tokens=MAX_TOKENS) for i, e in enumerate(examples)]
        total = 0
        for begin in range(0, len(requests), at_once):
            some = requests[begin : begin + at_once]
            rollouts = [rollout for [rollout] in engine.sample(some)]
            total += sum(len(rollout.token_ids) for rollout in rollouts)
            chains = [(r.example, o.chain) for r, o in zip(some, rollouts, strict=True) if o.chain is not None]
            if scored:
                prm.score(chains)
        return total

    def served(repeat: int, scored: bool) -> int:
        settings = {"temperature": 1.0, "scores": scored}
        bodies = [_chat(example) | settings | {"seed": _seed(repeat, i)} for i, example in enumerate(examples)]
        replies = asyncio.run(_all(address, "/v1/chat/completions", bodies, sizes.clients))
        return sum(reply["usage"]["completion_tokens"] for reply in replies)

    contenders: dict[str, Callable[[int], int]] = {
        "engine, all at once": lambda repeat: sampled(repeat, len(examples), False),
        f"engine, {sizes.clients} at a time": lambda repeat: sampled(repeat, sizes.clients, False),
        f"{sizes.clients} clients": lambda repeat: served(repeat, False),
        f"engine and PRM, {sizes.clients} at a time": lambda repeat: sampled(repeat, sizes.clients, True),
        f"{sizes.clients} clients, scored": lambda repeat: served(repeat, True),
    }
    runs = take_in_turn(contenders, bench.repeats)
    whole, engine64, clients, both64, scored = [[run.seconds / run.value for run in timed] for timed in runs.values()]
    each, goal = f"{sizes.clients} clients, {sizes.questions} questions", Goal(0.7)

    def rate(seconds: float) -> str:
        return f"{1 / seconds:,.0f} tokens/s"

    here = "the clients run on the same cores"
    return [
        cost_row(f"{each}, against the engine with as many at a time", clients, engine64, goal, rate, here),
        cost_row(f"{each}, against the engine with all questions at once", clients, whole, goal, rate, here),
        cost_row(f"{each}, scored, against engine and PRM with as many at a time", scored, both64, goal, rate, here),
    ]


def _first_step(bench: Bench, examples: Sequence[Example], address: str) -> Row:
    """Seconds until the first step of a greedy answer has come, with its score, at one client."""
    seconds = []
    for number, example in enumerate(examples):
        body = _chat(example) | {"stream": True}
        started = time.perf_counter()
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=60) as reply:
            for line in reply.iter_lines():
                if '"step"' in line:
                    seconds.append(time.perf_counter() - started)
                    break
        note(f"  {number + 1}/{len(examples)} first step: {seconds[-1] if seconds else float('nan'):.3f} s")
    return Row(
        "the first step is there, one client",
        f"{sorted(seconds)[len(seconds) // 2]:.3f} s",
        f"slowest {max(seconds):.3f} s",
        seconds,
        Goal(0.3, at_most=True, unit=" s"),
        "a new picture each time",
    )


def _scores(bench: Bench, sizes: Sizes, examples: Sequence[Example], address: str) -> Row:
    """Chains scored a second, gold chains of the questions."""
    bodies = []
    for example in examples[: sizes.chains // sizes.chains_each]:
        assert example.chain is not None
        whole = asdict(example.chain)
        chains = [whole | {"answer": str(i)} for i in range(sizes.chains_each)]
        bodies.append({"question": example.question, "images": [_url(example)], "chains": chains})

    def served(repeat: int) -> int:
        replies = asyncio.run(_all(address, "/v1/score", bodies, 4))
        return sum(len(reply["data"]) for reply in replies)

    runs = take_in_turn({"scores": served}, bench.repeats)["scores"]
    rates = [run.value / seconds for run, seconds in zip(runs, seconds_of(runs), strict=True)]
    return Row(
        f"/v1/score, {sizes.chains_each} chains a request, 4 clients",
        f"{sorted(rates)[len(rates) // 2]:,.0f} chains/s",
        "",
        rates,
        Goal(200, unit=" chains/s"),
        "a question's chains differ in their answers alone",
    )


def _seed(repeat: int, number: int) -> int:
    return 100_000 * repeat + number


def _url(example: Example) -> str:
    with open(example.images[0], "rb") as file:
        return "data:image/png;base64," + base64.b64encode(file.read()).decode("ascii")


def _chat(example: Example) -> dict[str, Any]:
    picture = {"type": "image_url", "image_url": {"url": _url(example)}}
    content = [picture, {"type": "text", "text": example.question}]
    return {"model": "bench", "messages": [{"role": "user", "content": content}], "max_tokens": MAX_TOKENS}


async def _all(address: str, route: str, bodies: Sequence[dict[str, Any]], clients: int) -> list[dict[str, Any]]:
    """The replies; so many clients take the next body as soon as they have their reply. Any failure ends it."""
    replies: list[dict[str, Any]] = []
    waiting = iter(bodies)

    async def client() -> None:
        async with httpx.AsyncClient(base_url=address, timeout=600) as http:
            for body in waiting:
                reply = await http.post(route, json=body)
                reply.raise_for_status()
                replies.append(reply.json())

    await asyncio.gather(*(client() for _ in range(clients)))
    assert len(replies) == len(bodies)
    return replies


@contextmanager
def _server(policy: str, prm: str) -> Iterator[str]:
    """`cos serve` as a program of its own; its address."""
    command = [sys.executable, "-m", "chainofstep", "serve", policy, "--prm", prm, "--name", "bench", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}) as it:
        try:
            assert it.stdout is not None
            for line in it.stdout:
                if found := re.search(r"bench at (http://\S+)/v1", line):
                    break
            else:
                raise RuntimeError("the server ended before it said where it is")
            address = found.group(1)
            _wait(address)
            yield address
        finally:
            it.send_signal(signal.SIGTERM)


def _wait(address: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(f"{address}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"{address} does not answer")
