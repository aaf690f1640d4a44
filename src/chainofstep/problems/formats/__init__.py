"""The formats that step data comes and goes in, and which of them a file is."""

from collections.abc import Sequence

from chainofstep.problems.formats import cos, prm_sets, prompts, trainers
from chainofstep.problems.formats.base import Format, Row, chain_of, harden, labelled
from chainofstep.problems.formats.rows import ROWS
from chainofstep.problems.formats.trainers import llama_factory_entry

__all__ = ["FORMATS", "Format", "Row", "chain_of", "detect", "harden", "labelled", "llama_factory_entry"]

_GROUPS = ([ROWS], cos.FORMATS, prm_sets.FORMATS, trainers.FORMATS, prompts.FORMATS)
FORMATS: dict[str, Format] = {known.name: known for group in _GROUPS for known in group}


def detect(rows: Sequence[Row]) -> Format | None:
    """The one format that a file's first rows look like; None if there is none, or more than one.

    A row that looks like none says nothing: it may be one that cannot be used.
    """
    fitting = [known for known in FORMATS.values() if any(known.fits(row) for row in rows)]
    return fitting[0] if len(fitting) == 1 else None
