"""What mkdocs asks while it builds the site (`hooks` in mkdocs.yml)."""

import re
from typing import Any

SOURCE = '<details class="mkdocstrings-source">'


def on_page_content(html: str, **_: Any) -> str:
    r"""A page's HTML with two things mended.

    Bars within code within tables: GitHub needs them written `\|` and shows `|`, Python-Markdown shows both. And search
    finds words of the documentation, not of the source that can be unfolded under it.
    """
    html = html.replace(SOURCE, SOURCE.replace(">", " data-search-exclude>"))
    return re.sub(r"<td[^>]*>.*?</td>", lambda cell: cell.group().replace("\\|", "|"), html, flags=re.DOTALL)
