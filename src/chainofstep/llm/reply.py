"""What an endpoint sent back: a reply, or trouble and what is to be done about it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from chainofstep.llm.estimate import estimated_tokens
from chainofstep.llm.records import Reply

#: again: another attempt may succeed. refused: this prompt will never be answered. schema: the server takes no schema.
#: missing: no such model or address. down: no prompt will be answered.
Kind = Literal["again", "refused", "schema", "missing", "down"]

_SCHEMA_WORDS = ("response_format", "json_schema", "structured output", "guided")
_REFUSAL_WORDS = ("moderation", "flagged", "content_filter", "content policy")


@dataclass(frozen=True)
class Trouble:
    """Why a request has no reply."""

    kind: Kind
    reason: str  # one line; before the first colon what kind of trouble it is
    wait: float = 0.0  # seconds that the server asks to wait at least
    busy: bool = False  # it is not about this request: every other one is to wait as well


@dataclass(frozen=True)
class Usage:
    """Tokens as the server counted them; 0 where it did not."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


def read_reply(content: bytes, structured: bool, max_tokens: int) -> tuple[Reply | Trouble, Usage]:
    """The reply in the body of a 200, and what it cost, which is paid for a useless reply too."""
    try:
        body = json.loads(content)
    except ValueError:
        return Trouble("again", f"not JSON: {shortened(content.decode('utf-8', 'replace'))!r}"), Usage()
    if not isinstance(body, dict):
        return Trouble("again", f"no chat completion: {shortened(json.dumps(body))!r}"), Usage()
    usage = _usage(body)
    if body.get("error"):
        return Trouble("again", f"error with HTTP 200: {_error_text(body, content)}"), usage
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return Trouble("again", f"no choices: {shortened(json.dumps(body))!r}"), usage
    return _read_choice(choices[0], body, usage, structured, max_tokens), usage


def _read_choice(
    choice: Mapping[str, Any], body: Mapping[str, Any], usage: Usage, structured: bool, max_tokens: int
) -> Reply | Trouble:
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    text, finish_reason = _text(message.get("content")), str(choice.get("finish_reason") or "")
    if message.get("refusal") or finish_reason == "content_filter":
        return Trouble("refused", f"content refusal: {shortened(str(message.get('refusal') or finish_reason))}")
    if not text.strip():
        if finish_reason == "length":  # all went to hidden thoughts; they would again, at the same price
            return Trouble("refused", f"empty content: nothing was said within max_tokens={max_tokens}, raise it")
        return Trouble("again", f"empty content: finish_reason {finish_reason!r}")
    return Reply(
        text,
        usage.prompt_tokens,
        usage.completion_tokens or estimated_tokens(text),
        finish_reason,
        _text(body.get("model")),
        structured,
    )


def _text(content: Any) -> str:
    """A content's text, from a string or a list of parts. Half of a surrogate pair, which no file can hold, is `?`."""
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content.encode("utf-8", "replace").decode("utf-8") if isinstance(content, str) else ""


def _usage(body: Mapping[str, Any]) -> Usage:
    usage = body.get("usage")
    counts = [usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")]
    return Usage(*(count if isinstance(count, int) and count > 0 else 0 for count in counts))


def read_refusal(status: int, headers: Mapping[str, str], content: bytes, structured: bool) -> Trouble:
    """What an answer with a status other than 2xx means. `structured`: the request had a schema."""
    text = _error_text(_object(content), content)
    reason, words = f"HTTP {status}: {text}", text.lower()
    if status in (400, 422) and structured and any(word in words for word in _SCHEMA_WORDS):
        return Trouble("schema", reason)
    if status in (400, 403) and any(word in words for word in _REFUSAL_WORDS):
        return Trouble("refused", f"content refusal: {text}")
    if status in (401, 402, 403) or (status == 429 and b"insufficient_quota" in content):
        return Trouble("down", reason)
    if status in (404, 405):
        return Trouble("missing", reason)
    if status in (408, 409, 429) or status >= 500 or status < 400:
        wait = retry_after(headers)
        return Trouble("again", reason, wait or 0.0, busy=status == 429 or wait is not None)
    return Trouble("refused", reason)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by `retry-after-ms` or `Retry-After` (seconds or a date); None where neither can be read."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if not math.isnan(seconds):
            return max(0.0, seconds)
    until = _date(headers.get("retry-after"))
    if until is None:
        return None
    # Both dates are the server's where it sends its own, for its clock may be off.
    return max(0.0, (until - (_date(headers.get("date")) or datetime.now(UTC))).total_seconds())


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _error_text(body: Mapping[str, Any], content: bytes) -> str:
    """The server's own words, from whichever place its kind of server puts them."""
    error = body.get("error") or body.get("detail") or body.get("message")
    if isinstance(error, dict):
        error = error.get("message") or json.dumps(error)
    if error and not isinstance(error, str):
        error = json.dumps(error)
    return shortened(error or content.decode("utf-8", "replace"))


def shortened(text: str) -> str:
    """At most 200 characters in one line."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:200] + "..."
