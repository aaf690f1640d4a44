"""Pictures of requests: data URLs, files that are kept, and addresses that strangers name."""

import asyncio
import io
import ipaddress
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
import zlib
from pathlib import Path

import httpx2 as httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from chainofstep.serve.errors import Refusal
from chainofstep.serve.fetch import Fetcher, is_public
from chainofstep.serve.pictures import Pictures, PictureStore
from chainofstep.serve.settings import ServeSettings
from serving import NAME, Answering, ScriptedModels, Serving, ask, data_url, http_answer, png


def opened(pictures, *urls):
    """The contents of the files that URLs lead to."""

    async def used():
        async with pictures.used(urls) as paths:
            return [Path(path).read_bytes() for path in paths], paths

    return asyncio.run(used())


@pytest.fixture
def pictures():
    held = Pictures(ServeSettings(most_picture=200_000, most_pixels=1_000_000, most_pictures=3))
    yield held
    held.close()


def refused(pictures, *urls):
    with pytest.raises(Refusal) as caught:
        opened(pictures, *urls)
    assert "cos-serve" not in caught.value.message and "\n" not in caught.value.message
    return caught.value.status, caught.value.message


# Files


def test_the_same_picture_has_the_same_path_and_stays_for_the_next_request(pictures):
    first, [path] = opened(pictures, data_url(png()))
    again, [same] = opened(pictures, data_url(png(), "image/jpeg"))
    assert first == again == [png()] and path == same and Path(path).is_file()
    assert Path(path).stat().st_mode & 0o777 == 0o600 or Path(path).parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_formats_are_told_by_content_alone(pictures, form):
    assert opened(pictures, data_url(png(form=form), "text/html"))[0] == [png(form=form)]


def test_unused_files_go_when_there_are_too_many_and_used_ones_stay():
    store = PictureStore(kept=25)
    held, *others = [store.take(bytes([number]) * 10) for number in range(5)]
    for path in others:
        store.give_back(path)
    assert [Path(path).exists() for path in (held, *others)] == [True, False, False, True, True]
    assert store.bytes == 30
    store.give_back(held)
    store.close()
    assert not store.folder.exists()


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=30), st.integers(0, 30))
def test_what_is_in_use_is_there_and_the_rest_is_bounded(uses, kept):
    store, held = PictureStore(kept), []
    for letter, takes in uses:
        content = letter.encode() * 10
        if takes:
            held.append(store.take(content))
        elif held:
            store.give_back(held.pop())
        files = {path.name: path.stat().st_size for path in store.folder.iterdir()}
        assert {Path(path).name for path in held} <= files.keys()
        assert sum(files.values()) == store.bytes
    for path in held:
        store.give_back(path)
    assert store.bytes <= kept
    store.close()


# What is refused


def bomb(width, height):
    """A picture whose header promises many pixels, in a few bytes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_bombs_are_refused_by_their_header(pictures):
    for size in ((100_000, 100_000), (1001, 1000)):
        began = time.monotonic()
        status, message = refused(pictures, data_url(bomb(*size)))
        assert status == 413 and "pixels" in message and time.monotonic() - began < 1
    assert list(pictures.store.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("data:image/png;base64,AAAA*AAA", 422),
        ("data:image/png;base64,AAA", 422),
        ("data:image/png;base64,AA==AA==", 422),
        ("data:image/png;base64, " + data_url(png())[22:], 422),
        ("data:image/png;base64,%41%41%41%41", 422),
        ("data:image/png,abc", 422),
        ("data:image/png;base64,", 422),
        ("data:" + "a" * 100_000, 422),
        (data_url(png()[:40]), 422),
        (data_url(png(form="JPEG")[:300]), 422),
        (data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 422),
        (data_url(b"%!PS-Adobe-3.0 EPSF-3.0\n"), 422),
        (data_url(b"x" * 200_001), 413),
        ("file:///etc/passwd", 422),
        ("/etc/passwd", 422),
        ("FILE:///etc/passwd", 422),
        ("ftp://a.example/b.png", 422),
        ("http://a.example/b.png", 422),
        ("https://a.example/b.png", 422),
        ("javascript:alert(1)", 422),
        ("\u0000", 422),
        ("\ud800", 422),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(pictures, url, status):
    assert refused(pictures, url)[0] == status
    assert list(pictures.store.folder.iterdir()) == []


def test_more_pictures_than_allowed_are_refused(pictures):
    assert refused(pictures, *[data_url(png())] * 4)[1] == "4 pictures; send at most 3"


def test_a_picture_that_decodes_forever_is_given_up(pictures, monkeypatch):
    done = threading.Event()
    monkeypatch.setattr("chainofstep.serve.pictures.check_picture", lambda *_, **__: (1 + done.wait(5), 1))
    slow = Pictures(ServeSettings(decode_seconds=0.1))
    assert refused(slow, data_url(png()))[1].startswith("picture 1: it was not decoded after 0.1 seconds")
    done.set()
    slow.close()


def test_a_broken_picture_beside_a_good_one_leaves_nothing_in_use(pictures):
    refused(pictures, data_url(png()), data_url(b"none"))
    assert not pictures.store._uses


def test_a_request_with_a_bad_picture_is_refused_by_the_server():
    with Serving(ScriptedModels({"": ["x"]})) as server:
        for url in (data_url(b"none"), "http://127.0.0.1:1/x.png"):
            body = {"model": NAME, "messages": ask("What?", url)}
            reply = httpx.post(f"{server.url}/v1/chat/completions", json=body)
            assert (reply.status_code, reply.json()["error"]["param"]) == (422, "messages")


# Addresses


PRIVATE = """127.0.0.1 0.0.0.0 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 192.0.2.1 198.18.0.1 224.0.0.1
239.1.1.1 255.255.255.255 240.0.0.1 :: ::1 fe80::1 fc00::1 fd00:ec2::254 fec0::1 ff02::1 ff0e::1 ::ffff:127.0.0.1
::ffff:169.254.169.254 ::127.0.0.1 2002:7f00:1::1 2002:a9fe:a9fe::1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1
2001:db8::1 2001::1 2001:0:7f00:1::1 100::1 5f00::1 3fff::1"""
DENIED = """168.63.129.16 192.0.0.1 192.0.0.9 192.0.0.10 192.88.99.1 192.31.196.1 192.52.193.1 192.175.48.1
100.100.100.200 198.19.255.255 169.254.169.254 203.0.113.1 198.51.100.1 0.1.2.3 127.1.2.3 172.31.255.255"""
DENIED_6 = "2620:4f:8000::1 fd00:ec2::254 2001:4:112::1 2001:20::1 2001:db8::1 3fff::1 fe80::1 ff0e::1"


@pytest.mark.parametrize("text", PRIVATE.split())
def test_addresses_that_are_not_public_are_known(text):
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("form", ["{}", "::ffff:{}", "64:ff9b::{}"])
def test_special_addresses_are_refused_whatever_python_calls_them(monkeypatch, form):
    for kind in (ipaddress.IPv4Address, ipaddress.IPv6Address):
        monkeypatch.setattr(kind, "is_global", True)
        monkeypatch.setattr(kind, "is_reserved", False)
        monkeypatch.setattr(kind, "is_multicast", False)
    texts = [form.format(text) for text in DENIED.split()] + DENIED_6.split()
    assert [text for text in texts if is_public(ipaddress.ip_address(text))] == []
    beside = "168.63.129.15 168.63.129.17 192.0.1.0 191.255.255.255 100.63.255.255 100.128.0.0 198.17.0.1 198.20.0.0"
    public = [form.format(text) for text in beside.split()] + ["2620:4f:7fff::1", "2620:4f:8001::1"]
    assert all(is_public(ipaddress.ip_address(text)) for text in public)


@pytest.mark.parametrize("text", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_public_addresses_are_known(text):
    assert is_public(ipaddress.ip_address(text))


def fetched(url, **options):
    fetcher = Fetcher(**({"most": 10_000, "seconds": 5, "allowed": lambda address: True, "ports": None} | options))
    try:
        return asyncio.run(fetcher.fetch(url))
    finally:
        fetcher.close()


def test_a_picture_is_fetched_through_redirects_and_no_password_or_cookie_is_sent():
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=b\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    moved = [http_answer(b"", "302 Found", f"Location: {place}\r\nSet-Cookie: a=b\r\n") for place in ("/b c", "d?e")]
    moved[0] = moved[0].replace(b"/b c", b"/b%20c")
    with Answering(*moved, chunked) as server:
        assert fetched(f"http://127.0.0.1:{server.port}/a") == b"abcde"
    assert [request.split("\r\n")[0] for request in server.requests] == [
        *("GET /a HTTP/1.1", "GET /b%20c HTTP/1.1", "GET /d?e HTTP/1.1")
    ]
    assert all("ookie" not in request and "uthorization" not in request for request in server.requests)


def test_a_proxy_of_the_environment_is_not_used(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with Answering(http_answer(b"here")) as server:
        assert fetched(f"http://127.0.0.1:{server.port}/") == b"here"


def test_each_redirect_is_checked_anew():
    open_address = lambda address: str(address) == "127.0.0.1"  # noqa: E731
    for place in (
        "http://127.0.0.2/",
        "file:///etc/passwd",
        "//[::1]/",
        "gopher://127.0.0.1/",
        "http://a:b@127.0.0.1/",
    ):
        with Answering(http_answer(b"", "301 Moved", f"Location: {place}\r\n")) as server, pytest.raises(ValueError):
            fetched(f"http://127.0.0.1:{server.port}/", allowed=open_address)
    moved = http_answer(b"", "307 Again", "Location: /\r\n")
    with Answering(*[moved] * 4) as server, pytest.raises(ValueError, match="more than 3 redirects"):
        fetched(f"http://127.0.0.1:{server.port}/")
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://0x7f.1/",
        "http://2130706433/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:22/",
        "http://127.0.0.1:99999/",
        "http://user:password@1.1.1.1/",
        "http://1.1.1.1\\@127.0.0.1/",
        "http://a b/",
        "http://a\r\nHost: b/",
        "http:///x",
        "ftp://1.1.1.1/",
        "http://" + "a" * 3000,
        "http://[fe80::1%25eth0]/",
        "http://[::1",
    ],
)
def test_addresses_that_lead_inside_are_refused_without_a_connection(url, monkeypatch):
    async def never(*_, **__):
        raise AssertionError("connected")

    monkeypatch.setattr(asyncio, "open_connection", never)
    with pytest.raises(ValueError) as caught:
        fetched(url, allowed=is_public, ports=frozenset({80, 443}))
    assert "\n" not in str(caught.value) and not isinstance(caught.value, UnicodeError)


def test_one_private_address_among_public_ones_is_enough(monkeypatch):
    found = [(2, 1, 6, "", (text, 80)) for text in ("1.1.1.1", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(ValueError, match="not public"):
        fetched("http://a.example/", allowed=is_public)


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(monkeypatch):
    lookups = []
    real = socket.getaddrinfo

    def changing(host, port, *rest, **options):
        """Public when it is checked, loopback when it would be looked up again."""
        if host != "rebinding.example":
            return real(host, port, *rest, **options)
        lookups.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    with Answering(http_answer(b"here")) as server:
        assert fetched(f"http://rebinding.example:{server.port}/") == b"here"
    assert lookups == ["rebinding.example"] and f"Host: rebinding.example:{server.port}" in server.requests[0]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (http_answer(b"x" * 10_001), "over 10,000 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 30_000, "over 10,000 bytes"),
        (http_answer(b"no", "404 Not Found"), "answered 404"),
        (b"SSH-2.0-OpenSSH\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, "no HTTP|could not"),
        (b"", "no HTTP|could not|hung up"),
    ],
)
def test_bad_answers_have_their_reason(answer, reason):
    with Answering(answer) as server, pytest.raises(ValueError, match=reason):
        fetched(f"http://127.0.0.1:{server.port}/")


@pytest.mark.parametrize("dripped", [b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"])
def test_an_answer_that_drips_ends_at_the_time_limit(dripped):
    began = time.monotonic()
    with (
        Answering([dripped, *[b"x"] * 60]) as server,
        pytest.raises(ValueError, match=r"within 0\.3 seconds"),
    ):
        fetched(f"http://127.0.0.1:{server.port}/", seconds=0.3)
    assert time.monotonic() - began < 3


def certified(folder, name):
    """TLS for a server of this name, and for a client that trusts it."""
    made = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-subj", f"/CN={name}"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    subprocess.run([*command, *made, "-addext", f"subjectAltName=DNS:{name}"], check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return server, ssl.create_default_context(cafile=folder / "cert.pem")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
@pytest.mark.parametrize(("host", "trusted"), [("good.example", True), ("evil.example", True), ("good.example", False)])
def test_only_a_trusted_certificate_of_the_same_name_is_taken(tmp_path, monkeypatch, host, trusted):
    server_side, client_side = certified(tmp_path, "good.example")
    if trusted:
        monkeypatch.setattr(Fetcher, "context", client_side)
    with Answering(http_answer(b"here"), context=server_side) as server:
        local = [(2, 1, 6, "", ("127.0.0.1", server.port))]
        real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lambda h, *r, **o: local if h == host else real(h, *r, **o))
        if host == "good.example" and trusted:
            assert fetched(f"https://{host}:{server.port}/") == b"here"
        else:
            with pytest.raises(ValueError, match="could not be fetched"):
                fetched(f"https://{host}:{server.port}/")


def test_a_server_that_allows_addresses_takes_a_fetched_picture():
    models = ScriptedModels({"": ["x"]})
    with Answering(http_answer(png())) as pictures:
        fetcher = Fetcher(10_000, 5, lambda address: True, None)
        with Serving(models, fetcher=fetcher) as server:
            body = {"model": NAME, "messages": ask("What?", f"http://127.0.0.1:{pictures.port}/a.png")}
            assert httpx.post(f"{server.url}/v1/chat/completions", json=body).status_code == 200
    [[request]] = models.sampler.calls
    [path] = request.example.images
    assert len(Path(path).name) == 64 and not Path(path).exists()  # the folder went with the server


def test_animated_and_transparent_pictures_are_taken(pictures):
    file = io.BytesIO()
    frames = [Image.new("P", (8, 8), number) for number in range(3)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert opened(pictures, data_url(file.getvalue()))[0] == [file.getvalue()]
