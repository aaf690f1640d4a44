"""Pictures of requests: from URLs to files that the models open.

A file is named by the SHA-256 of its content, so the same picture has the same path in every request, and what a model
computed for it is found again. Formats are those of `problems.pictures`, told by content alone.
"""

import asyncio
import binascii
import hashlib
import re
import tempfile
import threading
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from chainofstep.problems.pictures import PictureError, check_picture
from chainofstep.serve.errors import Refusal, shown
from chainofstep.serve.fetch import Fetcher
from chainofstep.serve.settings import ServeSettings

DECODERS = 2  # pictures decoded at a time; each may hold four bytes a pixel
_DATA = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w.+-]+=[\w.+\"-]*)*;base64,", re.ASCII | re.IGNORECASE)
_WHERE = "pictures are sent as data:image/png;base64,..."


class _TooLarge(Exception):
    """A picture of more pixels than the server takes, with their number."""


class PictureStore:
    """Files of pictures in a private folder, gone at `close`.

    Those in use stay; of the others the most recently used ones, up to `kept` bytes. Safe to call from many threads.
    """

    def __init__(self, kept: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="cos-serve-")
        self.folder = Path(self._folder.name)
        self.kept, self.bytes = kept, 0
        self._sizes: OrderedDict[str, int] = OrderedDict()  # by name, least recently used first
        self._uses: Counter[str] = Counter()
        self._sound: set[str] = set()
        self._lock = threading.Lock()

    def take(self, content: bytes) -> str:
        """The path of a file with this content, in use until `give_back`."""
        name = hashlib.sha256(content).hexdigest()
        with self._lock:
            if name not in self._sizes:
                (self.folder / name).write_bytes(content)
                self._sizes[name] = len(content)
                self.bytes += len(content)
            self._uses[name] += 1
            self._sizes.move_to_end(name)
        return str(self.folder / name)

    def is_sound(self, path: str) -> bool:
        """Whether the file is known to be a picture that decodes."""
        return Path(path).name in self._sound

    def is_found_sound(self, path: str) -> None:
        with self._lock:
            self._sound.add(Path(path).name)

    def give_back(self, path: str, drop: bool = False) -> None:
        """No longer in use here; `drop` removes it at once where nobody else uses it."""
        name = Path(path).name
        with self._lock:
            self._uses[name] -= 1
            if self._uses[name] <= 0:
                del self._uses[name]
                if drop:
                    self._remove(name)
            unused = [each for each in self._sizes if each not in self._uses]
            left = sum(self._sizes[each] for each in unused)
            for each in unused:
                if left <= self.kept:
                    break
                left -= self._sizes[each]
                self._remove(each)

    def _remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)
        self.bytes -= self._sizes.pop(name)
        self._sound.discard(name)

    def close(self) -> None:
        self._folder.cleanup()


class Pictures:
    """Opens what requests name, within the server's limits."""

    def __init__(self, settings: ServeSettings, fetcher: Fetcher | None = None) -> None:
        self.settings, self.store = settings, PictureStore(settings.kept_pictures)
        allowed = Fetcher(settings.most_picture, settings.fetch_seconds) if settings.http_pictures else None
        self.fetcher = fetcher or allowed
        self._decoders = ThreadPoolExecutor(DECODERS, "decode")

    def close(self) -> None:
        self._decoders.shutdown(wait=False, cancel_futures=True)
        if self.fetcher is not None:
            self.fetcher.close()
        self.store.close()

    @asynccontextmanager
    async def used(self, urls: Sequence[str], field: str = "messages") -> AsyncIterator[tuple[str, ...]]:
        """The paths of the pictures, which stay until the block is left. `Refusal` (413, 422) for a bad one."""
        if len(urls) > self.settings.most_pictures:
            raise Refusal(422, f"{len(urls)} pictures; send at most {self.settings.most_pictures}", field, "pictures")
        paths: list[str] = []
        try:
            for number, url in enumerate(urls, 1):
                paths.append(await self._numbered(number, url, field))
            yield tuple(paths)
        finally:
            for path in paths:
                self.store.give_back(path)

    async def _numbered(self, number: int, url: str, field: str) -> str:
        """The path of a request's picture, of which a refusal tells the number."""
        try:
            return await self._opened(url, field)
        except Refusal as refusal:
            raise replace(refusal, message=f"picture {number}: {refusal.message}") from None

    async def _opened(self, url: str, field: str) -> str:
        content = await self._content(url, field)
        loop = asyncio.get_running_loop()
        path = await loop.run_in_executor(None, self.store.take, content)
        try:
            if not self.store.is_sound(path):
                await self._check(path, field)
                self.store.is_found_sound(path)
        except BaseException:
            self.store.give_back(path, drop=True)
            raise
        return path

    async def _content(self, url: str, field: str) -> bytes:
        scheme = url[:8].partition(":")[0].lower()
        if scheme == "data":
            return await asyncio.get_running_loop().run_in_executor(None, self._data, url, field)
        if scheme not in ("http", "https"):
            raise Refusal(422, f"no picture can be taken from {_short(url)}: {_WHERE}", field, "picture_url")
        if self.fetcher is None:
            text = f"this server takes no pictures from web addresses: {_WHERE}; --http-pictures allows them"
            raise Refusal(422, text, field, "picture_url")
        try:
            return await self.fetcher.fetch(url)
        except ValueError as error:
            raise Refusal(422, f"{_short(url)}: {error}", field, "picture_url") from None

    def _data(self, url: str, field: str) -> bytes:
        """The bytes of a data URL."""
        head = _DATA.match(url, 0, 1000)
        if head is None:
            raise Refusal(422, f"{_short(url)} is no data URL in base64: {_WHERE}", field, "picture_url")
        most = self.settings.most_picture
        large = Refusal(413, f"it is over {most:,} bytes; send a smaller one", field, "picture_too_large")
        if (len(url) - head.end()) * 3 // 4 > most + 2:  # without making it first
            raise large
        try:
            content = binascii.a2b_base64(url[head.end() :].encode("ascii"), strict_mode=True)
        except ValueError as error:
            raise Refusal(422, f"what comes after base64, is no base64 ({error})", field, "picture_base64") from None
        if len(content) > most:
            raise large
        return content

    async def _check(self, path: str, field: str) -> None:
        """Decode the picture once, so that a broken one is refused here and not by the models."""
        seconds = self.settings.decode_seconds
        work = asyncio.get_running_loop().run_in_executor(self._decoders, self._decode, path)
        try:
            async with asyncio.timeout(seconds):
                await work
        except TimeoutError:
            text = f"it was not decoded after {seconds:g} seconds; send a simpler one"
            raise Refusal(422, text, field, "picture_slow") from None
        except _TooLarge as error:
            text = f"it has {error}; send one of at most {self.settings.most_pixels:,} in all"
            raise Refusal(413, text, field, "picture_too_large") from None
        except PictureError as error:
            text = shown(_plain(error, Path(path).name))
            raise Refusal(422, text, field, "picture") from None

    def _decode(self, path: str) -> None:
        """Its size from the header first. `PictureError`, or `_TooLarge`, says what is wrong."""
        try:
            width, height = check_picture(Path(path), decode=False)
        except PictureError as error:
            if str(error).startswith("picture too large"):  # the limit that it names is another one
                size = re.search(r"\d+ x \d+ pixels", str(error))
                raise _TooLarge(size[0] if size else "too many pixels") from None
            raise
        if width * height > self.settings.most_pixels:
            raise _TooLarge(f"{width} x {height} pixels")
        if min(width, height) < 1:
            raise PictureError("unreadable picture: it has no pixels")
        check_picture(Path(path))


def _plain(error: PictureError, name: str) -> str:
    """Why a picture cannot be used, for who does not know its file's name here."""
    reason = str(error).partition(": ")[2].replace(f"{name}: ", "").replace(name, "the picture")
    if reason.startswith("none of "):
        return f"it is {reason}; send one of these"
    return f"it is broken or not complete ({reason}); send it anew"


def _short(url: str) -> str:
    return repr(url if len(url) <= 80 else url[:80] + "...")
