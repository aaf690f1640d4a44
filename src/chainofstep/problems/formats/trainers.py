"""The rows that other trainers take: TRL 1.16, ms-swift, LLaMA-Factory.

Pictures are paths in `images`. TRL wants them opened: `dataset.cast_column("images", List(Image()))`.
"""

from typing import Any

from chainofstep.chain import ANSWER_START, REASONING_START, STEP_END, STEP_START, render
from chainofstep.problems.formats.base import (
    Format,
    Row,
    answer_in,
    build,
    cut_after,
    example_of,
    hard,
    id_field,
    images_field,
    kept,
    labelled,
    list_field,
    marked,
    objects_field,
    plain_chain,
    text_field,
    text_of,
    texts_field,
    unmarked,
    wrong,
)
from chainofstep.problems.formats.chats import LLAMA_FACTORY, MS_SWIFT, Chat
from chainofstep.records import StepRow, StepScores


def _pair_of(row: StepRow) -> tuple[str, str]:
    if row.rejected is None:
        raise ValueError("no rejected text: the row is no pair")
    return text_of(row), row.rejected


# TRL ("Dataset formats and types"; the collators for vision-language models in `sft_trainer.py`, `dpo_trainer.py`)


def _parts(text: str, pictures: int = 0) -> list[Row]:
    return [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": text}]


def _message(role: str, text: str, pictures: int = 0) -> list[Row]:
    return [{"role": role, "content": _parts(text, pictures)}]


def _spoken(messages: list[Row], key: str) -> list[tuple[str, str]]:
    """(role, text) of messages whose content is text, or parts of which the text ones are joined."""
    spoken = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            texts = [part for part in objects_field(message, "content") if part.get("type") == "text"]
            content = "".join(text_field(part, "text") for part in texts)
        if not isinstance(content, str):
            raise wrong(key, "messages with text or parts", message)
        spoken.append((text_field(message, "role"), content))
    return spoken


def _only(row: Row, key: str, role: str) -> str:
    """The text of messages that are one turn of `role`, perhaps after a system turn."""
    spoken = _spoken(objects_field(row, key), key)
    if [found for found, _ in spoken if found != "system"] != [role]:
        raise wrong(key, f"one turn of {role}", [found for found, _ in spoken])
    return spoken[-1][1]


def _read_trl(row: Row, row_id: str) -> StepRow:
    images = images_field(row, "images")
    if "messages" in row:
        spoken = [turn for turn in _spoken(objects_field(row, "messages"), "messages") if turn[0] != "system"]
        if [role for role, _ in spoken] != ["user", "assistant"]:
            raise wrong("messages", "turns of user and assistant", [role for role, _ in spoken])
        question, text = (said for _, said in spoken)
    else:
        question, text = _only(row, "prompt", "user"), _only(row, "completion", "assistant")
    return StepRow(example_of(_row_id(row, row_id), question, images, answer_in(text)), text)


def _write_trl(row: StepRow) -> Row:
    example = row.example
    prompt = _message("user", example.question, len(example.images))
    return {"prompt": prompt, "completion": _message("assistant", text_of(row)), "images": list(example.images)}


def _read_trl_pair(row: Row, row_id: str) -> StepRow:
    chosen, rejected = _only(row, "chosen", "assistant"), _only(row, "rejected", "assistant")
    question, images = _only(row, "prompt", "user"), images_field(row, "images")
    example = example_of(_row_id(row, row_id), question, images, answer_in(chosen))
    return StepRow(example, chosen, rejected=rejected)


def _write_trl_pair(row: StepRow) -> Row:
    chosen, rejected = _pair_of(row)
    example = row.example
    replies = {"chosen": _message("assistant", chosen), "rejected": _message("assistant", rejected)}
    prompt = _message("user", example.question, len(example.images))
    return {"prompt": prompt, **replies, "images": list(example.images)}


def _read_stepwise(row: Row, row_id: str) -> StepRow:
    """Completions with step tokens are a chain's text cut after each step; others are plain steps."""
    completions, values = texts_field(row, "completions"), list_field(row, "labels")
    for place, value in enumerate(values):
        if not isinstance(value, bool):
            raise wrong(f"labels[{place}]", "true or false", value)
    if len(values) != len(completions):
        raise ValueError(f"labels do not fit: {len(values)} for {len(completions)} completions")
    labels = [float(value) for value in values]
    text = "".join(completions)
    answers = int(bool(completions) and ANSWER_START in completions[-1])
    if STEP_START not in text:
        text, answers = render(plain_chain(completions)), 0
    steps = len(labels) - answers
    scores = StepScores(tuple(labels[:steps]), labels[-1] if answers else None)
    gold = "" if scores.answer == 0 else answer_in(text)
    images = images_field(row, "images")
    return StepRow(example_of(_row_id(row, row_id), text_field(row, "prompt"), images, gold), text, scores)


def _write_stepwise(row: StepRow) -> Row:
    """As far as the verdicts go. The completions joined are the chain's text."""
    chain, labels = labelled(row)
    hard(labels)
    text = text_of(row) if labels.answer is not None else cut_after(text_of(row), len(chain.steps))
    pieces = [piece + STEP_END for piece in text.split(STEP_END)]
    pieces[-1] = pieces[-1].removesuffix(STEP_END)
    if labels.answer is None:  # the newline after the last step is no completion of its own
        pieces[-2:] = ["".join(pieces[-2:])]
    values = [*labels.steps, *([] if labels.answer is None else [labels.answer])]
    written: Row = {"prompt": row.example.question, "completions": pieces, "labels": [bool(v) for v in values]}
    return written | ({"images": list(row.example.images)} if row.example.images else {})


# ms-swift and LLaMA-Factory: marks in the text, one for each picture


def _question(chat: Chat, row: StepRow) -> str:
    return marked(row.example.question, row.example.images, chat.mark)


def _row_id(row: Row, otherwise: str) -> str:
    return id_field(row, "id", otherwise)


def _read_swift(row: Row, row_id: str) -> StepRow:
    images = images_field(row, "images")
    system, value, text = MS_SWIFT.read(row, "messages")
    meta = {} if system is None else {"ms-swift": {"system": system}}
    rejected = text_field(row, "rejected_response") if "rejected_response" in row else None
    question = unmarked(value, images, MS_SWIFT.mark)
    return StepRow(example_of(_row_id(row, row_id), question, images, answer_in(text), meta), text, rejected=rejected)


def _write_swift(row: StepRow) -> Row:
    system = kept(row.example, "ms-swift").get("system")
    written: Row = {"messages": MS_SWIFT.turns(_question(MS_SWIFT, row), text_of(row), system)}
    if row.rejected is not None:
        written["rejected_response"] = row.rejected
    return written | ({"images": list(row.example.images)} if row.example.images else {})


def _read_llama(row: Row, row_id: str) -> StepRow:
    images, pair = images_field(row, "images"), "chosen" in row
    system, value, text = LLAMA_FACTORY.read(row, "conversations", reply=not pair)
    rejected = None
    if pair:
        text, rejected = (_reply_of(row, key) for key in ("chosen", "rejected"))
    meta = {} if system is None else {"llama-factory": {"system": system}}
    question = unmarked(value, images, LLAMA_FACTORY.mark)
    return StepRow(example_of(_row_id(row, row_id), question, images, answer_in(text), meta), text, rejected=rejected)


def _reply_of(row: Row, key: str) -> str:
    reply = row.get(key)
    if not isinstance(reply, dict) or reply.get("from") != LLAMA_FACTORY.assistant:
        raise wrong(key, "an object with from and value, from gpt", reply)
    return text_field(reply, "value")


def _write_llama(row: StepRow) -> Row:
    system = kept(row.example, "llama-factory").get("system")
    question, text = _question(LLAMA_FACTORY, row), text_of(row)
    if row.rejected is None:
        written: Row = {"conversations": LLAMA_FACTORY.turns(question, text, system)}
    else:
        replies = {"chosen": text, "rejected": row.rejected}
        written = {
            "conversations": LLAMA_FACTORY.turns(question, None, system),
            **{key: LLAMA_FACTORY.turn(LLAMA_FACTORY.assistant, reply) for key, reply in replies.items()},
        }
    return written | {"images": list(row.example.images)}


def llama_factory_entry(name: str, file_name: str, pairs: bool = False) -> dict[str, Any]:
    """The entry of `dataset_info.json` that tells LLaMA-Factory how to read a file of this format."""
    columns = {"messages": "conversations", "images": "images"}
    if pairs:
        columns |= {"chosen": "chosen", "rejected": "rejected"}
    ranking = {"ranking": True} if pairs else {}
    return {name: {"file_name": file_name, "formatting": "sharegpt", **ranking, "columns": columns}}


def _messages(row: Row, key: str) -> bool:
    """Whether a value is messages in TRL's style: roles, and content in parts."""
    value = row.get(key)
    last = value[-1] if isinstance(value, list) and value else None
    return isinstance(last, dict) and isinstance(last.get("content"), list)


def _fits_swift(row: Row) -> bool:
    messages = row.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    content = last.get("content") if isinstance(last, dict) else None
    return isinstance(content, str) and REASONING_START in content


FORMATS: list[Format] = [
    build(
        "trl",
        "TRL's SFT rows: prompt, completion, images (or messages, images)",
        ["chain"],
        _read_trl,
        _write_trl,
        lambda row: _messages(row, "completion") or _messages(row, "messages"),
    ),
    build(
        "trl-preference",
        "TRL's pairs: prompt, chosen, rejected, images",
        ["chain", "pair"],
        _read_trl_pair,
        _write_trl_pair,
        lambda row: _messages(row, "prompt") and _messages(row, "chosen") and "rejected" in row,
    ),
    build(
        "trl-stepwise",
        "TRL's stepwise supervision: prompt, completions, labels",
        ["chain", "labels"],
        _read_stepwise,
        _write_stepwise,
        lambda row: {"prompt", "completions", "labels"} <= row.keys(),
    ),
    build(
        "ms-swift",
        "ms-swift: messages, images, rejected_response for pairs",
        ["chain", "pair"],
        _read_swift,
        _write_swift,
        _fits_swift,
    ),
    build(
        "llama-factory",
        "LLaMA-Factory's sharegpt style: conversations, images, chosen and rejected for pairs",
        ["chain", "pair"],
        _read_llama,
        _write_llama,
        lambda row: "conversations" in row and "image" not in row and ("images" in row or "chosen" in row),
    ),
]
