"""Pictures of others: paths that stay inside, sizes known before decoding, broken files named, hashes that hold."""

import io
import os
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from chainofstep.problems.pictures import (
    SAME_PICTURE,
    PictureError,
    check_picture,
    inside,
    open_picture,
    perceptual_hash,
    picture_format,
)

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the samples of real sets are not on this machine")


def chart(path, heights=(3, 7, 5, 9), size=(240, 180)):
    """A bar chart, as a file."""
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for number, height in enumerate(heights):
        left = 20 + number * 50
        draw.rectangle((left, size[1] - 15 * height, left + 30, size[1]), fill=(40 * number, 90, 200))
        draw.text((left, 5), str(height), fill="black")
    picture.save(path)
    return path


def huge_png(path, side=30_000):
    """A black-and-white PNG of side x side pixels in about 100 kB: its rows are all the same."""
    chunk = lambda kind, content: (  # noqa: E731
        len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
    )
    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(bytes(side // 8 + 1) * side, 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def distance(left, right):
    return (int(perceptual_hash(left), 16) ^ int(perceptual_hash(right), 16)).bit_count()


# Paths


@pytest.mark.parametrize("path", ["a.png", "images/a.png", "./a.png", "deep/er/ü b.png", "..a/b..png"])
def test_paths_inside_are_taken_whether_they_exist_or_not(tmp_path, path):
    assert inside(tmp_path, path) == tmp_path / path


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("../a.png", "'..'"),
        ("images/../../a.png", "'..'"),
        ("images/..", "'..'"),
        ("..\\a.png", "'..'"),
        ("a/..\\b.png", "'..'"),
        ("/etc/passwd", "absolute"),
        ("\\windows\\a.png", "absolute"),
        ("C:\\a.png", "absolute"),
        ("C:a.png", "absolute"),
        ("\\\\server\\share\\a.png", "absolute"),
        ("//server/share/a.png", "absolute"),
        ("", "empty"),
        ("  ", "empty"),
        ("a\0.png", "NUL"),
        ("a\ud800.png", "surrogates"),
    ],
)
def test_paths_that_lead_or_may_lead_out_are_refused(tmp_path, path, kind):
    with pytest.raises(PictureError, match=r"^unsafe picture path: ") as refused:
        inside(tmp_path, path)
    assert kind in str(refused.value) and "\n" not in str(refused.value)


def test_links_are_followed_only_inside(tmp_path):
    root, secret = tmp_path / "set", tmp_path / "secret"
    root.mkdir()
    secret.mkdir()
    chart(secret / "a.png")
    chart(root / "b.png")
    (root / "file.png").symlink_to(secret / "a.png")
    (root / "folder").symlink_to(secret)
    (root / "circle").symlink_to(root / "circle")
    (root / "own.png").symlink_to(root / "b.png")
    for path in ("file.png", "folder/a.png", "folder/none.png"):
        with pytest.raises(PictureError, match="leads out of the folder"):
            inside(root, path)
    with pytest.raises(PictureError, match=r"^(unsafe|missing) picture"):
        check_picture(inside(root, "circle"))
    assert check_picture(inside(root, "own.png")) == (240, 180)


def test_a_root_that_is_a_link_itself_is_no_way_out(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert inside(tmp_path / "link", "a.png") == tmp_path / "link" / "a.png"


@given(st.text(max_size=30))
def test_what_inside_lets_through_resolves_inside(path):
    root = Path("/tmp/no-such-folder/set")
    try:
        found = inside(root, path)
    except PictureError as error:
        assert str(error).startswith("unsafe picture path: ")
    else:
        assert found.resolve().is_relative_to(root.resolve())


# Contents


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tiff", "ppm"])
def test_every_known_format_is_read(tmp_path, suffix):
    path = chart(tmp_path / f"a.{suffix}")
    assert check_picture(path) == check_picture(path, decode=False) == open_picture(path).size == (240, 180)
    assert picture_format(path.read_bytes()) == suffix.upper().replace("JPG", "JPEG")


def test_a_missing_picture_a_folder_and_a_pipe_are_missing(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "none.png", tmp_path, tmp_path / "pipe.png", tmp_path / "none" / "a.png"):
        with pytest.raises(PictureError, match=r"^missing picture: "):
            check_picture(path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_picture_is_unreadable_though_its_header_is_not(tmp_path, suffix):
    whole = chart(tmp_path / f"whole.{suffix}").read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole[: len(whole) // 2])
    assert check_picture(cut, decode=False) == (240, 180)
    for read in (check_picture, open_picture, perceptual_hash):
        with pytest.raises(PictureError, match=r"^unreadable picture: .*truncated"):
            read(cut)


@pytest.mark.parametrize(
    "content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"P6 x", b"%!PS-Adobe"]
)
def test_what_is_no_picture_is_unreadable(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(PictureError, match=r"^unreadable picture: "):
        check_picture(tmp_path / "a.png", decode=False)
    with pytest.raises(PictureError, match=r"^unreadable picture: "):
        picture_format(content)


@given(st.binary(max_size=200), st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"]), st.data())
def test_damaged_bytes_are_read_or_named_and_raise_nothing_else(noise, form, data):
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(buffer, form)
    whole = buffer.getvalue()
    place = data.draw(st.integers(0, len(whole)))
    try:
        assert picture_format(whole[:place] + noise + whole[place + len(noise) :])
    except PictureError as error:
        assert str(error).split(":")[0] in ("unreadable picture", "picture too large")


@pytest.mark.parametrize("decode", [True, False])
def test_too_many_pixels_are_refused_from_the_header_without_a_warning(tmp_path, decode):
    path = huge_png(tmp_path / "huge.png")
    assert path.stat().st_size < 200_000
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(PictureError, match=r"^picture too large: 30000 x 30000 pixels, at most 64,000,000"):
            check_picture(path, decode)
    assert seen == []


def test_a_picture_just_small_enough_is_taken(tmp_path):
    assert check_picture(huge_png(tmp_path / "a.png", side=8_000), decode=False) == (8_000, 8_000)
    with pytest.raises(PictureError, match="picture too large: 8008 x 8008"):
        check_picture(huge_png(tmp_path / "b.png", side=8_008))


def test_what_is_transparent_becomes_white(tmp_path):
    picture = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    picture.putpixel((1, 0), (0, 0, 255, 255))
    picture.save(tmp_path / "a.png")
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 10, 10, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "b.png", transparency=0)
    for name in ("a.png", "b.png"):
        opened = open_picture(tmp_path / name)
        assert opened.mode == "RGB"
        assert np.asarray(opened).tolist() == [[[255, 255, 255], [0, 0, 255]]]


# Hashes


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    upright = Image.new("RGB", (4, 2), "white")
    upright.putpixel((0, 0), (200, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # what is stored is to be turned by 90 degrees to the right
    upright.rotate(90, expand=True).save(tmp_path / "camera.png", exif=exif)
    shown = open_picture(tmp_path / "camera.png")
    assert shown.size == (4, 2) and shown.getpixel((0, 0)) == (200, 0, 0)


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path):
    values = np.array([[0, 256 * 100, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert [open_picture(tmp_path / "deep.png").getpixel((x, 0)) for x in range(3)] == [
        (0, 0, 0),
        (100, 100, 100),
        (255, 255, 255),
    ]


def test_copies_hash_alike_and_other_charts_do_not(tmp_path):
    pytest.importorskip("imagehash")
    path, other = chart(tmp_path / "a.png"), chart(tmp_path / "other.png", heights=(9, 5, 7, 2))
    picture = open_picture(path)
    picture.save(tmp_path / "a.jpg", quality=75)
    picture.resize((120, 90)).save(tmp_path / "half.png")
    assert len(perceptual_hash(path)) == 64
    assert distance(path, path) == 0
    assert max(distance(path, tmp_path / "a.jpg"), distance(path, tmp_path / "half.png")) <= SAME_PICTURE
    assert distance(path, other) > SAME_PICTURE


@needs_data
def test_real_copies_are_nearer_than_the_threshold_and_real_strangers_farther(tmp_path):
    pytest.importorskip("imagehash")
    for name in ("chartqa", "m3cot", "mathvision"):
        paths = sorted((DATA / name / "images").iterdir())[:30]
        hashes = [int(perceptual_hash(path), 16) for path in paths]
        strangers = min((a ^ b).bit_count() for n, a in enumerate(hashes) for b in hashes[:n])
        open_picture(paths[7]).save(tmp_path / "copy.jpg", quality=75)
        assert distance(paths[7], tmp_path / "copy.jpg") <= SAME_PICTURE < strangers
