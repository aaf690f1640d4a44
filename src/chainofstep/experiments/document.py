"""`results.md`: every experiment with its table, its plot, what the paper found, and whether its ordering holds."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from chainofstep.experiments.experiment import Claim, Experiment, PaperTable
from chainofstep.experiments.found import Answer, Finding, Value, findings
from chainofstep.experiments.pictures import picture
from chainofstep.experiments.seeds import seeds_text
from chainofstep.report.wording import duration
from chainofstep.store import RunFolder, write_bytes, write_text

WORDS = {"holds": "holds", "undecided": "undecided", "reversed": "the other way round"}
LACKING = "not measured in every seed"
MINUS = "\u2212"


def write_document(folders: Mapping[int, Path], experiments: Sequence[Experiment], target: Path, out: Path) -> Path:
    """Write the document of the seeds in `folders`, all in the folder `out`, and its plots to `images/` beside it.

    ValueError if no seed has finished any of the experiments.
    """
    found = findings(folders, experiments)
    if not found:
        raise ValueError(f"no experiment is finished in {', '.join(map(str, folders.values()))}; run one first")
    blocks = [*_head(found, folders, out), *_claims(found)]
    for finding in found:
        image = Path("images") / f"{target.stem}-{finding.experiment.name}.png"
        write_bytes(target.parent / image, picture(finding))
        blocks += _section(finding, image, out)
    return write_text(target, "\n\n".join(blocks) + "\n")


def _head(found: Sequence[Finding], folders: Mapping[int, Path], out: Path) -> Iterator[str]:
    seeds = sorted({seed for finding in found for seed in finding.seeds})
    recipe: dict[str, Any] = RunFolder(next(iter(folders.values()))).recipe()
    total = sum(finding.seconds for finding in found)
    problems = recipe["problems"]
    yield "# Results"
    yield (
        f"From `{_command('paper', out, seeds)}`. The models are the small ones "
        f"that come with the package, the questions generated, and every step can be checked exactly: SFT on "
        f"{problems['sft']:,} chains, {problems['dpo']} questions a round of DPO, {problems['test']} unseen test "
        "questions, the same for every seed. A seed decides everything else: training problems, order, sampling. "
        "What is asked is whether the orderings of the paper hold here, not whether its numbers do."
    )
    yield (
        "Shares are in per cent. Where a cell counts test questions, the interval is 95% over seeds and questions "
        "(two-level bootstrap); where it is one number a seed, smallest and largest are given instead. *Holds* and "
        "*the other way round* mean that the whole interval, or every seed, is on that side. No claim was left out, "
        "and the settings are those of `mini` but for the numbers above; a few seeds say little of their spread."
    )
    yield f"All of it took {duration(total)} a seed by its stages' clocks; what experiments share is counted once."


def _claims(found: Sequence[Finding]) -> Iterator[str]:
    yield "## In short"
    lines = ["| | paper | here | seeds | |", "|---|---|---|---|---|"]
    for finding in found:
        title = finding.experiment.title
        place = f"[{title.partition(':')[0]}](#{_anchor(title)}): "
        lines += [_claim_line(finding, answer, place) for answer in finding.answers]
        lines += [f"| {place}{claim.text} | {claim.paper} |  |  | {LACKING} |" for claim in finding.unanswered]
    yield "\n".join(lines)


def _claim_line(finding: Finding, answer: Answer, place: str) -> str:
    plain = answer.claim.better[1] in finding.experiment.numbers
    shown = _interval(answer.difference, plain, signed=True)
    seeds = f"{answer.agreeing} of {len(finding.seeds)}"
    return f"| {place}{answer.claim.text} | {answer.claim.paper} | {shown} | {seeds} | {WORDS[answer.verdict]} |"


def _anchor(title: str) -> str:
    """As GitHub makes it of a heading."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -")
    return kept.replace(" ", "-")


def _section(finding: Finding, image: Path, out: Path) -> Iterator[str]:
    experiment = finding.experiment
    yield f"## {experiment.title}"
    yield experiment.about
    yield _table(finding)
    if experiment.paper and not _same_rows(finding, experiment.paper):
        yield "The paper:\n\n" + _paper_table(experiment.head, experiment.paper)
    if experiment.paper and experiment.paper.note:
        yield f"The paper's figures: {experiment.paper.note}"
    yield f"![{experiment.title}]({image.as_posix()})"
    if finding.experiment.claims:
        lacking = [f"{claim.text}{_against(claim)}: **{LACKING}**." for claim in finding.unanswered]
        yield "\n".join(f"- {line}" for line in (*(_sentence(finding, a) for a in finding.answers), *lacking))
    yield f"`{_command(experiment.name, out, finding.seeds)}`: {_cost(finding)}"


def _command(name: str, out: Path, seeds: Sequence[int]) -> str:
    return f"cos run {name} --out {out.as_posix()} --seeds {seeds_text(seeds)}"


def _cost(finding: Finding) -> str:
    if finding.seconds < 1:
        return "nothing beyond what the experiments above have sampled and scored."
    return f"{duration(finding.seconds)} a seed beyond what it shares with the experiments above."


def _sentence(finding: Finding, answer: Answer) -> str:
    plain = answer.claim.better[1] in finding.experiment.numbers
    here = (
        f"{_interval(answer.difference, plain, signed=True)} here, in {answer.agreeing} of {len(finding.seeds)} seeds"
    )
    return f"{answer.claim.text}{_against(answer.claim)}: **{WORDS[answer.verdict]}**, {here}."


def _against(claim: Claim) -> str:
    return f" (paper: {claim.paper})" if claim.paper else ""


# Tables


def _table(finding: Finding) -> str:
    paper = finding.experiment.paper
    beside = paper if paper and _same_rows(finding, paper) else None
    columns = finding.columns()
    heads = [finding.experiment.head, *columns, *(f"paper: {name}" for name in (beside.columns if beside else ()))]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for row in finding.rows():
        cells = [_cell(finding.values.get((row, column)), column in finding.experiment.numbers) for column in columns]
        lines.append(_line([row, *cells, *(_paper_cells(beside, row) if beside else ())]))
    return "\n".join(lines)


def _same_rows(finding: Finding, paper: PaperTable) -> bool:
    """Whether the paper's figures can stand beside ours."""
    return any(row in paper.rows for row in finding.rows())


def _paper_cells(paper: PaperTable, row: str) -> list[str]:
    values = paper.rows.get(row, (None,) * len(paper.columns))
    return ["" if value is None else f"{value:g}".replace("-", MINUS) for value in values]


def _paper_table(head: str, paper: PaperTable) -> str:
    lines = [_line([head, *paper.columns]), _line(["---"] * (len(paper.columns) + 1))]
    return "\n".join([*lines, *(_line([row, *_paper_cells(paper, row)]) for row in paper.rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Value | None, plain: bool) -> str:
    return "" if value is None else _interval(value, plain)


def _interval(value: Value, plain: bool, signed: bool = False) -> str:
    """`51.8 (48.9 to 54.6)`; one seed's number has no interval."""
    mean, low, high = (_number(number, plain, signed) for number in (value.mean, value.low, value.high))
    return mean if value.low == value.high == value.mean else f"{mean} ({low} to {high})"


def _number(value: float, plain: bool, signed: bool) -> str:
    scaled = value if plain else 100 * value
    places = (0 if abs(scaled) >= 100 else 2) if plain else 1
    rounded = round(scaled, places) + 0.0  # no minus before a nought
    return f"{rounded:{'+' if signed else ''},.{places}f}".replace("-", MINUS)
