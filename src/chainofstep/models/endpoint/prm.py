"""`EndpointPrm`: step scores from servers of a process reward model.

The score of a step is P(good) of the two columns good and bad of the logits at the step's tag (paper A4), which a
server can be asked for in three ways:

- "tokens": an ordinary generation server says how likely good and bad are as the next token behind the tag. One
  request for each new tag; the server's prefix cache holds what comes before it.
- "pooling": a pooling server that reads at the tags (`tok_pooling_type` STEP) gives all of a chain's scores at once.
- "classify": a pooling server that reads at the last token; one request for each new tag.

`cos serve` is asked in a fourth way, "score": for a whole chain by /v1/score, and keeps what it knows of it by itself.
"""

import asyncio
import json
import math
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

from chainofstep.chain import BAD, GOOD, STEP_TAG, Chain, render
from chainofstep.llm.records import EndpointDown
from chainofstep.models.endpoint.chat import NEUTRAL, chat, picture_part, prompt_key
from chainofstep.models.endpoint.check import TRIAL, TRIAL_CHAIN, check_prm
from chainofstep.models.endpoint.dialects import Body, Dialect
from chainofstep.models.endpoint.pool import NOT_THERE, Open, Server, Session, Unanswered, together
from chainofstep.models.endpoint.sampler import same_kind
from chainofstep.models.endpoint.tokens import Tokens
from chainofstep.records import Example, Scored, ScoreFailure, StepScores

Way = Literal["tokens", "pooling", "classify", "score"]
ROUTES: dict[Way, str] = {
    "tokens": "/v1/chat/completions",
    "pooling": "/pooling",
    "classify": "/classify",
    "score": "/v1/score",
}
KNOWN = 2**17  # scores that are kept
Ask = Callable[[str, Callable[[Server], bytes]], Coroutine[Any, Any, Any]]


class EndpointPrm:
    """A `StepScorer` over servers of one PRM (`endpoint.endpoint_prm` makes it).

    Equal chains of one question are scored once, and what one call scored of an unfinished chain is known to the next,
    so in beam search a candidate costs one request. `scored_chains` and `scored_steps` (tags, answers included) count
    what was asked for, `servers` what each did. Not to be called from a running event loop.
    """

    def __init__(
        self,
        model: str,
        servers: Sequence[Server],
        way: Way | None = None,
        tokenizer: str | None = None,
        dialect: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ):
        if way is not None and way not in ROUTES:
            raise ValueError(f"no way {way!r} to ask a PRM: give one of {', '.join(get_args(Way))}")
        self.model, self.servers, self.way = model, list(servers), way
        self.tokenizer, self.dialect, self.progress = tokenizer, dialect, progress
        self.known: dict[tuple[bytes, str], float] = {}  # by prompt and text up to a tag
        self.scored_chains = self.scored_steps = 0

    def score(self, items: Sequence[tuple[Example, Chain]]) -> list[Scored]:
        """P(good) of each step and of the answer; `ScoreFailure` for a chain that no server could score.

        `EndpointDown` where no server answers any more, ValueError for a server that cannot score at all.
        """
        keys = [(prompt_key(example), chain) for example, chain in items]
        distinct = dict(zip(keys, items, strict=True))
        results: dict[Any, Scored] = {}
        if distinct:
            with asyncio.Runner() as runner:
                runner.run(self._score_all(distinct, results))
        return [results[key] for key in keys]

    async def check(self, each: Open) -> None:
        """The server holds a PRM, takes chains as they are, and gives a trial chain its two scores."""
        await check_prm(each, self.model, self.dialect, self.tokenizer)
        same_kind(self.servers, each)

        async def ask(route: str, body: Callable[[Server], bytes]) -> Any:
            return await each.ask(route, json.loads(body(each.server)))

        dialect = each.server.dialect
        assert dialect is not None
        tried: tuple[Way, ...] = ("tokens", "pooling", "classify") if dialect.pools else ("tokens",)
        tried = ("score",) if dialect.own else tried
        whys = []
        for way in (self.way,) if self.way else tried:
            try:
                if way == "score":
                    await self._ask_whole(ask, TRIAL, TRIAL_CHAIN)
                else:
                    await self._ask(ask, each.server, way, TRIAL, ends_of(self._text(TRIAL_CHAIN, each.server)))
            except Unanswered as error:
                if not error.trouble.reason.startswith(("HTTP 4", NOT_THERE)):
                    raise
                whys.append(f"{ROUTES[way]}: {error.trouble.reason}")
            except ValueError as error:
                whys.append(f"{ROUTES[way]}: {error}")
            else:
                if self.way not in (None, way):
                    raise ValueError(f"{each.server.url} is asked by {ROUTES[way]}, others are not: start all alike")
                self.way = way
                return
        raise ValueError(f"{each.server.url} scores no steps ({'; '.join(whys)}): start it as docs/servers.md says")

    def _text(self, chain: Chain, server: Server) -> str:
        assert server.tokens is not None
        return server.tokens.assistant(render(chain, STEP_TAG))

    async def _score_all(self, items: Mapping[Any, tuple[Example, Chain]], results: dict[Any, Scored]) -> None:
        async with Session(self.servers, self.check) as session:

            async def score(key: Any, example: Example, chain: Chain) -> None:
                try:
                    results[key] = await self._score(session, example, chain)
                except EndpointDown:
                    raise
                except ValueError as error:
                    results[key] = ScoreFailure(str(error))
                if self.progress is not None:
                    self.progress(len(results), len(items))

            await together(score(key, *item) for key, item in items.items())

    async def _score(self, session: Session, example: Example, chain: Chain) -> StepScores:
        server = session.anyone()
        prompt, texts = prompt_key(example), ends_of(self._text(chain, server))

        async def ask(route: str, body: Callable[[Server], bytes]) -> Any:
            return await session.post(prompt, 1, route, body)

        new = [text for text in texts if (prompt, text) not in self.known]
        if new and self.way == "score":
            values = await self._ask_whole(ask, example, chain)
            self.known |= {(prompt, text): value for text, value in zip(texts, values, strict=True)}
            self.scored_chains += 1
            self.scored_steps += len(texts)
        elif new:
            assert self.way is not None
            asked = texts if self.way == "pooling" else new
            values = await self._ask(ask, server, self.way, example, asked)
            self.known |= {(prompt, text): value for text, value in zip(asked, values, strict=True)}
            self.scored_chains += 1
            self.scored_steps += len(asked)
        scores = [self.known[prompt, text] for text in texts]
        while len(self.known) > KNOWN:
            del self.known[next(iter(self.known))]
        steps = len(chain.steps)
        return StepScores(tuple(scores[:steps]), None if chain.answer is None else scores[steps])

    async def _ask(self, ask: Ask, server: Server, way: Way, example: Example, texts: Sequence[str]) -> list[float]:
        """P(good) at the end of each text: they are beginnings of one chain, each up to a tag. ValueError without."""
        if way == "pooling":
            return read_pooled(await ask(ROUTES[way], self._body(way, example, texts[-1])), len(texts))
        answers = await together(ask(ROUTES[way], self._body(way, example, text)) for text in texts)
        assert server.tokens is not None
        columns = [(f"token_id:{server.tokens.ids[name]}", name) for name in (GOOD, BAD)]
        return [read_next(answer, *columns) if way == "tokens" else read_class(answer) for answer in answers]

    async def _ask_whole(self, ask: Ask, example: Example, chain: Chain) -> list[float]:
        """P(good) of the steps of a chain, and of its answer where it has one. ValueError without."""

        def body(server: Server) -> bytes:
            assert server.dialect is not None
            images = [picture_part(path, server.dialect)["image_url"]["url"] for path in example.images]
            given = {"steps": [asdict(step) for step in chain.steps], "answer": chain.answer}
            fields = {"model": self.model, "question": example.question, "images": images, "chains": [given]}
            return json.dumps(fields).encode("ascii")

        [row] = (await ask(ROUTES["score"], body))["data"]
        if row["error"]:
            raise ValueError(str(row["error"]))
        return [*row["steps"], *([] if chain.answer is None else [row["answer"]])]

    def _body(self, way: Way, example: Example, text: str) -> Callable[[Server], bytes]:
        def body(server: Server) -> bytes:
            dialect, tokens = server.dialect, server.tokens
            assert dialect is not None and tokens is not None
            fields = chat(self.model, dialect, tokens, example, text) | _FIELDS[way](dialect, tokens)
            return json.dumps(fields).encode("ascii")

        return body


def ends_of(text: str) -> list[str]:
    """The beginnings of a tagged text, each up to and with a tag."""
    return [text[: found.end()] for found in re.finditer(re.escape(STEP_TAG), text)]


def _token_fields(dialect: Dialect, tokens: Tokens) -> Body:
    columns = [tokens.ids[GOOD], tokens.ids[BAD]]
    whole = {"temperature": 1.0, "top_p": 1.0, "top_k": dialect.no_top_k, **NEUTRAL}  # the distribution as it is
    fields: Body = {"max_tokens": 1, "logprobs": True, **whole}
    if dialect.named_logprobs:
        # The ids that are named take the place of the likeliest; three is what is shown, the sampled token included.
        return fields | {"logprob_token_ids": columns, "top_logprobs": 3, "return_tokens_as_token_ids": True}
    # The same amount on both puts them above all others, where they are seen, and leaves their ratio as it is.
    return fields | {"top_logprobs": 2, "logit_bias": {str(column): 100.0 for column in columns}}


_FIELDS: dict[Way, Callable[[Dialect, Tokens], Body]] = {
    "tokens": _token_fields,
    "pooling": lambda dialect, tokens: {"task": "token_classify"},
    "classify": lambda dialect, tokens: {},
}


def read_next(answer: Mapping[str, Any], good: tuple[str, str], bad: tuple[str, str]) -> float:
    """P(good) of two columns, each by the names that servers have for it, from the next token's log-probabilities."""
    try:
        listed = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        found = {str(entry["token"]): float(entry["logprob"]) for entry in listed}
        first, second = _named(found, good), _named(found, bad)
    except (LookupError, TypeError) as error:
        raise ValueError(
            f"the server does not say how likely {good[1]} and {bad[1]} are: it must know logprob_token_ids "
            "(vLLM 0.33) or logit_bias with top_logprobs (SGLang)"
        ) from error
    return _probability(1 / (1 + math.exp(min(second - first, 700.0))))


def _named(found: Mapping[str, float], names: tuple[str, str]) -> float:
    return found[names[0] if names[0] in found else names[1]]


def read_pooled(answer: Mapping[str, Any], count: int) -> list[float]:
    """P(good) at each of `count` tags, from the answer of /pooling."""
    rows = (answer.get("data") or [{}])[0].get("data")
    if (
        not isinstance(rows, list)
        or len(rows) != count
        or any(not isinstance(row, list) or len(row) != 1 for row in rows)
    ):
        raise ValueError(
            f"the server pools {_shape(rows)} and not one number for each of {count} tags: start it with "
            "tok_pooling_type STEP, the id of the step tag and classifier_from_token (docs/servers.md)"
        )
    return [_probability(float(row[0])) for row in rows]


def _shape(rows: Any) -> str:
    if not isinstance(rows, list):
        return type(rows).__name__
    return f"{len(rows)} rows of {len(rows[0]) if rows and isinstance(rows[0], list) else 'no'} numbers"


def read_class(answer: Mapping[str, Any]) -> float:
    """P(good) from the answer of /classify."""
    values = (answer.get("data") or [{}])[0].get("probs") or []
    if len(values) != 1:
        raise ValueError(f"the server gives {len(values)} classes and not one: start it with method from_2_way_softmax")
    return _probability(float(values[0]))


def _probability(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"the server's score {value} is no probability: its pooler must apply the activation")
    return value
