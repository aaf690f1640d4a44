"""Lists of seeds as people write them."""

import re
from collections.abc import Sequence

_SEEDS = re.compile(r"(\d+)(?:-(\d+))?")


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
