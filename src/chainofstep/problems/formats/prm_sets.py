"""Published sets with step labels: VisualPRM400K, VisualProcessBench, PRM800K, ProcessBench.

Their steps are plain text: a step's text is its thought. A chain whose last step gives no answer is a prefix, and
labels may end before the steps do, where nobody judged the rest.
"""

from typing import Any

from chainofstep.chain import render
from chainofstep.problems.formats.base import (
    Format,
    Row,
    build,
    chain_of,
    example_of,
    field,
    hard,
    id_field,
    image_entry,
    images_field,
    kept,
    labelled,
    labels_of,
    list_field,
    marked,
    number_field,
    objects_field,
    plain_chain,
    plain_steps,
    text_field,
    texts_field,
    unmarked,
    wrong,
)
from chainofstep.problems.formats.chats import SHAREGPT
from chainofstep.records import StepRow, StepScores

# VisualPRM400K-Raw: steps with the share of continuations that came right (the set's card, and InternVL's
# `tools/reasoning_data_pipeline/visualprm_data_pieline.py`)


def _read_visualprm(row: Row, row_id: str) -> StepRow:
    steps, images = objects_field(row, "steps_with_score"), images_field(row)
    texts = [text_field(step, "step") for step in steps]
    labels = tuple(number_field(field(s, "score"), f"steps_with_score[{i}].score") for i, s in enumerate(steps))
    others = [{key: value for key, value in step.items() if key not in ("step", "score")} for step in steps]
    question = unmarked(text_field(row, "question"), images, SHAREGPT.mark)
    meta = {"visualprm400k": {"counts": others}} if any(others) else {}
    example = example_of(row_id, question, images, text_field(row, "answer"), meta)
    return StepRow(example, render(plain_chain(texts)), StepScores(labels))


def _write_visualprm(row: StepRow) -> Row:
    chain, labels = labelled(row)
    example = row.example
    texts = plain_steps(chain, "Final answer: ")
    counts = kept(example, "visualprm400k").get("counts", [])
    others = counts if len(counts) == len(texts) else [{}] * len(texts)
    return {
        **image_entry(example.images),
        "question": marked(example.question, example.images, SHAREGPT.mark),
        "answer": example.answer,
        "steps_with_score": [
            {"step": text, "score": label, **other}
            for text, label, other in zip(texts, labels.steps, others, strict=True)
        ],
    }


# VisualPRM400K: the same as a conversation that answers every step with + or -

_QUESTION, _SOLUTION = "### Question:\n", "\n\n### Solution Process:\n"
_VERDICTS = {"+": 1.0, "-": 0.0}


def _read_verdicts(row: Row, row_id: str) -> StepRow:
    images = images_field(row)
    turns = [(text_field(t, "from"), text_field(t, "value")) for t in objects_field(row, "conversations")]
    system = turns.pop(0)[1] if turns and turns[0][0] == "system" else None
    if not turns or [role for role, _ in turns] != ["human", "gpt"] * (len(turns) // 2):
        raise wrong("conversations", "turns of human and gpt", [role for role, _ in turns])
    steps, verdicts = [value for _, value in turns[::2]], [value for _, value in turns[1::2]]
    if unknown := [verdict for verdict in verdicts if verdict not in _VERDICTS]:
        raise wrong("conversations", "+ or - after each step", unknown[0])
    question, solution, steps[0] = steps[0].partition(_SOLUTION)
    if not solution or not question.startswith(_QUESTION):
        raise wrong("conversations", f"{_QUESTION!r} and {_SOLUTION!r} in the first turn", question)
    meta = {} if system is None else {"visualprm400k-chat": {"system": system}}
    question = unmarked(question.removeprefix(_QUESTION), images, SHAREGPT.mark)
    found_id = row_id if row.get("id") == -1 else id_field(row, "id", row_id)  # all of the set's rows have -1
    labels = StepScores(tuple(_VERDICTS[verdict] for verdict in verdicts))
    chain = plain_chain(steps)
    answer = (labels.steps[-1] and chain.answer) or ""  # the one of a wrong last step is no gold answer
    return StepRow(example_of(found_id, question, images, answer, meta), render(chain), labels)


def _write_verdicts(row: StepRow) -> Row:
    chain, labels = labelled(row)
    hard(StepScores(labels.steps))
    example = row.example
    system = kept(example, "visualprm400k-chat").get("system")
    texts = plain_steps(chain, "Final answer: ")
    texts[0] = f"{_QUESTION}{marked(example.question, example.images, SHAREGPT.mark)}{_SOLUTION}{texts[0]}"
    turns = [] if system is None else [SHAREGPT.turn("system", system)]
    for text, label in zip(texts, labels.steps, strict=True):
        turns += SHAREGPT.turns(text, "+" if label else "-")
    return {"id": example.id, **image_entry(example.images), "conversations": turns}


# VisualProcessBench (the set's card): 1, 0 and -1 are correct, neutral and incorrect

_TERNARY = {1: 1.0, 0: 0.5, -1: 0.0}
_RATINGS = {label: rating for rating, label in _TERNARY.items()}


def _ternary(value: Any, key: str) -> float:
    if isinstance(value, bool) or value not in (1, 0, -1):
        raise wrong(key, "1, 0 or -1", value)
    return _TERNARY[value]


def _read_processed(row: Row, row_id: str) -> StepRow:
    response, images = field(row, "response"), images_field(row)
    if not isinstance(response, dict):
        raise wrong("response", "an object with steps and process_correctness", response)
    steps, verdicts = texts_field(response, "steps"), list_field(response, "process_correctness")
    if len(steps) != len(verdicts):
        raise ValueError(f"labels do not fit: {len(verdicts)} for {len(steps)} steps")
    labels = tuple(_ternary(v, f"response.process_correctness[{i}]") for i, v in enumerate(verdicts))
    question = unmarked(text_field(row, "question"), images, SHAREGPT.mark)
    source = row.get("data_source")
    source = source if isinstance(source, str) else ""
    example = example_of(row_id, question, images, text_field(row, "answer"), source=source)
    return StepRow(example, render(plain_chain(steps)), StepScores(labels))


def _write_processed(row: StepRow) -> Row:
    chain, labels = labelled(row)
    hard(StepScores(labels.steps), tuple(_RATINGS))
    example = row.example
    verdicts = [_RATINGS[label] for label in labels.steps]
    written = {
        "image": list(example.images),
        "question": example.question,
        "answer": example.answer,
        "response": {"steps": plain_steps(chain, "Final answer: "), "process_correctness": verdicts},
    }
    return written | ({"data_source": example.source} if example.source else {})


# PRM800K (openai/prm800k, README): the path of chosen completions


def _read_prm800k(row: Row, row_id: str) -> StepRow:
    question, label = field(row, "question"), field(row, "label")
    if not isinstance(question, dict) or not isinstance(label, dict):
        raise wrong("question and label", "objects", (question, label))
    path: list[tuple[str, float | None]] = []
    for number, step in enumerate(objects_field(label, "steps")):
        if (taken := _taken(step, f"label.steps[{number}]")) is None:
            break
        path.append(taken)
    known = [rating for _, rating in path]
    known = known[: known.index(None)] if None in known else known
    answer = question.get("ground_truth_answer")
    answer = "" if answer is None else text_field(question, "ground_truth_answer")
    labels = StepScores(tuple(rating for rating in known if rating is not None)) if known else None
    example = example_of(row_id, text_field(question, "problem"), (), answer)
    return StepRow(example, render(plain_chain([text for text, _ in path])), labels)


def _taken(step: Row, key: str) -> tuple[str, float | None] | None:
    """The text and rating of the step that the path goes through; None where it ends before this step.

    The chosen completion; else the one that a labeller wrote, as only right ones were asked for; else, where
    labelling stopped at an error, the first completion that is rated -1. A null rating is no verdict.
    """
    completions, chosen = objects_field(step, "completions"), step.get("chosen_completion")
    written = step.get("human_completion")
    if chosen is None and written is not None:
        return (written if isinstance(written, str) else text_field(written, "text")), 1.0
    if chosen is None:
        bad = [completion for completion in completions if completion.get("rating") == -1]
        return (text_field(bad[0], "text"), 0.0) if bad else None
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not 0 <= chosen < len(completions):
        raise wrong(f"{key}.chosen_completion", f"a place among {len(completions)} completions", chosen)
    rating = completions[chosen].get("rating")
    return text_field(completions[chosen], "text"), None if rating is None else _ternary(rating, f"{key}.rating")


def _write_prm800k(row: StepRow) -> Row:
    chain, labels = chain_of(row), labels_of(row)
    hard(StepScores(labels.steps), tuple(_RATINGS))
    texts = plain_steps(chain, "# Answer\n\n")
    ratings = [_RATINGS[label] for label in labels.steps]
    steps = [
        {
            "completions": [{"text": text, "rating": rating, "flagged": None}],
            "human_completion": None,
            "chosen_completion": 0,
        }
        for text, rating in zip(texts, [*ratings, *[None] * (len(texts) - len(ratings))], strict=True)
    ]
    reason = "found_error" if -1 in ratings else "solution" if chain.answer is not None else "give_up"
    question = {"problem": row.example.question, "ground_truth_answer": row.example.answer}
    return {"question": question, "label": {"steps": steps, "finish_reason": reason}}


# ProcessBench (QwenLM/ProcessBench, README): the first wrong step, or -1. What comes after it was not judged, so the
# text keeps all steps and the labels end with the wrong one.


def _read_processbench(row: Row, row_id: str) -> StepRow:
    steps, first = texts_field(row, "steps"), field(row, "label")
    if isinstance(first, bool) or not isinstance(first, int) or not -1 <= first < len(steps):
        raise wrong("label", f"-1 or the number of one of {len(steps)} steps, from 0", first)
    right = field(row, "final_answer_correct")
    if not isinstance(right, bool):
        raise wrong("final_answer_correct", "true or false", right)
    chain = plain_chain(steps)
    labels = (1.0,) * len(steps) if first < 0 else (*(1.0,) * first, 0.0)
    answer = None if chain.answer is None else float(right)
    gold = chain.answer if right and chain.answer is not None else ""
    example = example_of(id_field(row, "id", row_id), text_field(row, "problem"), (), gold)
    return StepRow(example, render(chain), StepScores(labels, answer))


def _write_processbench(row: StepRow) -> Row:
    chain, labels = chain_of(row), labels_of(row)
    steps = plain_steps(chain, "Final answer: ")
    first = next((number for number, label in enumerate(labels.steps) if label < 0.5), -1)
    if first < 0 and len(labels.steps) < len(steps):
        raise ValueError(f"labels do not fit: {len(labels.steps)} for {len(steps)} steps, none of them wrong")
    right = first < 0 if labels.answer is None else labels.answer >= 0.5
    known = {"id": row.example.id, "problem": row.example.question, "steps": steps}
    return {**known, "final_answer_correct": right, "label": first}


def _fits_verdicts(row: Row) -> bool:
    turns = row.get("conversations")
    last = turns[-1] if isinstance(turns, list) and turns else None
    return isinstance(last, dict) and last.get("value") in ("+", "-")


def _fits_processed(row: Row) -> bool:
    response = row.get("response")
    return isinstance(response, dict) and "process_correctness" in response


def _fits_prm800k(row: Row) -> bool:
    return isinstance(row.get("question"), dict) and isinstance(row.get("label"), dict)


FORMATS: list[Format] = [
    build(
        "visualprm400k",
        "OpenGVLab/VisualPRM400K-Raw: steps with the share of continuations that came right",
        ["chain", "labels"],
        _read_visualprm,
        _write_visualprm,
        lambda row: "steps_with_score" in row,
    ),
    build(
        "visualprm400k-chat",
        "OpenGVLab/VisualPRM400K: a conversation that answers each step with + or -",
        ["chain", "labels"],
        _read_verdicts,
        _write_verdicts,
        _fits_verdicts,
    ),
    build(
        "visualprocessbench",
        "OpenGVLab/VisualProcessBench: steps rated 1, 0 or -1",
        ["chain", "labels"],
        _read_processed,
        _write_processed,
        _fits_processed,
    ),
    build(
        "prm800k",
        "openai/prm800k: the path of chosen completions, rated 1, 0 or -1",
        ["chain", "labels"],
        _read_prm800k,
        _write_prm800k,
        _fits_prm800k,
    ),
    build(
        "processbench",
        "Qwen/ProcessBench: steps and the number of the first wrong one, from 0",
        ["chain", "labels"],
        _read_processbench,
        _write_processbench,
        lambda row: {"steps", "final_answer_correct", "label"} <= row.keys(),
    ),
]
