"""What a set of step data holds, and the card that says so: counts by hand, and text that stays text."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image
from test_report import HOSTILE, Reader

from chainofstep.chain import Chain, Step, render
from chainofstep.problems.filters import FilterReport
from chainofstep.problems.overlap import Overlap, Overlaps
from chainofstep.problems.stats import SAMPLES, Stats
from chainofstep.records import Example, Reject, StepRow, StepScores, from_row, to_row
from chainofstep.report.card import Card, SourceFacts, card_html, card_markdown, write_card
from chainofstep.report.card_sections import hub_licence

DATA = Path(__file__).parents[2] / "shared" / "data"
#: What Markdown, YAML and HTML each may trip over.
WORST = f"{HOSTILE}\n---\nkey: [a, *b, &c\n| x | y |\r\n# head\n![p](https://example.org/p.png) `code` **b** \x00\x1b\u202e"


def chain_text(steps, answer="12", words="one two three"):
    step = Step("Read row", words, "It fits.")  # 2 + 3 + 2 words
    return render(Chain((step,) * steps, answer))


def row(number=0, text=None, labels=None, rejected=None, source="tabmwp", **changes):
    example = Example(f"q-{number}", f"What is {number}?", (f"{number}.png",), "12", "number", source=source)
    return StepRow(replace(example, **changes), text, labels, rejected)


def stats_of(rows, **settings):
    stats = Stats(**settings)
    for one in rows:
        stats.add(one)
    return stats


# Counts


def test_counts_of_a_few_rows_are_those_made_by_hand():
    rows = [
        row(1, chain_text(2)),
        row(1, chain_text(3), source="chartqa"),  # the same question and picture once more
        row(2, chain_text(2, words="word " * 60), answer_kind="choice", images=("1.png", "2.png")),
        row(3, "I think it is 12"),
        row(4, chain_text(2, answer=None), images=()),
        row(5, meta={"evaluation_split": "test"}),  # no text: neither a chain nor unparseable
    ]
    stats = stats_of(rows, count_tokens=len)
    assert (stats.rows, stats.questions, stats.pictures) == (6, 5, 3)  # 1.png, 2.png, 5.png ... and 3.png
    assert stats.by_source == {"tabmwp": 5, "chartqa": 1}
