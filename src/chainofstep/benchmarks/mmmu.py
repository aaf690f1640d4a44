"""MMMU (MMMU-Benchmark/MMMU): thirty college subjects in six domains, multiple choice and open questions.

`<image 2>` in questions and options stays as published: pictures are shown before the text, in the order of their
numbers, so it says which one is meant; it is no model's placeholder; and the official rule looks for option texts as
they were published.
"""

import re
from collections.abc import Mapping, Sequence
from random import Random

from chainofstep.answers import LETTERS, guess_kind
from chainofstep.benchmarks.benchmark import Benchmark, Verdict, right_if
from chainofstep.benchmarks.letters import item, lettered, literal_list, options, written_texts
from chainofstep.problems.sources.source import Row, kept, pictures, text, texts
from chainofstep.records import Example

DOMAINS: dict[str, tuple[str, ...]] = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
_DOMAIN_OF = {subject: domain for domain, subjects in DOMAINS.items() for subject in subjects}
#: In the order of the alphabet, in which the official script goes through them; its guesses follow that order.
SUBJECTS = tuple(sorted(_DOMAIN_OF))

_SUBJECT_IN_ID = re.compile(r"[a-z]+_([A-Za-z_]+)_[0-9]+")
_TYPES = {"multiple-choice": "multiple-choice", "open": "open", "short-answer": "open"}
_MOST_PICTURES = 7

_APPENDED = {
    "multiple-choice": "Think step-by-step first and then answer with the option's letter from the given choices "
    "directly.",
    "open": "Think step-by-step first and then answer the question with a single number.",
}
_OFFICIAL = {
    "multiple-choice": "Answer with the option's letter from the given choices directly.",
    "open": "Answer the question using a single word or phrase.",
}

_PUNCTUATION = (",", ".", "!", "?", ";", ":", "'")
_WORDS_OF_A_SENTENCE = 5  # option texts are looked for in replies with more words than that
_CUES = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
# Three readings of numbers, all of whose findings count. Runs of digits are entered at their start and never given
# back (`++`), so that the time grows with the text and not with its square.
_WITH_COMMAS = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
_SCIENTIFIC = re.compile(r"-?(?<!\d)\d++(?:\.\d++)?[eE][+-]?\d+")
_PLAIN = re.compile(r"-?(?:(?<!\d)\d++\.\d++|\.\d++|(?<!\d)\d++\b)(?![eE][+-]?\d)(?![,\d])")


def read_mmmu(row: Row) -> Example:
    """A row of the hub's set or of VLMEvalKit's file, which has columns A, B, C ... Options are a list or, as
    published, a list written as text; so are gold answers of open questions that have several."""
    question_type = _TYPES.get(text(row, "question_type"))
    if question_type is None:
        raise ValueError(f"unknown question_type: {row['question_type']!r:.60}, not multiple-choice or open")
    name, question = text(row, "id"), text(row, "question")
    choices = written_texts(row, "options") if "options" in row else options(row)
    golds = _golds(row, question_type, len(choices))
    return item(
        "mmmu",
        row,
        question=question,
        images=_pictures(row),
        answer=golds[0] if len(golds) == 1 else str(list(golds)),
        kind="choice" if question_type == "multiple-choice" else guess_kind(golds[0]),
        choices=choices if question_type == "multiple-choice" else (),
        meta={"subject": _subject(name), "question_type": question_type}
        | kept(row, "topic_difficulty", "subfield", "img_type")
        | ({"golds": list(golds)} if len(golds) > 1 else {}),
    )


def _golds(row: Row, question_type: str, options: int) -> tuple[str, ...]:
    """The gold answers, mostly one; of multiple choice letters of options."""
    written = row.get("answer")
    if isinstance(written, str) and written.startswith("["):
        written = literal_list(written) or written
    golds = texts({"answer": written}, "answer") if isinstance(written, list | tuple) else (text(row, "answer"),)
    if not golds or "" in golds or golds == ("?",):
        raise ValueError(f"no gold answer: the row's is {written!r}, those of the test split are not published")
    if question_type == "multiple-choice":
        if not options:
            raise ValueError("missing choices: the row has none")
        bad = [gold for gold in golds if len(gold) != 1 or gold not in LETTERS[:options]]
        if bad:
            raise ValueError(f"unreadable answer: {bad[0][:100]!r} is no letter of {options} choices")
    return golds


def _subject(name: str) -> str:
    """Accounting, of validation_Accounting_1."""
    match = _SUBJECT_IN_ID.fullmatch(name)
    if match is None or match[1] not in _DOMAIN_OF:
        raise ValueError(f"unknown subject: id {name[:60]!r} is not SPLIT_SUBJECT_NUMBER of one of the 30 subjects")
    return match[1]


def _pictures(row: Row) -> tuple[str, ...]:
    """`image` (what was embedded, in order), or the paths image_1 .. image_7."""
    numbered = [row.get(f"image_{number}") for number in range(1, _MOST_PICTURES + 1)]
    return pictures({"image": row.get("image") or [path for path in numbered if path]})


def paper_prompt(example: Example) -> str:
    """Question and options one a line, as InternVL's script lays them out; the authors' sentence of the type (B2)."""
    options = [lettered(example.choices)] if example.choices else []
    return "\n".join([example.question, *options, _APPENDED[example.meta["question_type"]]])


def official_prompt(example: Example) -> str:
    """Question, options and the official sentence of the type, an empty line between them."""
    options = [lettered(example.choices, "({letter}) {choice}")] if example.choices else []
    return "\n\n".join([example.question, *options, _OFFICIAL[example.meta["question_type"]]])


def rule(example: Example, reply: str, guesses: Random) -> Verdict:
    """The letter that the official parse of options finds, guessed if none; or any reading of an open answer."""
    golds = example.meta.get("golds") or [example.answer]
    if example.meta["question_type"] == "open":
        return _judge_open(golds, reply)
    letters = LETTERS[: len(example.choices)]
    letter = parse_options(reply, example.choices)
    if letter is None:
        guess = guesses.choice(letters)
        return Verdict("unparseable", guess, guess in golds, "guessed")
    return right_if(letter in golds, letter)


def parse_options(reply: str, options: Sequence[str]) -> str | None:
    """The letter that stands last as `(X)`, else as ` X `, else, of more than five words, the last option's text."""
    for mark in _PUNCTUATION:
        reply = reply.strip(mark)
    reply = f" {reply} "
    letters = LETTERS[: len(options)]
    found = _last(reply, {letter: f"({letter})" for letter in letters})
    found = found or _last(reply, {letter: f" {letter} " for letter in letters})
    if found is None and len(reply.split(maxsplit=_WORDS_OF_A_SENTENCE)) > _WORDS_OF_A_SENTENCE:
        small = (option.lower() for option in options)
        return _last(reply.lower(), dict(zip(letters, small, strict=False)))
    return found


def _last(reply: str, forms: dict[str, str]) -> str | None:
    """The letter whose form begins last; the first of those that begin there together."""
    places = {letter: reply.rfind(form) for letter, form in forms.items()}
    letter = max(places, key=lambda letter: places[letter], default=None)
    return None if letter is None or places[letter] < 0 else letter


def _judge_open(golds: Sequence[str], reply: str) -> Verdict:
    if not reply:
        return Verdict("unparseable")
    wanted = [one for gold in golds for one in _normal(gold)]
    found = parse_open(reply)
    numbers = {one for one in wanted if isinstance(one, float)}
    strings = [one for one in wanted if isinstance(one, str)]
    right = any(one in numbers if isinstance(one, float) else any(string in one for string in strings) for one in found)
    return right_if(right, "; ".join(str(one).strip() for one in found))


def parse_open(reply: str) -> list[str | float]:
    """All that may be meant: what follows the last cue of each line (else the whole reply), every number within."""
    whole = reply.strip().strip(".").lower()
    lines = whole.split("\n")  # officially also before a capital, of which lower case has none
    tails = [_tail(line, _CUES) for line in lines[:-1]] + [_tail(lines[-1], (*_CUES, "="))]
    said = [tail for tail in tails if tail and tail not in _PUNCTUATION] or [whole]
    numbers = (number for text in said for form in (_WITH_COMMAS, _SCIENTIFIC, _PLAIN) for number in form.findall(text))
    return list(dict.fromkeys(normal for one in (*said, *numbers) for normal in _normal(one)))


def _tail(line: str, cues: Sequence[str]) -> str:
    """The shortest text after the last of a cue, in the official order of comparison; "" where there is no cue."""
    shortest = ""
    for cue in cues:
        place = line.rfind(cue)
        if place >= 0:
            tail = line[place + len(cue) :].strip()
            if not shortest or len(tail) < len(shortest):
                shortest = tail
    return shortest


def _normal(string: str) -> list[str | float]:
    """A number with two decimals, else small letters; a single character padded, lest it be found within words."""
    string = string.strip()
    try:
        return [round(float(string.replace(",", "")), 2)]
    except ValueError:
        small = string.lower()
        return [f" {small}", f"{small} "] if len(small) == 1 else [small]


def groups(example: Example) -> Mapping[str, str]:
    """Subject and domain, the official breakdowns; type of question and difficulty, which the rows name."""
    meta = example.meta
    named = ("subject", "question_type", "topic_difficulty")
    return {"domain": _DOMAIN_OF[meta["subject"]]} | {name: str(meta[name]) for name in named if name in meta}


MMMU = Benchmark(
    name="mmmu",
    title="MMMU",
    hub="MMMU/MMMU",
    split="validation",
    rows={"dev": 150, "validation": 900, "test": 10500},
    licence="Apache-2.0",
    read=read_mmmu,
    prompts={"paper": paper_prompt, "official": official_prompt},
    rule=rule,
    groups=groups,
    hub_config=",".join(SUBJECTS),
    files=(
        *("{split}.jsonl", "{split}.json", "*/{split}-*.parquet", "data/{split}-*.parquet", "{split}-*.parquet"),
        "MMMU_DEV_VAL.tsv",
    ),
    note="Where no option is found the official parse guesses one (seed 42, in the order of the items): such an item "
    "is unparseable, and the official score credits it where the guess is right. The gold answer of an open question "
    "need only be a part of what was read as its answer.",
    columns=("id", "question", "options|A", "answer", "question_type"),
)
