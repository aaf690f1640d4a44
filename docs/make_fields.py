"""What docstrings alone do not tell the site's Python page (an extension of griffe, which reads the code for it)."""

from typing import Any

import griffe


class FieldComments(griffe.Extension):
    """Comments behind the fields of a class describe them, and lines that begin with `>>>` are an example."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """`n: int = 16  # samples per question` becomes a row of the table of the class's fields."""
        rows = []
        for name, member in cls.members.items():
            comment = member.lines[-1].partition("  # ")[2] if member.is_attribute and member.lines else ""
            if comment and not comment.startswith(("type:", "noqa")):
                rows.append(f"    {name}: {comment}")
        if rows and cls.docstring is not None:
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(rows)

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None and "\n>>> " in obj.docstring.value:
            text, _, example = obj.docstring.value.partition("\n>>> ")
            lines = (">>> " + example).splitlines()
            obj.docstring.value = text + "\nExamples:\n" + "\n".join(f"    {line}" for line in lines)
