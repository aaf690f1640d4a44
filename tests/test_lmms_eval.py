"""The model for lmms-eval, called as lmms-eval calls it, by stand-ins of its base class and registry."""

import importlib
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

pytest.importorskip("torch")

from chainofstep.chain import render
from chainofstep.pipeline import workers
from chainofstep.plugins import lmms_eval as plugin
from chainofstep.plugins.lmms_eval import Searching, manifest
from chainofstep.records import SamplingErrors
from conftest import ScriptedSampler, ScriptedScorer, make_chain

TEXTS = [render(make_chain("It is there.", answer=answer)) for answer in ("wrong", "wrong", "right")]


@dataclass(frozen=True)
class Manifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


class BaseModel:
    """What the plug-in uses of `lmms_eval.api.model.lmms`."""

    is_simple = True

    def __init__(self):
        self.task_dict, self._rank, self._world_size = {}, 0, 1


@dataclass
class Instance:
    arguments: tuple

    @property
    def args(self):
        return self.arguments


@pytest.fixture
def installed(monkeypatch):
    """lmms-eval's two modules that the plug-in imports."""
    for name, values in {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.model": {"lmms": BaseModel},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": Manifest},
    }.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    yield
    vars(plugin).pop("ChainOfStep", None)


@pytest.fixture
def sampler(monkeypatch):
    script = ScriptedSampler(lambda request: [text[len(request.prefix) :] for text in TEXTS])
    scorer = ScriptedScorer({"It is there.": 0.5}, {"wrong": 0.2, "right": 0.9})
    monkeypatch.setattr(workers, "sampler", lambda name, steps=True: script)
    monkeypatch.setattr(workers, "prm", lambda name: scorer)
    return script


def asked(doc_id, tokens=16, visual=lambda doc: [doc["image"]]):
    settings = {"max_new_tokens": tokens, "temperature": 0, "until": ["\n\n"]}
    return Instance((f"Question {doc_id}?\nOne word.", settings, visual, doc_id, "chartqa", "test"))


def model_of(**settings):
    """The model as lmms-eval makes it: the class by its path, given settings and a batch size."""
    module, name = manifest().simple_class_path.rsplit(".", 1)
    model = getattr(importlib.import_module(module), name)(**settings, batch_size=1, device="cpu")
    assert isinstance(model, BaseModel) and model.is_simple
    model.task_dict = {"chartqa": {"test": [{"image": Image.new("RGB", (4, 4 + number))} for number in range(3)]}}
    return model


def test_the_entry_point_names_the_manifest():
    root = Path(__file__).parents[1]
    points = tomllib.loads((root / "pyproject.toml").read_text())["project"]["entry-points"]["lmms_eval.models"]
    module, _, name = points["chain_of_step"].partition(":")
    assert getattr(importlib.import_module(module), name) is manifest


@pytest.mark.parametrize(
    ("method", "reply"), [("greedy", "wrong"), ("self_consistency", "wrong"), ("best_of_n", "right"), ("beam", "right")]
)
def test_replies_are_the_answers_that_the_method_finds(installed, sampler, method, reply):
    model = model_of(pretrained="models/sft", method=method, n="3", prm="models/prm", max_tokens=1000)
    assert model.generate_until([asked(0), asked(1)]) == [reply, reply]
    request = sampler.calls[0][1]
    assert request.example.question == "Question 1?\nOne word."
    with Image.open(request.example.images[0]) as picture:
        assert picture.size == (4, 5)


def test_replies_are_in_order_though_tasks_ask_for_different_lengths(installed, sampler):
    model = model_of(pretrained="models/sft", says="text")
    long = len(TEXTS[0])
    replies = model.generate_until([asked(0, long), asked(1, 5), asked(2, long)])
    assert replies == [TEXTS[0], TEXTS[0][:5], TEXTS[0]]
    assert [len(call) for call in sampler.calls] == [2, 1]


def test_what_cannot_be_asked_has_no_reply_and_the_others_have(installed, sampler, monkeypatch, caplog):
    plain = sampler.sample

    def sample(requests):
        lost = {n: "too long" for n, request in enumerate(requests) if request.example.id.endswith("/1")}
        if lost:
            raise SamplingErrors([None] * len(requests), lost, [request.example.id for request in requests])
        return plain(requests)

    monkeypatch.setattr(sampler, "sample", sample)
    model = model_of(pretrained="models/sft", max_tokens=1000)
    assert model.generate_until([asked(0), asked(1), asked(2)]) == ["wrong", "", "wrong"]
    assert "chartqa/test/1: no reply: too long" in caplog.text


def test_what_it_cannot_do_is_said_in_one_line(installed, sampler):
    with pytest.raises(ValueError, match="the nearest is greedy"):
        model_of(pretrained="models/sft", method="greedi")
    with pytest.raises(ValueError, match="with --prm"):
        model_of(pretrained="models/sft", method="best_of_n")
    with pytest.raises(ValueError, match="no model: give pretrained=FOLDER"):
        model_of()
    with pytest.raises(ValueError, match="the nearest is"):
        model_of(pretrained="models/sft", method="pass_at_n")
    model = model_of(pretrained="models/sft")
    with pytest.raises(ValueError, match="takes pictures alone"):
        model.generate_until([asked(0, visual=lambda doc: ["film.mp4"])])
    for method in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(NotImplementedError):
            method([])


def test_a_real_model_answers(model):
    searching = Searching(str(model), "best_of_n", str(model), n=2, max_tokens=6)
    from chainofstep.records import Example

    picture = Path(model).parent / "dot.png"
    Image.new("RGB", (32, 32)).save(picture)
    assert len(searching.answers([(Example("q", "What?", (str(picture),), "", "word"), 6)])) == 1
