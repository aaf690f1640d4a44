"""One question with all that is known of it: its rollouts, their tree, searches and pairs, labels by hand."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from chainofstep.records import Example, Scored, StepScores
from chainofstep.view.beam import beam_row
from chainofstep.view.hand import Hand
from chainofstep.view.lists import picture_addresses
from chainofstep.view.opened import NotThere, OpenRun, OpenSet
from chainofstep.view.texts import (
    Reading,
    Sampled,
    example_of,
    kind_of,
    pool_of,
    read_text,
    right,
    row_of_scores,
    row_of_step,
    scores_of,
)
from chainofstep.view.tree import build_tree, node_row


def item_of(run: OpenRun, one: OpenSet, name: str, hand: Hand) -> dict[str, Any]:
    """A question of a set, as the page takes it."""
    if name not in one.rows:
        raise NotThere(f"set {one.files.id} has no question {name[:100]!r}: choose one of /api/items")
    row, example = one.rows.row(name), example_of(one.examples.row(name))
    pool = pool_of(row)
    readings = [read_text(sampled.text) for sampled in pool]
    scores = pool_scores(one, name, len(pool))
    labels = hand.labels(one.files.id, name, pool)
    nodes, ways = build_tree(readings, scores)
    rows = [node_row(node, right(example, node.answer)) for node in nodes]
    _add_labels(rows, ways, readings, labels)
    rollouts = [
        _rollout(sampled, reading, way, example, {log: scored[place] for log, scored in scores.items()})
        for place, (sampled, reading, way) in enumerate(zip(pool, readings, ways, strict=True))
    ]
    for place, own in labels.items():
        rollouts[place]["scores"]["hand"] = _by_hand(own, len(readings[place].steps))
    question = question_row(run, one, name, example)
    failure = row.get("failure")
    return question | {
        "run": run.name,
        "set": one.files.id,
        "choices": list(example.choices) if example else [],
        "missing": run.missing(one, example),
        "gold": [row_of_step(step) for step in example.chain.steps] if example and example.chain else None,
        "problems": [f"not sampled: {failure}"] if failure else [] if pool else ["its row cannot be read"],
        "rollouts": rollouts,
        "nodes": rows,
        "beam": _beams(run, name, example),
        "pairs": _pairs(run, name),
        "place": _place(one, name),
    }


def question_row(run: OpenRun, one: OpenSet, name: str, example: Example | None) -> dict[str, Any]:
    """What pages show of any question."""
    return {
        "id": name,
        "family": kind_of(example),
        "question": example.question if example else "",
        "answer": example.answer if example else "",
        "pictures": picture_addresses(run.name, one.files.id, name, example.images if example else ()),
    }


def pool_scores(one: OpenSet, name: str, count: int) -> dict[str, list[Scored | None]]:
    """Each scorer's scores of a pool of rollouts; None where it has none."""
    found = {log: scores_of(rows.row(name), count) for log, rows in one.scores.items()}
    return {log: list(scored) or [None] * count for log, scored in found.items()}


def _rollout(
    sampled: Sampled, reading: Reading, way: list[int], example: Example | None, scores: Mapping[str, Scored | None]
) -> dict[str, Any]:
    return {
        "index": sampled.index,
        "text": sampled.text,
        "ending": sampled.ending,
        "answer": reading.answer,
        "right": right(example, reading.answer),
        "problem": reading.problem,
        "rest": reading.rest,
        "steps": way,
        "scores": {log: row_of_scores(scored) for log, scored in scores.items() if scored is not None},
    }


# Labels by hand


def _by_hand(labels: Mapping[int, float], steps: int) -> dict[str, Any]:
    """The labels by hand, null where there is none."""
    return {"steps": [labels.get(step) for step in range(steps)], "answer": labels.get(steps)}


def _add_labels(
    nodes: Sequence[dict[str, Any]],
    ways: Sequence[list[int]],
    readings: Sequence[Reading],
    labels: Mapping[int, Mapping[int, float]],
) -> None:
    """The mean of the labels of a node's rollouts, as the scorer `hand`."""
    found: dict[int, list[float]] = {}
    for place, own in labels.items():
        way, answer = ways[place], readings[place].answer
        last = way[-1] if way else None
        ends = [node["number"] for node in nodes if node["parent"] == last and node["answer"] == answer]
        numbers = dict(enumerate(way)) | ({len(way): ends[0]} if answer is not None else {})
        for step, label in own.items():
            if step in numbers:
                found.setdefault(numbers[step], []).append(label)
    for number, values in found.items():
        nodes[number]["scores"]["hand"] = sum(values) / len(values)
        if min(values) < max(values):
            nodes[number]["spread"]["hand"] = [min(values), max(values)]


# Searches and pairs


def _beams(run: OpenRun, name: str, example: Example | None) -> list[dict[str, Any]]:
    rows = [(log, found.row(name)) for log, found in run.searches.values() if name in found]
    beams = (beam_row(log.id, row, example, log.width) for log, row in rows)
    return [beam for beam in beams if beam is not None]


def _pairs(run: OpenRun, name: str) -> list[dict[str, Any]]:
    found = []
    for log, rows in run.pairs.values():
        if name in rows:
            places = [place for place, own in enumerate(rows.ids) if own == name]
            source = run.sets.get(log.set or "")
            found += [pair_row(log.id, row, source, name) for row in rows.at(places)]
    return found


def pair_row(log: str, row: Mapping[str, Any], source: OpenSet | None, name: str) -> dict[str, Any]:
    """A pair, with the scores of its texts where the set is known that they were chosen from."""
    pool = pool_of(source.rows.row(name)) if source else []
    scores = pool_scores(source, name, len(pool)) if source else {}

    def side(key: str) -> dict[str, Any]:
        text = str(row.get(key, ""))
        reading = read_text(text)
        place = next((sampled.index for sampled in pool if sampled.text == text), None)
        own = {} if place is None else {log: scored[place] for log, scored in scores.items()}
        known = {log: row_of_scores(scored) for log, scored in own.items() if isinstance(scored, StepScores)}
        steps = [row_of_step(step) for step in reading.steps]
        return {"text": text, "steps": steps, "answer": reading.answer, "scores": known or None}

    ranked = {key: number(row.get(key)) for key in ("chosen_score", "rejected_score")}
    rule = str(row.get("rule", ""))
    return {"id": log, "chosen": side("chosen"), "rejected": side("rejected"), **ranked, "rule": rule}


def number(value: Any) -> float | None:
    """The value if it is a number that JSON has."""
    return float(value) if isinstance(value, int | float) and abs(value) < inf else None


def pairs_page(run: OpenRun, name: str, offset: int, limit: int) -> dict[str, Any]:
    """One page of a file of pairs, as the page takes it; `questions` counts the pairs."""
    if name not in run.pairs:
        raise NotThere(f"run {run.name} has no pairs {name[:100]!r}: choose some of /api/runs")
    log, rows = run.pairs[name]
    source = run.sets.get(log.set or "")
    places = range(len(rows))[offset : offset + limit]
    pairs = [
        pair_row(log.id, row, source, rows.ids[place]) | {"example": _question(run, source, rows.ids[place])}
        for place, row in zip(places, rows.at(places), strict=True)
    ]
    return {"questions": len(rows), "pairs": pairs}


def _question(run: OpenRun, source: OpenSet | None, name: str) -> dict[str, Any]:
    if source is None:
        return {"id": name, "family": "", "question": "", "answer": "", "pictures": []}
    return question_row(run, source, name, example_of(source.examples.row(name)))


def _place(one: OpenSet, name: str) -> dict[str, Any]:
    place, ids = one.rows.places[name], one.rows.ids
    return {
        "number": place + 1,
        "of": len(ids),
        "previous": ids[place - 1] if place else None,
        "next": ids[place + 1] if place + 1 < len(ids) else None,
    }
