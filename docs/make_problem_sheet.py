"""Show the generated problems: draw docs/images/problems.png and write the examples in docs/problems.md.

    python docs/make_problem_sheet.py

The sheet has one picture of every kind, a row a family, three times as large as the model sees it; the examples are the
same problems in words, so that every chain in the document can be checked against its picture.
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from chainofstep.problems.tasks.build import FAMILIES, KINDS, Problem, make_problem
from chainofstep.problems.tasks.canvas import SIZE

HERE = Path(__file__).parent
START, END = "<!-- examples: written by make_problem_sheet.py -->\n", "<!-- end of examples -->"
SCALE, GAP, LABEL = 3, 18, 26
SEED = 6
INK, PAPER = (40, 40, 48), (255, 255, 255)


def shown(family: str) -> list[Problem]:
    """One test problem of each kind of a family."""
    return [make_problem(kind.name, "test", SEED) for kind in KINDS.values() if kind.family == family]


def sheet() -> Image.Image:
    """Families below each other."""
    rows = [shown(family) for family in FAMILIES]
    tile = SIZE * SCALE
    size = (max(map(len, rows)) * (tile + GAP) + GAP, len(rows) * (tile + LABEL + GAP) + GAP)
    page = Image.new("RGB", size, PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=16)
    for row, problems in enumerate(rows):
        for column, problem in enumerate(problems):
            left, top = GAP + column * (tile + GAP), GAP + row * (tile + LABEL + GAP)
            picture = problem.picture.resize((tile, tile), Image.Resampling.NEAREST)
            page.paste(picture, (left, top + LABEL))
            pen.text((left, top), title(problem), fill=INK, font=font)
    return page


def title(problem: Problem) -> str:
    held_out = " (held out)" if problem.kind.held_out else ""
    return f"{problem.kind.family} / {problem.kind.name}{held_out}"


def examples() -> str:
    """Every problem of the sheet as Markdown: its question, its gold chain and its answer."""
    parts = []
    for family in FAMILIES:
        parts.append(f"### {family}\n")
        parts += [in_words(problem) for problem in shown(family)]
    return "\n".join(parts)


def in_words(problem: Problem) -> str:
    example, kind = problem.example(), problem.kind
    about = f"level {kind.level}, {example.answer_kind}" + (", held out" if kind.held_out else "")
    assert example.chain is not None
    rows = [f"| {step.name} | {step.thought} | {step.reflection} |" for step in example.chain.steps]
    table = "\n".join(["| step | thought | reflection |", "|---|---|---|", *rows])
    return f"**{kind.name}** ({about}): {example.question}\n\n{table}\n\nAnswer: {example.answer}\n"


def filled(document: str) -> str:
    """The document with current examples between its two marks."""
    before, rest = document.split(START)
    return before + START + "\n" + examples() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    path = HERE / "images" / "problems.png"
    path.parent.mkdir(exist_ok=True)
    # The noise packs badly as PNG: 128 colours look the same and need a fraction.
    sheet().quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    document = HERE / "problems.md"
    document.write_text(filled(document.read_text("utf-8")), "utf-8")
    print(f"{path}: {path.stat().st_size // 1000} kB; examples in {document}")
