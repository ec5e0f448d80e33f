"""Downloads over http(s), within what a `MediaAccess` allows: the one place that opens a connection.

The address that was checked is the one that is connected to, so a name server that answers twice gains nothing. Redirects are
followed here, one by one, each checked like the first address.
"""

import base64
import http.client
import io
import socket
import ssl
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from functools import partial
from time import monotonic
from typing import Any, BinaryIO, cast

from .media_access_hicom import MediaAccess, MediaAccessError

MAX_SIZE_IN_MEMORY = 256 * 2**20  # bytes; a larger download goes to a temporary file
CHUNK_SIZE = 2**20  # bytes
PROGRESS = 32 * 2**10  # bytes that must arrive in each period of `stall_seconds`
MAX_REDIRECTS = 10
REDIRECTS = (301, 302, 303, 307, 308)
URL_CHARACTERS = ":/?#[]@!$&'()*+,;=%"  # what has a meaning in an address and stays as it is (RFC 3986)
USER_AGENT = "Mozilla/5.0 (compatible; hicom_hf)"  # many servers refuse Python's default user agent


class DownloadError(ValueError):
    """A download that failed; the message says why, without the address."""


def download(url: str, access: MediaAccess) -> BinaryIO:
    """Downloads a file.

    Args:
        url: http or https; user:password@ in it are sent as the header that they stand for.
        access: what is allowed.

    Returns:
        A seekable binary file at its beginning, in memory or temporary.

    Raises:
        DownloadError: the server does not give the file, or not as fast or as small as required.
        MediaAccessError: the address, or one that it redirects to, is not allowed.
    """
    file = tempfile.SpooledTemporaryFile(max_size=MAX_SIZE_IN_MEMORY)  # noqa: SIM115  the caller closes it
    try:
        pace = Pace(access)
        with _final_response(url, access, pace) as response:
            for piece in _content(response, access):
                file.write(piece)
    except (MediaAccessError, DownloadError):
        file.close()
        raise
    except (OSError, ValueError, http.client.HTTPException, zlib.error) as error:  # ValueError: a malformed address
        file.close()
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, (MediaAccessError, DownloadError)):
            raise cause from None
        raise DownloadError(f"the download failed ({_short(cause)}); check the address and the network") from error
    file.seek(0)
    return cast(BinaryIO, file)


class Pace:
    """Time and bytes of one download. Each read asks how long it may wait, and reports what it got."""

    def __init__(self, access: MediaAccess):
        self.access = access
        self.deadline = None if access.total_seconds is None else monotonic() + access.total_seconds
        self.restart()

    def restart(self) -> None:
        """Begin a new period of progress."""
        self.period_end = monotonic() + self.access.stall_seconds
        self.num_bytes = 0

    def seconds_left(self) -> float:
        """How long the next read may wait.

        Raises:
            DownloadError: not at all.
        """
        now = monotonic()
        if self.deadline is not None and now >= self.deadline:
            raise DownloadError(f"the download took longer than {self.access.total_seconds:g} s")
        if now >= self.period_end:
            raise DownloadError(f"the server sent less than {PROGRESS} bytes in {self.access.stall_seconds:g} s")
        return min(self.period_end, self.deadline or self.period_end) - now

    def received(self, num_bytes: int) -> None:
        """Count bytes that have arrived."""
        self.num_bytes += num_bytes
        if self.num_bytes >= PROGRESS:
            self.restart()


class _PacedStream(io.RawIOBase):
    """The reading side of a socket, each read within the pace."""

    def __init__(self, sock: socket.socket, pace: Pace):
        self.sock, self.raw, self.pace = sock, sock.makefile("rb", buffering=0), pace

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int | None:
        self.sock.settimeout(self.pace.seconds_left())
        try:
            count = self.raw.readinto(buffer)
        except TimeoutError:
            self.pace.seconds_left()  # raises with the reason
            raise
        self.pace.received(count or 0)
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


class _PacedSocket:
    """What http.client uses of a socket."""

    def __init__(self, sock: socket.socket, pace: Pace):
        self.sock, self.pace = sock, pace

    def sendall(self, data: bytes) -> None:
        self.sock.settimeout(self.pace.seconds_left())
        self.sock.sendall(data)

    def makefile(self, *_) -> BinaryIO:
        return io.BufferedReader(_PacedStream(self.sock, self.pace))

    def close(self) -> None:
        self.sock.close()


class _CheckedConnection:
    """Connects to an address that was checked, and reads within the pace; mixed into http.client's two classes."""

    def __init__(self, *args, access: MediaAccess, pace: Pace, **kwargs):
        super().__init__(*args, **kwargs)
        self.access, self.pace = access, pace
        self._create_connection = self._connect_to_checked  # http.client's own hook, as its tests use it

    def connect(self) -> None:
        super().connect()  # TLS is begun here, for the host's name  # pyright: ignore[reportAttributeAccessIssue]
        self.sock: Any = _PacedSocket(self.sock, self.pace)

    def _connect_to_checked(self, address: tuple[str, int], *_) -> socket.socket:
        host, port = address
        found = self.access.resolve(host, port, type=socket.SOCK_STREAM)
        addresses = [entry[4][0] for entry in found]
        self.access.check_host(host, addresses)
        failure = OSError(f"{host} has no address")
        for checked in addresses:
            try:
                return socket.create_connection((checked, port), timeout=self.pace.seconds_left())
            except OSError as error:
                failure = error
        raise failure


class _HTTPConnection(_CheckedConnection, http.client.HTTPConnection):
    pass


class _HTTPSConnection(_CheckedConnection, http.client.HTTPSConnection):
    pass


class _Handler(urllib.request.AbstractHTTPHandler):
    """Opens http and https through the connections above."""

    def __init__(self, access: MediaAccess, pace: Pace):
        super().__init__()
        self.options = {"access": access, "pace": pace}

    def http_open(self, request):
        return self.do_open(partial(_HTTPConnection, **self.options), request)

    def https_open(self, request):
        context = ssl.create_default_context()
        return self.do_open(partial(_HTTPSConnection, **self.options), request, context=context)

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_


def _final_response(url: str, access: MediaAccess, pace: Pace) -> http.client.HTTPResponse:
    """The answer behind all redirects."""
    opener = urllib.request.OpenerDirector()
    # A proxy would connect in our place, to any address.
    proxies = {} if access.is_guarded else None
    for handler in (urllib.request.ProxyHandler(proxies), _Handler(access, pace)):
        opener.add_handler(handler)
    credentials, origin = None, None
    for _ in range(MAX_REDIRECTS + 1):
        request, own = _request(url, access)
        credentials = own or (credentials if origin == (request.type, request.host) else None)
        origin = (request.type, request.host)
        if credentials:
            request.add_unredirected_header("Authorization", credentials)
        pace.restart()
        response = opener.open(request, timeout=pace.seconds_left())
        target = response.headers.get("Location")
        if response.status in REDIRECTS and target:
            response.close()  # its body is not read
            url = urllib.parse.urljoin(request.full_url, target)
            continue
        if not 200 <= response.status < 300:
            response.close()
            raise DownloadError(f"the server answered {response.status} {_short(response.reason)}; check the address")
        return response
    raise DownloadError(f"the server redirected more than {MAX_REDIRECTS} times; check the address")


def _request(url: str, access: MediaAccess) -> tuple[urllib.request.Request, str | None]:
    """The request for an address without its user and password, and the header that they make."""
    # People paste addresses with spaces and letters of all scripts.
    parts = urllib.parse.urlsplit(urllib.parse.quote(url, safe=URL_CHARACTERS))
    if parts.scheme not in ("http", "https"):
        raise MediaAccessError(f"a redirect to {_short(parts.scheme)}: is not followed, only http and https are")
    if not parts.hostname:
        raise DownloadError("the address names no host")
    access.check_domain(parts.hostname)
    userinfo, _, host = parts.netloc.rpartition("@")
    credentials = None
    if userinfo:
        user, _, password = userinfo.partition(":")
        plain = f"{urllib.parse.unquote(user)}:{urllib.parse.unquote(password)}"
        credentials = f"Basic {base64.b64encode(plain.encode()).decode()}"
    clean = parts._replace(netloc=host, fragment="").geturl()
    return urllib.request.Request(clean, headers={"User-Agent": USER_AGENT, "Accept": "*/*"}), credentials


def _content(response: http.client.HTTPResponse, access: MediaAccess) -> Iterator[bytes]:
    """The file's bytes in pieces, decompressed and bounded."""
    promised = response.headers.get("Content-Length", "")
    promised = int(promised) if promised.isascii() and promised.isdigit() else None
    too_large = DownloadError(f"the file has more than {access.max_bytes} bytes, the limit of this download")
    if promised is not None and promised > access.max_bytes:
        raise too_large
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower() or "identity"
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise DownloadError(f"the server sent the file in the encoding {_short(encoding)}, which was not asked for")
    received = size = 0
    inflater = None if encoding == "identity" else zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # gzip or zlib
    while chunk := response.read(CHUNK_SIZE):
        received += len(chunk)
        for piece in [chunk] if inflater is None else _inflated(inflater, chunk):
            size += len(piece)
            if size > access.max_bytes:
                raise too_large
            yield piece
    if promised is not None and received < promised:
        raise DownloadError(f"the download stopped after {received} of {promised} bytes; try again")
    if inflater is not None and not inflater.eof:
        raise DownloadError(f"the download stopped within its {encoding} data after {received} bytes; try again")


def _inflated(inflater, chunk: bytes) -> Iterator[bytes]:
    """What a compressed chunk holds, in pieces of bounded size."""
    piece = b""
    while chunk or piece:
        piece = inflater.decompress(chunk, CHUNK_SIZE)
        chunk = inflater.unconsumed_tail
        yield piece


def _short(text: object) -> str:
    """What a server or the system said, in one clean line of bounded length."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))[:200]
