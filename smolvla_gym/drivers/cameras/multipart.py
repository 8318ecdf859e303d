"""Parsers of the bytes of an MJPEG stream; they open nothing, and every limit is theirs.

An MJPEG stream is an HTTP response of the type ``multipart/x-mixed-replace``, each part of which is an image. Some
cameras send it with ``Transfer-Encoding: chunked``, some leave ``Content-Length`` out of the parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from smolvla_gym.drivers.cameras.jpeg import MAX_JPEG_BYTES

MAX_HEAD_BYTES: Final = 16 << 10
"""Largest head of a response or of a part, in bytes."""

MAX_HEADERS: Final = 64
"""Largest number of headers of a response or of a part."""

_MAX_SIZE_LINE: Final = 256
_LENGTH: Final = re.compile(r"[0-9]{1,9}")
_CHUNK_SIZE: Final = re.compile(rb"[0-9a-fA-F]{1,8}")
_BOUNDARY: Final = re.compile(r'boundary\s*=\s*(?:"([^"\r\n]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)


def parse_headers(lines: bytes) -> dict[str, str]:
    """Return headers with names in lower case; a repeated one has its last value.

    Raises:
        ValueError: A line is no header, or there are too many.
    """
    headers: dict[str, str] = {}
    rows = [row for row in lines.decode("latin-1").replace("\r\n", "\n").split("\n") if row]
    if len(rows) > MAX_HEADERS:
        raise ValueError(f"a head has {len(rows)} headers (limit {MAX_HEADERS})")
    for row in rows:
        name, colon, value = row.partition(":")
        if not colon or not name.strip():
            raise ValueError("a head has a line that is no header")
        headers[name.strip().lower()] = value.strip()
    return headers


def read_boundary(content_type: str) -> bytes:
    """Return the boundary of a multipart content type, without the dashes around it.

    Raises:
        ValueError: The type is not multipart, or has no boundary.
    """
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/") or found is None:
        raise ValueError("the address answers with something else than a stream of images (multipart)")
    # Some cameras put the dashes that precede each boundary into its name, some put them there twice.
    boundary = (found[1] or found[2]).strip("-")
    if not boundary:
        raise ValueError("the boundary of the stream has no name")
    return boundary.encode("latin-1", "replace")


def split_head(buffer: bytearray) -> tuple[bytes, int] | None:
    """Return the head at the beginning of a buffer, and where the body begins; None while it is incomplete.

    Raises:
        ValueError: The head is too long.
    """
    ends = [(at, at + len(end)) for end in (b"\r\n\r\n", b"\n\n") if (at := buffer.find(end, 0, MAX_HEAD_BYTES)) >= 0]
    if not ends:
        if len(buffer) >= MAX_HEAD_BYTES:
            raise ValueError(f"a head is longer than {MAX_HEAD_BYTES} bytes")
        return None
    at, body = min(ends)
    return bytes(buffer[:at]), body


class ChunkedDecoder:
    """Decoder of ``Transfer-Encoding: chunked``."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0  # bytes of the present chunk that are still to come, with the line break behind it
        self._ended = False

    def feed(self, data: bytes) -> bytes:
        """Return the content of the next bytes.

        Raises:
            ValueError: The bytes are no chunks, or the last chunk has come.
        """
        self._buffer += data
        content = bytearray()
        while self._buffer:
            if self._ended:
                raise ValueError("the stream has ended")
            if self._left > 2:
                piece = self._buffer[: self._left - 2]
                content += piece
                del self._buffer[: len(piece)]
                self._left -= len(piece)
            elif self._left:
                blank = self._buffer[: self._left]
                if blank.strip(b"\r\n"):
                    raise ValueError("a chunk is longer than its size")
                del self._buffer[: len(blank)]
                self._left -= len(blank)
            else:
                end = self._buffer.find(b"\n", 0, _MAX_SIZE_LINE)
                if end < 0:
                    if len(self._buffer) >= _MAX_SIZE_LINE:
                        raise ValueError("the size of a chunk is no number")
                    break
                size = bytes(self._buffer[:end]).partition(b";")[0].strip()
                if _CHUNK_SIZE.fullmatch(size) is None:
                    raise ValueError("the size of a chunk is no number")
                del self._buffer[: end + 1]
                self._left = int(size, 16) + 2
                self._ended = self._left == 2
        return bytes(content)


class MultipartParser:
    """Parser of the parts of a stream."""

    def __init__(self, boundary: bytes) -> None:
        """Create a parser.

        Args:
            boundary: The boundary without dashes around it.
        """
        self._boundary = boundary
        self._end = re.compile(rb"\r?\n-{2,6}" + re.escape(boundary) + rb"(?:--)?\r?\n")
        self._buffer = bytearray()
        self._headers: dict[str, str] | None = None
        self._searched = 0

    def feed(self, data: bytes) -> None:
        """Add bytes of the stream."""
        self._buffer += data

    def next(self) -> tuple[Mapping[str, str], bytes] | None:
        """Return the headers and the body of the next part, None while it is incomplete.

        Raises:
            ValueError: The bytes are no stream of parts, such as after one that was torn, or a part is too large.
        """
        if self._headers is None and not self._open():
            return None
        headers = self._headers
        assert headers is not None  # noqa: S101 - narrows a type
        length = self._length(headers)
        if length is None:
            return None
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        self._headers, self._searched = None, 0
        return headers, body

    def _open(self) -> bool:
        """Read the boundary and the headers of a part; return whether they are complete."""
        blank = len(self._buffer) - len(self._buffer.lstrip(b"\r\n"))
        if blank > 8:
            raise ValueError("there is nothing between two parts of the stream")
        split = split_head(self._buffer if not blank else self._buffer[blank:])
        head = bytes(self._buffer[blank : blank + MAX_HEAD_BYTES]) if split is None else split[0]
        line, newline, rest = head.partition(b"\n")
        if newline or split is not None:
            stripped = line.strip()
            if not stripped.startswith(b"-") or stripped.strip(b"-") != self._boundary:
                raise ValueError("a part of the stream does not end where its length says: it was torn")
            if stripped.endswith(b"--") and not self._boundary.endswith(b"-"):
                raise ValueError("the stream has ended")
        if split is None:
            return False
        self._headers = parse_headers(rest)
        del self._buffer[: blank + split[1]]
        return True

    def _length(self, headers: Mapping[str, str]) -> int | None:
        """Return the length of the body, None while it is incomplete."""
        if (written := headers.get("content-length")) is not None:
            if _LENGTH.fullmatch(written) is None or int(written) > MAX_JPEG_BYTES:
                raise ValueError(f"a part has the length {written[:20]!r} (limit {MAX_JPEG_BYTES} bytes)")
            return int(written) if len(self._buffer) >= int(written) else None
        found = self._end.search(self._buffer, self._searched)
        if found is not None:
            return found.start()
        if len(self._buffer) > MAX_JPEG_BYTES:
            raise ValueError(f"a part is longer than {MAX_JPEG_BYTES} bytes")
        self._searched = max(0, len(self._buffer) - len(self._boundary) - 16)  # the line may have come in part
        return None
