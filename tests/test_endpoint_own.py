"""`cos serve` as a MODEL@URL: other programs of the package sample and score by it, to the same texts and scores."""

from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
from chainofstep.answering import open_models  # noqa: E402
from chainofstep.chain import Chain  # noqa: E402
from chainofstep.models.endpoint import endpoint_prm, endpoint_sampler  # noqa: E402
from chainofstep.models.engine import Engine  # noqa: E402
from chainofstep.models.prm import PRM  # noqa: E402
from chainofstep.models.vlm import load_vlm  # noqa: E402
from chainofstep.problems.tasks.build import write_problems  # noqa: E402
from chainofstep.records import Example, Request, SamplingErrors, ScoreFailure, StepScores  # noqa: E402
from chainofstep.search import METHODS, SearchConfig  # noqa: E402
from serving import Serving  # noqa: E402
from taught import write_taught  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    write_taught(folder)
    return folder


@pytest.fixture(scope="module")
def examples(folder: Path) -> list[Example]:
    return write_problems("test", range(3), folder)


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with (
        open_models(str(folder / "policy"), str(folder / "prm"), logprobs=True) as models,
        Serving(models) as server,
    ):
        yield f"{server.url}/v1"


def test_samples_are_those_of_the_engine_with_ids_endings_and_logprobs(address, folder, examples):
    whole = [Request(e, n=20, seed=7 + i, max_tokens=60, temperature=0.7, top_p=0.9) for i, e in enumerate(examples)]
    later = Request(examples[0], n=2, seed=7, first=30, max_tokens=60, stop="step", top_k=5)
    greedy = Request(examples[1], n=2, temperature=0.0, max_tokens=60)
    requests = [*whole, later, greedy]
    found = endpoint_sampler(f"policy@{address}", logprobs=True).sample(requests)
    alone = Engine(load_vlm(folder / "policy"), logprobs=True).sample(requests)
    for mine, theirs in zip(found, alone, strict=True):
        assert [(r.text, r.token_ids, r.ending, r.index, r.seed) for r in mine] == [
            (r.text, r.token_ids, r.ending, r.index, r.seed) for r in theirs
        ]
        for one, other in zip(mine, theirs, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_a_prefix_is_gone_on_with(address, folder, examples):
    [[whole]] = Engine(load_vlm(folder / "policy")).sample([Request(examples[0], temperature=0.0, max_tokens=120)])
    assert whole.chain is not None
    prefix = whole.text[: whole.text.index("<|reasoning_proceed|>")]
    request = Request(examples[0], prefix=prefix, temperature=0.0, max_tokens=120)
    assert endpoint_sampler(f"policy@{address}").sample([request])[0][0].text == whole.text


def test_control_tokens_in_a_question_stay_text_and_are_escaped_once(address, folder, examples):
    asked = Example("odd", "Is <image> or <|answer_end|> or ки here?", examples[0].images, "", "word")
    requests = [Request(asked, n=3, seed=1, max_tokens=30)]
    found = endpoint_sampler(f"policy@{address}").sample(requests)
    alone = Engine(load_vlm(folder / "policy")).sample(requests)
    assert [r.token_ids for r in found[0]] == [r.token_ids for r in alone[0]]


def test_scores_are_those_of_the_prm(address, folder, examples):
    items = [(e, e.chain) for e in examples] + [(examples[0], examples[0].chain.prefix(1)), (examples[0], Chain(()))]
    lost = (Example("lost", "What?", ("/nowhere.png",), "", "word"), examples[0].chain)
    found = endpoint_prm(f"prm@{address}").score([*items, lost])
    expected = PRM(load_vlm(folder / "prm")).score(items)
    for mine, other in zip(found, expected, strict=False):
        assert isinstance(mine, StepScores) and isinstance(other, StepScores)
        assert mine.steps == pytest.approx(other.steps, abs=1e-5)
        assert mine.answer == pytest.approx(other.answer, abs=1e-5)
    assert isinstance(found[-1], ScoreFailure)


def test_a_search_runs_over_the_server(address, folder, examples):
    config = SearchConfig(n=4, temperature=0.4, max_tokens=120, seed=3)
    served = (endpoint_sampler(f"policy@{address}"), endpoint_prm(f"prm@{address}"))
    alone = (Engine(load_vlm(folder / "policy")), PRM(load_vlm(folder / "prm")))
    [found], [expected] = (METHODS["step_beam"](examples[:1], *models, config) for models in (served, alone))
    assert (found.text, found.cost.sampled_tokens) == (expected.text, expected.cost.sampled_tokens)


def test_what_is_wrong_is_said(address, examples):
    with pytest.raises(ValueError, match=r"serves policy, .* and not other"):
        endpoint_sampler(f"other@{address}").sample([Request(examples[0])])
    with pytest.raises(SamplingErrors, match="max_tokens"):
        endpoint_sampler(f"policy@{address}").sample([Request(examples[0], max_tokens=10**6)])
