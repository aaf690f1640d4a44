"""Before the first batch: that a server holds the model that is asked for, and goes on with texts exactly.

Chat templates trim texts, parsers move parts of them elsewhere, tokenizers know no step tokens, and none of it is an
error to the server. Each is found here and said in one line.
"""

from typing import Any

from chainofstep.chain import ALL_TOKENS, REASONING_TOKENS, STEP_END, STEP_TAG, Chain, Step, render
from chainofstep.models.endpoint.chat import NEUTRAL, chat
from chainofstep.models.endpoint.dialects import Dialect, dialect_of, ids_told, named, names_asked, prompt_ids
from chainofstep.models.endpoint.pool import Open
from chainofstep.models.endpoint.tokens import USUAL, Tokens, read_tokens, tokens_of
from chainofstep.records import Example

TRIAL = Example("trial", "Say a word.", (), "", "word")
TRIAL_CHAIN = Chain((Step("Look", "A word.", "It is."),), "word")
CERTAIN = 100.0  # the highest bias that servers take


async def introduce(each: Open, model: str, dialect: str | None, tokenizer: str | None) -> tuple[Dialect, Tokens]:
    """Find out and remember what kind of server it is, and its control tokens. ValueError if it holds another model."""
    server = each.server
    listed = await each.ask("/v1/models")
    offered = {str(entry["id"]): entry for entry in listed["data"]}
    if model not in offered:
        names = ", ".join(offered) or "nothing"
        raise ValueError(f"{server.url} serves {names} and not {model}: start it with that model, or mend the address")
    found = named(dialect) if dialect else dialect_of(offered[model])
    if found is None:
        owner = offered[model].get("owned_by")
        raise ValueError(
            f"{server.url} is neither vLLM, SGLang nor `cos serve` (owned_by {owner!r}): name the dialect it speaks"
        )

    if found.own:
        asked = tokens_of(offered[model].get("tokens") or {})
    else:
        told = await each.ask("/tokenize", {"model": model} | names_asked(found, USUAL))
        asked = tokens_of(ids_told(found, USUAL, told))
    server.dialect, server.tokens = found, read_tokens(tokenizer) if tokenizer else asked
    _check_tokens(each, server.tokens, asked)
    return found, server.tokens


def _check_tokens(each: Open, tokens: Tokens, asked: Tokens) -> None:
    missing = asked.missing(REASONING_TOKENS)
    if missing:
        raise ValueError(
            f"{each.server.url}: {missing[0]!r} and {len(missing) - 1} more step tokens are no single tokens of its "
            "model: serve a model that was trained on steps, or add the tokens first (add_step_tokens)"
        )
    for name, number in asked.ids.items():
        if tokens.ids.get(name, number) != number or (name in REASONING_TOKENS and name not in tokens.ids):
            raise ValueError(
                f"{each.server.url} has {number} for {name!r} and the tokenizer's folder {tokens.ids.get(name)}: name "
                "the folder of the model that it serves"
            )


async def tokenized(each: Open, fields: dict[str, Any]) -> list[int]:
    """The ids of a text or a chat, by /tokenize."""
    answer = await each.ask("/tokenize", fields)
    return list(answer["tokens"])


async def check_policy(each: Open, model: str, dialect: str | None, tokenizer: str | None) -> None:
    """ValueError if the server does not go on with a text exactly, or does not return exactly what was sampled."""
    kind, tokens = await introduce(each, model, dialect, tokenizer)
    if kind.own:  # what is checked below, it does by itself
        return
    end = tokens.ids[STEP_END]
    forced = {"max_tokens": 1, "temperature": 0.0, "stop_token_ids": [end], "logit_bias": {str(end): CERTAIN}}

    async def complete(text: str) -> dict[str, Any]:
        fields = chat(model, kind, tokens, TRIAL, text) | forced | NEUTRAL | dict(kind.verbatim)
        answer: dict[str, Any] = await each.ask("/v1/chat/completions", fields)
        return answer

    prefix = render(TRIAL_CHAIN.prefix(1))
    begun, gone_on = await complete(""), await complete(prefix)
    written = await tokenized(each, {"model": model, "prompt": prefix, "add_special_tokens": False})
    _check_going_on(each, _length_or_ids(begun), _length_or_ids(gone_on), written)
    _check_verbatim(each, gone_on["choices"][0], end)


def _length_or_ids(completion: dict[str, Any]) -> list[int] | int:
    """The prompt's ids, or how many it had where the server does not say which."""
    return prompt_ids(completion) or int(completion["usage"]["prompt_tokens"])


def _check_going_on(each: Open, begun: list[int] | int, gone_on: list[int] | int, written: list[int]) -> None:
    """The prompt with the assistant's text must be the one without it, and then the text."""
    wanted = begun + len(written) if isinstance(begun, int) else [*begun, *written]
    if gone_on != wanted:
        raise ValueError(
            f"{each.server.url} does not go on with the assistant's text as it stands (its chat template trims it, or "
            "writes something around it): start it with --chat-template and one that leaves it alone (docs/servers.md)"
        )


def _check_verbatim(each: Open, choice: dict[str, Any], end: int) -> None:
    where = each.server.url
    if choice.get("token_ids") is None:
        raise ValueError(f"{where} returns no token ids: it must know return_token_ids (vLLM 0.33, SGLang of 2026)")
    if choice["token_ids"] != [end] or choice["finish_reason"] != "stop":
        raise ValueError(f"{where} heeds no logit_bias or stop_token_ids: start it without what switches them off")
    text = choice["message"].get("content") or ""
    if text != STEP_END:
        raise ValueError(
            f"{where} returns {text!r} for the token {STEP_END!r}: it strips control tokens, start it without "
            "--reasoning-parser and --tool-call-parser, and let no proxy change requests"
        )


async def check_prm(each: Open, model: str, dialect: str | None, tokenizer: str | None) -> None:
    """ValueError if the server's model has no step tags, or chains do not reach it as they are."""
    kind, tokens = await introduce(each, model, dialect, tokenizer)
    missing = tokens.missing(ALL_TOKENS)
    if missing:
        raise ValueError(
            f"{each.server.url}: {model} has no token {missing[0]!r}: serve a model that was trained as a PRM"
        )
    if kind.own:
        return
    prefix = render(TRIAL_CHAIN.prefix(1), STEP_TAG)
    if not kind.pools:  # it tells the ids of a chat only with a completion
        return await _check_prm_chat(each, model, kind, tokens, prefix)
    begun = chat(model, kind, tokens, TRIAL, "") | {"add_generation_prompt": True}
    written = {"model": model, "prompt": prefix, "add_special_tokens": False}
    _check_going_on(
        each,
        await tokenized(each, begun),
        await tokenized(each, chat(model, kind, tokens, TRIAL, prefix)),
        await tokenized(each, written),
    )


async def _check_prm_chat(each: Open, model: str, kind: Dialect, tokens: Tokens, prefix: str) -> None:
    answers = []
    for text in ("", prefix):
        fields = chat(model, kind, tokens, TRIAL, text) | {"max_tokens": 1} | dict(kind.verbatim)
        answers.append(_length_or_ids(await each.ask("/v1/chat/completions", fields)))
    written = await tokenized(each, {"model": model, "prompt": prefix, "add_special_tokens": False})
    _check_going_on(each, answers[0], answers[1], written)
