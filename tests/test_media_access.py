"""What `MediaAccess` allows, against a server of this machine that redirects, streams without end, drips and packs bombs."""

import contextlib
import errno
import gzip
import http.server
import io
import os
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.media_access_hicom import MediaAccess, is_public
from hicom_hf.processors.video_reading_hicom import read_video
from hicom_hf.processors.video_sources_hicom import VideoReadError, load_image, open_binary

CONTENT = b"what the server holds" * 100


class Server(http.server.ThreadingHTTPServer):
    """Answers as its paths say, and remembers what it was asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.stopped = threading.Event()
        self.content = CONTENT  # of /content

    @property
    def address(self):
        return f"127.0.0.1:{self.server_address[1]}"

    def paths(self):
        return [path for path, _ in self.asked]


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        kind, _, rest = self.path[1:].partition("/")
        with contextlib.suppress(OSError):  # the client has gone
            getattr(self, f"give_{kind.replace('-', '_')}", self.give_file)(rest)

    def answer(self, body, status=200, **headers):
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def give_file(self, rest):
        self.answer(CONTENT)

    def give_content(self, rest):
        self.answer(self.server.content)

    def give_redirect(self, rest):
        self.answer(b"", 302, Location=rest.replace("PORT", str(self.server.server_address[1])))

    def give_redirect_with_endless_body(self, rest):
        self.send_response(302)
        self.send_header("Location", "/file")
        self.end_headers()
        self.stream()

    def give_loop(self, rest):
        self.answer(b"", 302, Location="/loop")

    def give_picky(self, rest):
        refused = "urllib" in self.headers.get("User-Agent", "").lower()
        self.answer(b"" if refused else CONTENT, 403 if refused else 200)

    def give_private(self, rest):
        self.answer(CONTENT, 200 if self.headers.get("Authorization") == "Basic bWU6c2VjcmV0" else 401)

    def give_gzip(self, rest):
        self.answer(gzip.compress(CONTENT), Content_Encoding="gzip")

    def give_cut_gzip(self, rest):
        self.answer(gzip.compress(CONTENT)[:-12], Content_Encoding="gzip")

    def give_bomb(self, rest):
        self.answer(gzip.compress(bytes(50 * 2**20)), Content_Encoding="gzip")

    def give_brotli(self, rest):
        self.answer(CONTENT, Content_Encoding="br")

    def give_huge_length(self, rest):
        self.answer(CONTENT, Content_Length=str(10**15))

    def give_bad_length(self, rest):
        self.answer(CONTENT, Content_Length="-5")

    def give_endless(self, rest):
        self.send_response(200)
        self.end_headers()
        self.stream()

    def stream(self):
        while not self.server.stopped.is_set():
            self.wfile.write(bytes(2**16))

    def give_drip(self, rest):
        self.send_response(200)
        self.end_headers()
        self.drip()

    def give_header_drip(self, rest):
        self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
        self.drip()

    def drip(self):
        while not self.server.stopped.is_set():
            self.wfile.write(b"x")
            self.server.stopped.wait(0.05)

    def give_silence(self, rest):
        self.server.stopped.wait()


@pytest.fixture
def server():
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.stopped.set()
        running.shutdown()


def guarded(**options):
    """Guarded, but for this machine under its number."""
    return MediaAccess.guarded(allowed_private_hosts=["127.0.0.1"], **options)


def fetched(source, *access):
    with open_binary(source, *access) as file:
        return file.read()


def refusal(source, access, match):
    with pytest.raises(VideoReadError, match=match) as caught:
        open_binary(source, access)
    return str(caught.value)


PRIVATE = """127.0.0.1 127.8.8.8 10.1.2.3 172.16.0.1 192.168.0.1 169.254.169.254 100.64.0.1 100.127.255.254 0.0.0.0 0.1.2.3
224.0.0.1 240.0.0.1 255.255.255.255 198.18.0.1 192.0.2.1 192.88.99.1 ::1 :: fe80::1 fe80::1%eth0 fc00::1 fd12::1 ff02::1
::ffff:127.0.0.1 ::ffff:8.8.8.8 ::7f00:1 64:ff9b::7f00:1 64:ff9b:1::1 2002:7f00:1::1 2001:0:1::1 2001:db8::1"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_an_address_that_is_not_public_is_known(address):
    assert not is_public(address)


def test_public_addresses_are_known():
    assert all(map(is_public, ("8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::1")))


def test_by_default_this_machine_is_asked_and_guarded_it_is_not(server):
    for host in ("127.0.0.1", "localhost", "2130706433", "0x7f000001"):
        url = f"http://{host}:{server.server_address[1]}/file"
        assert fetched(url) == CONTENT
        server.asked.clear()
        refusal(url, MediaAccess.guarded(), "is at (127.0.0.1|::1), which is not a public address")
        assert server.asked == []


def test_guarded_refuses_a_redirect_to_a_private_address(server):
    url = f"http://{server.address}/redirect/http://localhost:PORT/canary"
    refusal(url, guarded(), "the host localhost is at .* not a public address")
    assert "/canary" not in server.paths()
    assert fetched(url) == CONTENT


@pytest.mark.parametrize(
    "target", ["ftp://127.0.0.1:PORT/x", "file:///etc/passwd", "data:text/plain,x", "gopher://127.0.0.1/x"]
)
def test_a_redirect_to_another_scheme_is_refused_in_any_case(server, target):
    for access in (MediaAccess.open(), guarded()):
        refusal(
            f"http://{server.address}/redirect/{target}",
            access,
            "a redirect to (ftp|file|data|gopher): is not followed",
        )


def test_redirects_have_an_end_and_their_bodies_are_not_read(server):
    refusal(f"http://{server.address}/loop", MediaAccess.open(), "redirected more than 10 times")
    assert fetched(f"http://{server.address}/redirect-with-endless-body") == CONTENT


def test_a_name_that_resolves_differently_the_second_time_gains_nothing(server, monkeypatch):
    answers = iter(["8.8.8.8", "127.0.0.1"])
    connected = []

    def resolve(host, port, **options):
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (next(answers), port))]

    def connect(address, **options):
        connected.append(address)
        raise ConnectionRefusedError("as a test has it")

    monkeypatch.setattr(socket, "create_connection", connect)
    url = f"http://rebinding.example:{server.server_address[1]}/canary"
    refusal(url, MediaAccess.guarded(resolve=resolve), "the download failed")
    assert connected == [("8.8.8.8", server.server_address[1])]
    refusal(url, MediaAccess.guarded(resolve=resolve), "rebinding.example is at 127.0.0.1")
    assert len(connected) == 1


def test_a_name_with_one_private_address_among_public_ones_is_refused():
    def resolve(host, port, **options):
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port)) for address in ("8.8.8.8", "10.0.0.1")]

    refusal("https://two.example/x", MediaAccess.guarded(resolve=resolve), "two.example is at 10.0.0.1")


def test_guarded_goes_through_no_proxy(server, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://{server.address}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert fetched("http://far.example/file") == CONTENT
    server.asked.clear()

    def resolve(host, port, **options):
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("10.0.0.1", port))]

    refusal("http://far.example/file", MediaAccess.guarded(resolve=resolve), "far.example is at 10.0.0.1")
    assert server.asked == []


def test_domains_are_an_allow_list_on_every_redirect(server):
    access = guarded(allowed_media_domains=["127.0.0.1", "example.org"])
    assert fetched(f"http://{server.address}/file", access) == CONTENT
    for host in ("other.org", "badexample.org", "example.org.evil.net"):
        refusal(f"http://{host}/x", access, f"the host '{host}' is not among allowed_media_domains")
    refusal(f"http://{server.address}/redirect/http://localhost:PORT/x", access, "the host 'localhost' is not among")
    access.check_domain("cdn.Example.org.")


@pytest.mark.parametrize("path", ["drip", "header-drip", "silence"])
def test_a_server_without_progress_ends(server, path):
    refusal(f"http://{server.address}/{path}", MediaAccess(stall_seconds=0.4), "sent less than 32768 bytes in 0.4 s")


@pytest.mark.parametrize("path", ["drip", "header-drip", "endless"])
def test_guarded_ends_after_its_total_time(server, path):
    access = guarded(total_seconds=0.4, max_bytes=2**50)
    refusal(f"http://{server.address}/{path}", access, "took longer than 0.4 s")


def test_sizes_are_bounded(server):
    access = guarded(max_bytes=2**20)
    for path in ("endless", "huge-length", "bomb"):
        refusal(f"http://{server.address}/{path}", access, "more than 1048576 bytes, the limit")
    assert fetched(f"http://{server.address}/bad-length", access) == CONTENT
    refusal(
        "data:video/mp4;base64," + "A" * 2**21, access, "<data:video/mp4>: the data URL has more than 1048576 bytes"
    )
    assert MediaAccess.guarded().max_bytes == 256 * 2**20
    assert MediaAccess.open().max_bytes == 8 * 2**30


def test_servers_that_are_particular_are_understood(server):
    for path in ("picky", "gzip"):
        assert fetched(f"http://{server.address}/{path}") == CONTENT
    refusal(f"http://{server.address}/cut-gzip", MediaAccess.open(), "stopped within its gzip data")
    refusal(f"http://{server.address}/brotli", MediaAccess.open(), "in the encoding br, which was not asked for")


def test_a_password_is_sent_and_never_told(server):
    url = f"http://me:secret@{server.address}/private"
    assert fetched(url) == CONTENT
    assert fetched(f"http://me:secret@{server.address}/redirect//private") == CONTENT
    server.asked.clear()
    fetched(f"http://me:secret@{server.address}/redirect/http://localhost:PORT/file")
    assert ["Authorization" in headers for _, headers in server.asked] == [True, False]
    for wrong in (url.replace("secret", "hunter2"), "http://me:hunter2@127.0.0.1:1/x", "http://me:hunter2@[::1/x"):
        with pytest.raises(VideoReadError) as caught:
            read_video(wrong, FrameSampling())
        seen = caught.value
        while seen is not None:
            assert "hunter2" not in str(seen)
            seen = seen.__cause__


def test_a_playlist_from_a_server_opens_nothing_else(server):
    Handler.give_playlist = lambda self, rest: self.answer(
        f"#EXTM3U\n#EXTINF:5,\nhttp://{self.server.address}/canary\n#EXT-X-ENDLIST\n".encode()
    )
    try:
        with pytest.raises(VideoReadError, match="this is not a video file"):
            read_video(f"http://{server.address}/playlist", FrameSampling(), media_access=guarded())
    finally:
        del Handler.give_playlist
    assert server.paths() == ["/playlist"]


def test_local_files_are_read_below_named_folders_only(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "a.png")
    (inside / "link.png").symlink_to(outside / "a.png")
    (tmp_path / "inside-not").mkdir()
    (tmp_path / "inside-not" / "a.png").write_bytes((inside / "a.png").read_bytes())
    none, below = MediaAccess.guarded(), MediaAccess.guarded(allowed_local_media_path=inside)
    for source in (inside / "a.png", f"file://{inside}/a.png"):
        assert load_image(source, access=below).shape == (8, 8, 3)
        refusal(source, none, "local files are not allowed here")
    for source in (
        outside / "a.png",
        inside / "link.png",
        f"file://{inside}/../outside/a.png",
        f"file://{inside}/%2e%2e/outside/a.png",
        tmp_path / "inside-not" / "a.png",
    ):
        refusal(source, below, "local files are not allowed here but below")
    frames, _ = read_video(inside / "a.png", FrameSampling(), media_access=below)
    assert frames.shape == (1, 8, 8, 3)
    with pytest.raises(VideoReadError, match="not allowed here but below"):
        read_video(outside, FrameSampling(), media_access=below)
    with pytest.raises(VideoReadError, match="not allowed here but below"):
        read_video(inside, FrameSampling(num_frames="all"), media_access=below)  # the link is one of its frames
    with pytest.raises(VideoReadError, match="not allowed here"):
        read_video([outside / "a.png"], FrameSampling(), media_access=none)


def test_options_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match="allowed_local_media_path: there is no folder"):
        MediaAccess.guarded(allowed_local_media_path=tmp_path / "nothing")
    with pytest.raises(TypeError, match="are lists of host names, got a string"):
        MediaAccess.guarded(allowed_media_domains="example.org")


def test_pipes_devices_and_folders_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", "/dev/zero", "/dev/null"):
        refusal(path, MediaAccess.open(), "this is a pipe, socket or device, not a file")
    refusal(tmp_path, MediaAccess.open(), "this is a folder, not a file")


def test_a_file_without_an_end_is_an_error_that_names_it():
    class Memory(io.BytesIO):  # as /proc/self/mem, which the system calls a file
        def seek(self, place, whence=0):
            if whence == os.SEEK_END:
                raise OSError(errno.EINVAL, "Invalid argument")
            return super().seek(place, whence)

    memory = Memory(b"123")
    memory.name = "/proc/self/mem"
    for read in (read_video, load_image):
        with pytest.raises(VideoReadError, match=r"/proc/self/mem: the file has no end .*\(Invalid argument\)"):
            read(memory, *([FrameSampling()] if read is read_video else []))


def test_the_host_name_is_what_tls_is_asked_for(monkeypatch):
    """The connection goes to an address, the certificate is checked against the name."""
    import ssl

    asked = []

    def wrap_socket(self, sock, server_hostname=None, **options):
        asked.append((sock, server_hostname))
        raise ssl.SSLError("as a test has it")

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", wrap_socket)
    monkeypatch.setattr(socket, "create_connection", lambda address, **options: Connected(address))
    resolve = lambda host, port, **options: [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("8.8.8.8", port))]  # noqa: E731
    refusal("https://films.example/x", MediaAccess.guarded(resolve=resolve), "the download failed")
    ((connection, name),) = asked
    assert (connection.address, name) == (("8.8.8.8", 443), "films.example")


class Connected:
    """As much of a socket as is used before TLS."""

    def __init__(self, address):
        self.address = address

    def setsockopt(self, *arguments):
        pass

    def close(self):
        pass


def test_the_processor_hands_the_access_on(tmp_path, processor):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    for key, kind in (("videos", "video"), ("images", "image")):
        processor(**{key: [str(tmp_path / "a.png")]})
        with pytest.raises(VideoReadError, match="local files are not allowed"):
            processor(**{key: [str(tmp_path / "a.png")]}, media_access=MediaAccess.guarded())
        part = {"type": kind, "path": str(tmp_path / "a.png")}
        chat = [{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}]
        with pytest.raises(VideoReadError, match="local files are not allowed"):
            processor.apply_chat_template(chat, tokenize=True, return_dict=True, media_access=MediaAccess.guarded())


def test_the_host_of_a_url_is_its_real_one(server):
    port = server.server_address[1]
    assert urlsplit(f"http://8.8.8.8@127.0.0.1:{port}/x").hostname == "127.0.0.1"
    refusal(f"http://8.8.8.8@127.0.0.1:{port}/x", MediaAccess.guarded(), "127.0.0.1 is at 127.0.0.1")


def test_the_page_on_untrusted_input_states_the_defaults():
    from hicom_hf.processors.media_bounds_hicom import MediaBounds

    page = (Path(__file__).parents[1] / "docs" / "untrusted_input.md").read_text()
    default, guarded, bounds = MediaAccess.open(), MediaAccess.guarded(), MediaBounds()
    assert f"| {default.max_bytes // 2**30} GiB | {guarded.max_bytes // 2**20} MiB |" in page
    assert f"{default.stall_seconds:g} s with almost no progress | stops after {guarded.stall_seconds:g} s" in page
    assert f"after {guarded.total_seconds:g} s in all" in page
    assert f"| {round(bounds.max_pixels / 1e6)} million |" in page and f"| {bounds.max_pictures:,} |" in page
    assert f"| {bounds.max_result_bytes // 2**30} GiB |" in page
    assert f"| {bounds.max_seconds // 86_400} days |" in page
