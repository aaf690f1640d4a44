"""Write the README's table of results from finished runs, one for each seed.

    python docs/make_seed_table.py runs/mini-0 runs/mini-1 runs/mini-2

Every figure is the mean over the runs, with the figure of each run beside it.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from chainofstep.report.schema import Results, check_results
from chainofstep.store import read_json

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- results: written by docs/make_seed_table.py -->\n", "<!-- end of results -->"
METHODS = {
    "self_consistency": "SFT, self-consistency at {n}",
    "best_of_n": "SFT, best-of-{n} by PRM",
    "weighted_vote": "SFT, PRM-weighted vote at {n}",
    "step_beam": "SFT, step beam search at {n}",
    "pass_at_n": "SFT, pass@{n} (the ceiling)",
}
Figure = Callable[[Results], float]


def stage(name: str) -> Figure:
    def figure(results: Results) -> float:
        (row,) = (r for r in results.accuracy if (r.stage, r.split, r.family) == (name, "unseen", "all"))
        return 100 * row.accuracy

    return figure


def method(name: str, n: int) -> Figure:
    def figure(results: Results) -> float:
        (row,) = (r for r in results.methods if (r.method, r.n, r.width) == (name, n, 1))
        return 100 * row.accuracy

    return figure


def prm(questions: str, part: str, figure: str, scale: float = 100) -> Figure:
    def value(results: Results) -> float:
        (row,) = (r for r in results.prm if (r.questions, r.part, r.against) == (questions, part, "checker"))
        return scale * float(getattr(row, figure))

    return value


def line(title: str, runs: Sequence[Results], figure: Figure, digits: int = 1) -> str:
    values = [figure(run) for run in runs]
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    return (
        f"| {title} | {sum(values) / len(values):.{digits}f} | {each} |" if len(runs) > 1 else f"| {title} | {each} |"
    )


def head(title: str, runs: Sequence[Results]) -> list[str]:
    seeds = "seeds " + ", ".join(str(run.recipe["seed"]) for run in runs)
    columns = [title, "mean", seeds] if len(runs) > 1 else [title, seeds.replace("seeds", "seed")]
    return ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]


def table(runs: Sequence[Results]) -> str:
    """Accuracies, claims, the PRM and the cost, in markdown."""
    n = max(row.n for row in runs[0].methods)
    stages = dict.fromkeys(row.stage for row in runs[0].accuracy if row.split == "unseen")
    lines = head(f"% of {runs[0].accuracy[0].total:,} unseen questions", runs)
    lines += [line(title_of(name), runs, stage(name)) for name in stages]
    lines += [line(title.format(n=n), runs, method(name, n)) for name, title in METHODS.items()]
    lines += ["", *head("difference in points, 95% interval", runs)]
    lines += [claim(place, runs) for place in range(len(runs[0].claims))]
    lines += ["", *head("PRM against the checker, unseen questions", runs)]
    lines += [
        line("steps right, % (threshold 0.5, fixed beforehand)", runs, prm("unseen", "step", "accuracy")),
        line("always saying the more frequent label, %", runs, prm("unseen", "step", "majority")),
        line("steps, AUC", runs, prm("unseen", "step", "auc", 1), 3),
        line("answers right, %", runs, prm("unseen", "answer", "accuracy")),
        line("answers, AUC", runs, prm("unseen", "answer", "auc", 1), 3),
        line(
            "Monte-Carlo labels that agree with it, %", runs, lambda r: 100 * float(r.labels["agreement_with_checker"])
        ),
    ]
    lines += ["", *head("cost", runs)]
    lines += [line("seconds, all stages", runs, lambda r: sum(r.wall_seconds.values()), 0)]
    lines += [line("GB of memory at most", runs, lambda r: max(r.peak_memory_mb.values()) / 1000)]
    return "\n".join(lines) + "\n"


def title_of(name: str) -> str:
    if name == "base":
        return "base, answering directly"
    reward, _, number = name.partition("-")
    return (
        f"DPO with {'PRM' if reward == 'dpo' else 'outcome'} reward, round {number}"
        if number
        else "SFT on chains, greedy"
    )


def claim(place: int, runs: Sequence[Results]) -> str:
    rows = [run.claims[place] for run in runs]
    each = ", ".join(f"{row.difference:+.1f} ({row.low:+.1f} to {row.high:+.1f}: {row.verdict})" for row in rows)
    mean = f"{sum(row.difference for row in rows) / len(rows):+.1f} | " if len(rows) > 1 else ""
    return f"| {rows[0].name} | {mean}{each} |"


def main(folders: Sequence[str]) -> None:
    runs = [check_results(read_json(Path(folder) / "results.json")) for folder in folders]
    before, rest = README.read_text("utf-8").split(START)
    README.write_text(before + START + table(runs) + END + rest.split(END)[1], "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
