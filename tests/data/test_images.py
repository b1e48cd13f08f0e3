"""Pixels, sizes, patches and positions equal the recordings; bad files are errors."""

import base64
import io
import os

import numpy as np
import pytest
from PIL import Image

from unireason_jax.data import images, resizing
from unireason_jax.data.resizing import Resize


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("rule", "size", "result"),
    [
        (Resize(1024, 512, 16), (640, 480), (688, 512)),
        (Resize(1024, 512, 16), (200, 1200), (176, 1024)),
        (Resize(1024, 512, 16), (1920, 1080), (1024, 576)),
        (Resize(980, 378, 14), (300, 200), (560, 378)),
        (Resize(532, 224, 14), (4000, 1000), (532, 140)),
    ],
)
def test_known_sizes(rule, size, result):
    assert rule(*size) == result


def test_twelve_images_share_the_pixels_linearly():
    assert Resize(980, 378, 14, max_pixels=2_007_040)(1024, 1024, 12) == (168, 168)


def test_patches_run_row_by_row_with_channels_fastest():
    image = np.arange(48).reshape(3, 4, 4).transpose(1, 2, 0)
    tokens = images.patchify(image, 2)
    assert tokens[0].tolist() == [0, 16, 32, 1, 17, 33, 4, 20, 36, 5, 21, 37]
    np.testing.assert_array_equal(images.unpatchify(tokens, rows=2, columns=2, patch=2), image)
    with pytest.raises(ValueError, match="4 x 4 is not a multiple of the patch size 3"):
        images.patchify(image, 3)


def test_positions_count_by_rows_and_columns():
    rows, columns = np.divmod(images.positions(4, 3, 64), 64)
    assert rows.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert columns.tolist() == [0, 1, 2] * 4
    with pytest.raises(ValueError, match="5 x 2 patches do not fit a table of 4 x 4"):
        images.positions(5, 2, 4)


def test_positions_have_the_recorded_values():
    """64 x 48 pixels in patches of 16, on a table of 64 and stretched over one of 8."""
    plain = [0, 1, 2, 64, 65, 66, 128, 129, 130, 192, 193, 194]
    assert images.positions(4, 3, 64).tolist() == plain
    stretched = [0, 2, 5, 16, 18, 21, 32, 34, 37, 48, 50, 53]
    assert images.positions(4, 3, 8, True).tolist() == stretched


def test_transparency_is_white_in_every_mode():
    half = np.full((2, 2), 128, np.uint8)
    grey = Image.fromarray(np.zeros((2, 2), np.uint8))
    for image in (
        Image.merge("LA", (grey, Image.fromarray(half))),
        Image.merge("RGBA", (grey, grey, grey, Image.fromarray(half))),
    ):
        assert images.load(encoded(image)).tolist() == np.full((2, 2, 3), 127).tolist()


def test_sixteen_bits_keep_their_upper_byte():
    deep = Image.fromarray(np.array([[0, 256], [40_000, 65_535]], np.uint16))
    assert images.load(encoded(deep))[..., 0].tolist() == [[0, 1], [156, 255]]


def test_orientation_is_ignored_unless_asked_for():
    image = Image.fromarray(np.zeros((4, 8, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    assert images.load(file.getvalue()).shape == (4, 8, 3)
    assert images.load(file.getvalue(), upright=True).shape == (8, 4, 3)


def test_tiff_is_turned_by_its_reader_and_not_twice():
    image, exif = Image.fromarray(np.zeros((4, 8, 3), np.uint8)), Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "TIFF", exif=exif)
    for upright in (False, True):
        assert images.load(file.getvalue(), upright=upright).shape == (8, 4, 3)
        assert images.size(file.getvalue(), upright=upright) == (4, 8)


@pytest.mark.parametrize(
    ("values", "grey"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 0.9, 1.8]], np.float32), [0, 128, 255]),
        (np.array([[-1000, 0, 1000]], np.float32), [0, 128, 255]),
        (np.array([[0.5, 0.5, 0.5]], np.float32), [128, 128, 128]),
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 2_000_000, 4_000_000]], np.int32), [0, 128, 255]),
        (np.array([[-5, 0, 5]], np.int32), [0, 128, 255]),
    ],
)
def test_pictures_of_32_bits_are_scaled_by_their_range(values, grey):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF")
    assert images.load(file.getvalue())[0, :, 0].tolist() == grey


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 7.0])
def test_pictures_without_a_range_are_refused(value):
    file = io.BytesIO()
    values = np.full((2, 2), value, np.float32)
    if value != 7:
        values[0] = 0.5
    Image.fromarray(values).save(file, "TIFF")
    with pytest.raises(ValueError, match=r"numbers are not finite|all its numbers are 7"):
        images.load(file.getvalue())


def test_strips_make_the_same_pixels(monkeypatch):
    rng = np.random.default_rng(0)
    alpha = Image.fromarray(rng.integers(0, 256, (50, 20, 4), np.uint8), "RGBA")
    palette = Image.fromarray(rng.integers(0, 256, (50, 20, 3), np.uint8)).convert("P")
    floats = Image.fromarray(rng.random((50, 20), np.float32) * 3)
    files = [encoded(alpha), encoded(palette), encoded(floats, "TIFF")]
    whole = [images.load(file) for file in files]
    monkeypatch.setattr(images, "_STRIP", 60)
    for file, pixels in zip(files, whole):
        np.testing.assert_array_equal(images.load(file), pixels)


def test_only_regular_files_of_a_size_that_fits_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "empty.png").touch()
    with (tmp_path / "sparse.png").open("wb") as file:
        file.write(encoded(Image.new("RGB", (4, 4))))
        file.truncate(8 << 30)
    for name, reason in {
        "pipe.png": "a pipe or a device",
        "loop.png": "symbolic links",
        "empty.png": "is empty",
        "sparse.png": "8,589,934,592 bytes, more than",
        "nul\0.png": "null",
        "half\ud800.png": "surrogates",
        "n" * 300: "too long",
    }.items():
        for read in (images.load, images.size, images.read):
            with pytest.raises(ValueError, match=reason) as error:
                read(tmp_path / name)
            assert len(str(error.value)) < 400
    with pytest.raises(ValueError, match="a pipe or a device"):
        images.load("/dev/zero")


def test_postscript_starts_no_program(monkeypatch):
    started = []
    monkeypatch.setattr("subprocess.check_call", lambda *a, **k: started.append(a))
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "EPS")
    with pytest.raises(ValueError, match="is none of PNG, JPEG"):
        images.load(file.getvalue())
    assert not started


def test_images_can_be_written_as_text():
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 9, (9, 9, 3), np.uint8)))
    text = base64.b64encode(data).decode()
    assert images.embedded(f"data:image/png;base64,{text}") == data == images.embedded(text)
    for path in ("a.png", "/9j/4AAQ", "x/" * 200 + "a.png", "a" * 300 + "!"):
        assert images.embedded(path) is None
    with pytest.raises(ValueError, match="data URI of 18 characters that is not base64"):
        images.embedded("data:image/png,abc")


def test_unusable_images_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png does not exist"):
        images.load("nowhere.png", tmp_path)
    with pytest.raises(ValueError, match="not readable"):
        images.load(b"not an image")
    with pytest.raises(ValueError, match=r"is not readable|cannot be decoded"):
        images.load(tmp_path)
    with pytest.raises(ValueError, match="image array is float64"):
        images.load(np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="not NoneType"):
        images.load(None)
    monkeypatch.setattr(images, "MAX_PIXELS", 10)
    with pytest.raises(ValueError, match="has 16 pixels, more than 10"):
        images.load(encoded(Image.new("RGB", (4, 4))))


def test_buckets_are_few_and_never_stretch():
    rule = resizing.Buckets(1024, 512, 128)
    rng = np.random.default_rng(0)
    sizes = {rule(*map(int, rng.integers(100, 3000, 2))) for _ in range(500)}
    assert len(sizes) == 9 and all(max(size) == 1024 for size in sizes)
    assert rule(640, 480) == (1024, 768) and rule(480, 640) == (768, 1024)
    assert rule(90, 900) == (512, 1024) and rule(7, 7) == (1024, 1024)
    small = resizing.Buckets(64, 32, 16)
    disc = np.hypot(*(np.indices((90, 100)) - [[[45]], [[50]]])) < 30
    picture = np.repeat(disc[..., None] * np.uint8(255), 3, 2)
    cut = small.apply(picture)[..., 0] > 127
    assert cut.shape == (64, 64)  # 10 of 100 columns are cut, 5 on either side
    rows, columns = np.flatnonzero(cut.any(1)), np.flatnonzero(cut.any(0))
    assert abs(len(rows) - len(columns)) <= 1 and abs(len(rows) - 60 * 64 / 90) <= 1
    np.testing.assert_allclose(columns.mean(), 31.5, atol=0.6)
    same = np.zeros((48, 64, 3), np.uint8)
    assert small.apply(same) is same
    with pytest.raises(ValueError, match="step must divide their difference"):
        resizing.Buckets(64, 32, 5)
