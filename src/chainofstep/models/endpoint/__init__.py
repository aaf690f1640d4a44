"""Models on servers, named as MODEL@URL: a sampler and a step scorer from plain words, in whichever process.

`Qwen/Qwen3-VL-8B@http://gpu1:8000/v1`, or several servers of the same model: `MODEL@URL,URL`. docs/servers.md says how
to start vLLM and SGLang for both.
"""

import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from chainofstep.llm.records import Endpoint
from chainofstep.models.endpoint.pool import Server
from chainofstep.models.endpoint.prm import EndpointPrm, Way
from chainofstep.models.endpoint.sampler import EndpointSampler

KEY_VARIABLE = "COS_ENDPOINT_KEY"
_SPEC = re.compile(r"(?P<model>.+?)@(?P<urls>https?://.+)")
_NEARLY = re.compile(r"https?://.*|.*@(|.*://.*|[^/]*:\d+(/.*)?)")  # an address alone, or a wrong one behind the @
_ADDRESS = re.compile(r"https?://[^/\s:]+(:\d+)?(/\S*)?|https?://\[[^]/\s]+\](:\d+)?(/\S*)?")
_HOW = "write MODEL@URL with http:// or https://, such as Qwen/Qwen3-VL-8B@http://gpu1:8000/v1"


def is_endpoint(model: str) -> bool:
    """Whether a model is named as MODEL@URL, and not by a folder or hub id; ValueError for what is nearly one."""
    if _SPEC.fullmatch(model):
        return True
    if _NEARLY.fullmatch(model) and not Path(model).is_dir():
        raise ValueError(f"{model!r} names no server: {_HOW}")
    return False


def servers_of(spec: str, **settings: Any) -> tuple[str, list[Server]]:
    """The model and the servers that MODEL@URL,URL names; `settings` are further fields of `Endpoint`."""
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise ValueError(f"{spec!r} names no server: {_HOW}")
    urls = [_base_url(url) for url in found["urls"].split(",")]
    wrong = [url for url in urls if not _ADDRESS.fullmatch(url)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} in {spec!r} is no address of a server: {_HOW}")
    if len(set(urls)) < len(urls):
        raise ValueError(f"{spec!r} names a server twice: name each once")
    return found["model"], [Server(Endpoint(url, found["model"], **settings)) for url in urls]


def _base_url(url: str) -> str:
    url = url.strip().rstrip("/")
    return url if url.endswith("/v1") else f"{url}/v1"


def _usual_key() -> str:
    return KEY_VARIABLE if os.environ.get(KEY_VARIABLE) else ""


@lru_cache(maxsize=16)
def endpoint_sampler(
    spec: str,
    tokenizer: str | None = None,
    *,
    dialect: str | None = None,
    logprobs: bool = False,
    concurrency: int = 64,
    timeout_seconds: float = 600.0,
    attempts: int = 6,
    key_variable: str = "",
) -> EndpointSampler:
    """The sampler over the servers of MODEL@URL,URL. The same words give the same object, so servers are checked once.

    `tokenizer` is the model's folder, whose control tokens are then all known; without it the server is asked for those
    that are usual. `dialect` ("vllm", "sglang") is found out unless it is given. `concurrency` requests go to each
    server at once. `key_variable` is the environment variable that holds the servers' key, if they want one; without it
    COS_ENDPOINT_KEY, where that is set.
    """
    limits = {"concurrency": concurrency, "timeout_seconds": timeout_seconds, "attempts": attempts}
    model, servers = servers_of(spec, key_variable=key_variable or _usual_key(), **limits)
    return EndpointSampler(model, servers, tokenizer, dialect, logprobs)


@lru_cache(maxsize=16)
def endpoint_prm(
    spec: str,
    tokenizer: str | None = None,
    *,
    way: Way | None = None,
    dialect: str | None = None,
    concurrency: int = 64,
    timeout_seconds: float = 600.0,
    attempts: int = 6,
    key_variable: str = "",
) -> EndpointPrm:
    """The step scorer over the servers of MODEL@URL,URL; the words are those of `endpoint_sampler`.

    `way` is how the servers are asked (see `EndpointPrm`); it is found out unless it is given.
    """
    limits = {"concurrency": concurrency, "timeout_seconds": timeout_seconds, "attempts": attempts}
    model, servers = servers_of(spec, key_variable=key_variable or _usual_key(), **limits)
    return EndpointPrm(model, servers, way, tokenizer, dialect)


def counts(servers: Sequence[Server]) -> list[dict[str, Any]]:
    """What each server did, as rows: its address, requests, samples, failures, and whether it is up."""
    names = ("url", "up", "requests", "samples", "failures", "moved")
    return [{name: getattr(server, name) for name in names} for server in servers]
