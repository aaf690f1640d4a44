"""A prompt as it is sent: the body of the HTTP request, and the key under which its reply is kept.

The same text, pictures and settings have the same key, wherever the server stands and however fast it is asked.
"""

import base64
import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from chainofstep.llm.records import Endpoint, Prompt

#: How files of the kinds that servers read begin; a file's name is often wrong.
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
    b"II*\x00": "image/tiff",
    b"MM\x00*": "image/tiff",
}


class UnreadablePicture(ValueError):
    """A picture file that is missing, or holds no picture; the message names it."""


def request_key(endpoint: Endpoint, prompt: Prompt, structured: bool) -> bytes:
    """SHA-256 of all that decides the reply: model, texts, pictures' bytes, schema, sampling and which sample it is."""
    asked = {
        "model": endpoint.model,
        "system": prompt.system,
        "text": _text(prompt, structured),
        "images": [picture_hash(path) for path in prompt.images],
        "schema": prompt.schema if structured else None,
        "temperature": float(endpoint.temperature),
        "top_p": float(endpoint.top_p),
        "max_tokens": endpoint.max_tokens,
        "seed": endpoint.seed,
        "sample": prompt.sample,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode("ascii")).digest()


def request_body(endpoint: Endpoint, prompt: Prompt, structured: bool) -> bytes:
    """The JSON that is posted. All sampling settings are written out: what a server takes by default differs."""
    body: dict[str, Any] = {
        "model": endpoint.model,
        "messages": _messages(prompt, structured),
        "temperature": endpoint.temperature,
        "top_p": endpoint.top_p,
        endpoint.max_tokens_field: endpoint.max_tokens,
    }
    if endpoint.seed is not None:
        body["seed"] = endpoint.seed + prompt.sample
    if structured and prompt.schema is not None:
        wanted = {"name": "reply", "schema": prompt.schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": wanted}
    return json.dumps(body).encode("ascii")


def _text(prompt: Prompt, structured: bool) -> str:
    if prompt.schema is None or structured:
        return prompt.text
    return prompt.text_without_schema or prompt.text


def _messages(prompt: Prompt, structured: bool) -> list[dict[str, Any]]:
    text = _text(prompt, structured)
    content: Any = text
    if prompt.images:
        pictures = [{"type": "image_url", "image_url": {"url": data_url(path)}} for path in prompt.images]
        content = [*pictures, {"type": "text", "text": text}]
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return [*system, {"role": "user", "content": content}]


def data_url(path: str) -> str:
    """The picture file as a data URL; `UnreadablePicture` if it holds none."""
    content = _read(path)
    return f"data:{_mime_type(path, content)};base64,{base64.b64encode(content).decode('ascii')}"


def picture_hash(path: str) -> str:
    """SHA-256 of the picture file; `UnreadablePicture` if it holds none."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise UnreadablePicture(f"unreadable picture: {path}: {error.strerror}") from error
    return _hash_of_file(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=100_000)
def _hash_of_file(path: str, changed: int, size: int) -> str:
    """Pictures come back in several samples and stages; `changed` and `size` tell a file that was replaced."""
    content = _read(path)
    _mime_type(path, content)
    return hashlib.sha256(content).hexdigest()


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UnreadablePicture(f"unreadable picture: {path}: {error.strerror}") from error


def _mime_type(path: str, content: bytes) -> str:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    for signature, mime_type in _SIGNATURES.items():
        if content.startswith(signature):
            return mime_type
    raise UnreadablePicture(f"unreadable picture: {path}: neither PNG, JPEG, GIF, WebP, BMP nor TIFF")
