"""`cos serve` as a program of its own under load: many clients, rude ones among them, too many, and its end."""

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from chainofstep.answering import open_models
from chainofstep.chain import render
from chainofstep.records import Example
from chainofstep.serve.settings import ServeSettings
from serving import Serving, ask, data_url, png, until
from small_training import chain
from taught import write_taught

CHAT, SCORE = "/v1/chat/completions", "/v1/score"
CLIENTS = 64
GROWTH = 48_000_000  # bytes by which the program may grow after the warm-up
TOKENS = 120  # of a chain at most: those that were taught have fewer


@dataclass(frozen=True)
class Program:
    """`cos serve` in a process of its own."""

    process: "subprocess.Popen[str]"
    url: str

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/health", timeout=20).json()
        return found

    def gauge(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics", timeout=20).text
        found = re.search(rf"^chainofstep_{name} (\S+)$", text, re.MULTILINE)
        assert found, text
        return float(found[1])

    @property
    def memory(self) -> int:
        """Bytes that are resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        assert found
        return 1024 * int(found[1])

    @property
    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def rests(self) -> bool:
        """Whether nothing is in flight or waiting."""
        gauges = ("requests_in_progress", "samples_waiting", "samples_running")
        return self.health()["in_progress"] == 0 and all(self.gauge(name) == 0 for name in gauges)


@contextmanager
def program(folder: Path, *options: str) -> Iterator[Program]:
    """The taught models behind the real command; killed at the end if it still runs."""
    models = [str(folder / "policy"), "--prm", str(folder / "prm")]
    command = [sys.executable, "-m", "chainofstep", "serve", *models, "--port", "0", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, **pipes, env=environment) as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout)
            found = next(filter(None, (re.search(r"(http://[\d.:]+)/v1", line) for line in lines)), None)
            assert found, f"the program ended with {process.wait()}"
            yield Program(process, found[1])
        finally:
            process.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("taught")


@pytest.fixture(scope="module")
def example(folder: Path) -> Example:
    return write_taught(folder)


@pytest.fixture(scope="module")
def served(folder: Path, example: Example) -> Iterator[Program]:
    with program(folder) as found:
        yield found


# What is asked, and what came


def said(example: Example, picture: bytes | None = None) -> list[dict[str, Any]]:
    return ask(example.question, data_url(picture or Path(example.images[0]).read_bytes()))


def chats(example: Example) -> list[dict[str, Any]]:
    """Requests of all kinds whose replies are known by their seeds."""
    kinds: list[dict[str, Any]] = [
        {"search": {"method": "greedy"}},
        {"n": 3, "temperature": 0.4},
        {"n": 2, "temperature": 0.4, "skip_special_tokens": False},
        {"search": {"method": "step_beam", "n": 4}, "temperature": 0.4},
        {"search": {"method": "best_of_n", "n": 4}, "temperature": 0.4},
    ]
    common = {"model": "policy", "messages": said(example), "max_tokens": TOKENS}
    return [{**common, **kind, "seed": seed} for seed in (1, 2) for kind in kinds]


def told(reply: dict[str, Any]) -> list[Any]:
    """What a reply says of each choice; scores to three places, for they depend a little on what is scored together."""
    return [
        (
            choice["message"]["content"],
            choice["finish_reason"],
            [(step["thought"], round(step["score"], 3)) for step in choice["message"]["chain"]["steps"]],
            choice["message"]["chain"]["answer"],
        )
        for choice in reply["choices"]
    ]


def told_in_stream(lines: list[str]) -> list[Any]:
    """The same of a stream, which must be whole."""
    assert lines[-1] == "data: [DONE]", lines[-1]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert not any("error" in chunk for chunk in chunks), chunks[-1]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    found = []
    for index in range(1 + max(choice["index"] for choice in choices)):
        mine = [choice for choice in choices if choice["index"] == index]
        content = "".join(choice["delta"].get("content", "") for choice in mine)
        [last] = [choice for choice in mine if choice["finish_reason"]]
        message = {"content": content, "chain": last["delta"]["chain"]}
        found.append({"message": message, "finish_reason": last["finish_reason"]})
    return told({"choices": found})


# Many clients, rude ones among them


@dataclass
class Crowd:
    """Clients that ask at random until the time is over; what was wrong is in `wrong`."""

    url: str
    example: Example
    bodies: list[dict[str, Any]]
    alone: list[list[Any]]
    counted: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def ask_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.url, timeout=60, limits=limits) as client:
            await asyncio.gather(*(self._one(client, random.Random(number), end) for number in range(CLIENTS)))

    async def _one(self, client: httpx.AsyncClient, chance: random.Random, end: float) -> None:
        while time.monotonic() < end:
            kind = chance.choice([self._whole, self._streamed, self._rude, self._rude_stream, self._new, self._score])
            try:
                await kind(client, chance)
            except Exception as error:  # one client's trouble is not to end the others
                self.wrong.append(f"{kind.__name__}: {error!r}")
            self.counted[kind.__name__] += 1

    async def _whole(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        number = chance.randrange(len(self.bodies))
        reply = await client.post(CHAT, json=self.bodies[number])
        assert reply.status_code == 200, reply.text
        assert told(reply.json()) == self.alone[number]
        used = reply.json()["usage"]
        assert used["prompt_tokens"] + used["completion_tokens"] == used["total_tokens"] > used["prompt_tokens"] > 36

    async def _streamed(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        number = chance.randrange(len(self.bodies))
        async with stream(client, self.bodies[number]) as lines:
            assert told_in_stream([line async for line in lines]) == self.alone[number]

    async def _rude(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        """Goes before its reply is there."""
        with pytest.raises((TimeoutError, httpx.TimeoutException)):
            async with asyncio.timeout(chance.uniform(0, 0.05)):
                await client.post(CHAT, json=chance.choice(self.bodies) | {"n": 16, "search": None, "seed": None})
                await asyncio.sleep(1)

    async def _rude_stream(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        """Goes after some lines, most of them in the middle of a step."""
        left = chance.randrange(1, 40)
        body = chance.choice(self.bodies) | {"n": 2, "search": None, "skip_special_tokens": False, "temperature": 0.5}
        async with stream(client, body) as lines:
            async for _ in lines:
                left -= 1
                if not left:
                    return

    async def _new(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        """A picture that nobody has sent before."""
        colour = f"#{chance.randrange(2**24):06x}"
        body = {"model": "policy:greedy", "messages": said(self.example, png((96, 96), colour)), "max_tokens": TOKENS}
        reply = await client.post(CHAT, json=body)
        assert reply.status_code == 200 and len(reply.json()["choices"]) == 1, reply.text

    async def _score(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        chains = [render(chain(*range(chance.randrange(1, 4)))) for _ in range(3)]
        reply = await client.post(SCORE, json={"messages": said(self.example), "chains": chains})
        assert reply.status_code == 200, reply.text
        rows = reply.json()["data"]
        assert [len(row["steps"]) for row in rows] == [text.count("<|reasoning_step_end|>") for text in chains]


@asynccontextmanager
async def stream(client: httpx.AsyncClient, body: dict[str, Any]) -> "AsyncIterator[AsyncIterator[str]]":
    """The lines with data of a streamed reply, closed when the block is left."""
    async with client.stream("POST", CHAT, json=body | {"stream": True}) as reply:
        assert reply.status_code == 200, await reply.aread()
        yield (line async for line in reply.aiter_lines() if line.startswith("data:"))


@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_many_clients_and_rude_ones_get_whole_replies_and_leave_nothing(
    served: Program, example: Example, seconds: float
) -> None:
    bodies = chats(example)
    replies = [httpx.post(f"{served.url}{CHAT}", json=body, timeout=60) for body in bodies]
    alone = [told(reply.json()) for reply in replies]
    assert all(any(choice[3] == "5" for choice in choices) for choices in alone), "whole chains"
    crowd = Crowd(served.url, example, bodies, alone)
    asyncio.run(crowd.ask_for(seconds / 2))
    warm, files = served.memory, served.files
    asyncio.run(crowd.ask_for(seconds / 2))
    assert not crowd.wrong, (len(crowd.wrong), crowd.wrong[:3])
    assert len(crowd.counted) == 6, crowd.counted
    assert until(served.rests), served.health()
    assert until(lambda: served.files <= files)
    assert served.gauge("cancelled_total") > 0
    assert served.memory - warm < GROWTH
    again = httpx.post(f"{served.url}{CHAT}", json=bodies[1], timeout=60)
    assert told(again.json()) == alone[1]


# A client that is killed

CLIENT = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
connection.request("POST", sys.argv[2], sys.stdin.read(), {"content-type": "application/json"})
reply = connection.getresponse()
print(reply.readline().decode(), flush=True)
while reply.readline():
    pass
"""


def test_a_client_that_is_killed_leaves_nothing(served: Program, example: Example) -> None:
    before = served.gauge("cancelled_total")
    body = chats(example)[1] | {"n": 64, "temperature": 2.0, "max_tokens": 400, "stream": True}
    command = [sys.executable, "-c", CLIENT, served.url.rpartition(":")[2], CHAT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin and client.stdout
        client.stdin.write(json.dumps(body))
        client.stdin.close()
        assert client.stdout.readline().startswith("data:")
        client.kill()
    assert until(served.rests) and served.gauge("cancelled_total") == before + 1


# Too many, and one who asks for much: a server in this process, so that it begins at once


async def all_of(url: str, bodies: list[dict[str, Any]]) -> list[httpx.Response]:
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=None)) as client:
        return list(await asyncio.gather(*(client.post(CHAT, json=body) for body in bodies)))


def test_a_queue_that_is_full_sheds_and_serves_on(folder: Path, example: Example) -> None:
    body = chats(example)[1]
    models = open_models(str(folder / "policy"), str(folder / "prm"))
    with models, Serving(models, ServeSettings(queue=8)) as server:
        replies = asyncio.run(all_of(server.url, [body | {"seed": seed} for seed in range(64)]))
        statuses = Counter(reply.status_code for reply in replies)
        assert set(statuses) == {200, 429} and statuses[200] >= 8, statuses
        shed = [reply for reply in replies if reply.status_code == 429]
        assert {int(reply.headers["retry-after"]) for reply in shed} == {2}
        assert {reply.json()["error"]["code"] for reply in shed} == {"queue_full"}
        for seed, reply in enumerate(replies):
            if reply.status_code == 200:
                again = server.client.post(CHAT, json=body | {"seed": seed})
                assert told(again.json()) == told(reply.json())
        assert until(lambda: server.server.queue.in_progress == models.waiting == models.running == 0)


MANY, AT_ONCE = 20, 3


async def beside_one_who_asks_for_much(url: str, much: dict[str, Any], little: dict[str, Any]) -> list[int]:
    """How many of the large requests ended while each small one was answered."""
    ended, waits = 0, []
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        seeds = iter(range(MANY))

        async def greedy_client() -> None:
            nonlocal ended
            for seed in seeds:
                reply = await client.post(CHAT, json=much | {"seed": seed})
                assert len(reply.json()["choices"]) == much["n"]
                ended += 1

        running = asyncio.gather(*(greedy_client() for _ in range(AT_ONCE)))
        while ended < MANY - AT_ONCE:
            before = ended
            reply = await client.post(CHAT, json=little)
            assert reply.status_code == 200
            waits.append(ended - before)
        await running
    return waits


def test_one_who_asks_for_much_starves_nobody(folder: Path, example: Example) -> None:
    """Rows come in by the order of requests: a small one waits for the large ones before it, and for no later ones.

    With this budget one large request alone is more than what is held at once.
    """
    much = {"model": "policy", "messages": said(example), "n": 64, "temperature": 0.4, "max_tokens": 12}
    little = {"model": "policy:greedy", "messages": said(example), "max_tokens": TOKENS}
    models = open_models(str(folder / "policy"), token_budget=500)
    with models, Serving(models) as server:
        waits = asyncio.run(beside_one_who_asks_for_much(server.url, much, little))
    assert len(waits) >= 3 and max(waits) <= AT_ONCE + 1, waits


# The end: the last test of this file


def test_a_stopping_program_ends_its_streams_and_takes_no_more(served: Program, example: Example) -> None:
    body = chats(example)[2] | {"n": 16, "max_tokens": 300, "temperature": 1.0}

    async def streams() -> list[list[str]]:
        begun = [asyncio.Event() for _ in range(8)]

        async def one(client: httpx.AsyncClient, number: int) -> list[str]:
            lines = []
            async with stream(client, body | {"seed": number}) as told_so_far:
                async for line in told_so_far:
                    lines.append(line)
                    begun[number].set()
            return lines

        async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
            running = asyncio.gather(*(one(client, number) for number in range(8)))
            await asyncio.gather(*(event.wait() for event in begun))
            served.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(until, lambda: not reachable(served.url)), "it still takes connections"
            assert not running.done()
            return await running

    for lines in asyncio.run(streams()):
        assert len(told_in_stream(lines)) == 16
    assert served.process.wait(20) == 0
    assert served.process.stdout and served.process.stdout.read() == "stopped\n"


def reachable(url: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=5).close()
    except OSError:
        return False
    return True
