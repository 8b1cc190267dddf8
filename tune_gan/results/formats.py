"""Print a table in the form that was asked for."""

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tune_gan.errors import ConfigError

_WIDTH_OF_A_FILE = 240
_LARGEST_IN_FULL = 1e7


class Format(StrEnum):
    """How a table is printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    MARKDOWN = "markdown"
    PARQUET = "parquet"

    @classmethod
    def parse(cls, text: str, as_json: bool) -> "Format":
        """Read the name of a format; ``--json`` is short for that one.

        Raises:
            ConfigError: for another one, or parquet on a terminal.
        """
        if text not in list(cls):
            raise ConfigError(f"--format takes one of {', '.join(cls)}, not {text!r}")
        chosen = cls(text)
        if as_json:
            if chosen not in (cls.TABLE, cls.JSON):
                raise ConfigError(f"--json and --format {text} ask for two things; choose one")
            chosen = cls.JSON
        if chosen == cls.PARQUET and sys.stdout.isatty():
            raise ConfigError("parquet is not for a terminal; write it to a file: ... > FILE.parquet")
        return chosen


def print_table(table: pd.DataFrame, form: Format) -> None:
    """Print a table on the standard output, a row a line; what is missing is empty or null.

    As parquet its bytes are written.
    """
    if form == Format.TABLE:
        table_console().print(rich_table(table))
    elif form == Format.CSV:
        print(table.to_csv(index=False), end="")
    elif form == Format.JSON:
        print(json.dumps(records(table), indent=2))
    elif form == Format.MARKDOWN:
        print(table.map(cell).to_markdown(index=False, disable_numparse=True))
    else:
        sys.stdout.buffer.write(of_one_kind(table).to_parquet(index=False))


def of_one_kind(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table as parquet takes it, a type a column: those of several become text."""
    mixed = [name for name in table.columns if len(set(map(type, table[name].dropna()))) > 1]
    return table.assign(**{name: table[name].dropna().map(str) for name in mixed})


def rich_table(table: pd.DataFrame, folded: Sequence[str] = ()) -> Table:
    """Return a table for a console, numbers to the right.

    Args:
        table: What to show.
        folded: Columns that may take several lines; all others are whole.
    """
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in table.columns:
        is_number = pd.api.types.is_numeric_dtype(table[name]) and table[name].dtype != bool
        justify: Any = "right" if is_number else "left"
        shown.add_column(str(name), justify=justify, no_wrap=name not in folded, overflow="fold")
    for row in table.itertuples(index=False):
        shown.add_row(*(Text(cell(value)) for value in row))
    return shown


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as JSON takes them; what is missing is None."""
    return [
        {str(name): plain(value) for name, value in row.items()} for row in table.to_dict("records")
    ]


def plain(value: Any) -> Any:
    """Return a cell as Python has it: NumPy's numbers as numbers, what is missing as None."""
    if isinstance(value, list):
        return [plain(part) for part in value]
    if is_missing(value):
        return None
    value = value.item() if hasattr(value, "item") else value
    # JSON has no word for it.
    return None if isinstance(value, float) and value in (float("inf"), float("-inf")) else value


def cell(value: Any) -> str:
    """Return a cell as text, a number with three digits, or those before its point."""
    if is_missing(value):
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1000 <= abs(value) < _LARGEST_IN_FULL else f"{value:.3g}"


def is_missing(value: Any) -> bool:
    """Return whether a cell holds nothing."""
    return value is None or (not isinstance(value, list | dict) and bool(pd.isna(value)))


def table_console() -> Console:
    """Return a console as wide as the terminal, or wide enough for a file."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_OF_A_FILE)
