"""Reading and writing photos: every mode, EXIF orientation, parity of the resize, refusals with reasons."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from segment_anything.utils.transforms import ResizeLongestSide

from anymask.core.errors import ImageError, OptionError
from anymask.core.geometry import scaled_hw
from anymask.core.images import image_hw, read_image, resize_image, write_image

calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # for a busy machine
RGB = np.random.default_rng(1).integers(0, 256, (9, 14, 3), dtype=np.uint8)
GRAY = RGB[..., 0].copy()
ALPHA = np.where(np.arange(14) < 5, 0, 255).astype(np.uint8)[None].repeat(9, 0)
ON_WHITE = np.where(ALPHA[..., None] == 0, 255, RGB)


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def refused(source, match: str, **options) -> None:
    with pytest.raises(ImageError, match=match):
        read_image(source, **options)


def gray3(gray: np.ndarray) -> np.ndarray:
    return gray[..., None].repeat(3, axis=2)


# ---------------------------------------------------------------- sources


def test_path_text_bytes_and_pillow_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(RGB).save(path)
    data = path.read_bytes()
    for source in (path, str(path), data, bytearray(data), memoryview(data), Image.fromarray(RGB), RGB):
        out = read_image(source)
        assert np.array_equal(out, RGB)
        assert out.dtype == np.uint8 and out.flags.c_contiguous and out.flags.writeable


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp", "tif", "gif", "ppm", "jp2", "tga"])
def test_usual_formats(tmp_path: Path, suffix: str) -> None:
    flat = np.full((8, 12, 3), (200, 60, 30), np.uint8)
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(flat).save(path)
    assert np.abs(read_image(path).astype(int) - flat).max() <= 4
    assert image_hw(path) == (8, 12)


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(Image.fromarray(RGB)))
    assert np.array_equal(read_image(path), RGB)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame(file_format: str) -> None:
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "blue", "lime")]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert np.abs(read_image(data)[2, 2].astype(int) - (255, 0, 0)).max() <= 3


def test_a_pillow_image_of_the_caller_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(path, exif=exif)
    with Image.open(path) as image:
        out = read_image(image)
        assert image.size == (14, 9) and image.getexif()[0x0112] == 6
        assert np.array_equal(out, read_image(path))


# ---------------------------------------------------------------- modes


def test_alpha_lies_over_white(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, ALPHA])
    for source in (rgba, encoded(Image.fromarray(rgba)), Image.fromarray(rgba)):
        assert np.array_equal(read_image(source), ON_WHITE)
    half = np.full((2, 2, 4), (0, 0, 0, 128), np.uint8)
    assert abs(int(read_image(half)[0, 0, 0]) - 127) <= 1


def test_gray_and_gray_with_alpha() -> None:
    la = np.dstack([GRAY, ALPHA])
    on_white = gray3(np.where(ALPHA == 0, 255, GRAY))
    for source in (
        GRAY,
        GRAY[..., None],
        encoded(Image.fromarray(GRAY)),
        encoded(Image.fromarray(GRAY), "TIFF"),
    ):
        assert np.array_equal(read_image(source), gray3(GRAY))
    for source in (la, encoded(Image.fromarray(la))):
        assert np.array_equal(read_image(source), on_white)


def test_16_bit_gray_keeps_its_range(tmp_path: Path) -> None:
    wide = np.linspace(0, 65535, 9 * 14).astype(np.uint16).reshape(9, 14)
    expected = gray3(np.round(wide / 257).astype(np.uint8))
    image = Image.fromarray(wide)
    assert image.mode == "I;16"
    for source in (
        wide,
        wide.astype(">u2"),
        image,
        encoded(image),
        encoded(image, "TIFF"),
        encoded(image, "PPM"),
    ):
        out = read_image(source)
        assert np.array_equal(out, expected)
    assert expected.max() == 255


def test_16_bit_colour() -> None:
    wide = RGB.astype(np.uint16) * 257
    assert np.array_equal(read_image(wide), RGB)
    assert np.array_equal(read_image(wide, image_format="BGR"), RGB[..., ::-1])
    assert np.array_equal(read_image(png_16_bit_rgb(wide)), RGB)


def png_16_bit_rgb(pixels: np.ndarray) -> bytes:
    """A PNG with 16 bits a channel, which Pillow cannot write."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png(width, height, 16, 2, rows)


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def test_palette_with_and_without_transparency() -> None:
    flat = np.zeros((6, 8, 3), np.uint8)
    flat[:, 4:] = (10, 200, 30)
    palette = Image.fromarray(flat).quantize(4)
    assert palette.mode == "P"
    for file_format in ("PNG", "GIF"):
        assert np.array_equal(read_image(encoded(palette, file_format)), flat)
    see_through = palette.getpixel((0, 0))
    expected = flat.copy()
    expected[:, :4] = 255
    for file_format in ("PNG", "GIF"):
        data = encoded(palette, file_format, transparency=see_through)
        assert np.array_equal(read_image(data), expected)
    table = bytes(0 if i == see_through else 255 for i in range(4))
    assert np.array_equal(read_image(encoded(palette, transparency=table)), expected)


def test_a_transparent_colour_without_alpha_channel() -> None:
    data = encoded(Image.fromarray(RGB), transparency=tuple(int(v) for v in RGB[3, 4]))
    expected = RGB.copy()
    expected[3, 4] = 255
    assert np.array_equal(read_image(data), expected)


def test_cmyk_and_one_bit_and_bool() -> None:
    flat = Image.new("RGB", (8, 8), (200, 60, 30))
    out = read_image(encoded(flat.convert("CMYK"), "JPEG", quality=100))
    assert np.abs(out.astype(int) - (200, 60, 30)).max() <= 4
    bits = GRAY > 120
    for source in (
        bits,
        Image.fromarray(bits),
        encoded(Image.fromarray(bits)),
        encoded(Image.fromarray(bits), "TIFF"),
    ):
        assert np.array_equal(read_image(source), gray3(bits.astype(np.uint8) * 255))


def test_float_arrays_are_0_to_1() -> None:
    for dtype in (np.float32, np.float64, ">f4"):
        assert np.array_equal(read_image((RGB / 255).astype(dtype)), RGB)
    assert np.abs(read_image((RGB / 255).astype(np.float16)).astype(int) - RGB).max() <= 1
    assert read_image(np.full((2, 2), 1.0002)).max() == 255
    assert np.array_equal(read_image(Image.fromarray((GRAY / 255).astype(np.float32))), gray3(GRAY))
    refused(RGB.astype(float), r"0\.\.1.*astype")
    refused(np.full((4, 4), -0.5), r"0\.\.1")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_refused(value: float) -> None:
    refused(np.array([[0.5, value]]), "NaN or infinite")


def test_bgr_arrays() -> None:
    assert np.array_equal(read_image(RGB[..., ::-1], image_format="BGR"), RGB)
    bgra = np.dstack([RGB[..., ::-1], ALPHA])
    assert np.array_equal(read_image(bgra, image_format="BGR"), ON_WHITE)
    assert np.array_equal(read_image(GRAY, image_format="BGR"), gray3(GRAY))
    with pytest.raises(OptionError, match="'RGB' or 'BGR'"):
        read_image(RGB, image_format="HSV")
    with pytest.raises(OptionError, match="Leave it out"):
        read_image(Image.fromarray(RGB), image_format="BGR")


def test_arrays_in_any_layout_are_not_changed() -> None:
    frozen = RGB.copy()
    frozen.flags.writeable = False
    for source in (RGB[::-1, ::-1], np.asfortranarray(RGB), frozen):
        before = source.copy()
        out = read_image(source)
        assert np.array_equal(out, before) and np.array_equal(source, before)
        assert out.flags.c_contiguous and out.flags.writeable
    assert read_image(RGB) is RGB, "no copy where none is needed"


@pytest.mark.parametrize(
    ("shape", "match"),
    [((0, 5, 3), "empty"), ((5, 0), "empty"), ((3, 9, 14), "Channels come last"), ((4, 9, 7), "transpose"),
     ((1, 9, 14, 3), "one image at a time"), ((9, 14, 5), r"\(9, 14, 5\)"), ((9,), r"\(9,\)"), ((), r"\(\)")],
)  # fmt: skip
def test_arrays_of_other_shapes_are_refused(shape: tuple[int, ...], match: str) -> None:
    refused(np.zeros(shape, np.uint8), match)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.int8, np.uint32, complex, "U3", object])
def test_arrays_of_other_dtypes_are_refused(dtype) -> None:
    refused(np.zeros((4, 4, 3), dtype), "expected dtype uint8")


def test_32_bit_files_are_refused() -> None:
    refused(encoded(Image.fromarray(GRAY.astype(np.int32)), "TIFF"), "int32")


# ---------------------------------------------------------------- orientation


def turned(orientation: int, file_format: str, upright: Image.Image) -> bytes:
    """A file whose pixels are stored so that `orientation` makes them upright."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's Transpose values of the inverse
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {"quality": 95, "subsampling": 0}
    return encoded(stored, file_format, exif=exif, **(options if file_format in ("WEBP", "JPEG") else {}))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int, file_format: str) -> None:
    upright = Image.fromarray(np.kron(RGB, np.ones((16, 16, 1), np.uint8)))
    data = turned(orientation, file_format, upright)
    out = read_image(data)
    assert out.shape == (144, 224, 3)
    assert np.abs(out.astype(int) - np.asarray(upright)).mean() < 3
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(out, np.asarray(ImageOps.exif_transpose(image).convert("RGB")))
    path = tmp_path / "photo"
    path.write_bytes(data)
    assert image_hw(path) == image_hw(data) == (144, 224)
    with Image.open(path) as image:
        assert np.array_equal(read_image(image), out)


@pytest.mark.parametrize(
    "junk", [b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_a_broken_exif_block_does_not_matter(junk: bytes) -> None:
    data = encoded(Image.fromarray(RGB), "JPEG", exif=junk)
    assert read_image(data).shape == RGB.shape
    assert image_hw(data) == RGB.shape[:2]


def test_an_orientation_that_does_not_exist_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    assert image_hw(encoded(Image.fromarray(RGB), "JPEG", exif=exif)) == RGB.shape[:2]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("photo.jpg", b"hello, this is text", "not an image"),
        ("empty.png", b"", "empty"),
        ("page.jpg", b"<!DOCTYPE html><html></html>", "web page"),
        ("drawing.svg", b"<?xml version='1.0'?><svg xmlns='...'/>", "SVG"),
        ("scan.jpg", b"%PDF-1.7 ...", "PDF"),
        ("pointer.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        ("noise.png", bytes(range(256)) * 4, "not an image"),
        ("cut.png", b"\x89PNG\r\n\x1a\n", "not an image|cannot be read"),
        ("drawing.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "EPS"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes, match: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, match)
    refused(content, match)
    with pytest.raises(ImageError):
        image_hw(path)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_cut_off_files_are_refused(file_format: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), file_format)
    refused(data[: int(len(data) * part)], "broken or cut off|cannot be read|not an image")


@settings(calm, max_examples=60)
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF"]),
    st.integers(0, 10**6),
    st.binary(min_size=1, max_size=8),
)
def test_damaged_files_are_read_or_refused(file_format: str, at: int, junk: bytes) -> None:
    data = bytearray(encoded(Image.fromarray(RGB), file_format))
    at %= len(data)
    data[at : at + len(junk)] = junk
    try:
        out = read_image(bytes(data), max_pixels=10**6)
    except ImageError:
        return
    assert out.ndim == 3 and out.shape[2] == 3 and out.dtype == np.uint8


def test_a_huge_header_is_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(100_000, 100_000, 8, 2, b"\0" * 1000))
    refused(path, "100000×100000.*max_pixels")
    assert image_hw(path) == (100_000, 100_000)


def test_the_limit_is_the_callers_and_pillow_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(RGB))
    refused(data, "limit of 125", max_pixels=125)
    refused(Image.fromarray(RGB), "limit of 125", max_pixels=125)
    assert read_image(data, max_pixels=126).shape == RGB.shape
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    for file_format in ("PNG", "TIFF", "WEBP", "GIF"):
        assert read_image(encoded(Image.fromarray(RGB), file_format)).shape == RGB.shape
    assert Image.MAX_IMAGE_PIXELS == 40


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "gone.jpg", "there is no file")
    refused(tmp_path, "is a folder")
    refused("x" * 5000, "cannot read")
    refused("a\0b", "there is no file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")
    for address in ("https://example.org/photo.jpg", "s3://bucket/a.png", "data:image/png;base64,AAAA"):
        refused(address, "expected a local file")
    for other in (None, 5, [1, 2], object(), {"path": "x"}):
        refused(other, "cannot read an image from")


def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(RGB).save(path)
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                assert read_image(path).shape == RGB.shape
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert limit == Image.MAX_IMAGE_PIXELS
    assert list(warnings.filters) == filters


# ---------------------------------------------------------------- resize


@settings(calm, max_examples=40)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([16, 64, 100]), st.integers(0, 9))
def test_resize_is_segment_anythings_bit_for_bit(height: int, width: int, side: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    hw = scaled_hw((height, width), side)
    out = resize_image(image, hw)
    assert out.shape == (*hw, 3) and out.flags.c_contiguous and out.flags.writeable
    reference = ResizeLongestSide(side)
    if min(reference.get_preprocess_shape(height, width, side)) > 0:
        assert np.array_equal(out, reference.apply_image(image))


@pytest.mark.parametrize("hw", [(480, 640), (1500, 2250), (427, 640), (300, 200), (1024, 700)])
def test_resize_at_full_size(hw: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*hw, 3), dtype=np.uint8)
    out = resize_image(image, scaled_hw(hw, 1024))
    assert np.array_equal(out, ResizeLongestSide(1024).apply_image(image))


def test_resize_refuses_what_is_not_rgb() -> None:
    for image in (GRAY, RGB.astype(np.float32), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(ImageError, match="read_image"):
            resize_image(image, (8, 8))
    with pytest.raises(ImageError, match="at least 1×1"):
        resize_image(RGB, (0, 8))


# ---------------------------------------------------------------- writing


def test_written_files_read_back(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", RGB)
    assert np.array_equal(read_image(tmp_path / "a.png"), RGB)
    write_image(str(tmp_path / "mask.PNG"), GRAY > 100)
    assert np.array_equal(read_image(tmp_path / "mask.PNG"), gray3((GRAY > 100).astype(np.uint8) * 255))
    write_image(tmp_path / "cut-out.png", np.dstack([RGB, ALPHA]))
    assert np.array_equal(read_image(tmp_path / "cut-out.png"), ON_WHITE)
    smooth = np.full((20, 20, 3), (9, 99, 199), np.uint8)
    write_image(tmp_path / "a.jpg", smooth)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - smooth).max() <= 3
    write_image(tmp_path / "gray.jpeg", GRAY[..., None])
    with Image.open(tmp_path / "gray.jpeg") as image:
        assert image.mode == "L"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.jpg",
        "a.png",
        "cut-out.png",
        "gray.jpeg",
        "mask.PNG",
    ]


def test_what_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"\.png"):
        write_image(tmp_path / "a.xyz", RGB)
    with pytest.raises(ImageError, match="no folder"):
        write_image(tmp_path / "missing" / "a.png", RGB)
    with pytest.raises(ImageError, match="JPEG has no transparency"):
        write_image(tmp_path / "a.jpg", np.dstack([RGB, ALPHA]))
    for array in (
        RGB.astype(float),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(4, np.uint8),
    ):
        with pytest.raises(ImageError, match="expected"):
            write_image(tmp_path / "a.png", array)
    assert list(tmp_path.iterdir()) == []
