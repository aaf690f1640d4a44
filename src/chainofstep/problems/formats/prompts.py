"""Questions alone, as reinforcement learning reads them: verl's rows and ms-swift's GRPO rows.

The policy writes the chains itself, so a row's text and labels stay behind. The columns that a reward needs stand
where both trainers pass them on: in `extra_info` (verl), in columns of their own (ms-swift).
"""

from typing import Any, get_args

from chainofstep.problems.formats.base import (
    Format,
    Row,
    build,
    field,
    id_field,
    images_field,
    kept,
    kind_of,
    marked,
    objects_field,
    text_field,
    texts_field,
    unmarked,
    wrong,
)
from chainofstep.problems.formats.chats import MS_SWIFT
from chainofstep.records import AnswerKind, Example, StepRow

MARK = "<image>"  # of both; verl's data set splits a message's text at it
SOURCE = "chainofstep"  # verl demands a data source


def _reward_columns(example: Example) -> Row:
    """What tells a right answer, beside the answer itself."""
    columns: Row = {"answer_kind": example.answer_kind}
    return columns | ({"choices": list(example.choices)} if example.choices else {})


def _example(row: Row, row_id: str, question: str, images: tuple[str, ...], answer: str, **more: Any) -> StepRow:
    """The example of columns that `_reward_columns` wrote, or of others' rows, which lack them."""
    kind: AnswerKind = kind_of(answer)
    if "answer_kind" in row:
        kind = row["answer_kind"]
        if kind not in get_args(AnswerKind):
            raise wrong("answer_kind", "number, word or choice", kind)
    choices = tuple(texts_field(row, "choices")) if "choices" in row else ()
    return StepRow(Example(id_field(row, "id", row_id), question, images, answer, kind, choices, **more))


# verl (`verl/utils/dataset/rl_dataset.py`, `examples/data_preprocess/geo3k.py`)


def _object_field(row: Row, key: str) -> Row:
    value = field(row, key)
    if not isinstance(value, dict):
        raise wrong(key, "an object", value)
    return value


def _verl_images(row: Row) -> tuple[str, ...]:
    """Pictures as paths, or as objects with a path."""
    images = row.get("images") or []
    if not isinstance(images, list):
        raise wrong("images", "a list of pictures", images)
    paths = [image.get("image") if isinstance(image, dict) else image for image in images]
    return images_field({"images": paths}, "images")


def _read_verl(row: Row, row_id: str) -> StepRow:
    images, extra = _verl_images(row), _object_field(row, "extra_info") if "extra_info" in row else {}
    turns = [(text_field(turn, "role"), text_field(turn, "content")) for turn in objects_field(row, "prompt")]
    system = turns.pop(0)[1] if turns and turns[0][0] == "system" else None
    if [role for role, _ in turns] != ["user"]:
        raise wrong("prompt", "one turn of user", [role for role, _ in turns])
    answer = text_field(_object_field(row, "reward_model"), "ground_truth")
    source = text_field(row, "data_source")
    return _example(
        extra,
        row_id,
        unmarked(turns[0][1], images, MARK),
        images,
        answer,
        source="" if source == SOURCE else source,
        meta={} if system is None else {"verl": {"system": system}},
    )


def _write_verl(row: StepRow) -> Row:
    example = row.example
    system = kept(example, "verl").get("system")
    first = [] if system is None else [{"role": "system", "content": system}]
    question = marked(example.question, example.images, MARK)
    extra = {"id": example.id, "question": example.question, "images": list(example.images)}
    return {
        "data_source": example.source or SOURCE,
        "prompt": [*first, {"role": "user", "content": question}],
        "images": [{"image": path} for path in example.images],
        "reward_model": {"style": "rule", "ground_truth": example.answer},
        "extra_info": extra | _reward_columns(example),
    }


# ms-swift (docs, "Custom dataset" and "GRPO"): columns other than its own are passed on to reward functions


def _read_prompt(row: Row, row_id: str) -> StepRow:
    images = images_field(row, "images")
    system, value, _ = MS_SWIFT.read(row, "messages", reply=False)
    meta = {} if system is None else {"ms-swift-prompts": {"system": system}}
    question, answer = unmarked(value, images, MS_SWIFT.mark), text_field(row, "solution")
    source = text_field(row, "source") if "source" in row else ""
    return _example(row, row_id, question, images, answer, source=source, meta=meta)


def _write_prompt(row: StepRow) -> Row:
    example = row.example
    system = kept(example, "ms-swift-prompts").get("system")
    question = marked(example.question, example.images, MS_SWIFT.mark)
    written: Row = {"id": example.id, "messages": MS_SWIFT.turns(question, None, system)}
    if example.images:
        written["images"] = list(example.images)
    written |= {"solution": example.answer} | _reward_columns(example)
    return written | ({"source": example.source} if example.source else {})


FORMATS: list[Format] = [
    build(
        "verl",
        "verl's prompts: data_source, prompt, images, reward_model, extra_info",
        [],
        _read_verl,
        _write_verl,
        lambda row: isinstance(row.get("reward_model"), dict) and "data_source" in row,
    ),
    build(
        "ms-swift-prompts",
        "ms-swift's GRPO prompts: messages, images, solution",
        [],
        _read_prompt,
        _write_prompt,
        lambda row: "messages" in row and "solution" in row,
    ),
]
