"""The files of a folder of images: which there are, and each decoded to a square RGB image.

The files count as untrusted: nothing but four formats is tried, sizes are read from headers before
memory is spent, and links out of the folder are refused.
"""

import hashlib
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tune_gan.errors import DataError

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM")
_OTHER_FORMAT = "is no PNG, JPEG, WebP or BMP file"
_MEMORY_BYTES = 200_000_000
_MAX_FILE_BYTES = 100_000_000
_MAX_PIXELS = 25_000_000
# Decoding WebP takes five copies of the image at four bytes a pixel, where the others take two.
_MAX_WEBP_PIXELS = 10_000_000
_BYTES_PER_PIXEL = 8
_BYTES_PER_WEBP_PIXEL = 20
# A JPEG of several scans keeps three coefficients of 16 bits for every pixel, whatever its output size.
_BYTES_PER_JPEG_COEFFICIENTS = 6
_MAX_BATCH = 1024
_MAX_BATCH_BYTES = 32_000_000

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class BadImage:
    """A file or folder that gives no image.

    Attributes:
        name: Its path relative to the image folder, with forward slashes, as the file system has it.
        reason: What is wrong, to be read after the name.
    """

    name: str
    reason: str


class Candidate(NamedTuple):
    """A file that may be an image: its name in the folder, its size and its time of change."""

    name: str
    num_bytes: int
    modified_ns: int


class Fault(NamedTuple):
    """Why a file gave no image; a passing fault may be gone at the next start."""

    reason: str
    passes: bool = False


class _UnfitImageError(Exception):
    """An image is of a kind that is not taken; the message is the reason."""


def printable(text: object) -> str:
    """Escape what could break a line or steer a terminal: a file may have almost any name."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text)
    )


def find_images(root: Path) -> tuple[list[Candidate], tuple[BadImage, ...]]:
    """Return the files that may be images, and what is bad already, in the order of the names.

    The former come in an order of their own, that of a hash of their names: the first of them are a
    fair sample, which they would not be where subfolders hold a class each. Two hundred thousand are
    looked at on every start, so that there is no `Path` and no resolving for a plain file.

    Raises:
        DataError: if the folder is missing or cannot be listed.
    """
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"{printable(root)} {problem}; name a folder of images")
    candidates: list[Candidate] = []
    bad: list[BadImage] = []
    for seen in _walk(root.resolve()):
        if isinstance(seen, BadImage):
            bad.append(seen)
        else:
            candidates.append(seen)
    return sorted(candidates, key=_hash_of_name), tuple(sorted(bad, key=lambda image: image.name))


def _hash_of_name(candidate: Candidate) -> bytes:
    name = candidate.name.encode(errors="surrogateescape")
    return hashlib.blake2b(name, digest_size=8).digest()


def _walk(root: Path) -> Iterator[Candidate | BadImage]:
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            # Not as a list: each entry keeps what the system told of it, half a kilobyte.
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    name = folder + entry.name
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(f"{name}/")
                    elif (seen := _look_at(entry, name, root)) is not None:
                        yield seen
        except OSError as error:
            reason = f"cannot be listed ({error.strerror})"
            if not folder:
                raise DataError(f"{printable(root)} {reason}") from None
            yield BadImage(folder.rstrip("/"), reason)


def _look_at(entry: os.DirEntry[str], name: str, root: Path) -> Candidate | BadImage | None:
    """Return what a name stands for without opening it: a pipe would block whoever opens it.

    Args:
        entry: What the folder holds.
        name: Its path relative to `root`.
        root: The image folder, without links in its path.
    """
    try:
        if entry.is_symlink() and entry.is_dir():
            return BadImage(name, "is a link to a folder, which is not followed")
        if not entry.name.lower().endswith(_EXTENSIONS):
            return None
        if entry.is_symlink():
            target = Path(entry.path).resolve(strict=True)
            if not target.is_relative_to(root):
                return BadImage(name, "links out of the folder; put a copy in its place")
        status = entry.stat()
    except OSError as error:
        return BadImage(name, f"cannot be read ({error.strerror})")
    if not stat.S_ISREG(status.st_mode):
        return BadImage(name, "is no regular file")
    if status.st_size == 0:
        return BadImage(name, "is empty")
    if status.st_size > _MAX_FILE_BYTES:
        size = f"{status.st_size / 1e6:,.0f} MB"
        return BadImage(name, f"has {size}, above the limit of {_MAX_FILE_BYTES // 1_000_000} MB")
    # Asked here, because granting the right to read changes neither size nor time: what decoding finds
    # is kept under those.
    if not os.access(entry.path, os.R_OK):
        return BadImage(name, "cannot be read (Permission denied)")
    return Candidate(name, status.st_size, status.st_mtime_ns)


class _MemoryBudget:
    """Keeps what the threads decode at one time below a number of bytes."""

    def __init__(self, num_bytes: int) -> None:
        self._free = self._total = num_bytes
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, num_bytes: int) -> Iterator[None]:
        """Wait until so many bytes are free, or all of them, and hold them while entered."""
        num_bytes = min(num_bytes, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= num_bytes)
            self._free -= num_bytes
        try:
            yield
        finally:
            with self._changed:
                self._free += num_bytes
                self._changed.notify_all()


def decode_images(
    file: BinaryIO, root: Path, names: list[str], image_size: int, advance: Callable[[], None]
) -> dict[str, Fault]:
    """Write the good images as an ``.npy`` file and return the faults of the others by name.

    A batch is decoded into memory and then written. Threads that wrote into a memory map would save
    the copy, but on a full disk the system ends a process that touches a map's missing page.

    Args:
        file: Where to write uint8 ``(N, 3, image_size, image_size)``, in the order of the names.
        root: The folder.
        names: The files in it.
        image_size: Height and width to resize and crop to.
        advance: Called after each image.
    """
    batch_size = max(16, min(_MAX_BATCH, _MAX_BATCH_BYTES // (3 * image_size**2)))
    buffer = np.empty((batch_size, 3, image_size, image_size), np.uint8)
    memory = _MemoryBudget(_MEMORY_BYTES)
    faults: dict[str, Fault] = {}

    def decode(place: int, name: str) -> Fault | None:
        return _decode_into(buffer[place], root / name, memory)

    start = _write_header(file, len(names), image_size)
    num_workers = min(8, os.cpu_count() or 1)
    with _quiet_pillow(), _pool(num_workers) as pool:
        for first in range(0, len(names), batch_size):
            batch = names[first : first + batch_size]
            good = []
            for place, fault in enumerate(pool.map(decode, range(len(batch)), batch)):
                advance()
                if fault is None:
                    good.append(place)
                else:
                    faults[batch[place]] = fault
            file.write(buffer[good].data)
    file.seek(0)
    moved = _write_header(file, len(names) - len(faults), image_size) - start
    assert moved == 0, "numpy pads a header so that its first dimension may change"
    return faults


@contextmanager
def _pool(num_workers: int) -> Iterator[ThreadPoolExecutor]:
    """Run threads that finish, after an interrupt, what they are at and not what is queued."""
    with ThreadPoolExecutor(num_workers) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write_header(file: BinaryIO, num_images: int, image_size: int) -> int:
    shape = (num_images, 3, image_size, image_size)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Keep Pillow's warnings off the terminal: what matters in them is in the reasons.

    Python's filters belong to the whole process, so that they are set once around all threads: threads
    that each set and restored them would undo one another.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _decode_into(target: Pixels, path: Path, memory: _MemoryBudget) -> Fault | None:
    """Fill ``(3, S, S)`` uint8 from a file, or return why it cannot be."""
    try:
        target[:] = _decode(path, target.shape[-1], memory)
    except _UnfitImageError as fault:
        return Fault(str(fault))
    except Image.DecompressionBombError:
        return Fault(f"has more pixels than the limit of {_MAX_PIXELS // 1_000_000} million")
    except MemoryError:
        return Fault("needs more memory than there is", passes=True)
    # Decoders of damaged files raise nearly anything (SyntaxError, struct.error, KeyError, zlib.error);
    # a kind left out here would end the preparation for the sake of one file.
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            return Fault(f"cannot be read ({error.strerror})", passes=True)
        detail = printable(error)[:100] or type(error).__name__
        return Fault(f"is truncated or damaged ({detail})")
    return None


def _decode(path: Path, image_size: int, memory: _MemoryBudget) -> Pixels:
    """Return a file's image as ``(3, S, S)``."""
    with path.open("rb") as file, ExitStack() as held:
        start = file.read(32)
        if start.startswith(b"\x89PNG") and start[24:25] == b"\x10":
            # Seen here, because Pillow gives 16-bit RGB out as 8-bit RGB.
            raise _UnfitImageError("has 16 bits a channel; make it 8")
        webp_size = _webp_size(start)
        if webp_size is not None:
            # Pillow takes the memory of a WebP when it opens it.
            held.enter_context(memory.hold(_BYTES_PER_WEBP_PIXEL * _num_pixels(webp_size, "WEBP")))
        with _open(file, start) as image:
            _check_kind(image)
            if webp_size is None:
                held.enter_context(memory.hold(_bytes_to_decode(image, image_size)))
            return _fit(image, image_size)


def _open(file: BinaryIO, start: bytes) -> Image.Image:
    # Given a file rather than a path, Pillow does not map it into memory, where a file cut short while
    # it is read would end the process.
    try:
        return Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError:
        if start.startswith(_SIGNATURES):
            raise _UnfitImageError("is truncated or damaged (its header cannot be read)") from None
        raise _UnfitImageError(_OTHER_FORMAT) from None


def _webp_size(start: bytes) -> tuple[int, int] | None:
    """Return width and height from the first 30 bytes of a WebP file (RFC 9649); else none."""
    if start[:4] != b"RIFF" or start[8:12] != b"WEBP":
        return None
    match start[12:16]:
        case b"VP8 ":
            sides = int.from_bytes(start[26:28], "little"), int.from_bytes(start[28:30], "little")
            return sides[0] & 0x3FFF, sides[1] & 0x3FFF
        case b"VP8L":
            bits = int.from_bytes(start[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":
            sides = int.from_bytes(start[24:27], "little"), int.from_bytes(start[27:30], "little")
            return sides[0] + 1, sides[1] + 1
    raise _UnfitImageError(_OTHER_FORMAT)


def _num_pixels(size: tuple[int, int], format_name: str | None) -> int:
    """Return the number of pixels, where it is not above the limit."""
    width, height = size
    limit = _MAX_WEBP_PIXELS if format_name == "WEBP" else _MAX_PIXELS
    if width * height > limit:
        whose = "WebP's" if format_name == "WEBP" else "the"
        raise _UnfitImageError(
            f"has {width}x{height} pixels, above {whose} limit of {limit // 1_000_000} million"
        )
    return width * height


def _check_kind(image: Image.Image) -> None:
    _num_pixels(image.size, image.format)
    # A JPEG of several pictures (MPO, as telephones write it) is no animation: the first one counts.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise _UnfitImageError(f"is animated ({getattr(image, 'n_frames', 0)} frames)")
    if image.mode in ("RGB", "L", "RGBA", "LA"):
        return
    kinds = {"1": "has 1 bit a pixel", "P": "has a palette"}
    kind = kinds.get(image.mode, f"is {image.mode}")
    raise _UnfitImageError(f"{kind}; make it RGB or grey")


def _bytes_to_decode(image: Image.Image, image_size: int) -> int:
    """Return about how many bytes decoding takes, having asked a JPEG for less than its own size."""
    num_pixels = _num_pixels(image.size, image.format)
    if image.format not in ("JPEG", "MPO"):
        return _BYTES_PER_PIXEL * num_pixels
    # All of the file is read, but libjpeg scales each block down by up to 8 as it decodes it.
    image.draft("RGB", (2 * image_size, 2 * image_size))
    width, height = image.size
    return _BYTES_PER_PIXEL * width * height + _BYTES_PER_JPEG_COEFFICIENTS * num_pixels


def _fit(image: Image.Image, image_size: int) -> Pixels:
    """Decode in full, then resize and crop the middle; ``(3, S, S)``."""
    image.load()
    square = ImageOps.fit(_opaque(image), (image_size, image_size), Image.Resampling.BICUBIC)
    # Turned after the crop of the middle, which comes to the same and needs no second large image.
    upright = ImageOps.exif_transpose(square)
    return np.asarray(upright.convert("RGB")).transpose(2, 0, 1)


def _opaque(image: Image.Image) -> Image.Image:
    """Return the image as RGB or grey, where no pixel is transparent."""
    if not image.has_transparency_data:
        return image
    layers = image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
    alpha = layers.getextrema()[-1]
    assert isinstance(alpha, tuple)
    if alpha[0] < 255:
        raise _UnfitImageError("is partly transparent; put it on a background")
    image.info.pop("transparency", None)
    return image.convert("L" if image.mode in ("L", "LA") else "RGB")
