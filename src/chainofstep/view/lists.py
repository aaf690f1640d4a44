"""Lists of questions: filters over a set's facts, and the rows that the page shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from chainofstep.view.facts import NONE, Facts
from chainofstep.view.opened import OpenRun, OpenSet
from chainofstep.view.texts import example_of, kind_of

Answer = Literal["any", "right", "wrong", "none"]
Sort = Literal["order", "disagree", "score"]
ANSWERS, SORTS = get_args(Answer), get_args(Sort)
_CODES = {"right": 1, "wrong": 0, "none": NONE}
#: Lowest labels by hand: (question's id, index of the rollout) -> label.
ByHand = Mapping[tuple[str, int], float]


@dataclass(frozen=True)
class Filter:
    """Which rollouts fit. A question is listed if one of its rollouts does; without any bound, every question is."""

    family: str = ""
    answer: Answer = "any"
    scorer: str = ""
    disagree: bool = False
    low: float = 0.0  # bounds of a rollout's lowest step score by `scorer`
    high: float = 1.0
    shortest: int | None = None  # steps
    longest: int | None = None
    text: str = ""  # in a question or its id
    sort: Sort = "order"

    @property
    def bounded(self) -> bool:
        """Whether any bound is one on rollouts."""
        steps = self.shortest is not None or self.longest is not None
        return self.answer != "any" or self.disagree or self.low > 0 or self.high < 1 or steps


@dataclass(frozen=True)
class Listed:
    """Places of questions in order, and which rollouts of the set fit."""

    questions: np.ndarray
    fitting: np.ndarray
    scores: np.ndarray  # the lowest of each rollout


def choose(facts: Facts, wanted: Filter, by_hand: ByHand | None = None) -> Listed:
    """The questions done so far that the filter lets through, in the order that it asks for."""
    done = facts.done
    end = int(facts.starts[done])
    question = facts.question[:end]
    scores = _lowest(facts, wanted.scorer, by_hand or {})[:end]
    fits = _rollouts(facts, wanted, scores, end)
    own = _questions(facts, wanted, done)
    fits &= own[question]
    counts = np.bincount(question[fits], minlength=done)
    chosen = np.flatnonzero(counts > 0) if wanted.bounded else np.flatnonzero(own)
    return Listed(_sorted(facts, wanted.sort, chosen, np.flatnonzero(fits), scores, done), fits, scores)


def _lowest(facts: Facts, scorer: str, by_hand: ByHand) -> np.ndarray:
    if scorer in facts.lowest:
        return facts.lowest[scorer]
    found = np.full(int(facts.starts[-1]), np.nan, np.float32)
    if scorer == "hand":
        for (name, index), label in by_hand.items():
            place = facts.rows.places.get(name)
            if place is not None and index < facts.rows.counts[place]:
                found[facts.starts[place] + index] = label
    return found


def _rollouts(facts: Facts, wanted: Filter, scores: np.ndarray, end: int) -> np.ndarray:
    fits = np.ones(end, bool)
    if wanted.answer != "any":
        fits &= facts.right[:end] == _CODES[wanted.answer]
    if wanted.disagree:
        fits &= facts.gap[:end] > 0
    if wanted.low > 0 or wanted.high < 1:
        fits &= (scores >= wanted.low) & (scores <= wanted.high)  # False for NaN
    if wanted.shortest is not None:
        fits &= facts.steps[:end] >= wanted.shortest
    if wanted.longest is not None:
        fits &= facts.steps[:end] <= wanted.longest
    return fits


def _questions(facts: Facts, wanted: Filter, done: int) -> np.ndarray:
    fits = np.ones(done, bool)
    if wanted.family:
        known = wanted.family in facts.family_names
        fits &= facts.families[:done] == (facts.family_names.index(wanted.family) if known else -1)
    if wanted.text:
        needle = wanted.text.casefold()
        fits &= np.fromiter((needle in text for text in facts.texts[:done]), bool, done)
    return fits


def _sorted(
    facts: Facts, sort: Sort, chosen: np.ndarray, fitting: np.ndarray, scores: np.ndarray, done: int
) -> np.ndarray:
    """By the largest disagreement or the lowest score of a rollout that fits; equal ones stay in the set's order."""
    if sort == "order":
        return chosen
    if sort == "disagree":
        key = np.zeros(done, np.float32)
        np.maximum.at(key, facts.question[fitting], facts.gap[fitting])
        return chosen[np.argsort(-key[chosen], kind="stable")]
    key = np.full(done, np.inf, np.float32)
    np.fmin.at(key, facts.question[fitting], scores[fitting])
    return chosen[np.argsort(key[chosen], kind="stable")]


def list_page(
    run: OpenRun, one: OpenSet, wanted: Filter, offset: int, limit: int, by_hand: ByHand | None = None
) -> dict[str, Any]:
    """One page of the list, as the page takes it."""
    facts = one.facts
    ready = facts.ready  # before, so that a list that says 1.0 is whole
    listed = choose(facts, wanted, by_hand)
    shown = [int(place) for place in listed.questions[offset : offset + limit]]
    examples = one.examples.named([one.rows.ids[place] for place in shown])
    rollouts = np.count_nonzero(listed.fitting)
    items = [_item(run, one, place, row, listed) for place, row in zip(shown, examples, strict=True)]
    return {"questions": len(listed.questions), "rollouts": int(rollouts), "ready": ready, "items": items}


def _item(run: OpenRun, one: OpenSet, place: int, row: Mapping[str, Any], listed: Listed) -> dict[str, Any]:
    facts, name, example = one.facts, one.rows.ids[place], example_of(row)
    start, end = int(facts.starts[place]), int(facts.starts[place + 1])
    fitting = np.flatnonzero(listed.fitting[start:end])
    scores = listed.scores[start:end][fitting]
    known = scores[~np.isnan(scores)]
    return {
        "id": name,
        "family": kind_of(example),
        "question": example.question if example else "",
        "answer": example.answer if example else "",
        "picture": picture_address(run.name, one.files.id, name, 0) if example and example.images else None,
        "rollouts": end - start,
        "right": int(np.count_nonzero(facts.right[start:end] == 1)),
        "fitting": fitting.tolist(),
        "lowest": float(known.min()) if len(known) else None,
    }


def picture_address(run: str, one: str, name: str, number: int) -> str:
    """Where the server gives a picture of a question."""
    from urllib.parse import urlencode

    asked = {"run": run, "set": one, "id": name, "number": number}
    return f"/api/picture?{urlencode(asked, errors='replace')}"


def picture_addresses(run: str, one: str, name: str, images: Sequence[str]) -> list[str]:
    return [picture_address(run, one, name, number) for number in range(len(images))]
