"""The provider's files: rendered when asked for, served under links that expire."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

from aiohttp import web

from pipeline.simulator import audio, picture, video
from pipeline.simulator.plan import FilePlan
from pipeline.simulator.signing import LinkState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.simulator.plan import Expiry
    from pipeline.simulator.signing import LinkSigner

#: Rendered files beyond this size are forgotten, and rendered again when asked for.
CACHE_BYTES: Final = 64 * 1024 * 1024
#: Where there is audio to submit, under a link that works for ever.
SOURCE_PATH: Final = "/source.wav"
_SOURCE: Final = FilePlan(
    path=SOURCE_PATH,
    kind="audio",
    file_format="wav",
    seed=3,
    title="Source",
    comment="to be submitted",
    content_type=audio.AUDIO_TYPES["wav"],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The bytes of a file."""

    data: bytes
    #: 64 hexadecimal digits.
    sha256: str


class FileShelf:
    """All files of a provider, by path. The same plan gives the same bytes.

    Rendering happens in a thread, one file at a time: one core stays free for the
    event loop.
    """

    def __init__(self) -> None:
        self._plans: dict[str, FilePlan] = {}
        self._contents: OrderedDict[str, Content] = OrderedDict()
        self._held_bytes = 0
        self._pieces: dict[tuple[int, str], bytes] = {}
        self._rendering = asyncio.Lock()

    def add(self, files: Iterable[FilePlan]) -> None:
        """Put files on the shelf; nothing is rendered yet."""
        self._plans.update((file.path, file) for file in files)

    def lose(self, path: str, expiry: Expiry) -> None:
        """Let a file be gone from now on.

        Raises:
            KeyError: there is no such file.
        """
        self._plans[path] = replace(self._plans[path], expiry=expiry)

    def find(self, path: str) -> FilePlan | None:
        """Give the plan of the file under ``path``."""
        return self._plans.get(path)

    async def content(self, file: FilePlan) -> Content:
        """Give the bytes of a file, rendered now unless they are at hand.

        Raises:
            ConfigurationError: its format needs PyAV, and it is not installed.
        """
        async with self._rendering:
            found = self._contents.get(file.path)
            if found is not None:
                self._contents.move_to_end(file.path)
                return found
            content = await asyncio.to_thread(self._render, file)
            self._contents[file.path] = content
            self._held_bytes += len(content.data)
            while self._held_bytes > CACHE_BYTES and len(self._contents) > 1:
                _, oldest = self._contents.popitem(last=False)
                self._held_bytes -= len(oldest.data)
            return content

    def _render(self, file: FilePlan) -> Content:
        if file.kind == "image":
            data = picture.make_picture(
                file.seed,
                picture_format=cast("picture.PictureFormat", file.file_format),
                comment=file.comment,
            )
        elif file.kind == "video":
            data = video.make_video(file.seed, comment=file.comment)
        else:
            data = self._render_audio(file)
        return Content(data=data, sha256=hashlib.sha256(data).hexdigest())

    def _render_audio(self, file: FilePlan) -> bytes:
        audio_format = cast("audio.AudioFormat", file.file_format)
        key = (file.seed, audio_format)
        if key not in self._pieces:
            piece = audio.compose(file.seed)
            self._pieces[key] = audio.encode(piece, audio_format)
        return audio.add_tags(
            self._pieces[key], audio_format, title=file.title, comment=file.comment
        )


class FileServer:
    """Answers for files, streams and upstream originals, as the provider's hosts do."""

    def __init__(self, shelf: FileShelf, signer: LinkSigner) -> None:
        self._shelf = shelf
        self._signer = signer
        self._failing: dict[str, list[int]] = {}
        self._expired_statuses: dict[str, int] = {}
        #: How often each path was asked for, whatever the answer was.
        self.requests: dict[str, int] = {}

    def fail_next(self, path: str, status: int, *, times: int = 1) -> None:
        """Answer the next ``times`` requests of ``path`` with ``status``.

        200 means an empty body, which links give for a short time when they are new.
        """
        self._failing.setdefault(path, []).extend([status] * times)

    def expire(self, path: str, status: int) -> None:
        """Let every link of a file that there is be dead, with ``status``.

        Raises:
            KeyError: there is no such file.
        """
        if self._shelf.find(path) is None:
            raise KeyError(path)
        self._signer.revoke(path)
        self._expired_statuses[path] = status

    def add_routes(self, app: web.Application) -> None:
        """Serve ``/files``, ``/stream`` and ``/upstream``, and the source audio."""
        app.router.add_get(SOURCE_PATH, self._source)
        app.router.add_get("/files/{path:.+}", self._file)
        app.router.add_get("/stream/{path:.+}", self._stream)
        app.router.add_get("/upstream/{path:.+}", self._upstream)

    async def _file(self, request: web.Request) -> web.Response:
        path = request.path
        self.requests[path] = self.requests.get(path, 0) + 1
        if failing := self._failing.get(path):
            return web.Response(status=failing.pop(0))
        # The real hosts turn away the default agent of Python's urllib.
        if request.headers.get("User-Agent", "").startswith("Python-urllib"):
            return web.Response(status=403)
        file = self._shelf.find(path)
        if file is None:
            return web.Response(status=404)
        if status := self._refusal(file, request):
            return web.Response(status=status)
        content = await self._shelf.content(file)
        return _answer(request, content, file.content_type)

    def _refusal(self, file: FilePlan, request: web.Request) -> int | None:
        """Give the status for a link that is not worth the file."""
        match self._signer.check(file.path, request.query):
            case LinkState.FORGED:
                return 403
            case LinkState.EXPIRED:
                status = file.expiry.status if file.expiry else 403
                return self._expired_statuses.get(file.path, status)
            case LinkState.VALID:
                expiry = file.expiry
                return expiry.status if expiry and not expiry.renewable else None

    async def _source(self, request: web.Request) -> web.Response:
        """Answer as the server of a client of the provider's would."""
        content = await self._shelf.content(_SOURCE)
        return _answer(request, content, _SOURCE.content_type)

    async def _stream(self, _: web.Request) -> web.Response:
        """Answer 200 without any bytes, as stream hosts do once a track is made."""
        return web.Response(content_type="audio/mpeg")

    async def _upstream(self, _: web.Request) -> web.Response:
        return web.Response(status=403)


def _answer(request: web.Request, content: Content, content_type: str) -> web.Response:
    """Answer with the whole file or the range that was asked for (RFC 9110, 14)."""
    etag = f'"{content.sha256[:32]}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Content-Type": content_type}
    if request.headers.get("If-None-Match") == etag:
        return web.Response(status=304, headers={"ETag": etag})
    whole = web.Response(body=content.data, headers=headers)
    if request.headers.get("If-Range", etag) != etag:
        return whole
    try:
        asked = request.http_range
    except ValueError:
        return whole
    size = len(content.data)
    start, stop, _ = asked.indices(size)
    if asked.start is None and asked.stop is None:
        return whole
    if start >= stop:
        headers["Content-Range"] = f"bytes */{size}"
        return web.Response(status=416, headers=headers)
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return web.Response(status=206, body=content.data[start:stop], headers=headers)
