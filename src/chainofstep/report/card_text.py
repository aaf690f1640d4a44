"""Text from data that can do nothing where it is shown, and words for labels."""

import re

from chainofstep.problems.stats import LabelKind
from chainofstep.report.wording import decimal

#: What no page or YAML file may hold, or what shows text in another order than it has: control characters, halves of
#: surrogate pairs, marks of writing direction.
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_LINE_END = re.compile("\r\n?")
#: What Markdown reads as markup: within a line, at its start, or as an address to link. HTML is escaped apart.
_MARKUP = re.compile(r"[\\`*\[\]|~$#@]|(?<!\w)_|_(?!\w)|^[-+=](?=\s|[-+=]|$)|(?<=:)/(?=/)|(?<=www)\.", re.IGNORECASE)


def inert(document: str) -> str:
    """The document with visible replacements for characters that are not to be in it."""
    return _FORBIDDEN.sub("\ufffd", _LINE_END.sub("\n", document))


def one_line(text: str) -> str:
    """The text without line breaks, and inert."""
    return inert(" ".join(text.split()))


def in_markdown(text: str) -> str:
    """The text as Markdown shows it letter by letter, in one line: no markup, no HTML, no links, no table cells."""
    escaped = _MARKUP.sub(lambda match: "\\" + match.group(), one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def label_word(label: float, kind: LabelKind) -> str:
    """A label as its set means it: in a soft set a number, else a word."""
    if kind == "soft":
        return decimal(label)
    return {1.0: "right", 0.5: "neutral", 0.0: "wrong"}.get(label, decimal(label))
