"""A job of 300,000 questions that was killed when two thirds were answered: seconds until it asks for something new.

The questions and the log of replies are made first; the clock starts with the command and stops when the stand-in sees
the first request. Then the command is killed again.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.common import Goal, Row, note
from benchmarks.models import Bench
from chainofstep import verbs
from chainofstep.chain import Chain, Step
from chainofstep.llm.stand_in import StandIn
from chainofstep.pipeline.corpus import Build, BuildConfig
from chainofstep.problems.skeleton import write_skeleton
from chainofstep.records import Example, to_row
from chainofstep.verbs.build import EndpointSettings

SECONDS = 10.0
SLOW = 60.0  # seconds that the server waits before a reply
CHAIN = Chain(tuple(Step(f"Step {n}", "What stands there is read. " * 8, "It is so. " * 8) for n in range(6)), "4")


@dataclass(frozen=True)
class Sizes:
    questions: int = 300_000
    answered: int = 200_000
    meta: int = 1500  # characters that a question carries along


def measure(bench: Bench, sizes: Sizes = Sizes()) -> list[Row]:
    """Seconds from the command to its first new request."""
    folder = bench.pictures / "resumed"
    _killed_job(folder, sizes)
    seconds = []
    for repeat in range(bench.repeats):
        seconds.append(_first_request(folder))
        note(f"  {repeat + 1}/{bench.repeats} first new request: {seconds[-1]:.2f} s")
    return [
        Row(
            f"resume: {sizes.questions:,} questions, {sizes.answered:,} answered",
            f"{sorted(seconds)[len(seconds) // 2]:.1f} s to the first new request",
            f"{SECONDS:.0f} s",
            [value / SECONDS for value in seconds],
            Goal(1.0, at_most=True),
            repeats={"seconds": seconds},
        )
    ]


class _Questions(Build):
    """A build whose questions are made up instead of imported."""

    def __init__(self, config: BuildConfig, folder: Path, sizes: Sizes):
        super().__init__(config, folder, lambda line: None)
        self.sizes = sizes

    def _examples(self, folder: Path) -> Sequence[Path]:
        folder.mkdir(parents=True)
        path, meta = folder / "examples.jsonl", {"table": "x" * self.sizes.meta}
        with path.open("w", encoding="utf-8") as file:
            for number in range(self.sizes.questions):
                question, images = f"What stands in row {number}?", ("images/tabmwp/a.png",)
                example = Example(f"tabmwp/{number}", question, images, "4", "number", source="tabmwp", meta=meta)
                file.write(json.dumps(to_row(example)) + "\n")
        return [path]


def _killed_job(folder: Path, sizes: Sizes) -> None:
    """The folder that a job leaves: its questions, and replies to the first of them."""
    (folder / "published").mkdir(parents=True)
    out = folder / "data"
    config = verbs.build_config([f"tabmwp={folder / 'published'}"], [], "both", None, None, [], EndpointSettings())
    picture = out / "images" / "tabmwp" / "a.png"
    build = _Questions(config, out, sizes)
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (400, 300), (200, 220, 240)).save(picture)
    build.questions()
    reply = {"text": write_skeleton(CHAIN), "prompt_tokens": 900, "completion_tokens": 700, "finish_reason": "stop"}
    log = out / "teach" / "replies.jsonl"
    log.parent.mkdir()
    with log.open("w", encoding="utf-8") as file:
        for number in range(sizes.answered):
            row = {"id": f"tabmwp/{number}", "replies": [reply | {"model": "stand-in", "structured": False}]}
            file.write(json.dumps(row) + "\n")


def _first_request(folder: Path) -> float:
    """Seconds from the start of the command to the server's first request; then the command is killed.

    The server takes so long that nothing is answered until then, so every repeat finds the same work undone.
    """
    with StandIn(lambda request: "no steps", latency=SLOW, model="scripted") as server:
        words = ["data", "build", str(folder / "data"), "--source", f"tabmwp={folder / 'published'}"]
        program = [sys.executable, "-m", "chainofstep", *words, "--teacher", f"scripted@{server.base_url}"]
        started = time.perf_counter()
        with subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as command:
            assert command.stderr is not None
            while not server.counts.requests:
                time.sleep(0.01)
                assert command.poll() is None, command.stderr.read()
            seconds = time.perf_counter() - started
            command.kill()
    return seconds
