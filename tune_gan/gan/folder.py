"""Any folder of images as one memory-mapped array of square RGB images.

Every file is decoded once, in full, before any training, and kept in the user's cache: what is damaged
or of another kind is listed by name rather than failing a trial hours later.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Self, TextIO

import numpy as np
import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from tune_gan.errors import DataError, TuneGanError
from tune_gan.gan.image_files import BadImage, Candidate, decode_images, find_images, printable
from tune_gan.places import cache_folder

logger = logging.getLogger(__name__)

MIN_IMAGES = 3000
"""The fewest good images: the score needs at least 2,000 of them held out."""

_VERSION = "folder-v1"  # Part of the cache key: raise it with every change to what decoding yields.
_MAX_LISTED = 50
_RETRY_AFTER_S = 3600.0
_SECONDS_BETWEEN_LINES = 60.0
_SECONDS_BETWEEN_UPDATES = 0.1


@dataclass(frozen=True, eq=False)
class FolderImages:
    """The images of a folder.

    Attributes:
        images: uint8 ``(N, 3, S, S)`` in an order that follows from their names, mapped from a file,
            copy on write, so that processes share it.
        bad: What was left out, in the order of the names.
    """

    images: Tensor
    bad: tuple[BadImage, ...]


def load_folder(root: Path, image_size: int, *, strict: bool = False) -> FolderImages:
    """Return the images of a folder and its subfolders, each resized and cropped to a square.

    The first call decodes every file and keeps the result in the user's cache; later calls only look
    at names, sizes and times. A second process waits for the first. Each bad image is logged.

    Args:
        root: The folder. Hidden names and links to folders are not followed.
        image_size: Height and width of the result in pixels.
        strict: Refuse a folder that holds a single bad image.

    Raises:
        DataError: if the folder is missing or holds too few images, if more than 1 % of them are bad,
            or if one is and `strict` is set.
        TuneGanError: if the cache cannot be written, or its disk is too small.
    """
    candidates, unlisted = list_folder(root)
    entry = _cache_entry(root, image_size, candidates, unlisted)
    found = _read_cache(entry, image_size) or _fill_cache(entry, root, image_size, candidates, unlisted)
    _log_bad(found.bad, listed_in=entry / "bad.json")
    _check(root, found, strict)
    return found


def load_classes(root: Path, found: FolderImages) -> tuple[list[str], Tensor]:
    """Return the classes of a folder's images: the subfolders of `root` that they lie in.

    Args:
        root: The folder.
        found: What `load_folder` returned of it.

    Returns:
        The names, sorted, and the number of its class for each image, int64 ``(N,)``.

    Raises:
        DataError: if an image lies in no subfolder, there is but one, or the folder has changed since.
    """
    bad = {image.name for image in found.bad}
    names = [candidate.name for candidate in list_folder(root)[0] if candidate.name not in bad]
    if len(names) != len(found.images):
        raise DataError(f"{printable(root)} has changed while it was read; start again")
    folders = [name.partition("/")[0] for name in names]
    if loose := [name for name in names if "/" not in name]:
        raise DataError(
            f"{printable(min(loose))} lies in no subfolder of {printable(root)}, so it has no class; "
            "put each image into a subfolder of its class, or leave out labelled"
        )
    classes = sorted(set(folders))
    if len(classes) < 2:
        raise DataError(
            f"{printable(root)} has a single subfolder with images; labelled needs one for each of two "
            "or more classes, or leave it out"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    return classes, torch.tensor([numbers[folder] for folder in folders])


def list_folder(root: Path) -> tuple[list[Candidate], tuple[BadImage, ...]]:
    """Return the files of a folder that may be images, and what is bad already, opening none.

    Raises:
        DataError: if the folder is missing or holds too few.
    """
    candidates, unlisted = find_images(root)
    if len(candidates) < MIN_IMAGES:
        _log_bad(unlisted, listed_in=None)
        raise _too_few(root, len(candidates))
    return candidates, unlisted


def _check(root: Path, found: FolderImages, strict: bool) -> None:
    num_good, num_bad = len(found.images), len(found.bad)
    if strict and num_bad:
        first = found.bad[0]
        raise DataError(
            f"{printable(first.name)} {first.reason}: {num_bad:,} bad image{'s' * (num_bad > 1)} in "
            f"{printable(root)}; mend or remove what the log lists, or leave out --strict"
        )
    if num_bad * 100 > num_good + num_bad:
        raise DataError(
            f"{num_bad:,} of {num_good + num_bad:,} images in {printable(root)} are bad, more than "
            "1 %; mend or remove what the log lists"
        )
    if num_good < MIN_IMAGES:
        raise _too_few(root, num_good)


def _too_few(root: Path, num_images: int) -> DataError:
    if num_images == 0:
        return DataError(f"{printable(root)} holds no PNG, JPEG, WebP or BMP image")
    held = f"{num_images:,} image{'s' * (num_images > 1)}"
    return DataError(f"{printable(root)} holds {held}; the score needs at least {MIN_IMAGES:,}")


def _log_bad(bad: tuple[BadImage, ...], listed_in: Path | None) -> None:
    for image in bad[:_MAX_LISTED]:
        logger.warning("%s %s; skipped", printable(image.name), image.reason)
    if len(bad) > _MAX_LISTED:
        where = f"; {listed_in} lists them all" if listed_in else ""
        logger.warning("and %s more bad images%s", f"{len(bad) - _MAX_LISTED:,}", where)


# The cache: a folder with `images.npy` and `bad.json`, renamed into place when both are whole.


def _cache_entry(
    root: Path, image_size: int, candidates: list[Candidate], unlisted: tuple[BadImage, ...]
) -> Path:
    # The folder's own path is part of the key: unpacked archives may share names, sizes and times.
    lines = chain(
        [f"{_VERSION}\0{image_size}\0{root.resolve()}"],
        (f"{c.name}\0{c.num_bytes}\0{c.modified_ns}" for c in candidates),
        (f"{image.name}\0{image.reason}" for image in unlisted),
    )
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{line}\n".encode(errors="surrogateescape"))
    return cache_folder() / "folders" / digest.hexdigest()[:32]


def _read_cache(entry: Path, image_size: int) -> FolderImages | None:
    """Return what was prepared before; a damaged entry counts as absent."""
    if not entry.exists():
        return None
    try:
        listed = json.loads((entry / "bad.json").read_text())
        # A fault that may have passed is looked at afresh, but not by every process of a sweep.
        age_s = time.time() - (entry / "bad.json").stat().st_mtime
        if listed["passes"] and age_s > _RETRY_AFTER_S:
            return None
        found = _open_entry(entry, image_size, tuple(BadImage(*pair) for pair in listed["bad"]))
        if len(found.images) != listed["num_good"]:
            raise ValueError(f"{len(found.images)} images instead of {listed['num_good']}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s is damaged (%s) and is made again", entry, printable(error))
        return None
    return found


def _open_entry(entry: Path, image_size: int, bad: tuple[BadImage, ...]) -> FolderImages:
    # Copy on write, because torch has no tensors that cannot be written to.
    mapped = np.lib.format.open_memmap(entry / "images.npy", mode="c")
    if mapped.dtype != np.uint8 or mapped.shape[1:] != (3, image_size, image_size):
        raise ValueError(f"images of {mapped.dtype} {mapped.shape}")
    return FolderImages(torch.from_numpy(mapped), bad)


def _fill_cache(
    entry: Path,
    root: Path,
    image_size: int,
    candidates: list[Candidate],
    unlisted: tuple[BadImage, ...],
) -> FolderImages:
    """Decode all candidates into the cache, unless another process has done so in the meantime."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with _lock(entry, root):
            if (found := _read_cache(entry, image_size)) is not None:
                return found
            staged = entry.with_suffix(".tmp")
            # Only a process that was killed leaves one behind: this one holds the lock.
            shutil.rmtree(staged, ignore_errors=True)
            try:
                bad = _prepare(staged, root, image_size, candidates, unlisted)
                shutil.rmtree(entry, ignore_errors=True)
                staged.replace(entry)
            finally:
                shutil.rmtree(staged, ignore_errors=True)
            return _open_entry(entry, image_size, bad)
    except OSError as error:
        raise TuneGanError(
            f"the images cannot be kept in {entry.parent} ({error.strerror or error}); "
            "mend that, or set XDG_CACHE_HOME to another folder"
        ) from None


@contextmanager
def _lock(entry: Path, root: Path) -> Iterator[None]:
    lock = FileLock(entry.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another process that prepares %s", printable(root))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _prepare(
    staged: Path,
    root: Path,
    image_size: int,
    candidates: list[Candidate],
    unlisted: tuple[BadImage, ...],
) -> tuple[BadImage, ...]:
    """Write the two files of a cache entry and return all bad images."""
    _check_space(staged.parent, len(candidates) * 3 * image_size**2)
    staged.mkdir()
    names = [candidate.name for candidate in candidates]
    with (staged / "images.npy").open("wb") as file, _Progress(root, len(names)) as progress:
        faults = decode_images(file, root, names, image_size, progress.advance)
        progress.num_bad = len(faults)
        _flush(file)
    decoded = [BadImage(name, fault.reason) for name, fault in faults.items()]
    bad = sorted([*unlisted, *decoded], key=lambda image: image.name)
    listed = {
        "num_good": len(names) - len(faults),
        "passes": any(fault.passes for fault in faults.values()),
        "bad": [[image.name, image.reason] for image in bad],
    }
    with (staged / "bad.json").open("w") as text:
        json.dump(listed, text, indent=0)
        _flush(text)
    return tuple(bad)


def _flush(file: BinaryIO | TextIO) -> None:
    """Put a file on the disk: after a power cut, a renamed folder must not hold zeros for images."""
    file.flush()
    os.fsync(file.fileno())


def _check_space(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise TuneGanError(
            f"the images take {num_bytes / 1e9:,.2f} GB in {folder}, where {free / 1e9:,.2f} GB are "
            "free; make room, or set XDG_CACHE_HOME to a folder on a larger disk"
        )


class _Progress:
    """Shows how far decoding is: a bar on a terminal, else a line now and then in the log."""

    def __init__(self, root: Path, num_images: int) -> None:
        self._root, self._num_images = printable(root), num_images
        self._num_done = self.num_bad = 0
        console = Console(stderr=True)
        self._has_bar = console.is_terminal
        self._bar = Progress(
            TextColumn("decoding images"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not self._has_bar,
            transient=True,
        )
        self._task = self._bar.add_task("", total=num_images)

    def __enter__(self) -> Self:
        self._started = self._shown = time.monotonic()
        self._bar.start()
        if not self._has_bar:
            logger.info("decoding %s files of %s, once", f"{self._num_images:,}", self._root)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._bar.stop()
        if kind is None and not self._has_bar:
            seconds = time.monotonic() - self._started
            done = f"{self._num_images:,}"
            logger.info("decoded %s files in %.0f s, %s bad", done, seconds, f"{self.num_bad:,}")

    def advance(self) -> None:
        """Count an image."""
        self._num_done += 1
        now = time.monotonic()
        pause = _SECONDS_BETWEEN_UPDATES if self._has_bar else _SECONDS_BETWEEN_LINES
        if now - self._shown < pause:
            return
        self._shown = now
        self._bar.update(self._task, completed=self._num_done)
        if not self._has_bar:
            left = (now - self._started) / self._num_done * (self._num_images - self._num_done)
            done = f"{self._num_done:,} of {self._num_images:,}"
            logger.info("decoded %s files, %.0f s left", done, left)
