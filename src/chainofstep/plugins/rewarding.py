"""What the plug-ins share: which scorer is meant, examples from columns, and texts whose step tokens are gone."""

import hashlib
import logging
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, cast, get_args

from chainofstep.answers import guess_kind
from chainofstep.chain import Chain
from chainofstep.records import AnswerKind, Example, Scored, StepScorer
from chainofstep.scoring.pairs import OutcomeScorer
from chainofstep.scoring.rewards import has_no_step_token

log = logging.getLogger(__name__)


class OneAtATime:
    """A scorer that several threads may call: trainers score rollouts side by side, a model in memory does not."""

    def __init__(self, scorer: StepScorer):
        self.scorer, self.lock = scorer, Lock()

    def score(self, items: Sequence[tuple[Example, Chain]]) -> list[Scored]:
        with self.lock:
            return self.scorer.score(items)


@lru_cache(maxsize=4)
def scorer_of(prm: str) -> StepScorer:
    """The PRM in a folder or, as MODEL@URL, on servers; "" rewards right answers alone. Loaded once in a process."""
    if not prm:
        return OutcomeScorer()
    from chainofstep.models.endpoint import endpoint_prm, is_endpoint

    if is_endpoint(prm):
        return endpoint_prm(prm)
    from chainofstep.models.prm import PRM
    from chainofstep.models.vlm import load_vlm

    return OneAtATime(PRM(load_vlm(prm)))


def example_of(
    columns: Mapping[str, Any], question: str, images: Sequence[Any], answer: str, pictures: str = ""
) -> Example:
    """The example that a row's columns tell of: `id`, `answer_kind` and `choices`, where they are there.

    Relative picture paths count from the folder `pictures`. ValueError for a picture without a path or content.
    """
    choices = tuple(map(str, _list(columns.get("choices"))))
    kind = columns.get("answer_kind") or guess_kind(answer, choices)
    if kind not in get_args(AnswerKind):
        raise ValueError(f"answer_kind is {kind!r}: give {', '.join(get_args(AnswerKind))}, or leave the column out")
    paths = tuple(picture_path(image, pictures) for image in images)
    name = columns.get("id")
    example_id = (
        hashlib.sha256(repr((question, paths, answer)).encode()).hexdigest()[:16] if name is None else str(name)
    )
    return Example(example_id, question, paths, answer, cast(AnswerKind, kind), choices)


def _list(values: Any) -> list[Any]:
    """A column's list; trainers hand on None, tuples and arrays for one."""
    return [] if values is None else list(values)


def picture_path(image: Any, pictures: str = "") -> str:
    """A picture's path: a path, an object with a path or bytes (parquet's), or an opened picture."""
    if isinstance(image, Mapping):
        found = image.get("path") or image.get("image")
        image = found if found is not None else image.get("bytes")
    if isinstance(image, str | Path):
        path = str(image).removeprefix("file://")
        return str(Path(pictures) / path) if pictures else path
    if hasattr(image, "save"):
        kept = BytesIO()
        image.save(kept, "PNG")
        image = kept.getvalue()
    if not isinstance(image, bytes):
        raise ValueError(f"picture {type(image).__name__}: give paths, bytes or opened pictures in the row's images")
    return _written(image)


@lru_cache(maxsize=4096)
def _written(content: bytes) -> str:
    """A file with this content, for this process; a scorer reads pictures from files."""
    path = Path(_folder().name) / f"{hashlib.sha256(content).hexdigest()[:40]}.png"
    path.write_bytes(content)
    return str(path)


@cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="chainofstep-pictures-")


@cache
def _report(remedy: str) -> None:
    log.error("a reply has none of the step tokens, as if they were left out of its text: %s", remedy)


def is_stripped(text: str, remedy: str) -> bool:
    """Whether a reply lacks every step token; says how to keep them, once in a process."""
    stripped = has_no_step_token(text)
    if stripped:
        _report(remedy)
    return stripped
