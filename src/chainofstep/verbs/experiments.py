"""The paper's experiments over several seeds, and the document of what they found."""

import re
from collections.abc import Sequence
from pathlib import Path

from chainofstep.verbs.files import choose

_SEEDS = re.compile(r"(\d+)(?:-(\d+))?")


def experiment_titles() -> dict[str, str]:
    """Every experiment's title by its name, and "paper" for all of them."""
    from chainofstep.experiments import EXPERIMENTS
    from chainofstep.experiments.suite import SUITE

    return {SUITE: "All that follow, in one document"} | {name: e.title for name, e in EXPERIMENTS.items()}


def run_experiments(
    name: str,
    out: Path,
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    jobs: int = 1,
    results: Path | None = None,
) -> Path:
    """Run one experiment, or all ("paper"), for some seeds in the folder `out`; the path of the document.

    Experiments of one folder share their stages, and the same command goes on with what is not finished. The document
    (default: `out`/results.md) has all experiments that these seeds have finished, not this one alone.
    """
    from chainofstep.experiments import EXPERIMENTS
    from chainofstep.experiments.document import write_document
    from chainofstep.experiments.suite import SUITE, run_suite, seed_folder

    choose(name, [SUITE, *EXPERIMENTS], "experiment")
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}; run at least one seed at a time")
    run_suite(out, seeds, list(EXPERIMENTS) if name == SUITE else [name], overrides, jobs)
    folders = {seed: seed_folder(out, seed) for seed in seeds}
    command = f"cos run {name} --out {out} --seeds {seeds_text(seeds)}"
    return write_document(folders, list(EXPERIMENTS.values()), results or out / "results.md", command)


def read_seeds(text: str) -> list[int]:
    """`0-4` and `0,2,7-9` as numbers."""
    seeds: list[int] = []
    for part in text.split(","):
        found = _SEEDS.fullmatch(part.strip())
        if found is None:
            raise ValueError(f"seeds {text!r} are no list of numbers; write them as 0-4 or 0,2,5")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first or last - first >= 1000:
            raise ValueError(f"seeds {part.strip()!r} are no range; write the smaller number first, 1000 at most")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {text!r} name a seed twice; name each once")
    return seeds


def seeds_text(seeds: Sequence[int]) -> str:
    """As `read_seeds` reads them."""
    first, last = min(seeds), max(seeds)
    together = list(seeds) == list(range(first, last + 1)) and len(seeds) > 1
    return f"{first}-{last}" if together else ",".join(map(str, seeds))
