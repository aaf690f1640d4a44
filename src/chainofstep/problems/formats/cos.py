"""The formats of the paper's authors, byte for byte (their loaders in baaivision/CoS; `Lauch1ng/CoS-Dataset`).

A row that was read is written again as the same JSON line, if its keys stand in the order of the format.
"""

import re

from chainofstep.chain import ANSWER_END, BAD, GOOD, REASONING_START, STEP_END, STEP_TAG, Chain, Step, render
from chainofstep.problems.formats.base import (
    Format,
    Row,
    answer_in,
    build,
    chain_of,
    cut_after,
    example_of,
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
    text_field,
    text_of,
    unmarked,
    wrong,
)
from chainofstep.problems.formats.chats import SHAREGPT
from chainofstep.records import StepRow, StepScores

SPLIT = "<|split_token|>"
_LABEL = re.compile(f"{re.escape(GOOD)}|{re.escape(BAD)}")


# SFT and PRM training: conversations


def _read_conversation(name: str, row: Row, row_id: str) -> tuple[str, str, tuple[str, ...], str, Row]:
    """(id, question, pictures, reply, what is kept) of a ShareGPT row."""
    images = images_field(row)
    system, value, reply = SHAREGPT.read(row, "conversations")
    meta = {} if system is None else {name: {"system": system}}
    return id_field(row, "id", row_id), unmarked(value, images, SHAREGPT.mark), images, reply, meta


def _write_conversation(name: str, row: StepRow, reply: str) -> Row:
    example = row.example
    system = kept(example, name).get("system")
    question = marked(example.question, example.images, SHAREGPT.mark)
    turns = SHAREGPT.turns(question, reply, system)
    return {"id": example.id, **image_entry(example.images), "conversations": turns}


def _read_sft(row: Row, row_id: str) -> StepRow:
    found_id, question, images, text, meta = _read_conversation("sharegpt-step", row, row_id)
    return StepRow(example_of(found_id, question, images, answer_in(text), meta), text)


def _write_sft(row: StepRow) -> Row:
    return _write_conversation("sharegpt-step", row, text_of(row))


def _read_prm(row: Row, row_id: str) -> StepRow:
    found_id, question, images, reply, meta = _read_conversation("prm-train", row, row_id)
    text, labels = _untagged(reply)
    answer = "" if labels.answer == 0 else answer_in(text)
    return StepRow(example_of(found_id, question, images, answer, meta), text, labels)


def _untagged(reply: str) -> tuple[str, StepScores]:
    """The text and its labels, from `INPUT<|split_token|>LABEL`."""
    parts = reply.split(SPLIT)
    if len(parts) != 2:
        raise ValueError(f"wrong split: {SPLIT} occurs {len(parts) - 1} times, not once")
    pieces = parts[0].split(STEP_TAG)
    if pieces != _LABEL.split(parts[1]):
        raise ValueError(f"wrong split: input and label are not the same text but for {STEP_TAG}, {GOOD} and {BAD}")
    text = "".join(pieces)
    labels = [float(tag == GOOD) for tag in _LABEL.findall(parts[1])]
    chain = chain_of(StepRow(example_of("", "", (), ""), text))
    answers = int(chain.answer is not None)
    if [*_tagged_places(text)] != pieces or len(labels) != len(chain.steps) + answers:
        raise ValueError(f"labels do not fit: {len(labels)} tags for {len(chain.steps)} steps and {answers} answers")
    steps = len(chain.steps)
    return text, StepScores(tuple(labels[:steps]), labels[steps] if answers else None)


def _tagged_places(text: str) -> list[str]:
    """The text cut after each step's end and the answer's, where the tags stand."""
    return re.split(f"(?<={re.escape(STEP_END)})|(?<={re.escape(ANSWER_END)})", text)


def _write_prm(row: StepRow) -> Row:
    """As far as the verdicts go; without the answer where it has none."""
    chain, labels = labelled(row)
    hard(labels)
    text = text_of(row) if labels.answer is not None else cut_after(text_of(row), len(chain.steps))
    tags = [GOOD if label else BAD for label in labels.steps]
    tags += [] if labels.answer is None else [GOOD if labels.answer else BAD]
    pieces = _tagged_places(text)
    label = "".join(piece + tag for piece, tag in zip(pieces, [*tags, ""], strict=True))
    return _write_conversation("prm-train", row, f"{STEP_TAG.join(pieces)}{SPLIT}{label}")


# Raw PRM data, and what the authors' scorer writes


def _read_reasoning(row: Row) -> Chain:
    steps = tuple(
        Step(*(text_field(step, f"step_{part}") for part in ("name", "thought", "reflection")))
        for step in objects_field(row, "reasoning")
    )
    if row.get("reason_step_num", len(steps)) != len(steps):
        raise wrong("reason_step_num", f"{len(steps)}, the number of steps", row["reason_step_num"])
    answer = None if row.get("extract_answer", "") is None else text_field(row, "extract_answer")
    return Chain(steps, answer)


def _reasoning(chain: Chain) -> list[Row]:
    return [{"step_name": s.name, "step_thought": s.thought, "step_reflection": s.reflection} for s in chain.steps]


def _read_scores(row: Row, steps_key: str, answer_key: str, chain: Chain) -> StepScores | None:
    if steps_key not in row:
        return None
    steps = tuple(number_field(v, f"{steps_key}[{i}]") for i, v in enumerate(list_field(row, steps_key)))
    if len(steps) > len(chain.steps):
        raise ValueError(f"labels do not fit: {len(steps)} for {len(chain.steps)} steps")
    answer = row.get(answer_key)
    return StepScores(steps, None if answer is None else number_field(answer, answer_key))


def _read_raw(row: Row, row_id: str, steps_key: str, answer_key: str) -> StepRow:
    chain, images = _read_reasoning(row), images_field(row)
    labels = _read_scores(row, steps_key, answer_key, chain)
    question = unmarked(text_field(row, "question"), images, SHAREGPT.mark)
    known_wrong = labels is not None and labels.answer == 0
    answer = "" if known_wrong or chain.answer is None else chain.answer
    return StepRow(example_of(id_field(row, "question_id", row_id), question, images, answer), render(chain), labels)


def _plain_number(label: float) -> float:
    return int(label) if label == int(label) else label


def _write_raw(row: StepRow) -> Row:
    chain, example = chain_of(row), row.example
    written = {
        "question_id": example.id,
        **image_entry(example.images),
        "question": example.question,
        "reasoning": _reasoning(chain),
        "reason_step_num": len(chain.steps),
        "extract_answer": chain.answer,
    }
    if row.labels is not None:
        written["step_labels"] = [_plain_number(label) for label in row.labels.steps]
        if row.labels.answer is not None:
            written["answer_label"] = _plain_number(row.labels.answer)
    return written


def _write_scored(row: StepRow) -> Row:
    chain, labels, example = chain_of(row), labels_of(row), row.example
    return {
        "question_id": example.id,
        **image_entry(example.images),
        "reason_step_num": len(chain.steps),
        **({} if labels.answer is None else {"answer_score": labels.answer}),
        "extract_answer": chain.answer,
        "step_scores": list(labels.steps),
        "reasoning": _reasoning(chain),
        "question": example.question,
    }


# Preference pairs


def _read_dpo(row: Row, row_id: str) -> StepRow:
    images, chosen = images_field(row), text_field(row, "chosen")
    question = unmarked(text_field(row, "question"), images, SHAREGPT.mark)
    example = example_of(id_field(row, "id", row_id), question, images, answer_in(chosen))
    return StepRow(example, chosen, rejected=text_field(row, "rejected"))


def _write_dpo(row: StepRow) -> Row:
    example = row.example
    if row.rejected is None:
        raise ValueError("no rejected text: the row is no pair")
    question = {"id": example.id, **image_entry(example.images), "question": example.question}
    return {**question, "chosen": text_of(row), "rejected": row.rejected}


# Whether a row can only be of one format


def _reply(row: Row) -> str:
    """The text of a ShareGPT row's last turn; "" for any other row."""
    turns = row.get("conversations")
    last = turns[-1] if isinstance(turns, list) and turns else None
    value = last.get("value") if isinstance(last, dict) else None
    return value if isinstance(value, str) else ""


def _fits_sft(row: Row) -> bool:
    reply = _reply(row)
    return "images" not in row and REASONING_START in reply and SPLIT not in reply


FORMATS: list[Format] = [
    build(
        "sharegpt-step",
        "the authors' SFT rows: {id?, image?, conversations, length?}",
        ["chain"],
        _read_sft,
        _write_sft,
        _fits_sft,
    ),
    build(
        "prm-train",
        "the authors' PRM rows: the reply is INPUT<|split_token|>LABEL",
        ["chain", "labels"],
        _read_prm,
        _write_prm,
        lambda row: SPLIT in _reply(row),
    ),
    build(
        "prm-raw",
        "the authors' raw PRM rows: {question_id, image?, question, reasoning, reason_step_num, extract_answer} "
        "and, as they do not name theirs, step_labels and answer_label",
        ["chain", "labels"],
        lambda row, row_id: _read_raw(row, row_id, "step_labels", "answer_label"),
        _write_raw,
        lambda row: "reasoning" in row and "step_scores" not in row,
        several=True,
    ),
    build(
        "prm-scored",
        "what the authors' PRM writes: prm-raw with answer_score and step_scores",
        ["chain", "labels"],
        lambda row, row_id: _read_raw(row, row_id, "step_scores", "answer_score"),
        _write_scored,
        lambda row: "reasoning" in row and "step_scores" in row,
        several=True,
    ),
    build(
        "dpo",
        "the authors' pairs: {id?, image?, question, chosen, rejected}",
        ["chain", "pair"],
        _read_dpo,
        _write_dpo,
        lambda row: {"question", "chosen", "rejected"} <= row.keys() and isinstance(row["chosen"], str),
        several=True,
    ),
]
