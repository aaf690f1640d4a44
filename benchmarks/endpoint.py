"""The client of endpoints at work: how little of a core it takes while a model elsewhere writes.

The server is the stand-in in a process of its own, on the same machine, and answers after the seconds that a model may
take to write a long reply. All requests differ, and each of those with a picture has another picture.
"""

import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import Goal, Row, Timed, seconds_of, take_in_turn
from benchmarks.models import Bench
from chainofstep.llm import Endpoint, Prompt, Spending, ask


@dataclass(frozen=True)
class Sizes:
    in_flight: int = 64
    rounds: int = 4  # replies that each slot waits for
    latency: float = 2.0
    text: int = 2000  # characters of a prompt
    reply: int = 4000  # characters
    picture: int = 50_000  # bytes


@dataclass(frozen=True)
class Load:
    """What answering took of this process."""

    spending: Spending
    core_seconds: float


def measure(bench: Bench, sizes: Sizes = Sizes()) -> list[Row]:
    """Two rows: percent of a core with text alone, and with a picture in each request."""
    with _server(bench.pictures, sizes) as base_url:
        endpoint = Endpoint(base_url, "stand-in", concurrency=sizes.in_flight)
        _load(endpoint, _prompts(bench.pictures, sizes, -1, False)[:1], bench.pictures)  # imports the SDK
        contenders = {
            name: lambda repeat, pictures=pictures: _load(
                endpoint, _prompts(bench.pictures, sizes, repeat, pictures), bench.pictures
            )
            for name, pictures in (("text", False), ("pictures", True))
        }
        runs = take_in_turn(contenders, bench.repeats)
        most = _most_in_flight(base_url)
    return [_row(name, runs[name], most, sizes) for name in contenders]


@contextmanager
def _server(folder: Path, sizes: Sizes) -> Iterator[str]:
    """The stand-in's address."""
    reply = folder / "reply.txt"
    reply.write_text("Step by step. " * (sizes.reply // 14), "utf-8")
    command = [sys.executable, "-m", "chainofstep.llm.stand_in", "--latency", str(sizes.latency)]
    with subprocess.Popen([*command, "--reply-file", str(reply)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


def _prompts(folder: Path, sizes: Sizes, repeat: int, pictures: bool) -> list[Prompt]:
    """As many different ones as fill every slot in every round."""
    prompts = []
    for number in range(sizes.in_flight * sizes.rounds):
        name = f"{repeat}-{number}"
        picture = folder / f"{name}.png"
        if pictures:
            picture.write_bytes(b"\x89PNG\r\n\x1a\n" + os.urandom(sizes.picture))
        text = f"Picture {name}. " * (sizes.text // 16)
        prompts.append(Prompt(name, text, images=(str(picture),) if pictures else ()))
    return prompts


def _load(endpoint: Endpoint, prompts: Sequence[Prompt], folder: Path) -> Load:
    before = time.process_time()
    spending = ask(endpoint, prompts, lambda prompt, outcome: None, folder / "replies.sqlite")
    return Load(spending, time.process_time() - before)


def _most_in_flight(base_url: str) -> int:
    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/counts") as answer:
        return int(json.load(answer)["most_in_flight"])


def _row(name: str, runs: Sequence[Timed[Load]], most: int, sizes: Sizes) -> Row:
    loads = [run.value for run in runs]
    shares = [100 * load.core_seconds / load.spending.seconds for load in loads]
    a_second = statistics.median(load.spending.requests / load.spending.seconds for load in loads)
    what = f"{a_second:.1f} requests/s, at most {most} in flight"
    remark = f"a reply takes {sizes.latency:g} s, so {sizes.in_flight / sizes.latency:g} requests/s is the ceiling"
    return Row(
        f"CPU of the endpoint's client, {name}",
        what,
        "one core",
        shares,
        Goal(20, at_most=True, unit="%"),
        remark,
        {"seconds": seconds_of(runs), "core seconds": [load.core_seconds for load in loads]},
    )
