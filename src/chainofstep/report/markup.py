"""HTML in which text is escaped unless it is known to be markup.

`element("td", "<script>")` gives `<td>&lt;script&gt;</td>`: only `Html` passes unescaped, and only this package's own
style, script and plots are made into `Html` by hand.
"""

from collections.abc import Iterable
from html import escape


class Html(str):
    """Text that is markup already."""


Child = str | int | None | Iterable["Child"]
Attribute = str | int | float | bool | None
VOID = frozenset({"img", "meta", "br"})


def join(*children: Child) -> Html:
    """The children one after the other: `Html` as it is, None as nothing, other text escaped, iterables flattened."""
    return Html("".join(_render(child) for child in children))


def _render(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str | int):
        return escape(str(child))
    return "".join(_render(part) for part in child)


def element(name: str, /, *children: Child, **attributes: Attribute) -> Html:
    """An element. `class_` is `class`, other underscores are hyphens; True is a bare attribute, None and False none.

    >>> print(element("a", "R & D", class_="link", href="#top"))
    <a class="link" href="#top">R &amp; D</a>
    """
    start = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    return Html(start if name in VOID else f"{start}{join(*children)}</{name}>")


def _attribute(key: str, value: Attribute) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
