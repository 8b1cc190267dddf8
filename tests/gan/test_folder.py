import hashlib
import io
import logging
import math
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from tune_gan.errors import DataError, TuneGanError
from tune_gan.gan import data as data_module
from tune_gan.gan import folder as folder_module
from tune_gan.gan import image_files
from tune_gan.gan.data import load_dataset
from tune_gan.gan.folder import MIN_IMAGES, FolderImages, load_folder
from tune_gan.gan.image_files import BadImage
from tune_gan.places import cache_folder

SIZE = 8


@pytest.fixture(autouse=True, scope="module")
def cache_of_this_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep apart what test processes that run beside one another prepare."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, form, **options)
    return target.getvalue()


def png(width: int, height: int, depth: int, colour: int, row: bytes) -> bytes:
    """A PNG of equal rows, of a kind or size that Pillow does not write."""
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(b"\0" + row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def gradient(width: int, height: int) -> Image.Image:
    down, across = np.mgrid[:height, :width]
    planes = (across * 255 // width, down * 255 // height, (across + down) % 7 * 36)
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


def loaded_name(index: int) -> str:
    return f"{'ABCa'[index % 4]}/{index:04}.png" if index % 5 else f"{index:04}.PNG"


def index_colour(index: int) -> tuple[int, int, int]:
    return index % 256, index // 256, 99


def indices(images: torch.Tensor) -> list[int]:
    corner = images[:, :, 0, 0].int()
    return (corner[:, 0] + 256 * corner[:, 1]).tolist()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As few images as are enough, each of a colour that tells its number."""
    root = tmp_path_factory.mktemp("plain")
    for sub_folder in "ABCa":
        (root / sub_folder).mkdir()
    for index in reversed(range(MIN_IMAGES)):
        image = Image.new("RGB", (9, 10), index_colour(index))
        (root / loaded_name(index)).write_bytes(encoded(image, "PNG"))
    return root


@pytest.fixture
def root(plain: Path, tmp_path: Path) -> Path:
    """A folder like `plain` in which a test may add, remove and replace files."""
    return linked_copy(plain, tmp_path / "images")


def linked_copy(plain: Path, root: Path) -> Path:
    shutil.copytree(plain, root, copy_function=os.link)
    return root


def replace(path: Path, data: bytes) -> None:
    """Write a file anew, because the one there is shared with other folders."""
    path.unlink()
    path.write_bytes(data)


def entry_of(root: Path) -> Path:
    """The cache entry of a folder that was just loaded: the newest."""
    entries = [path for path in (cache_folder() / "folders").iterdir() if path.is_dir()]
    return max(entries, key=lambda path: path.stat().st_mtime_ns)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def by_hash(names: Iterable[str]) -> list[str]:
    """The order in which images are kept."""
    return sorted(names, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())


def test_images_come_in_an_order_that_follows_from_their_names(plain: Path) -> None:
    found = load_folder(plain, SIZE, strict=True)
    assert found.images.shape == (MIN_IMAGES, 3, SIZE, SIZE)
    assert found.images.dtype == torch.uint8
    assert found.bad == ()
    names = by_hash(map(loaded_name, range(MIN_IMAGES)))
    assert indices(found.images) == [int(Path(name).stem) for name in names]
    # The first tenth is a fair sample: its mean is that of all, within three standard errors.
    first = indices(found.images)[: MIN_IMAGES // 10]
    error = MIN_IMAGES / math.sqrt(12 * len(first))
    assert abs(sum(first) / len(first) - MIN_IMAGES / 2) < 3 * error
    assert bool((found.images[:, 2] == 99).all())


def test_the_images_can_be_written_to_and_the_cache_stays(plain: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_folder(plain, SIZE).images.zero_()
    assert load_folder(plain, SIZE).images.any()


def decoded(image: bytes, tmp_path: Path, size: int) -> NDArray[np.int64]:
    """One image as the folder's decoder gives it, channels last."""
    (tmp_path / "image").write_bytes(image)
    target = np.empty((3, size, size), np.uint8)
    memory = image_files._MemoryBudget(10**9)
    assert image_files._decode_into(target, tmp_path / "image", memory) is None
    return target.transpose(1, 2, 0).astype(np.int64)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP"])
def test_the_middle_is_kept_as_it_is(form: str, tmp_path: Path) -> None:
    image = gradient(30, 20)
    options = {"lossless": True} if form == "WEBP" else {}
    middle = np.asarray(image)[:, 5:25]
    assert (decoded(encoded(image, form, **options), tmp_path, 20) == middle).all()


@pytest.mark.parametrize("progressive", [True, False])
def test_a_large_jpeg_is_scaled_while_it_is_decoded(progressive: bool, tmp_path: Path) -> None:
    image = gradient(1000, 1400).resize((1000, 1400), Image.Resampling.BOX)
    data = encoded(image, "JPEG", quality=95, progressive=progressive)
    whole = np.asarray(Image.open(io.BytesIO(data)).crop((0, 200, 1000, 1200)))
    expected = whole.reshape(20, 50, 20, 50, 3).mean(axis=(1, 3))
    assert np.abs(decoded(data, tmp_path, 20) - expected).max() < 6


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [(1, None), (3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_270)],
)
def test_images_are_turned_upright(
    form: str, orientation: int, turn: Image.Transpose | None, tmp_path: Path
) -> None:
    image = gradient(48, 32)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    as_shot = decoded(encoded(image, form, exif=exif, **options), tmp_path, 16)
    upright = image.transpose(turn) if turn is not None else image
    assert np.abs(as_shot - decoded(encoded(upright, form, **options), tmp_path, 16)).max() < 12


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_grey_and_wholly_opaque_images_are_taken(mode: str, tmp_path: Path) -> None:
    image = gradient(20, 20).convert(mode)
    pixels = np.asarray(image.convert("RGB"))
    assert (decoded(encoded(image, "PNG"), tmp_path, 20) == pixels).all()


def test_the_first_picture_of_a_telephones_jpeg_is_taken(tmp_path: Path) -> None:
    first, second = gradient(40, 40), Image.new("RGB", (40, 40))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert (decoded(data, tmp_path, 20) == decoded(encoded(first, "JPEG"), tmp_path, 20)).all()


# Everything that is no image, in one folder that still has few enough of them.

IMAGE = gradient(40, 30)
FRAMES = [IMAGE, IMAGE.rotate(90), IMAGE.rotate(180)]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n%%EOF\n"
SEE_THROUGH = IMAGE.convert("RGBA")
SEE_THROUGH.putpixel((3, 3), (0, 0, 0, 254))


def animation(form: str) -> bytes:
    return encoded(IMAGE, form, save_all=True, append_images=FRAMES[1:])


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def bad_files() -> dict[str, tuple[bytes, str]]:
    other = "is no PNG, JPEG, WebP or BMP file"
    grey = Image.fromarray(np.full((9, 9), 300, np.uint16))
    bomb = png(13_300, 13_300, 8, 2, bytes(3 * 13_300))
    flat = Image.new("RGB", (8, 8), (9, 9, 9))
    vp8x = b"RIFF\x30\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xf3\x33\0" * 2 + bytes(22)
    return {
        "half.jpg": (half(encoded(IMAGE, "JPEG")), "is truncated or damaged"),
        "half large.jpg": (half(encoded(gradient(900, 900), "JPEG")), "is truncated or damaged"),
        "half progressive.jpg": (
            half(encoded(gradient(900, 900), "JPEG", progressive=True)),
            "is truncated or damaged",
        ),
        "half.png": (half(encoded(IMAGE, "PNG")), "is truncated or damaged"),
        "half.webp": (half(encoded(IMAGE, "WEBP")), "is truncated or damaged"),
        "half.bmp": (half(encoded(IMAGE, "BMP")), "is truncated or damaged"),
        "head.png": (encoded(IMAGE, "PNG")[:20], "is truncated or damaged"),
        "zero.png": (b"", "is empty"),
        "eps.png": (EPS, other),
        "text.jpg": (b"no image at all, but some text", other),
        "tiff.tif": (encoded(IMAGE, "TIFF"), other),
        "animated.gif": (animation("GIF"), other),
        "animated.png": (animation("PNG"), "is animated (3 frames)"),
        "animated.webp": (animation("WEBP"), "is animated (3 frames)"),
        "palette.png": (encoded(IMAGE.convert("P"), "PNG"), "has a palette; make it RGB or grey"),
        "1 bit.png": (encoded(IMAGE.convert("1"), "PNG"), "has 1 bit a pixel; make it RGB or grey"),
        "16 bit.png": (encoded(grey, "PNG"), "has 16 bits a channel; make it 8"),
        "16 bit colour.png": (png(4, 4, 16, 2, bytes(24)), "has 16 bits a channel; make it 8"),
        "cmyk.jpg": (encoded(IMAGE.convert("CMYK"), "JPEG"), "is CMYK; make it RGB or grey"),
        "see-through.png": (encoded(SEE_THROUGH, "PNG"), "is partly transparent"),
        "colour key.png": (encoded(flat, "PNG", transparency=(9, 9, 9)), "is partly transparent"),
        "see-through.webp": (encoded(SEE_THROUGH, "WEBP", lossless=True), "is partly transparent"),
        "bomb.png": (bomb, "has 13300x13300 pixels, above the limit of 25 million"),
        "bomb.webp": (vp8x, "has 13300x13300 pixels, above WebP's limit of 10 million"),
    }


BAD_NAMES = [
    *("half.jpg", "half large.jpg", "half progressive.jpg", "half.png", "half.webp", "half.bmp"),
    *("head.png", "zero.png", "eps.png", "text.jpg", "tiff.tif", "animated.gif", "animated.png"),
    *("animated.webp", "palette.png", "1 bit.png", "16 bit.png", "16 bit colour.png", "cmyk.jpg"),
    *("see-through.png", "colour key.png", "see-through.webp", "bomb.png", "bomb.webp"),
]


@pytest.fixture(scope="module")
def bad_contents() -> dict[str, tuple[bytes, str]]:
    return bad_files()


@pytest.fixture(scope="module")
def bad_root(
    plain: Path,
    bad_contents: dict[str, tuple[bytes, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    base = tmp_path_factory.mktemp("bad")
    outside = base / "outside.png"
    outside.write_bytes(encoded(IMAGE, "PNG"))
    root = linked_copy(plain, base / "images")
    for name, (data, _) in bad_contents.items():
        (root / name).write_bytes(data)
    os.mkfifo(root / "pipe.png")
    (root / "out.png").symlink_to(outside)
    (root / "nowhere.png").symlink_to("missing.png")
    (root / "loop").symlink_to(root)
    (root / "inside.png").symlink_to(root / "0000.PNG")
    (root / ".hidden.png").write_bytes(b"not looked at")
    (root / ".cache").mkdir()
    (root / ".cache" / "thumbnail.png").write_bytes(b"not looked at")
    (root / "read me.txt").write_text("no image")
    return root


@pytest.fixture(scope="module")
def bad_found(bad_root: Path) -> FolderImages:
    return load_folder(bad_root, SIZE)


def reasons(found: FolderImages) -> dict[str, str]:
    return {image.name: image.reason for image in found.bad}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_file_is_listed_with_its_reason(
    name: str, bad_found: FolderImages, bad_contents: dict[str, tuple[bytes, str]]
) -> None:
    assert reasons(bad_found)[name].startswith(bad_contents[name][1])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pipe.png", "is no regular file"),
        ("out.png", "links out of the folder; put a copy in its place"),
        ("nowhere.png", "cannot be read (No such file or directory)"),
        ("loop", "is a link to a folder, which is not followed"),
    ],
)
def test_what_is_no_file_of_the_folder_is_listed(
    name: str, reason: str, bad_found: FolderImages
) -> None:
    assert reasons(bad_found)[name] == reason


def test_the_good_ones_among_bad_ones_keep_their_order(bad_found: FolderImages) -> None:
    assert len(bad_found.bad) == len(BAD_NAMES) + 4
    assert [image.name for image in bad_found.bad] == sorted(reasons(bad_found))
    names = by_hash([*map(loaded_name, range(MIN_IMAGES)), "inside.png"])
    expected = [0 if name == "inside.png" else int(Path(name).stem) for name in names]
    assert indices(bad_found.images) == expected


def test_a_reason_is_one_short_line(bad_found: FolderImages) -> None:
    for image in bad_found.bad:
        assert len(image.reason) < 140
        assert image.reason.isprintable()


def test_half_a_jpeg_passes_pillows_own_check(bad_root: Path) -> None:
    """Which is why every file is decoded."""
    with Image.open(bad_root / "half large.jpg") as image:
        image.verify()


def test_pillows_warnings_stay_off_the_terminal(bad_root: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_folder(bad_root, SIZE + 1)
    assert reasons(found)["bomb.png"].startswith("has 13300x13300 pixels")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_cannot_be_read_is_listed_until_it_can(root: Path) -> None:
    locked = root / "locked.png"
    locked.write_bytes(encoded(Image.new("RGB", (9, 10), index_colour(1)), "PNG"))
    (root / "locked").mkdir()
    locked.chmod(0)
    (root / "locked").chmod(0)
    try:
        assert load_folder(root, SIZE).bad == (
            BadImage("locked", "cannot be listed (Permission denied)"),
            BadImage("locked.png", "cannot be read (Permission denied)"),
        )
    finally:
        locked.chmod(0o600)
        (root / "locked").chmod(0o700)
    assert load_folder(root, SIZE).bad == ()


# What is said of bad images, and what is refused.


def test_bad_images_are_logged_on_every_start(
    bad_root: Path, bad_found: FolderImages, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        caplog.clear()
        load_folder(bad_root, SIZE)
        assert messages(caplog) == [f"{bad.name} {bad.reason}; skipped" for bad in bad_found.bad]
        assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_strict_names_the_first_and_the_count(bad_root: Path, bad_found: FolderImages) -> None:
    first = bad_found.bad[0]
    with pytest.raises(DataError) as caught:
        load_folder(bad_root, SIZE, strict=True)
    assert str(caught.value).startswith(f"{first.name} {first.reason}: {len(bad_found.bad)} bad images")
    assert "leave out --strict" in str(caught.value)


def test_more_than_one_percent_of_bad_images_is_refused(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for index in range(60):
        replace(root / loaded_name(index), b"no image")
    with pytest.raises(DataError, match=r"^60 of 3,000 images in .* are bad, more than 1 %; mend or"):
        load_folder(root, SIZE)
    listed = messages(caplog)
    assert len([line for line in listed if line.endswith("; skipped")]) == 50
    assert listed[-1] == f"and 10 more bad images; {entry_of(root) / 'bad.json'} lists them all"


def test_too_few_good_images_are_refused(root: Path) -> None:
    replace(root / loaded_name(7), b"no image")
    with pytest.raises(DataError, match=r"holds 2,999 images; the score needs at least 3,000$"):
        load_folder(root, SIZE)


def test_too_few_images_are_refused_before_they_are_decoded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "one.png").write_bytes(b"never opened")
    (tmp_path / "zero.png").touch()
    with pytest.raises(DataError, match=r"holds 1 image; the score needs at least 3,000$"):
        load_folder(tmp_path, SIZE)
    assert messages(caplog) == ["zero.png is empty; skipped"]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"holds no PNG, JPEG, WebP or BMP image$"):
        load_folder(tmp_path, SIZE)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent does not exist"):
        load_folder(tmp_path / "absent", SIZE)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file is not a folder"):
        load_folder(tmp_path / "file", SIZE)


def test_hostile_names_are_escaped(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a\nb.png", "\x1b[2J.png", os.fsdecode(b"\xff.png"), "\u202egnp.png", "é.png"):
        (root / name).write_bytes(b"no image")
    load_folder(root, SIZE)
    starts = [line.split(" is no PNG")[0] for line in messages(caplog)]
    assert set(starts) == {"a\\nb.png", "\\x1b[2J.png", "\\udcff.png", "\\u202egnp.png", "é.png"}
    with pytest.raises(DataError) as caught:
        load_folder(root, SIZE, strict=True)
    assert str(caught.value).isprintable()


# The cache.


def test_a_second_start_decodes_nothing(root: Path) -> None:
    path = root / loaded_name(0)
    before, status = path.read_bytes(), path.stat()
    first = load_folder(root, SIZE).images.clone()
    replace(path, bytes(len(before)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert load_folder(root, SIZE).images.equal(first)


def test_a_touched_file_is_decoded_anew(root: Path) -> None:
    load_folder(root, SIZE)
    path = root / loaded_name(0)
    image = Image.new("RGB", (9, 10), (200, 11, 99))
    replace(path, encoded(image, "PNG"))
    os.utime(path, ns=(1, 1))
    assert 200 + 256 * 11 in indices(load_folder(root, SIZE).images)


def test_another_size_is_another_entry(plain: Path) -> None:
    assert load_folder(plain, SIZE).images.shape[-1] == SIZE
    assert load_folder(plain, 4).images.shape[-1] == 4
    assert load_folder(plain, SIZE).images.shape[-1] == SIZE


def test_folders_alike_in_names_sizes_and_times_are_kept_apart(plain: Path, tmp_path: Path) -> None:
    grey, black = tmp_path / "grey", tmp_path / "black"
    for folder, level in ((grey, 128), (black, 0)):
        folder.mkdir()
        data = encoded(Image.new("L", (SIZE, SIZE), level), "BMP")
        for index in range(MIN_IMAGES):
            (folder / f"{index}.bmp").write_bytes(data)
            os.utime(folder / f"{index}.bmp", ns=(1, 1))
    assert load_folder(grey, SIZE).images.unique().tolist() == [128]
    assert load_folder(black, SIZE).images.unique().tolist() == [0]


@pytest.mark.parametrize("name", ["images.npy", "bad.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "other"])
def test_a_damaged_entry_is_made_again(
    name: str, damage: str, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = load_folder(root, SIZE).images.clone()
    path = entry_of(root) / name
    if damage == "missing":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes({"empty": b"", "cut": data[:-1], "other": b'{"a": 1}' * 9}[damage])
    caplog.set_level(logging.INFO)
    assert load_folder(root, SIZE).images.equal(expected)
    assert "is damaged" in messages(caplog)[0]
    caplog.clear()
    assert load_folder(root, SIZE).images.equal(expected)
    assert messages(caplog) == []


def test_what_a_killed_process_left_is_cleared(root: Path) -> None:
    load_folder(root, SIZE)
    entry = entry_of(root)
    entry.rename(entry.with_suffix(".tmp"))
    (entry.with_suffix(".tmp") / "images.npy").write_bytes(b"half of it")
    assert len(load_folder(root, SIZE).images) == MIN_IMAGES
    assert not entry.with_suffix(".tmp").exists()


def test_a_fault_that_may_pass_is_looked_at_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "z.png").write_bytes(encoded(Image.new("RGB", (9, 10), index_colour(5)), "PNG"))
    real = image_files._decode

    def failing(path: Path, *rest: object) -> NDArray[np.uint8]:
        if path.name == "z.png":
            raise OSError(5, "Input/output error")
        return real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(image_files, "_decode", failing)
    assert load_folder(root, SIZE).bad == (BadImage("z.png", "cannot be read (Input/output error)"),)
    monkeypatch.undo()
    assert len(load_folder(root, SIZE).bad) == 1
    an_hour_ago = time.time() - 3700
    os.utime(entry_of(root) / "bad.json", (an_hour_ago, an_hour_ago))
    assert load_folder(root, SIZE).bad == ()


def test_what_is_held_out_is_not_trained_on(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_dataset.cache_clear()
    folder = load_dataset("folder", plain, SIZE)
    train, held_out = set(indices(folder.train)), set(indices(folder.held_out))
    assert (len(folder.train), len(folder.held_out)) == (1000, 2000)
    assert train | held_out == set(range(MIN_IMAGES))
    assert not train & held_out
    for num_images, num_held_out in ((30_000, 3_000), (300_000, 10_000)):
        many = FolderImages(torch.zeros(num_images, 3, 1, 1, dtype=torch.uint8), ())
        monkeypatch.setattr(data_module, "load_folder", lambda *_, many=many: many)
        load_dataset.cache_clear()
        assert len(load_dataset("folder", plain, 1).held_out) == num_held_out
    load_dataset.cache_clear()


@pytest.mark.parametrize("error", [KeyError("k"), MemoryError(), SyntaxError("s"), zlib.error("z")])
def test_no_exception_of_a_decoder_ends_the_preparation(
    error: Exception, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "z.png").write_bytes(error.__class__.__name__.encode())

    def failing(file: io.BufferedReader, start: bytes) -> Image.Image:
        if start.startswith(b"\x89PNG"):
            return Image.open(file)
        raise error

    monkeypatch.setattr(image_files, "_open", failing)
    assert [image.name for image in load_folder(root, SIZE).bad] == ["z.png"]


def test_a_second_process_waits_for_the_first(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    load_folder(root, SIZE)
    entry = entry_of(root)
    hidden = entry.with_suffix(".held")
    entry.rename(hidden)
    found: list[FolderImages] = []
    second = threading.Thread(target=lambda: found.append(load_folder(root, SIZE)))
    caplog.clear()
    with FileLock(entry.with_suffix(".lock")):
        second.start()
        while not caplog.records:
            second.join(0.01)
        hidden.rename(entry)
    second.join()
    assert messages(caplog) == [f"waiting for another process that prepares {root}"]
    assert len(found[0].images) == MIN_IMAGES


def no_leftovers() -> bool:
    return not list((cache_folder() / "folders").glob("*.tmp"))


def test_too_small_a_disk_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    message = r"take 0\.00 GB in .*/folders, where 0\.00 GB are free; .* XDG_CACHE_HOME"
    with pytest.raises(TuneGanError, match=message):
        load_folder(root, SIZE)
    assert no_leftovers()


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """Let the system refuse to write more than 100 kB to a file, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files_only")
def test_a_write_that_fails_is_one_line_and_leaves_nothing(root: Path) -> None:
    with pytest.raises(TuneGanError, match=r"cannot be kept in .*File too large.*XDG_CACHE_HOME"):
        load_folder(root, SIZE)
    assert no_leftovers()


@pytest.mark.parametrize("moment", ["decoding", "counting"])
def test_an_interrupt_leaves_nothing_and_does_not_wait_for_the_rest(
    moment: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = image_files._decode, []

    def slow(path: Path, *rest: object) -> NDArray[np.uint8]:
        calls.append(path)
        if moment == "decoding" and len(calls) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        return real(path, *rest)  # type: ignore[arg-type]

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(image_files, "_decode", slow)
    if moment == "counting":
        monkeypatch.setattr(folder_module._Progress, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_folder(root, SIZE)
    assert len(calls) < 200
    assert no_leftovers()
    monkeypatch.undo()
    assert len(load_folder(root, SIZE).images) == MIN_IMAGES


def test_progress_is_a_few_lines_where_there_is_no_terminal(
    root: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    load_folder(root, SIZE)
    first, last = messages(caplog)
    assert first == f"decoding 3,000 files of {root}, once"
    assert last.startswith("decoded 3,000 files in ")
    assert capfd.readouterr() == ("", "")


def test_progress_is_told_once_a_period(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "_SECONDS_BETWEEN_LINES", 0.05)
    caplog.set_level(logging.INFO)
    load_folder(root, SIZE)
    between = messages(caplog)[1:-1]
    assert 0 < len(between) < 200
    assert all(line.startswith("decoded ") and line.endswith(" s left") for line in between)


_PEAK = """
import sys
from pathlib import Path
from tune_gan.gan.folder import load_folder

def peak_kb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

before = peak_kb()
found = load_folder(Path(sys.argv[1]), 32)
grown = (peak_kb() - before) * 1024 - found.images.numel()
print(len(found.images), len(found.bad), grown // 1_000_000)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_memory_stays_small_whatever_the_images_are(bad_root: Path) -> None:
    large = Image.new("RGB", (6000, 4000), (1, 2, 3))
    contents = {
        "24 MP.png": encoded(large, "PNG", compress_level=1),
        "24 MP again.png": encoded(large.convert("RGBA"), "PNG", compress_level=1),
        "24 MP.jpg": encoded(large, "JPEG", progressive=True, subsampling=0),
    }
    for name, data in contents.items():
        (bad_root / name).write_bytes(data)
    try:
        command = [sys.executable, "-c", _PEAK, str(bad_root)]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
    finally:
        for name in contents:
            (bad_root / name).unlink()
    num_good, num_bad, grown_mb = map(int, ended.stdout.split())
    assert (num_good, num_bad) == (MIN_IMAGES + 1 + len(contents), len(BAD_NAMES) + 4)
    assert grown_mb < 300
