"""The data card of a set: what it holds, where it comes from, who wrote and judged it, and under which licences."""

from pathlib import Path

from chainofstep.report.card_content import Card, SourceFacts
from chainofstep.report.card_markdown import card_markdown
from chainofstep.report.card_page import card_html
from chainofstep.store import write_text


def write_card(card: Card, path_without_suffix: Path, folder: Path) -> tuple[Path, Path]:
    """Write `PATH.card.md` and `PATH.card.html`; `folder` is where relative paths of pictures begin.

    The same card and pictures give the same bytes.
    """
    markdown = path_without_suffix.with_name(f"{path_without_suffix.name}.card.md")
    page = path_without_suffix.with_name(f"{path_without_suffix.name}.card.html")
    return write_text(markdown, card_markdown(card)), write_text(page, card_html(card, folder))


__all__ = ["Card", "SourceFacts", "card_html", "card_markdown", "write_card"]
