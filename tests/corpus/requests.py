"""Hostile requests, by name: framing that two could read differently, and bombs.

``REFUSED`` must never be answered 200 or publish anything. ``TAKEN`` is odd but
right: one callback with ``BODY``. ``EITHER`` may be refused or be that callback.
What follows a refused request in the same write must not be taken for another one:
``SMUGGLED`` is what an attacker hides there.
"""

from __future__ import annotations

import gzip
import zlib
from typing import Final

#: The callback that a request is meant to bring.
BODY: Final = b'{"data":{"task_id":"meant","callbackType":"first"}}'
HIDDEN_BODY: Final = b'{"data":{"task_id":"hidden","callbackType":"first"}}'
TARGET: Final = b"/callbacks/upload-extend"
LINE: Final = b"POST %b HTTP/1.1\r\nHost: x\r\n" % TARGET
LENGTH: Final = b"Content-Length: %d\r\n" % len(BODY)
SMUGGLED: Final = (
    b"POST /callbacks/wav HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
    % (len(HIDDEN_BODY), HIDDEN_BODY)
)
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
_IN_ONE_CHUNK: Final = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
#: The longest line and header that are read.
_LONG: Final = 20_000


def _with(headers: bytes, body: bytes = BODY, line: bytes = LINE) -> bytes:
    return line + headers + b"\r\n" + body


def _chunks(body: bytes, headers: bytes = CHUNKED) -> bytes:
    return _with(headers, body)


def _line(line: bytes) -> bytes:
    return line + b"\r\nHost: x\r\n" + LENGTH + b"\r\n" + BODY


def _packed(encoding: bytes, body: bytes) -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return _with(b"Content-Encoding: %b\r\n%b" % (encoding, length), body)


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


def _raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


REFUSED: Final[dict[str, bytes]] = {
    # -- length and chunks
    "length, then chunked": _with(b"Content-Length: 4\r\n" + CHUNKED, _IN_ONE_CHUNK),
    "chunked, then length": _with(CHUNKED + b"Content-Length: 4\r\n", _IN_ONE_CHUNK),
    "two lengths": _with(b"Content-Length: 4\r\n" + LENGTH),
    "two lengths in one": _with(b"Content-Length: %d, 4\r\n" % len(BODY)),
    "length with a sign": _with(b"Content-Length: +%d\r\n" % len(BODY)),
    "negative length": _with(b"Content-Length: -1\r\n"),
    "hexadecimal length": _with(b"Content-Length: 0x33\r\n"),
    "length with a line": _with(b"Content-Length: 5_1\r\n"),
    "length with a point": _with(b"Content-Length: 51.0\r\n"),
    "length in words": _with(b"Content-Length: many\r\n"),
    "length in Arabic digits": _with("Content-Length: \u0665\u0661\r\n".encode()),
    "length of 30 digits": _with(b"Content-Length: " + b"9" * 30 + b"\r\n"),
    "length with a space inside": _with(b"Content-Length: 5 1\r\n"),
    "space before the colon": _with(b"Content-Length : %d\r\n" % len(BODY)),
    "xchunked": _with(b"Transfer-Encoding: xchunked\r\n", _IN_ONE_CHUNK),
    "chunked is not the last": _with(
        b"Transfer-Encoding: chunked, identity\r\n", _IN_ONE_CHUNK
    ),
    "chunked twice": _with(b"Transfer-Encoding: chunked, chunked\r\n", _IN_ONE_CHUNK),
    "chunked in quotes": _with(b'Transfer-Encoding: "chunked"\r\n', _IN_ONE_CHUNK),
    "chunked after a vertical tab": _with(
        b"Transfer-Encoding: \x0bchunked\r\n", _IN_ONE_CHUNK
    ),
    "space before the colon of chunked": _with(
        b"Transfer-Encoding : chunked\r\n", _IN_ONE_CHUNK
    ),
    # -- chunks
    "size of a chunk with a sign": _chunks(b"+33\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "size of a chunk in 0x": _chunks(b"0x33\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "size of a chunk with a line": _chunks(b"3_3\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "negative size of a chunk": _chunks(b"-1\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "size of a chunk overflows": _chunks(
        b"1" + b"0" * 16 + b"33\r\n" + BODY + b"\r\n0\r\n\r\n"
    ),
    "no size of a chunk": _chunks(b"\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "size of a chunk in words": _chunks(b"size\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk longer than its size": _chunks(b"5\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "space before the size": _chunks(b" 33\r\n" + BODY + b"\r\n0\r\n\r\n"),
    # -- lines
    "folded header": _with(LENGTH + b"X-A: b\r\n c\r\n"),
    "folded with a tab": _with(LENGTH + b"X-A: b\r\n\tc\r\n"),
    "folded chunked": _with(b"Transfer-Encoding:\r\n chunked\r\n", _IN_ONE_CHUNK),
    "first header folded": LINE.replace(b"Host", b" Host") + LENGTH + b"\r\n" + BODY,
    "NUL in a header": _with(LENGTH + b"X-A: a\0b\r\n"),
    "NUL in a name": _with(LENGTH + b"X\0A: b\r\n"),
    "bare CR in a header": _with(LENGTH + b"X-A: b\rContent-Length: 0\r\n"),
    "name with a space": _with(LENGTH + b"X A: b\r\n"),
    "name with a bracket": _with(LENGTH + b"X(A): b\r\n"),
    "no name": _with(LENGTH + b": b\r\n"),
    "no colon": _with(LENGTH + b"X-A\r\n"),
    "name that is no ASCII": _with(LENGTH + "X-Ä: b\r\n".encode()),
    # -- the first line
    "no version": _line(b"POST /callbacks/upload-extend"),
    "version 9.9": _line(b"POST /callbacks/upload-extend HTTP/9.9"),
    "version 2": _line(b"POST /callbacks/upload-extend HTTP/2.0"),
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "ICAP": _line(b"POST /callbacks/upload-extend ICAP/1.0"),
    "space in the target": _line(b"POST /callbacks/upload-extend /x HTTP/1.1"),
    "NUL in the target": _line(b"POST /callbacks/upload-extend\0 HTTP/1.1"),
    "method in small letters": _line(b"post /callbacks/upload-extend HTTP/1.1"),
    "method that is none": _line(b"PO ST /callbacks/upload-extend HTTP/1.1"),
    "method with a bracket": _line(b"PO(ST /callbacks/upload-extend HTTP/1.1"),
    "asterisk": _line(b"POST * HTTP/1.1"),
    "authority": _line(b"POST x:80 HTTP/1.1"),
    "no operation": _line(b"POST /callbacks/ HTTP/1.1"),
    "no callback": _line(b"POST /callbacks HTTP/1.1"),
    "up and down": _line(b"POST /x/../callbacks/upload-extend HTTP/1.1"),
    "two slashes": _line(b"POST //callbacks/upload-extend HTTP/1.1"),
    "encoded twice": _line(b"POST /callbacks/upload%252dextend HTTP/1.1"),
    "backslash": _line(b"POST \\callbacks\\upload-extend HTTP/1.1"),
    "NUL encoded": _line(b"POST /callbacks/upload-extend%00 HTTP/1.1"),
    "no UTF-8 encoded": _line(b"POST /callbacks/%FF%FE HTTP/1.1"),
    "surrogate encoded": _line(b"POST /callbacks/%ED%A0%80 HTTP/1.1"),
    "no address in the target": _line(b"POST http://[/callbacks/wav HTTP/1.1"),
    # -- other protocols
    "TLS": bytes.fromhex("16030100a5010000a10303") + b"\0" * 160,
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "SMTP": b"EHLO x\r\nMAIL FROM:<a@b>\r\n",
    "Redis": b"*1\r\n$8\r\nFLUSHALL\r\n",
    "proxy": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + _with(LENGTH),
    "every byte": bytes(range(256)) * 4,
    # -- bombs
    "150 headers": _with(LENGTH + b"".join(b"X-%d: y\r\n" % n for n in range(150))),
    "5,000 headers": _with(LENGTH + b"".join(b"X-%d: y\r\n" % n for n in range(5000))),
    "long header": _with(LENGTH + b"X: " + b"y" * _LONG + b"\r\n"),
    "long name": _with(LENGTH + b"X" * _LONG + b": y\r\n"),
    "long target": _line(b"POST /callbacks/" + b"y" * _LONG + b" HTTP/1.1"),
    "long query": _line(TARGET.join((b"POST ", b"?" + b"y" * _LONG)) + b" HTTP/1.1"),
    "long method": _line(b"P" * _LONG + b" /callbacks/upload-extend HTTP/1.1"),
    "long line without an end": b"POST /" + b"y" * 200_000,
    "5,000 trailers": _chunks(
        _IN_ONE_CHUNK[:-2] + b"".join(b"X-%d: y\r\n" % n for n in range(5000)) + b"\r\n"
    ),
    # -- compressed
    "no gzip": _packed(b"gzip", BODY),
    "gzip cut off": _packed(b"gzip", _gzip(BODY)[:-12]),
    "gzip with a wrong sum": _packed(b"gzip", _gzip(BODY)[:-8] + b"\0" * 8),
    "no deflate": _packed(b"deflate", b"\xff" + BODY),
    "no br": _packed(b"br", BODY),
    "no zstd": _packed(b"zstd", BODY),
    "gzip twice": _packed(b"gzip, gzip", _gzip(_gzip(BODY))),
    "gzip of 20 MiB": _packed(b"gzip", _gzip(b" " * (20 * 1024 * 1024))),
    "100 gzips of 1 MiB": _packed(b"gzip", _gzip(b" " * (1024 * 1024)) * 100),
    "deflate of 20 MiB": _packed(b"deflate", zlib.compress(b" " * (20 * 1024 * 1024))),
    # -- what it is said to be
    "text": _with(LENGTH + b"Content-Type: text/plain\r\n"),
    "form": _with(LENGTH + b"Content-Type: multipart/form-data; boundary=x\r\n"),
    "type that is no text": _with(LENGTH + b"Content-Type: \xff\xfe\r\n"),
    "empty type": _with(LENGTH + b"Content-Type:\r\n"),
}

TAKEN: Final[dict[str, bytes]] = {
    "as it should be": _with(LENGTH),
    "absolute target": _line(b"POST http://x/callbacks/upload-extend HTTP/1.1"),
    "absolute target elsewhere": _line(
        b"POST http://other.example:81/callbacks/upload-extend HTTP/1.1"
    ),
    "encoded operation": _line(b"POST /callbacks/%75pload%2Dextend HTTP/1.1"),
    "token that nobody asked for": _line(
        b"POST /callbacks/upload-extend/a/b%2Fc HTTP/1.1"
    ),
    "query": _line(b"POST /callbacks/upload-extend?a=b&&;=%zz HTTP/1.1"),
    "capitals": _with(LENGTH.upper() + b"CONTENT-TYPE: APPLICATION/JSON\r\n"),
    "no space after the colon": _with(LENGTH.replace(b": ", b":")),
    "space around a value": _with(
        LENGTH.replace(b": ", b": \t ").replace(b"\r", b" \r")
    ),
    "zeros before the length": _with(b"Content-Length: 000000%d\r\n" % len(BODY)),
    "empty header": _with(LENGTH + b"X-A:\r\n"),
    "header beyond ASCII": _with(LENGTH + b"X-A: \xff\xfe\r\n"),
    "header twice": _with(LENGTH + b"X-A: b\r\nX-A: c\r\n"),
    "empty lines before": b"\r\n\r\n" + _with(LENGTH),
    "CHUNKED": _chunks(_IN_ONE_CHUNK, CHUNKED.replace(b"chunked", b"CHUNKED")),
    "chunks of one byte": _chunks(
        b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
    ),
    "extension of a chunk": _chunks(
        b"%x;a=b;c\r\n%b\r\n0;d\r\n\r\n" % (len(BODY), BODY)
    ),
    "zeros before the size": _chunks(
        b"0000%X\r\n%b\r\n000\r\n\r\n" % (len(BODY), BODY)
    ),
    "trailer": _chunks(_IN_ONE_CHUNK[:-2] + b"X-A: b\r\n\r\n"),
    "gzip": _packed(b"gzip", _gzip(BODY)),
    "GZIP": _packed(b"GZIP", _gzip(BODY)),
    "deflate": _packed(b"deflate", zlib.compress(BODY)),
    "deflate without its head": _packed(b"deflate", _raw_deflate(BODY)),
    "identity": _packed(b"identity", BODY),
    "50 headers": _with(LENGTH + b"".join(b"X-%d: y\r\n" % n for n in range(50))),
    "header of 8,000 bytes": _with(LENGTH + b"X: " + b"y" * 8000 + b"\r\n"),
    "websocket": _with(LENGTH + b"Connection: keep-alive\r\nUpgrade: websocket\r\n"),
    "goes on at once": _with(LENGTH + b"Expect: 100-continue\r\n"),
    "proxies": _with(LENGTH + b"X-Forwarded-For: 127.0.0.1, unknown, [::1]:2\r\n"),
    "another method in a header": _with(LENGTH + b"X-HTTP-Method-Override: DELETE\r\n"),
}

EITHER: Final[dict[str, bytes]] = {
    "slash encoded": _line(b"POST /callbacks%2fupload-extend HTTP/1.1"),
    "long extension of a chunk": _chunks(
        b"33;" + b"y" * 200_000 + b"\r\n" + BODY + b"\r\n0\r\n\r\n"
    ),
    "unknown coding": _packed(b"rot13", BODY),
    "upgrade to HTTP/2": _with(
        LENGTH + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    ),
    "one length twice": _with(LENGTH + LENGTH),
    "one length twice in one": _with(
        b"Content-Length: %d, %d\r\n" % ((len(BODY),) * 2)
    ),
    "no host": LINE.replace(b"Host: x\r\n", b"") + LENGTH + b"\r\n" + BODY,
    "two hosts": _with(LENGTH + b"Host: y\r\n"),
    "bare LF": _with(LENGTH).replace(b"\r\n", b"\n"),
    "bare LF after one header": _with(LENGTH + b"X-A: b\n"),
    "bare LF in chunks": _chunks(_IN_ONE_CHUNK.replace(b"\r\n", b"\n")),
    "CR CR LF": _with(LENGTH + b"X-A: b\r\r\n"),
    "tabs in the first line": _line(b"POST\t/callbacks/upload-extend\tHTTP/1.1"),
    "spaces in the first line": _line(b"POST  /callbacks/upload-extend  HTTP/1.1"),
    "version 1.7": _line(b"POST /callbacks/upload-extend HTTP/1.7"),
    "version in small letters": _line(b"POST /callbacks/upload-extend http/1.1"),
    "chunked in HTTP/1.0": _chunks(_IN_ONE_CHUNK).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "identity and length": _with(b"Transfer-Encoding: identity\r\n" + LENGTH),
    "gzip, chunked": _chunks(
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(_gzip(BODY)), _gzip(BODY)),
        b"Transfer-Encoding: gzip, chunked\r\n",
    ),
    "two headers for chunked": _chunks(_IN_ONE_CHUNK, CHUNKED + CHUNKED),
    "space after the size": _chunks(b"%x \r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "length among the trailers": _chunks(
        _IN_ONE_CHUNK[:-2] + b"Content-Length: 5\r\n\r\n"
    ),
    "fragment": _line(b"POST /callbacks/upload-extend#x HTTP/1.1"),
    "bytes in the target": _line(b"POST /callbacks/upload-extend?\xff HTTP/1.1"),
    "expects something else": _with(LENGTH + b"Expect: tea\r\n"),
    "two gzips in a row": _packed(b"gzip", _gzip(BODY[:9]) + _gzip(BODY[9:])),
    "gzip and more": _packed(b"gzip", _gzip(BODY) + b"\0\0\0\0"),
    "100 headers": _with(LENGTH + b"".join(b"X-%d: y\r\n" % n for n in range(98))),
    "header of 8,190 bytes": _with(LENGTH + b"X: " + b"y" * 8187 + b"\r\n"),
}
