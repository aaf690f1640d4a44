"""The seventeen training sets of paper A2 as Examples, from local files or the hub.

    for found in load(SOURCES["tabmwp"], Path("tabmwp"), "train"):
        ...  # an Example, or a Reject: where the row stands, and why it cannot be used

Rows are taken as published; nothing is dropped silently. Pictures stay inside the set's folder and are checked.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from chainofstep.problems.pictures import SUFFIXES, PictureError, check_picture, inside, picture_format
from chainofstep.problems.sources import charts, mathematics, science, world
from chainofstep.problems.sources.files import rows_of
from chainofstep.problems.sources.source import ROW_NUMBER, Source
from chainofstep.records import Example, Reject
from chainofstep.store import write_bytes

__all__ = ["SOURCES", "Check", "Rows", "Source", "hub_rows", "load", "load_hub", "published_files", "spellings"]

SOURCES: dict[str, Source] = {
    source.name: source for module in (mathematics, charts, science, world) for source in module.SOURCES
}
Check = Literal["none", "header", "decode"]
#: Names of one split in different files of one set.
_SAME_SPLIT = ("validation", "val", "dev")
#: Fields in which rows name their split.
_SPLIT_FIELDS = ("split", "data_split", "set_name")
_SPLIT_IN_ID = re.compile(r"(train|validation|val|dev|test)_")


def load(
    source: Source, root: Path, split: str | None = None, check: Check = "decode", pictures: Path | None = None
) -> Iterator[Example | Reject]:
    """Rows of a set's local files: `items.jsonl`, or the published ones (`source.files`); of one split, or all.

    A row belongs to the split it names; one that names none is taken to be of `split`. Examples of an evaluation
    split have `meta["evaluation_split"]`. Pictures embedded in .parquet are written to `pictures` (default:
    root/pictures). `ValueError` if there are no files.
    """
    rows = Rows(source, split, pictures or root / "pictures", check)
    for path in published_files(source, root, split):
        for number, found in enumerate(rows_of(path)):
            if isinstance(found, Reject):
                yield found
            else:
                yield from rows.read(*found, f"{path.stem}-{number}", (path.parent, root))


def load_hub(source: Source, split: str, pictures: Path, hub: str | None = None) -> Iterator[Example | Reject]:
    """Rows of a split streamed through `datasets`; pictures are written once under `pictures`, named by content.

    `hub` is another hub id or a local folder in place of the source's, read in its default configuration.
    `ValueError` if the set cannot be opened.
    """
    name = hub or source.hub
    if not name:
        raise ValueError(f"{source.title} is not on the hub: give local files. {source.note}")
    config = source.hub_config if hub is None and source.hub_config else None
    rows = Rows(source, split, pictures, "none")  # a picture is checked when it is written
    for number, row in enumerate(hub_rows(name, config, split)):
        yield from rows.read(f"{name}/{split}:{number}", row, f"{split}-{number}", ())


def hub_rows(hub: str, config: str | None, split: str) -> Iterable[Mapping[str, Any]]:
    """The rows of a split of a hub id or a local folder, streamed; `ValueError` if it cannot be opened."""
    from datasets import load_dataset

    try:
        # Pictures stay as published bytes: decoding is the check's, and a broken one must not end the stream.
        rows: Iterable[Mapping[str, Any]] = load_dataset(hub, config, split=split, streaming=True).decode(False)
    except (OSError, RuntimeError, ValueError) as error:
        problem = " ".join(str(error).split())[:300]
        raise ValueError(f"{hub}, split {split}, cannot be opened ({problem}): give local files") from error
    return rows


def published_files(source: Source, root: Path, split: str | None) -> list[Path]:
    """`items.jsonl`, or what the first of the source's patterns finds; `ValueError` if there is none."""
    names = sorted(spellings(split, source.splits)) if split else ["*"]
    for pattern in ("items.jsonl", *source.files):
        found = {path for name in names for path in root.glob(pattern.replace("{split}", name))}
        if found:
            return sorted(found)
    wanted = " or ".join(("items.jsonl", *source.files)).replace("{split}", split or "*")
    raise ValueError(f"no files of {source.title} in {root}: expected {wanted}")


class Rows:
    """Rows of one set on their way to Examples: ids seen, pictures written."""

    def __init__(self, source: Source, split: str | None, pictures: Path, check: Check):
        self.source, self.split, self.pictures, self.check = source, split, pictures, check
        self.ids: set[str] = set()
        self.written: set[str] = set()  # paths of pictures that were embedded in rows

    def read(
        self, place: str, row: Mapping[str, Any], number: str, folders: Sequence[Path]
    ) -> Iterator[Example | Reject]:
        """The row's Example or Reject; nothing for a row of another split. Its paths lie in one of `folders`."""
        own = _split_of(row)
        if self.split and own and own not in spellings(self.split, self.source.splits):
            return
        try:
            row = self._unpacked(row)
            example = self.source.read({ROW_NUMBER: number, **row})
            if example.id in self.ids:
                raise ValueError(f"duplicate id: {example.id}")
            images = tuple(str(self._picture(path, folders)) for path in example.images)
        except ValueError as error:
            yield Reject(place, str(error), _printable(row))
            return
        self.ids.add(example.id)
        yield replace(example, images=images, meta=example.meta | self._split_facts(own or self.split))

    def _split_facts(self, split: str | None) -> dict[str, Any]:
        if not split:
            return {}
        evaluated = any(split in spellings(other, self.source.splits) for other in self.source.evaluation_splits)
        return {"split": split} | ({"evaluation_split": True} if evaluated else {})

    def _picture(self, path: str, folders: Sequence[Path]) -> Path:
        """The picture's file, checked; a path without a suffix may be a .jpg or .png (SceMQA)."""
        if path in self.written:
            return Path(path)
        if not folders:
            raise PictureError(f"missing picture: {path} is not in the row")
        suffixes = ("",) if Path(path).suffix else ("", ".jpg", ".png")
        found = [inside(folder, path + suffix) for folder in folders for suffix in suffixes]
        picture = next((one for one in found if one.is_file()), found[-len(suffixes)])
        if self.check != "none":
            check_picture(picture, decode=self.check == "decode")
        return picture

    def _unpacked(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row with embedded pictures written, their paths as its `image`."""
        plain, paths = {}, []
        for name, value in row.items():
            embedded = [_embedded(one) for one in (value if isinstance(value, list) else [value])]
            contents = [content for content in embedded if isinstance(content, bytes)]
            if contents:
                paths += [self.write(content) for content in contents]
            else:
                plain[name] = embedded[0] if isinstance(value, dict) else value
        return plain | ({"image": paths if len(paths) > 1 else paths[0]} if paths else {})

    def write(self, content: bytes) -> str:
        """The path of the file with this picture; `PictureError` if it is none."""
        form = picture_format(content)
        name = hashlib.sha256(content).hexdigest()[:40] + SUFFIXES.get(form, f".{form.lower()}")
        path = self.pictures / name[:2] / name  # a folder of its own for each 256th: sets have 100,000s
        if not path.exists():
            write_bytes(path, content)
        self.written.add(str(path))
        return str(path)


def _embedded(value: Any) -> Any:
    """The bytes of a picture that `datasets` or parquet give as {"bytes", "path"}; its path if there are none."""
    if isinstance(value, Mapping) and set(value) == {"bytes", "path"}:
        return value["bytes"] if value["bytes"] is not None else value["path"]
    return value


def _split_of(row: Mapping[str, Any]) -> str | None:
    """The split that a row names, in a field or at the start of its id (ChartQA)."""
    for name in _SPLIT_FIELDS:
        if isinstance(row.get(name), str):
            named = _SPLIT_IN_ID.match(row[name])  # VLMEvalKit's ChartQA: test_human
            return named.group(1) if named else str(row[name])
    named = _SPLIT_IN_ID.match(str(row.get("id")))
    return named.group(1) if named else None


def spellings(split: str, splits: Sequence[str]) -> frozenset[str]:
    """The names of one split: `val` is `validation`, and `dev` too unless the set, of these `splits`, has both."""
    if split not in _SAME_SPLIT:
        return frozenset((split,))
    if "dev" in splits and not {"val", "validation"}.isdisjoint(splits):  # MMMU
        return frozenset(("dev",) if split == "dev" else ("val", "validation"))
    return frozenset(_SAME_SPLIT)


def _printable(value: Any) -> Any:
    """A row as plain JSON values; bytes as their number."""
    if isinstance(value, Mapping):
        return {str(name): _printable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(one) for one in value]
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
