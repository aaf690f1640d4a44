"""Scripted stand-ins for a policy and a scorer: they say what the test wrote down and remember what was asked."""

from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import settings

from chainofstep.chain import ANSWER_END, STEP_END, Chain, Step, render
from chainofstep.records import Ending, Example, Request, Rollout, Scored, ScoreFailure, StepScores

# A shared machine may take ten times as long as an idle one, and that is no error.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

#: Files that take minutes go first: what a worker begins last, all others wait for.
LONGEST = (
    *("test_pipeline.py", "test_distributed.py", "test_families_training.py", "test_grpo_runs.py", "test_spread.py"),
    *("test_training_resume.py", "test_training_families.py", "test_training_machine.py", "test_families.py"),
    *("test_plan_measured.py", "test_launched.py", "test_data_build.py", "test_docs.py", "test_engine.py"),
    *("test_serve_load.py", "test_view_page.py", "test_play_page.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONGEST)))


class ScriptedSampler:
    """Continues `prefix` of an example with the texts that the script holds for it, in turn, `n` of them.

    The script maps a prefix, or (example id, prefix), to texts, or is a function of the request. Like a real sampler it
    stops at the first step's end where that is asked for. A continuation has one token per character.
    """

    def __init__(
        self, script: Mapping[str | tuple[str, str], Sequence[str]] | Callable[[Request], Sequence[str]]
    ) -> None:
        self.script = script
        self.calls: list[list[Request]] = []

    def sample(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        self.calls.append(list(requests))
        return [self._continue(request) for request in requests]

    def _continue(self, request: Request) -> list[Rollout]:
        texts = self._texts(request)
        places = range(request.first, request.first + request.n)
        return [self._rollout(request, texts[place % len(texts)], place) for place in places]

    def _texts(self, request: Request) -> Sequence[str]:
        if not isinstance(self.script, Mapping):
            return self.script(request)
        own = (request.example.id, request.prefix)
        return self.script[own if own in self.script else request.prefix]

    def _rollout(self, request: Request, text: str, index: int) -> Rollout:
        if request.stop == "step" and STEP_END in text:
            text = text[: text.index(STEP_END) + len(STEP_END)]
        text = text[: request.max_tokens]
        tokens = tuple(ord(character) for character in text)
        ending: Ending = "answer" if text.endswith(ANSWER_END) else "length"
        if request.stop == "step" and text.endswith(STEP_END):
            ending = "step"
        return Rollout(request.example.id, request.prefix + text, tokens, ending, request.seed, index)


class ScriptedScorer:
    """Scores each step by its thought and each answer by its text; a thought in `fails` is a `ScoreFailure`."""

    def __init__(
        self, steps: Mapping[str, float], answers: Mapping[str, float] | None = None, fails: Sequence[str] = ()
    ) -> None:
        self.steps, self.answers, self.fails = steps, answers or {}, fails
        self.calls: list[list[tuple[Example, Chain]]] = []

    def score(self, items: Sequence[tuple[Example, Chain]]) -> list[Scored]:
        self.calls.append(list(items))
        return [self._score(chain) for _, chain in items]

    def _score(self, chain: Chain) -> Scored:
        for step in chain.steps:
            if step.thought in self.fails:
                return ScoreFailure(f"cannot score {step.thought}")
        answer = None if chain.answer is None else self.answers[chain.answer]
        return StepScores(tuple(self.steps[step.thought] for step in chain.steps), answer)


def make_chain(*thoughts: str, answer: str | None = None) -> Chain:
    """A chain whose steps have these thoughts."""
    return Chain(tuple(Step("Look", thought, "It does.") for thought in thoughts), answer)


def make_rollout(text: str | Chain, index: int = 0, example_id: str = "q") -> Rollout:
    """A rollout of a chain, or of text that may be none; one token per character."""
    text = render(text) if isinstance(text, Chain) else text
    ending: Ending = "answer" if text.endswith(ANSWER_END) else "length"
    return Rollout(example_id, text, tuple(map(ord, text)), ending, seed=0, index=index)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tiny random model that knows all step tokens: a policy and a PRM at once."""
    pytest.importorskip("torch")
    from chainofstep.models.tiny import Shape, build_tiny
    from chainofstep.models.vlm import add_step_tokens, save_vlm

    vlm = build_tiny(Shape(32, 1, 64, 2, 4, 2, 64), seed=3)
    add_step_tokens(vlm)
    return save_vlm(vlm, tmp_path_factory.mktemp("models") / "tiny")
