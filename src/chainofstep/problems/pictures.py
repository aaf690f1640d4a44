"""Pictures of data sets that others made: safe paths, checks from the header, decoding, perceptual hashes.

Every trouble is a `PictureError` of one line, with its kind before the first colon, so that rejects can be counted.
"""

import filecmp
import hashlib
import io
import os
import shutil
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps

MAX_PIXELS = 64_000_000
#: Formats in use in data sets. Others stay closed: some decoders start programs (EPS) or are little tested.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg"}  # of other formats: the format's name
#: What Pillow raises for files that are no pictures, or broken ones.
_BROKEN = (OSError, SyntaxError, ValueError, IndexError, KeyError, TypeError, EOFError, struct.error)
#: Bits of 256 by which two hashes of one picture may differ, see `perceptual_hash`.
SAME_PICTURE = 16


class PictureError(ValueError):
    """A picture that cannot be used: one line, kind of trouble before the first colon."""


def inside(root: Path, path: str) -> Path:
    """`root / path`, which need not exist; `PictureError` for a path that leads, or may lead, out of `root`.

    Refused: absolute paths and drives (POSIX, Windows, `\\\\server`), `..`, links to elsewhere, NUL, the empty path.
    """
    windows = PureWindowsPath(path)
    reason = ""
    if not path.strip() or "\0" in path:
        reason = "empty, or with a NUL byte"
    elif PurePosixPath(path).is_absolute() or windows.drive or windows.root:
        reason = "absolute"
    elif ".." in windows.parts:  # Windows' parts are cut at both kinds of slash
        reason = "with '..'"
    else:
        try:
            if not (root / path).resolve().is_relative_to(root.resolve()):
                reason = "a link that leads out of the folder"
        except (OSError, RuntimeError, ValueError) as error:  # a circle of links, a name too long or not writable
            reason = _one_line(error)
    if reason:
        raise PictureError(f"unsafe picture path: {path[:200]!r} ({reason}): give a path inside {root}")
    return root / path


def link_file(source: Path, target: Path) -> None:
    """The file under a second name; a copy where the disk is another one. One that is there stays."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:  # another process was quicker
        return
    except OSError:
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)


@lru_cache(maxsize=1 << 16)  # sets ask several questions about one picture
def own_picture(image: str, root: Path, folder: Path, being_made: Path | None = None) -> str:
    """The path, from `folder`, of the picture that `image` names from `root`.

    One that lies outside the folder is linked to `folder/images`, so that a set can be moved with its pictures and no
    path leads out of it; `PictureError` for a path that leads out of the root, for whatever it names would come along
    too. What is no file here (a web address, a missing picture) keeps its name. `being_made` is where the folder is
    while it is not whole.
    """
    if "://" in image or os.path.isabs(image):
        return image
    source = inside(root, image)
    relative = Path(os.path.relpath(source, folder))
    if relative.parts[:1] != ("..",):
        return relative.as_posix()
    if not source.is_file():
        return image
    parts = [part for part in Path(image).parts if part not in ("..", ".")]
    inner = Path(*parts[1:]) if parts[0] == "images" and len(parts) > 1 else Path(*parts)
    place = being_made or folder
    target = place / "images" / inner
    if target.exists() and not filecmp.cmp(source, target, shallow=False):
        digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
        target = place / "images" / digest / inner.name
    link_file(source, target)
    return target.relative_to(place).as_posix()


def check_picture(path: Path, decode: bool = True) -> tuple[int, int]:
    """(width, height) of a picture file, its size checked before any decoding; `decode=False` reads the header only."""
    with _file(path) as file:
        return _opened(file, path.name, decode).size


def picture_format(content: bytes) -> str:
    """The format of a picture in memory, such as "PNG"; `PictureError` if it cannot be decoded."""
    return _opened(io.BytesIO(content), "embedded picture", decode=True).format or ""


def open_picture(path: Path) -> Image.Image:
    """The decoded picture as RGB, as browsers show it: turned as its EXIF says, on white where it is transparent."""
    with _file(path) as file:
        picture: Image.Image = ImageOps.exif_transpose(_eight_bits(_opened(file, path.name, decode=True)))
        if not picture.has_transparency_data:
            return picture.convert("RGB")
        picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A picture of 16 bits a pixel scaled to 8, which Pillow would cut off at 255."""
    if not picture.mode.startswith("I"):
        return picture
    scaled = Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    scaled.info = picture.info
    return scaled


def perceptual_hash(path: Path) -> str:
    """256 bits in hex that stay nearly the same when a picture is scaled or compressed (imagehash's phash, 16 x 16).

    Sixteen by sixteen because charts and tables of one set share their layout. Bits that differ, measured on 897
    pictures of five sets (ChartQA, M3CoT, MathVision, SceMQA, TabMWP):

    - a picture and its JPEG of quality 75: median 2, 99% at most 9, most 20; and its half-size copy: median 2, 99% at
      most 10, most 16. A limit of 16 misses one copy of 1,794.
    - two different pictures of one set: median 126, least 24 (ChartQA, M3CoT), 66 (MathVision), 68 (SceMQA) and 8
      (TabMWP); of two sets: least 66. A limit of 16 takes 2 pairs of 83,107 for one picture, both of them TabMWP's
      tables that differ in their numbers alone: so the question must be the same as well.
    """
    import imagehash

    return str(imagehash.phash(open_picture(path), hash_size=16))


@contextmanager
def _file(path: Path) -> Iterator[BinaryIO]:
    try:
        if not path.is_file():  # a pipe, once opened, would be waited for
            raise PictureError(f"missing picture: {path}")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise PictureError(f"unreadable picture: {path}: {error.strerror}") from None


def _opened(file: BinaryIO, name: str, decode: bool) -> ImageFile.ImageFile:
    """The picture, known to be small enough.

    `Image.open` is not used: it warns of large pictures, or raises, before their size can be told.
    """
    Image.init()
    start = file.read(16)
    for form in FORMATS:
        factory, accepts = Image.OPEN[form]
        if accepts is not None and accepts(start) is True:
            break
    else:
        raise PictureError(f"unreadable picture: {name}: none of {', '.join(FORMATS)}")
    file.seek(0)
    try:
        with warnings.catch_warnings():  # of sizes, refused below, and of metadata that nobody needs
            warnings.simplefilter("ignore")
            picture = factory(file, name)
            width, height = picture.size
            if decode and width * height <= MAX_PIXELS:
                picture.load()
    except Image.DecompressionBombError as error:
        raise PictureError(f"picture too large: {name}: {_one_line(error)}") from None
    except _BROKEN as error:
        raise PictureError(f"unreadable picture: {name}: {_one_line(error)}") from error
    if width * height > MAX_PIXELS:
        raise PictureError(f"picture too large: {width} x {height} pixels, at most {MAX_PIXELS:,} in all: {name}")
    return picture


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
