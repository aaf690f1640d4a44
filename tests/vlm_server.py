"""A server of a small VLM that speaks vLLM's dialect or SGLang's, and fails in the ways that real ones do.

It decodes on its own, one row at a time with transformers' own cache, so what it says is a check of the engine too.
Field names, defaults and refusals are those of vLLM 0.33 and SGLang of autumn 2026, as their sources give them.
"""

import base64
import io
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image

from chainofstep.models.tiny import Shape, build_tiny
from chainofstep.models.vlm import VLM, add_step_tokens

MODEL = "tiny"
SMALL = Shape(vision_width=32, vision_layers=1, width=64, layers=2, heads=4, key_value_heads=2, feed_forward=64)

TRIMS = (  # as templates of the field do: the assistant's text without white space around it
    "{%- for message in messages -%}{{ '<|' + message['role'] + '|>' }}"
    "{%- if message['content'] is string -%}{{ message['content'] | trim }}{%- else -%}"
    "{%- for part in message['content'] -%}{{ '<image>' if part['type'] == 'image' else part['text'] }}{%- endfor -%}"
    "{%- endif -%}{{ '<|end|>' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


def spread_vlm(seed: int, scale: float) -> VLM:
    """A small VLM that knows the step tokens. Random heads are nearly flat; `scale` spreads their logits."""
    built = build_tiny(SMALL, seed)
    add_step_tokens(built)
    with torch.no_grad():
        built.model.get_output_embeddings().weight.mul_(scale)
    return built


@dataclass
class Faults:
    """What goes wrong; a test may change it while the server runs."""

    strips_special: bool = False  # control tokens do not reach the text
    dead: bool = False  # it hangs up on everyone
    dies_after: int | None = None  # answered requests, after which it is dead
    errors: int = 0  # so many requests get a 500
    refuses: str = ""  # requests whose question holds this get a 400
    latency: float = 0.0  # seconds before an answer


@dataclass
class Seen:
    requests: Counter[str] = field(default_factory=Counter)  # by route
    questions: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)  # of chats


class VlmServer:
    """The server in a thread of this process; gone when the block is left. `base_url` ends in /v1.

    `runner` is "generate", or for vLLM's pooling runner the pooling type of tokens, "STEP" or "ALL".
    """

    def __init__(
        self, vlm: Any, dialect: str = "vllm", *, runner: str = "generate", model: str = MODEL, port: int = 0
    ) -> None:
        self.vlm, self.dialect, self.runner, self.model = vlm, dialect, runner, model
        self.faults, self.seen, self._port, self.lock = Faults(), Seen(), port, threading.Lock()
        self.chat_template: str | None = None  # in place of the processor's own
        self.defaults: dict[str, Any] = {}  # of generation_config.json: what a request leaves out

    def __enter__(self) -> "VlmServer":
        import uvicorn

        self._socket = socket.create_server(("127.0.0.1", self._port), backlog=512)
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        config = uvicorn.Config(application(self), log_level="critical", access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(self, *error: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self._socket.close()

    @property
    def spec(self) -> str:
        return f"{self.model}@{self.base_url}"


class HangUp(Response):
    """Promises a body and sends none, so uvicorn closes the connection."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})


def refusal(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "BadRequestError", "code": status}}, status)


def application(server: VlmServer) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def fail(request: Request, call_next: Any) -> Any:
        faults, path = server.faults, request.url.path
        server.seen.requests[path] += 1
        work = path in ("/v1/chat/completions", "/pooling", "/classify")
        if faults.dies_after is not None and work:
            faults.dead = faults.dead or faults.dies_after <= 0
            faults.dies_after -= 1
        if faults.dead:
            return HangUp()
        if work and faults.errors > 0:
            faults.errors -= 1
            return refusal(500, "the engine died")
        return await call_next(request)

    @app.get("/health")
    def health() -> Response:
        return Response("")

    @app.get("/v1/models")
    def models() -> Any:
        return {"object": "list", "data": [{"id": server.model, "object": "model", "owned_by": server.dialect}]}

    @app.post("/tokenize")
    def tokenize(body: dict[str, Any]) -> Any:
        with server.lock:
            return _tokenized(server, body)

    if server.runner == "generate":

        @app.post("/v1/chat/completions")
        def chat(body: dict[str, Any]) -> Any:
            return _guarded(server, body, _completion)

    else:

        @app.post("/pooling")
        def pooling(body: dict[str, Any]) -> Any:
            return _guarded(server, body, _pooled)

        @app.post("/classify")
        def classify(body: dict[str, Any]) -> Any:
            return _guarded(server, body, _classified)

    return app


class Refused(ValueError):
    """A request that the real server answers with 400."""


def _guarded(server: VlmServer, body: dict[str, Any], answer: Any) -> Any:
    if server.faults.latency:
        time.sleep(server.faults.latency)
    with server.lock:
        server.seen.bodies.append(body)
        body = server.defaults | body
        question = body["messages"][0]["content"][-1]["text"]
        server.seen.questions[question] += 1
        if body.get("model") != server.model and server.dialect == "vllm":
            return refusal(404, f"The model `{body.get('model')}` does not exist.")
        if server.faults.refuses and server.faults.refuses in question:
            return refusal(400, "the prompt is longer than the maximum model length")
        try:
            with torch.no_grad():
                return answer(server, body)
        except Refused as error:
            return refusal(400, str(error))


# Prompts


def _tokenized(server: VlmServer, body: dict[str, Any]) -> dict[str, Any]:
    tokenizer, prompt = server.vlm.tokenizer, body.get("prompt")
    special = body.get("add_special_tokens", True)
    if isinstance(prompt, list) and server.dialect == "sglang":
        return {"tokens": [tokenizer(text, add_special_tokens=special).input_ids for text in prompt]}
    if "messages" in body:
        ids = _encoded(server, body)["input_ids"][0].tolist()
    else:
        ids = tokenizer(prompt, add_special_tokens=special).input_ids
    wants_text = body.get("return_token_strs") and server.dialect == "vllm"
    return {"tokens": ids} | ({"token_strs": tokenizer.convert_ids_to_tokens(ids)} if wants_text else {})


def _encoded(server: VlmServer, body: dict[str, Any]) -> Any:
    """The processor's tensors of a chat, as the server's kind renders one."""
    messages, pictures = _opened(body["messages"])
    go_on, begin = body.get("continue_final_message", False), body.get("add_generation_prompt", True)
    said, processor = "", server.vlm.processor
    if server.dialect == "vllm" and go_on and begin:
        raise Refused("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    if server.dialect == "sglang":
        if go_on and messages[-1]["role"] == "assistant":
            said = messages.pop()["content"]
        go_on, begin = False, True
    template = {"chat_template": server.chat_template} if server.chat_template else {}
    text = processor.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=begin, continue_final_message=go_on, **template
    )
    return processor(text=[text + said], images=pictures or None, return_tensors="pt", add_special_tokens=False)


def _opened(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Image.Image]]:
    """Messages with bare picture parts, and the pictures out of their data URLs."""
    opened, pictures = [], []
    for message in messages:
        content = message["content"]
        if isinstance(content, list):
            parts = []
            for part in content:
                if part["type"] == "image_url":
                    data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                    pictures.append(Image.open(io.BytesIO(data)).convert("RGB"))
                    part = {"type": "image"}
                parts.append(part)
            content = parts
        opened.append({"role": message["role"], "content": content})
    return opened, pictures


# Completions


@dataclass
class Row:
    ids: list[int]
    logprobs: list[dict[int, float]]  # of every position: of the sampled token first, then of those asked for
    finish: str
    stop: int | None  # the id at which it stopped


def _completion(server: VlmServer, body: dict[str, Any]) -> Any:
    count, seed = body.get("n", 1), body.get("seed")
    if count < 1 or (count > 1 and body.get("temperature", 1.0) == 0):
        raise Refused(f"n must be 1 when using greedy sampling, got {count}.")
    prompt = _encoded(server, body)
    limit = server.vlm.model.config.get_text_config().max_position_embeddings
    length = prompt["input_ids"].shape[1]
    if length + body["max_tokens"] > limit:
        raise Refused(f"This model's maximum context length is {limit} tokens, {length} were given.")
    # vLLM gives child i the seed + i; SGLang's children all have the request's.
    seeds = [None if seed is None else seed + i * (server.dialect == "vllm") for i in range(count)]
    rows = [_decoded(server, body, prompt, each) for each in seeds]
    ids = prompt["input_ids"][0].tolist()
    choices = [_choice(server, body, row, ids) | {"index": i} for i, row in enumerate(rows)]
    whole = {"id": "1", "object": "chat.completion", "model": server.model, "choices": choices}
    whole["usage"] = {"prompt_tokens": length, "completion_tokens": sum(len(row.ids) for row in rows)}
    if server.dialect == "vllm" and body.get("return_token_ids"):
        whole["prompt_token_ids"] = ids
    return whole


def _decoded(server: VlmServer, body: dict[str, Any], prompt: Any, seed: int | None) -> Row:
    """One sample, token by token, with the model's own cache."""
    model = server.vlm.model
    generator = torch.Generator()
    generator.manual_seed(seed) if seed is not None else generator.seed()
    ends = {*(body.get("stop_token_ids") or []), server.vlm.tokenizer.eos_token_id}
    output, row = model(**prompt, use_cache=True), Row([], [], "length", None)
    for _ in range(body["max_tokens"]):
        raw = output.logits[0, -1].float()
        seen = [*prompt["input_ids"][0].tolist(), *row.ids]
        token, logprobs = _sampled(server, body, raw, generator, seen)
        row.ids.append(token)
        row.logprobs.append({token: float(logprobs[token])} | _asked(server, body, logprobs))
        if token in ends:
            row.finish, row.stop = "stop", token
            break
        output = model(input_ids=torch.tensor([[token]]), past_key_values=output.past_key_values, use_cache=True)
    return row


def _sampled(
    server: VlmServer, body: dict[str, Any], raw: torch.Tensor, generator: torch.Generator, seen: list[int]
) -> tuple[int, torch.Tensor]:
    """A token, and the log-probabilities that are returned: vLLM's before biases and temperature, SGLang's after."""
    logits, penalty = raw.clone(), body.get("repetition_penalty", 1.0)
    logits[seen] = torch.where(raw[seen] > 0, raw[seen] / penalty, raw[seen] * penalty)
    for number, bias in (body.get("logit_bias") or {}).items():
        logits[int(number)] += max(-100.0, min(100.0, bias))
    temperature = body.get("temperature", 1.0)
    tempered = logits / temperature if temperature else logits
    returned = (raw if server.dialect == "vllm" else tempered).log_softmax(-1)
    if temperature == 0:
        return int(logits.argmax()), returned
    probabilities, order = tempered.softmax(-1).sort(descending=True)
    if (top_k := body.get("top_k") or 0) > 0:
        probabilities[top_k:] = 0
    before = probabilities.cumsum(-1) - probabilities
    probabilities[before >= body.get("top_p", 1.0) * probabilities.sum()] = 0
    return int(order[torch.multinomial(probabilities, 1, generator=generator)]), returned


def _asked(server: VlmServer, body: dict[str, Any], logprobs: torch.Tensor) -> dict[int, float]:
    named = body.get("logprob_token_ids") if server.dialect == "vllm" else None
    if named and not body.get("logprobs"):
        raise Refused("when using `logprob_token_ids`, `logprobs` must be set to true.")
    ids = named or logprobs.topk(body.get("top_logprobs") or 0).indices.tolist()
    return {number: float(logprobs[number]) for number in ids}


def _choice(server: VlmServer, body: dict[str, Any], row: Row, prompt: list[int]) -> dict[str, Any]:
    tokenizer, vllm = server.vlm.tokenizer, server.dialect == "vllm"
    keeps_stop = body.get("include_stop_str_in_output" if vllm else "no_stop_trim", False)
    shown = row.ids if keeps_stop or row.stop is None else row.ids[:-1]
    skips = server.faults.strips_special or body.get("skip_special_tokens", True)
    last = tokenizer.decode(prompt[-1:])
    text = tokenizer.decode([prompt[-1], *shown], skip_special_tokens=False)[len(last) :]
    if skips:
        text = tokenizer.decode(shown, skip_special_tokens=True)
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "finish_reason": row.finish}
    end = tokenizer.eos_token_id
    choice |= {"stop_reason": None if row.stop == end else row.stop} if vllm else {"matched_stop": row.stop}
    if body.get("return_token_ids"):
        choice["token_ids"] = row.ids
    if not vllm and body.get("return_prompt_token_ids"):
        choice["prompt_token_ids"] = prompt
    by_id = vllm and body.get("return_tokens_as_token_ids")
    if body.get("logprobs"):
        content = [
            [{"token": f"token_id:{i}" if by_id else tokenizer.decode([i]), "logprob": p} for i, p in position.items()]
            for position in row.logprobs
        ]
        choice["logprobs"] = {"content": [listed[0] | {"top_logprobs": listed} for listed in content]}
    return choice


# Pooling: vLLM's, with classifier_from_token ["к-и", "к+и"] and method from_2_way_softmax


def _good(server: VlmServer, body: dict[str, Any]) -> tuple[list[int], torch.Tensor]:
    """The ids of the prompt, and at each the sigmoid of the difference of the columns good and bad."""
    prompt = _encoded(server, {"add_generation_prompt": False} | body)
    logits = server.vlm.model(**prompt).logits[0].float()
    good, bad = (server.vlm.token_id(name) for name in ("к+и", "к-и"))
    return prompt["input_ids"][0].tolist(), (logits[:, good] - logits[:, bad]).sigmoid()


def _pooled(server: VlmServer, body: dict[str, Any]) -> Any:
    if body.get("task") != "token_classify":
        raise Refused(f"Unsupported task: {body.get('task')!r}")
    ids, scores = _good(server, body)
    tag = server.vlm.token_id("ки")
    rows = [[p] for number, p in zip(ids, scores.tolist(), strict=True) if number == tag or server.runner == "ALL"]
    return {"object": "list", "model": server.model, "data": [{"index": 0, "object": "pooling", "data": rows}]}


def _classified(server: VlmServer, body: dict[str, Any]) -> Any:
    _, scores = _good(server, body)
    return {
        "object": "list",
        "data": [{"index": 0, "label": "LABEL_0", "probs": [float(scores[-1])], "num_classes": 1}],
    }
