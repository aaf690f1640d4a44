"""A model for lmms-eval that answers by this project's search: greedy, best-of-N, beam, whatever `METHODS` holds.

    python -m lmms_eval --model chain_of_step --tasks chartqa \\
        --model_args pretrained=models/sft,method=best_of_n,n=16,prm=models/prm

lmms-eval finds it through its entry-point group `lmms_eval.models` (read in 0.7.3). It is one of its simple models: a
request is a text, how to generate, a function from a row to its pictures, the row's number, its task and its split.
"""

import logging
from collections.abc import Sequence
from typing import Any

from chainofstep.plugins.rewarding import picture_path
from chainofstep.records import Example
from chainofstep.search import METHODS, SearchConfig, SearchResult

NAME = "chain_of_step"
CHUNK = 64  # requests that are searched side by side
SAYS = ("text", "answer")  # the whole chain, or what stands in it as the answer: what a task's own rule reads

log = logging.getLogger(__name__)


class Searching:
    """What answers requests: a sampler, a step scorer where the method needs one, and how to search."""

    def __init__(
        self,
        pretrained: str = "",
        method: str = "greedy",
        prm: str = "",
        n: int = 16,
        width: int = 1,
        temperature: float = 1.0,
        top_p: float = 0.95,
        max_tokens: int = 0,
        seed: int = 0,
        says: str = "answer",
    ):
        """`max_tokens` 0 takes what each task asks for. `pretrained` and `prm` are folders, hub ids or MODEL@URL."""
        from chainofstep.pipeline import workers
        from chainofstep.verbs.evaluate import full_name, needed_prm
        from chainofstep.verbs.files import choose

        names = [name for name in METHODS if name != "pass_at_n"]  # that one looks at the gold answer
        self.method = choose(full_name(method), names, "method")
        self.says, self.max_tokens = choose(says, SAYS, "kind of reply"), int(max_tokens)
        judge = needed_prm([self.method], prm or None)
        if not pretrained:
            raise ValueError("no model: give pretrained=FOLDER in --model_args")
        self.config = SearchConfig(int(n), int(width), float(temperature), float(top_p), seed=int(seed))
        self.sampler = workers.sampler(pretrained, steps=self.method != "greedy")
        self.scorer = workers.prm(judge) if judge else None

    def answers(self, asked: Sequence[tuple[Example, int]]) -> list[str]:
        """A reply to each (example, most tokens); "" where the search came to none."""
        replies = [""] * len(asked)
        for limit in dict.fromkeys(tokens for _, tokens in asked):
            places = [place for place, (_, tokens) in enumerate(asked) if tokens == limit]
            config = SearchConfig(**{**vars(self.config), "max_tokens": self.max_tokens or limit})
            for start in range(0, len(places), CHUNK):
                chunk = places[start : start + CHUNK]
                found = self._found([asked[place][0] for place in chunk], config)
                for place in chunk:
                    replies[place] = self._reply(found[asked[place][0].id])
        return replies

    def _found(self, examples: Sequence[Example], config: SearchConfig) -> dict[str, SearchResult]:
        from chainofstep.verbs.evaluate import answered

        def search(some: Sequence[Example]) -> list[SearchResult]:
            return METHODS[self.method](some, self.sampler, self.scorer, config)

        results = answered(examples, search)
        for result in results:
            if result.failure:
                log.warning("%s: no reply: %s", result.example_id, result.failure)
        return {result.example_id: result for result in results}

    def _reply(self, result: SearchResult) -> str:
        return result.text if result.answer is None or self.says == "text" else result.answer


def example_of(model: Any, arguments: Sequence[Any]) -> tuple[Example, int]:
    """The question of a request's arguments, and how many tokens its task asks for. `model` holds the tasks' rows."""
    context, settings, visual, doc_id, task, split = arguments
    found = visual(model.task_dict[task][split][doc_id]) or []
    pictures = list(found) if isinstance(found, list | tuple) else [found]
    if any(not hasattr(picture, "save") for picture in pictures):
        raise ValueError(f"task {task}, row {doc_id}: this model takes pictures alone, no video and no sound")
    paths = tuple(picture_path(picture) for picture in pictures)
    return Example(f"{task}/{split}/{doc_id}", str(context), paths, "", "word"), settings.get("max_new_tokens") or 256


def model_class() -> type:
    """The class that lmms-eval makes its model of; needs lmms-eval."""
    from lmms_eval.api.model import lmms

    class ChainOfStep(lmms):  # type: ignore[misc]
        is_simple = True

        def __init__(self, batch_size: Any = 1, device: Any = None, max_batch_size: Any = None, **settings: Any):
            super().__init__()
            self.searching = Searching(**settings)

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return self.searching.answers([example_of(self, request.args) for request in requests])

        def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
            raise NotImplementedError("this model answers single questions; choose a task of one round")

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            raise NotImplementedError("this model writes answers; choose a task of output type generate_until")

    return ChainOfStep


def __getattr__(name: str) -> Any:
    """`ChainOfStep` is made when it is asked for, so that this file is importable without lmms-eval."""
    if name != "ChainOfStep":
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    globals()[name] = model_class()
    return globals()[name]


def manifest() -> Any:
    """What the entry point gives to lmms-eval's registry."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=NAME, simple_class_path=f"{__name__}.ChainOfStep")
