"""Another model's answers, ranked by a process reward model.

The answers come from a file, a row {"id": "q1", "texts": ["...", "..."]} for each question, or from an endpoint that
speaks OpenAI's API, which is asked several times. A text is a chain as this package writes it, or plain lines: each is
a step, and the last says `Answer: ...`.

    python examples/rerank.py test.jsonl --texts answers.jsonl --prm runs/mini/models/prm
    python examples/rerank.py test.jsonl --endpoint gpt-4o@https://api.openai.com/v1 -n 8 --prm runs/mini/models/prm
"""

import argparse
import base64
import mimetypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from chainofstep import Chain, Example, Step, StepScores, parse
from chainofstep.answers import is_right
from chainofstep.chain import REASONING_START
from chainofstep.models.checks import check_prm
from chainofstep.models.prm import PRM
from chainofstep.models.vlm import load_vlm
from chainofstep.scoring.path_score import path_score
from chainofstep.store import read_rows
from chainofstep.verbs.files import existing, model_path, read_examples

ANSWER = "answer:"
PROMPT = "\nThink in short steps, one on each line, without numbers. End with the line `Answer: ` and the answer alone."


def chain_of(text: str) -> Chain:
    """A text as a chain; ValueError for one that does not end in an answer."""
    if text.lstrip().startswith(REASONING_START):
        return parse(text)
    *steps, last = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    if not last.lower().startswith(ANSWER):
        raise ValueError(f"its last line is no answer: {last[:60]!r}")
    named = [Step(f"Step {number}", step, "") for number, step in enumerate(steps, 1)]
    return Chain(tuple(named), last[len(ANSWER) :].strip())


def from_file(path: Path, examples: list[Example]) -> Iterator[list[str]]:
    """The texts of each example."""
    rows = {row.get("id"): row.get("texts") for _, row in read_rows(existing(path))}
    for example in examples:
        if not isinstance(rows.get(example.id), list):
            raise ValueError(f"{path} has no texts for {example.id!r}; write a row with its id and texts")
        yield rows[example.id]


def from_endpoint(endpoint: str, count: int, examples: list[Example]) -> Iterator[list[str]]:
    """`count` replies of MODEL@URL to each example. The key is in OPENAI_API_KEY, where one is needed."""
    from openai import OpenAI

    model, _, url = endpoint.partition("@")
    client = OpenAI(base_url=url or None, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    for example in examples:
        parts = [{"type": "image_url", "image_url": {"url": data_url(Path(path))}} for path in example.images]
        content = [*parts, {"type": "text", "text": example.question + PROMPT}]
        asked = [{"role": "user", "content": content}]
        replies = [client.chat.completions.create(model=model, messages=asked, temperature=1.0) for _ in range(count)]
        yield [reply.choices[0].message.content or "" for reply in replies]


def data_url(path: Path) -> str:
    kind = mimetypes.guess_type(path)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def rank(prm: PRM, example: Example, texts: list[str]) -> list[tuple[float, str]]:
    """(path score, answer) of the texts that are chains, the best first. What cannot be ranked is said."""
    chains = []
    for number, text in enumerate(texts):
        try:
            chains.append(chain_of(text))
        except ValueError as error:
            print(f"{example.id}: text {number} is left out: {error}")
    scored = zip(chains, prm.score([(example, chain) for chain in chains]), strict=True)
    found = [(path_score(scores), chain.answer or "") for chain, scores in scored if isinstance(scores, StepScores)]
    return sorted(found, key=lambda each: -each[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("examples", type=Path, help="the questions, one example a row")
    parser.add_argument("--prm", required=True, help="folder or hub id of a PRM")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--texts", type=Path, help="a .jsonl file with the texts of each question")
    source.add_argument("--endpoint", metavar="MODEL@URL", help="ask this model")
    parser.add_argument("-n", type=int, default=4, help="how often the endpoint is asked")
    given = parser.parse_args()
    examples, vlm = read_examples(given.examples), load_vlm(model_path(given.prm))
    check_prm(vlm)
    pools = from_file(given.texts, examples) if given.texts else from_endpoint(given.endpoint, given.n, examples)
    right, prm = 0, PRM(vlm)
    for example, texts in zip(examples, pools, strict=True):
        ranked = rank(prm, example, texts)
        right += bool(ranked) and is_right(example, ranked[0][1])
        print(f"{example.id}:", ", ".join(f"{answer} ({score:.2f})" for score, answer in ranked) or "nothing to rank")
    print(f"the best-scored answer is right for {right} of {len(examples)}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
