"""Questions to a run, one a file."""

from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager

from tune_gan.errors import TuneGanError


@contextmanager
def one_line(parser: ArgumentParser) -> Iterator[None]:
    """Say in one line what is wrong with what was asked, and exit with 2."""
    try:
        yield
    except TuneGanError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
