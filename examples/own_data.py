"""Your own pictures and questions, from a spreadsheet to the training data of a process reward model.

questions.csv has a header and one question a row; pictures are paths from its folder. Chains are not needed: the model
writes them, and each of their steps is labelled by how often the model comes to the right answer from there.

    picture,question,answer
    board-1.png,What is the sum of row 2?,12

    python examples/own_data.py questions.csv --model runs/mini/models/sft --out data/own -n 8
"""

import argparse
import csv
import sys
from pathlib import Path

from chainofstep import Example, verbs
from chainofstep.answers import guess_kind, is_right
from chainofstep.records import to_row
from chainofstep.search import SearchConfig
from chainofstep.verbs.files import read_pools, write_lines

COLUMNS = {"picture", "question", "answer"}


def read_questions(path: Path) -> list[Example]:
    """An Example for each row. ValueError for a missing column, an empty cell or a picture that is not there."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if missing := COLUMNS - set(reader.fieldnames or ()):
            raise ValueError(f"{path} has no column {', '.join(sorted(missing))}: name them in its first line")
        rows = list(reader)
    examples = []
    for number, row in enumerate(rows, 2):
        if not all(row[column] for column in COLUMNS):
            raise ValueError(f"{path}:{number}: an empty cell; each row has a picture, a question and an answer")
        picture = path.parent / row["picture"]
        if not picture.is_file():
            raise ValueError(f"{path}:{number}: no picture {picture}; give its path from the folder of {path.name}")
        answer = row["answer"].strip()
        name = f"{path.stem}-{number - 1}"
        examples.append(Example(name, row["question"], (str(picture.resolve()),), answer, guess_kind(answer)))
    if not examples:
        raise ValueError(f"{path} has no row under its header")
    return examples


def report(examples: list[Example], rollouts: Path) -> None:
    """How many of each question's chains come to the right answer."""
    for example, pool in zip(examples, read_pools(rollouts, examples), strict=True):
        chains = [rollout.chain for rollout in pool if rollout.chain is not None]
        right = sum(is_right(example, chain.answer) for chain in chains)
        print(f"{example.id}: {right} right of {len(pool)} texts, {len(chains)} of them whole chains")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path, help="a .csv file with the columns picture, question, answer")
    parser.add_argument("--model", required=True, help="a policy that writes chains: folder, hub id or MODEL@URL")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("-n", type=int, default=8, help="chains of a question, and continuations of a step")
    parser.add_argument("--max-tokens", type=int, default=256, help="sampled tokens of a chain")
    arguments = parser.parse_args()
    examples, config = read_questions(arguments.questions), SearchConfig(n=arguments.n, max_tokens=arguments.max_tokens)
    rows = write_lines(arguments.out / "examples.jsonl", map(to_row, examples))
    rollouts, labels = arguments.out / "rollouts.jsonl", arguments.out / "labels.jsonl"
    verbs.sample(arguments.model, rows, rollouts, config)
    report(examples, rollouts)
    kinds = verbs.annotate(rows, rollouts, labels, "monte-carlo", arguments.model, config)
    print(f"labelled: {kinds.pop('scored', 0)}", *(f"; {count} {reason}" for reason, count in kinds.items()))
    print(f"next: cos train prm BACKBONE {rows} {rollouts} {labels} --out models/prm")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
