"""From a chat request to what the models are asked."""

import secrets
from dataclasses import dataclass

from chainofstep.chain import STEP_END
from chainofstep.records import Example, Request
from chainofstep.search import ANSWERING, NEED_SCORES, SearchConfig
from chainofstep.serve.errors import Refusal
from chainofstep.serve.schema import AssistantMessage, ChatRequest, SystemMessage, TextPart, UserMessage
from chainofstep.serve.settings import ServeSettings

#: The name of every question: seeds of a search depend on it, and `cos ask` uses the same.
QUESTION = "question"
_SEEDS = 2**31
#: Hardly a token is longer, so a text of more is too long for a model, and finding that out by splitting it into tokens
#: would keep others waiting.
CHARACTERS_A_TOKEN = 16
UNKNOWN_CONTEXT = 262_144  # tokens, where the model is a server's


@dataclass(frozen=True)
class Asked:
    """A chat request as the models understand it. `method` is "" for plain samples."""

    question: str
    urls: tuple[str, ...]
    prefix: str
    method: str
    config: SearchConfig
    top_k: int
    stop_at_steps: bool
    cuts: tuple[str, ...]  # texts before which an answer is cut
    raw: bool  # the content is the text with its step tokens
    scored: bool
    logprobs: bool
    token_ids: bool
    stream: bool
    usage: bool  # a stream ends with a chunk of usage
    first: int  # which of the seed's samples is the first

    def example(self, paths: tuple[str, ...]) -> Example:
        return Example(QUESTION, self.question, paths, "", "word")

    def request(self, paths: tuple[str, ...]) -> Request:
        """Of plain samples."""
        config = self.config
        return Request(
            self.example(paths),
            n=config.n,
            prefix=self.prefix,
            seed=config.seed,
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=self.top_k,
            stop="step" if self.stop_at_steps else "answer",
            first=self.first,
        )


def methods_of(prm: str | None) -> tuple[str, ...]:
    """The methods that a server can do, with or without a PRM."""
    return tuple(name for name in ANSWERING if prm or name not in NEED_SCORES)


def check_length(what: str, text: str, context: int | None, param: str) -> None:
    """`Refusal` for a text that is too long for a model of so many tokens, whatever they are."""
    most = CHARACTERS_A_TOKEN * (context or UNKNOWN_CONTEXT)
    if len(text) > most:
        message = f"{what} has {len(text):,} characters, too many for the model's context; send at most {most:,}"
        raise Refusal(422, message, param, "too_long")


def read_chat(body: ChatRequest, model: str, prm: str | None, context: int | None, settings: ServeSettings) -> Asked:
    """What is asked of a model of `context` tokens; `Refusal` for what this server cannot do."""
    method = _method(body, model, prm)
    question, urls, prefix = _said(body)
    check_length(
        "the question with the assistant's text" if prefix else "the question", question + prefix, context, "messages"
    )
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    cuts = tuple(stop for stop in stops if stop != STEP_END)
    if method:
        _refuse_with_search(body, prefix, stops)
    return Asked(
        question,
        urls,
        prefix,
        method,
        _config(body, method, settings),
        max(0, body.top_k or 0),
        len(cuts) < len(stops),
        cuts,
        not body.skip_special_tokens,
        body.scores and prm is not None,
        bool(body.logprobs),
        body.return_token_ids,
        bool(body.stream),
        bool(body.stream_options and body.stream_options.include_usage),
        body.first,
    )


def _method(body: ChatRequest, model: str, prm: str | None) -> str:
    """The search method that the model's name or the search options name; "" for none."""
    named = body.model.removeprefix(f"{model}:") if body.model.startswith(f"{model}:") else ""
    if body.model != model and named not in ANSWERING:
        message = f"no model {body.model[:100]!r}; this server has {model}, see /v1/models"
        raise Refusal(404, message, "model", "model_not_found")
    chosen = body.search.method if body.search else None
    if chosen and named and chosen != named:
        raise Refusal(422, f"the model's name says {named}, search.method {chosen}; give one", "search.method")
    if body.search and not (chosen or named):
        raise Refusal(422, f"search names no method; give one of {', '.join(methods_of(prm))}", "search.method")
    method = chosen or named
    if method in NEED_SCORES and prm is None:
        message = f"{method} goes by step scores, and this server has no PRM; it has {', '.join(methods_of(None))}"
        raise Refusal(422, message, "search.method", "no_prm")
    return method or ""


def _refuse_with_search(body: ChatRequest, prefix: str, stops: list[str]) -> None:
    """`Refusal` for what has no meaning where one answer is chosen among many chains."""
    wrong = {
        "n": (body.n or 1) > 1,
        "stop": bool(stops),
        "logprobs": body.logprobs,
        "return_token_ids": body.return_token_ids,
        "top_k": (body.top_k or 0) > 0,
        "first": body.first > 0,
        "messages": bool(prefix),
    }
    for name, given in wrong.items():
        if given:
            reason = {
                "n": "a search gives one answer; its samples are search.n",
                "messages": "a search begins from nothing; leave the assistant's message out",
            }.get(name, f"{name} does not go with a search; leave it out")
            raise Refusal(422, reason, name)


def _config(body: ChatRequest, method: str, settings: ServeSettings) -> SearchConfig:
    usual, search = SearchConfig(), body.search
    asked = search.n if method and search else body.n
    n, width = asked or (settings.n if method else 1), search.width if search else 1
    most = body.max_completion_tokens or body.max_tokens or settings.max_tokens
    if n > settings.most_samples:
        name = "search.n" if method else "n"
        raise Refusal(422, f"{name} is {n}; ask for at most {settings.most_samples} samples", name)
    if most > settings.most_tokens:
        raise Refusal(422, f"max_tokens is {most}; ask for at most {settings.most_tokens}", "max_tokens")
    if method == "step_beam" and n % width:
        raise Refusal(422, f"search.n is {n} and search.width {width}; give a width that divides n", "search.width")
    return SearchConfig(
        n,
        width,
        (usual.temperature if method else 0.0) if body.temperature is None else body.temperature,
        (usual.top_p if method else 1.0) if body.top_p is None else body.top_p,
        most,
        search.max_steps if search else usual.max_steps,
        search.step_weight if search else usual.step_weight,
        secrets.randbelow(_SEEDS) if body.seed is None else body.seed,
    )


# Messages


def _said(body: ChatRequest) -> tuple[str, tuple[str, ...], str]:
    """The question, the URLs of its pictures, and the assistant's text so far."""
    spoken = [message for message in body.messages if not _is_blank(message)]
    roles = [message.role for message in spoken]
    if roles not in (["user"], ["user", "assistant"]):
        message = (
            f"messages of {', '.join(roles) or 'nobody'}: the models take one user message, and after it perhaps the "
            "assistant's text so far; put system text and earlier turns into the user message"
        )
        raise Refusal(422, message, "messages", "messages")
    user, goes_on = spoken[0], len(spoken) == 2
    assert isinstance(user, UserMessage)
    if body.continue_final_message is not None and body.continue_final_message != goes_on:
        last = "a last message of the assistant is always gone on with" if goes_on else "the last message is the user's"
        message = f"continue_final_message is {str(not goes_on).lower()}, and {last}"
        raise Refusal(422, message, "continue_final_message")
    question, urls = question_of(user)
    last_message = spoken[-1]
    prefix = _text(last_message.content) if isinstance(last_message, AssistantMessage) else ""
    return question, urls, prefix


def question_of(message: UserMessage) -> tuple[str, tuple[str, ...]]:
    """The text of a user's message, its parts on lines of their own, and the URLs of its pictures."""
    if isinstance(message.content, str):
        text, urls = message.content, []
    else:
        text = "\n".join(part.text for part in message.content if isinstance(part, TextPart))
        urls = [part.image_url.url for part in message.content if not isinstance(part, TextPart)]
    if not text.strip():
        raise Refusal(422, "the user's message has no text; ask something", "messages")
    return text, tuple(urls)


def _is_blank(message: object) -> bool:
    return isinstance(message, SystemMessage) and not _text(message.content).strip()


def _text(content: str | list[TextPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
