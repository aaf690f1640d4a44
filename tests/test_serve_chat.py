"""POST /v1/chat/completions, by OpenAI's own client and by hand."""

import asyncio
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chainofstep.answering import AnswerMade, Progress, TextMade, open_models
from chainofstep.chain import NAME_START, PROCEED, STEP_END, STEP_START, render
from chainofstep.models.engine import Engine
from chainofstep.models.prm import PRM
from chainofstep.models.vlm import load_vlm, save_vlm
from chainofstep.records import Example, Request
from chainofstep.search import METHODS, SearchConfig
from chainofstep.serve.jobs import Channel
from chainofstep.serve.schema import ChatRequest
from chainofstep.serve.settings import ServeSettings
from conftest import ScriptedScorer, make_chain
from serving import NAME, PRM_NAME, ScriptedModels, Serving, ask, data_url, png, until
from vlm_server import spread_vlm

GOOD, BAD = make_chain("a", "b", answer="12"), make_chain("c", answer="7")
SCORES = ScriptedScorer({"a": 0.9, "b": 0.8, "c": 0.1}, {"12": 0.97, "7": 0.2})


def scripted(*chains, scorer=SCORES, **options):
    texts = [chain if isinstance(chain, str) else render(chain) for chain in chains or (GOOD,)]
    return ScriptedModels(lambda request: [text.removeprefix(request.prefix) for text in texts], scorer, **options)


def client(server, **options):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=20, **options)


def post(server, **body):
    return server.client.post("/v1/chat/completions", json={"model": NAME, "messages": ask()} | body)


@pytest.fixture(scope="module")
def server():
    with Serving(scripted(GOOD, BAD)) as serving:
        yield serving


def streamed(server, **body):
    """The chunks of a stream, without its last line."""
    body = {"model": NAME, "messages": ask(), "stream": True} | body
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=20) as reply:
        assert reply.status_code == 200, reply.read()
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def deltas(chunks, key, index=0):
    found = (c for chunk in chunks for c in chunk["choices"] if c["index"] == index)
    return [choice["delta"][key] for choice in found if key in choice["delta"]]


def test_a_chain_is_an_answer_with_its_steps_and_their_scores(server):
    reply = client(server).chat.completions.create(model=NAME, messages=ask(), n=2)
    message = reply.choices[0].message
    assert (message.content, reply.choices[0].finish_reason) == ("12", "stop")
    assert message.reasoning_content == "Look\na\nIt does.\n\nLook\nb\nIt does."
    steps = [{"name": "Look", "thought": t, "reflection": "It does.", "score": s} for t, s in (("a", 0.9), ("b", 0.8))]
    assert message.chain == {"steps": steps, "answer": "12", "score": 0.97, "problem": "", "unscored": ""}
    assert reply.choices[1].message.content == "7"
    assert reply.usage.completion_tokens == len(render(GOOD)) + len(render(BAD))
    assert (reply.cost["scored_chains"], reply.cost["scored_steps"]) == (2, 3)


def test_scores_can_be_left_out(server):
    chain = post(server, scores=False).json()["choices"][0]["message"]["chain"]
    assert [step["score"] for step in chain["steps"]] == [None, None] and chain["score"] is None


def test_text_that_is_no_chain_comes_without_step_tokens_and_says_why():
    with Serving(scripted(f"<|reasoning_start|>\nI think {STEP_END} it is 12")) as server:
        choice = post(server).json()["choices"][0]
    assert choice["message"]["content"] == "I think  it is 12" and choice["finish_reason"] == "length"
    assert choice["message"]["chain"]["problem"].startswith("expected <|reasoning_step_start|>")
    assert choice["message"]["chain"]["steps"] == []


def test_raw_text_and_what_comes_after_the_text_so_far(server):
    begun = render(GOOD.prefix(1))
    said = [*ask(), {"role": "assistant", "content": begun}]
    choice = post(server, messages=said, skip_special_tokens=False, continue_final_message=True).json()["choices"][0]
    assert begun + choice["message"]["content"] == render(GOOD)
    assert len(choice["message"]["chain"]["steps"]) == 2
    plain = post(server, messages=said).json()["choices"][0]["message"]
    assert plain["reasoning_content"] == "Look\nb\nIt does." and plain["content"] == "12"


def test_stop_strings_cut_and_a_step_end_stops_the_sampling(server):
    cut = post(server, stop=["12", "zzz"], skip_special_tokens=False, logprobs=False, return_token_ids=True).json()
    text = render(GOOD)[: render(GOOD).index("12")]
    choice = cut["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")
    assert choice["token_ids"] == [ord(character) for character in text]
    assert choice["message"]["chain"]["answer"] is None and len(choice["message"]["chain"]["steps"]) == 2
    stopped = post(server, stop=STEP_END, skip_special_tokens=False).json()["choices"][0]
    assert stopped["message"]["content"] == render(GOOD)[: render(GOOD).index(STEP_END)] + STEP_END


def test_tokens_after_a_cut_are_gone_though_the_text_ends_as_it_is_cut():
    with Serving(scripted("abXab")) as server:
        [choice] = post(server, stop="X", skip_special_tokens=False, return_token_ids=True).json()["choices"]
    assert (choice["message"]["content"], choice["token_ids"]) == ("ab", [ord("a"), ord("b")])


def test_a_stream_says_what_the_whole_reply_says(server):
    chunks = streamed(server, stream_options={"include_usage": True})
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    whole = post(server).json()
    message = whole["choices"][0]["message"]
    steps = [{k: v for k, v in step.items() if k != "number"} for step in deltas(chunks, "step")]
    assert steps == message["chain"]["steps"] and deltas(chunks, "answer") == [{"answer": "12", "score": 0.97}]
    assert "".join(deltas(chunks, "reasoning_content")) == message["reasoning_content"]
    assert "".join(deltas(chunks, "content")) == message["content"]
    assert deltas(chunks, "chain") == [message["chain"]]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop" and "cost" in chunks[-2] and "seed" in chunks[-2]
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]


@pytest.mark.parametrize("stop", [None, "12", "b<", "no such text"])
def test_raw_streams_add_up_to_the_raw_text(server, stop):
    options = {"skip_special_tokens": False, "n": 2, "stop": stop}
    chunks, whole = streamed(server, **options), post(server, **options).json()
    for index in (0, 1):
        pieces = deltas(chunks, "content", index)
        assert "".join(pieces) == whole["choices"][index]["message"]["content"]
        assert len(pieces) > 3 and deltas(chunks, "reasoning_content", index) == []


def test_searches_by_options_and_by_the_models_name(server):
    reply = post(server, search={"method": "best_of_n", "n": 4}).json()
    assert reply["choices"][0]["message"]["content"] == "12"
    head = {key: value for key, value in reply["search"].items() if key != "candidates"}
    assert head == {"method": "best_of_n", "n": 4, "width": 1, "failure": ""}
    [level] = reply["search"]["candidates"]
    assert [(c["count"], c["kept"]) for c in level] == [(2, True), (2, False)]
    named = client(server).chat.completions.create(model=f"{NAME}:self_consistency", messages=ask(), seed=3)
    assert named.search["n"] == 16 and named.seed == 3 and named.choices[0].message.chain["score"] == 0.97


def test_a_streamed_search_tells_progress_steps_and_candidates(server):
    chunks = streamed(server, search={"method": "best_of_n", "n": 4})
    assert [step["thought"] for step in deltas(chunks, "step")] == ["a", "b"]
    assert chunks[-1]["search"]["method"] == "best_of_n" and chunks[-1]["cost"]["scored_chains"] == 2


WRONG = [
    ({"tools": [{"type": "function"}]}, 422, "tools"),
    ({"response_format": {"type": "json_object"}}, 422, "response_format.type"),
    ({"audio": {"voice": "x"}}, 422, "audio"),
    ({"presence_penalty": 1}, 422, "presence_penalty"),
    ({"n": 0}, 422, "n"),
    ({"n": 65}, 422, "n"),
    ({"max_tokens": 10**9}, 422, "max_tokens"),
    ({"temperature": 3}, 422, "temperature"),
    ({"top_logprobs": 5}, 422, "top_logprobs"),
    ({"model": "other"}, 404, "model"),
    ({"model": f"{NAME}:pass_at_n"}, 404, "model"),
    ({"search": {"method": "pass_at_n"}}, 422, "search.method"),
    ({"search": {}}, 422, "search.method"),
    ({"search": {"method": "step_beam", "n": 4, "width": 3}}, 422, "search.width"),
    ({"search": {"method": "greedy"}, "n": 2}, 422, "n"),
    ({"search": {"method": "greedy"}, "stop": "x"}, 422, "stop"),
    ({"messages": [{"role": "system", "content": "Be brief."}, *ask()]}, 422, "messages"),
    ({"messages": [*ask(), {"role": "assistant", "content": "7"}, *ask()]}, 422, "messages"),
    ({"messages": []}, 422, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, 422, "messages.0.user.content.0"),
    ({"messages": [{"role": "user", "content": " "}]}, 422, "messages"),
    ({"continue_final_message": True}, 422, "continue_final_message"),
    ({"seed": "7"}, 422, "seed"),
    ({"messages": ask("too long")}, 422, None),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("body", "status", "field"), WRONG)
def test_what_cannot_be_met_is_refused_by_its_name(server, body, status, field, stream):
    reply = post(server, **{"stream": stream} | body)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (status, field), error
    assert error["message"] and "\n" not in error["message"] and "/etc" not in error["message"]


def test_harmless_fields_and_blank_system_messages_are_taken(server):
    body = {"user": "u", "metadata": {"a": "b"}, "store": False, "tools": [], "presence_penalty": 0.0, "top_k": -1}
    said = [{"role": "system", "content": " \n"}, *ask()]
    assert post(server, messages=said, response_format={"type": "text"}, logit_bias={}, **body).status_code == 200


SURROGATES = [b'{"model": "\\ud800"}', b'{"\\ud800": 1}']
BROKEN = [b"", b"{", b"[]", b'{"model": NaN}', b"[" * 90_000, b"\xff\xfe", b"7", *SURROGATES]


@pytest.mark.parametrize("content", [*BROKEN, b'{"n": ' + b"9" * 5000 + b"}"])
def test_bodies_that_are_no_request_get_one_line(server, content):
    headers = {"content-type": "application/json"}
    reply = httpx.post(f"{server.url}/v1/chat/completions", content=content, headers=headers)
    assert reply.status_code == 422 and set(reply.json()["error"]) == {"message", "type", "param", "code"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from([*ChatRequest.model_fields, "tools.0", "surprise"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(FIELDS, JSON, max_size=3))
def test_no_value_of_any_field_is_a_fault_of_the_server(server, body):
    reply = post(server, **body)
    assert reply.status_code in (200, 404, 422), reply.text
    if reply.status_code != 200:
        assert reply.json()["error"]["message"]


def test_a_form_of_another_site_is_not_read(server):
    body = json.dumps({"model": NAME, "messages": ask()}).encode()
    reply = httpx.post(f"{server.url}/v1/chat/completions", content=body, headers={"content-type": "text/plain"})
    assert reply.status_code == 422 and "access-control-allow-origin" not in reply.headers


def test_a_fault_of_ours_is_a_500_that_tells_nothing(caplog):
    models = ScriptedModels(lambda request: {}["/root/secret"], SCORES)
    with Serving(models) as server:
        whole, begun = post(server), post(server, stream=True)
    assert [reply.status_code for reply in (whole, begun)] == [500, 500]
    assert "secret" not in whole.text and "KeyError" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_is_no_longer_computed_for(stream):
    models = scripted()
    models.gate.clear()
    with Serving(models) as server:
        with pytest.raises(httpx.TimeoutException):
            url, body = f"{server.url}/v1/chat/completions", {"model": NAME, "messages": ask(), "stream": stream}
            httpx.post(url, json=body, timeout=httpx.Timeout(5, read=0.3))
        assert models.cancelled.wait(5)
        assert until(lambda: server.server.queue.in_progress == 0)
        assert "chainofstep_cancelled_total 1.0" in httpx.get(f"{server.url}/metrics").text


def test_a_client_that_goes_in_the_middle_of_a_stream_ends_it():
    models = scripted(*[make_chain(*"abab" * 50, answer="12")], step_size=20)
    with Serving(models) as server:
        body = {"model": NAME, "messages": ask(), "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body) as reply:
            lines = (line for line in reply.iter_lines() if '"step"' in line)
            next(lines)
            models.gate.clear()
        assert models.cancelled.wait(5) or models.callers[0].cancelled


def test_a_channel_keeps_one_text_a_choice_and_never_waits():
    async def told():
        channel = Channel(asyncio.get_running_loop())
        for number in range(10_000):
            channel.put(TextMade(number % 2, str(number)))
            channel.put(Progress(number, 10_000))
        channel.put(AnswerMade(0, "12", None))
        return channel.take(), channel.take()

    expected = [Progress(9999, 10_000), TextMade(0, "9998"), TextMade(1, "9999"), AnswerMade(0, "12", None)]
    assert asyncio.run(told()) == (expected, [])


def test_a_client_that_does_not_read_is_given_up():
    models = scripted("x" * 12_000_000, step_size=3_000_000)
    body = json.dumps({"model": NAME, "messages": ask(), "stream": True, "skip_special_tokens": False}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with Serving(models, ServeSettings(send_seconds=0.3)) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as deaf:
            deaf.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert models.begun.wait(5)
            assert until(lambda: server.server.queue.in_progress == 0)
        assert "chainofstep_cancelled_total 1.0" in server.client.get("/metrics").text


def test_many_clients_at_once_get_their_own_answers():
    models = ScriptedModels(lambda request: [render(make_chain("a", answer="12"))], SCORES)
    with Serving(models) as server:
        found = []
        threads = [threading.Thread(target=lambda: found.append(post(server).status_code)) for _ in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [200] * 24


# A real model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [save_vlm(spread_vlm(seed, 4.0), folder / name) for seed, name in ((1, NAME), (2, PRM_NAME))]


@pytest.fixture(scope="module")
def real(folders):
    with open_models(str(folders[0]), str(folders[1]), logprobs=True) as models, Serving(models) as serving:
        yield serving


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "red.png"
    path.write_bytes(png((96, 96)))
    return path


def test_texts_tokens_and_probabilities_are_the_engines(real, folders, picture):
    asked = {"seed": 5, "temperature": 1.0, "top_p": 0.9, "max_tokens": 24, "n": 3}
    body = asked | {"messages": ask("How many?", data_url(picture.read_bytes())), "skip_special_tokens": False}
    reply = post(real, return_token_ids=True, logprobs=True, **body).json()
    example = Example("any", "How many?", (str(picture),), "", "word")
    own = Engine(load_vlm(folders[0]), logprobs=True).sample([Request(example, **asked)])[0]
    for choice, rollout in zip(reply["choices"], own, strict=True):
        assert choice["message"]["content"] == rollout.text and choice["token_ids"] == list(rollout.token_ids)
        listed = choice["logprobs"]["content"]
        assert [token["logprob"] for token in listed] == pytest.approx(rollout.logprobs, abs=1e-4)
        assert choice["finish_reason"] == ("length" if rollout.ending == "length" else "stop")
    assert reply["usage"]["completion_tokens"] == sum(len(rollout.token_ids) for rollout in own)
    assert reply["usage"]["prompt_tokens"] > 36  # the picture alone is 36 tokens
    again = post(real, **body)
    chunks = streamed(real, **body)
    for index, rollout in enumerate(own):
        assert again.json()["choices"][index]["message"]["content"] == rollout.text
        assert "".join(deltas(chunks, "content", index)) == rollout.text


def test_the_seed_of_a_reply_makes_it_again(real):
    first = post(real, temperature=1.0, max_tokens=12, skip_special_tokens=False).json()
    second = post(real, temperature=1.0, max_tokens=12, skip_special_tokens=False, seed=first["seed"]).json()
    assert first["choices"] == second["choices"]


def test_a_beam_search_is_the_one_of_the_library(real, folders, picture):
    body = {"search": {"method": "step_beam", "n": 4, "max_steps": 3}, "max_tokens": 40, "seed": 2}
    reply = post(real, messages=ask("How many?", data_url(picture.read_bytes())), **body).json()
    example = Example("question", "How many?", (str(picture),), "", "word")
    engine, prm = Engine(load_vlm(folders[0])), PRM(load_vlm(folders[1]))
    [own] = METHODS["step_beam"]([example], engine, prm, SearchConfig(4, max_tokens=40, max_steps=3, seed=2))
    assert reply["search"]["failure"] == own.failure and reply["cost"]["sampled_tokens"] == own.cost.sampled_tokens
    assert [[c["text"] for c in level] for level in reply["search"]["candidates"]] == [
        [candidate.text for candidate in level] for level in own.trace
    ]


def test_a_chain_that_was_begun_is_scored_as_the_prm_scores_it(real, folders, picture):
    chain = make_chain("a", "b")
    begun = render(chain) + f"{PROCEED}\n{STEP_START}\n{NAME_START}"  # what comes next is a name
    said = [*ask("How many?", data_url(picture.read_bytes())), {"role": "assistant", "content": begun}]
    found = post(real, messages=said, max_tokens=1).json()["choices"][0]["message"]["chain"]["steps"]
    example = Example("any", "How many?", (str(picture),), "", "word")
    [own] = PRM(load_vlm(folders[1])).score([(example, chain)])
    assert [step["score"] for step in found] == pytest.approx(own.steps, abs=1e-5)


def test_questions_too_long_for_the_model_are_refused_and_others_go_on(real):
    with ThreadPoolExecutor(8) as clients:
        asked = [ask("word " * 3000) if number % 2 else ask() for number in range(8)]
        replies = list(clients.map(lambda messages: post(real, messages=messages, max_tokens=8), asked))
    assert [reply.status_code for reply in replies] == [200, 422] * 4
    error = replies[1].json()["error"]["message"]
    assert error.startswith("the question with its pictures") and "1024" in error and "request 0" not in error
