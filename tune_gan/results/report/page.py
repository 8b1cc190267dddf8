"""Write a run's report: one HTML file that needs nothing else, and its numbers as JSON."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from tune_gan.errors import ConfigError, RunFolderError
from tune_gan.files import require_writable, write_whole
from tune_gan.grids import training_gif
from tune_gan.results.curves import COLUMN_NOTES
from tune_gan.results.report.contents import report_contents
from tune_gan.results.report.figures import STATE_COLOURS, figures, important_fields
from tune_gan.results.report.parallel import HEIGHT, WIDTH, parallel_coordinates
from tune_gan.results.trials import REAL_FILE, SAMPLES_FILE, read_sweep, trial_folder
from tune_gan.space import Distribution

REPORT_FILE = "report.html"
NUMBERS_FILE = "report.json"
# Of the best trials; the page is to fit into a mail.
_NUM_WITH_SAMPLES = 30
_LARGEST_PICTURE = 300_000
_LARGEST_GIF = 2_000_000


@dataclass(frozen=True)
class Written:
    """What `write_report` wrote.

    Attributes:
        page: The HTML file.
        numbers: The JSON file beside it.
        num_unfinished: Trials that were running or pending.
    """

    page: Path
    numbers: Path
    num_unfinished: int


def write_report(run: Path, page: Path | None = None, refresh_s: int | None = None) -> Written:
    """Write the report of a run, finished or not.

    Args:
        run: The run folder.
        page: The HTML file, by default ``report.html`` in the run folder; the numbers go
            beside it, into a file of its name with the ending ``.json``.
        refresh_s: Seconds after which a browser reads the page again; never by default.

    Raises:
        ConfigError: if the page's name does not end in ``.html``, or its folder takes no file.
        RunFolderError: if the folder is no run folder.
        IncomparableError: if trials were scored with different instruments.
        StorageError: if a file cannot be written.
    """
    is_given, page = page is not None, page or run / REPORT_FILE
    if (page.parent / "sweep.yaml").exists() and page.name != REPORT_FILE:
        raise ConfigError(f"{page}: in a run folder a report is {REPORT_FILE}; give another folder")
    if page.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{page}: a report's name ends in .html")
    numbers = page.with_suffix(".json")
    for file in (page, numbers) if is_given else ():
        require_writable(file)
    contents = report_contents(run)
    space = _space(run, contents)
    write_whole(page, render(run, contents, space, refresh_s, numbers.name))
    write_whole(numbers, json.dumps(contents, indent=1, allow_nan=False))
    states = {row["state"]: row["trials"] for row in contents["states"]}
    return Written(page, numbers, states.get("running", 0) + states.get("pending", 0))


def _space(run: Path, contents: Mapping[str, Any]) -> dict[str, Distribution]:
    """Return the searched space, where its file is damaged as far as the trials' values say."""
    try:
        given = read_sweep(run)["space"]
        return {name: Distribution.from_mapping(given[name]) for name in contents["fields"]}
    except (ConfigError, RunFolderError, KeyError):
        values: dict[str, dict[str, Any]] = {name: {} for name in contents["fields"]}
        for row in contents["leaderboard"]:
            for name, value in row["config"].items():
                values[name][repr(value)] = str(value)
        return {name: Distribution("choice", tuple(found.values())) for name, found in values.items()}


def render(
    run: Path,
    contents: Mapping[str, Any],
    space: Mapping[str, Distribution],
    refresh_s: int | None = None,
    numbers_name: str = NUMBERS_FILE,
) -> str:
    """Return the page.

    Every text is escaped by jinja2, data in scripts by their encoding, and a content security policy
    forbids the page to fetch anything: nothing that a spec, a name or an error says can run.
    """
    environment = Environment(
        loader=PackageLoader("tune_gan.results.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    environment.filters["code"] = _code
    drawn = figures(contents, space)
    axes, lines = parallel_coordinates(contents, space)
    best = contents["headline"].get("trial")
    gif = None if best is None else _gif(trial_folder(run, best))
    return environment.get_template("page.html.j2").render(
        **contents,
        plotly=Markup(get_plotlyjs()),  # noqa: S704 -- the library's own file
        figures=_as_script(drawn),
        drawn=list(drawn),
        rows=_as_script(_dialog_rows(contents)),
        axes=axes,
        lines=lines,
        size=(WIDTH, HEIGHT),
        colours=STATE_COLOURS,
        important=important_fields(contents),
        samples=_samples(run, contents),
        real=_picture(run / REAL_FILE),
        gif=gif,
        refresh_s=refresh_s,
        numbers_name=numbers_name,
        rung_notes=COLUMN_NOTES,
    )


def _as_script(value: Any) -> Markup:
    """Return data as a script may hold it: no text in it can end the script."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704 -- escaped just above


def _dialog_rows(contents: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a click on a trial shows of it."""
    return {
        str(row["trial"]): {
            name: row[name]
            for name in ("state", "cause", "best_fid_proxy", "best_iteration", "iteration", "config")
        }
        for row in contents["leaderboard"]
    }


def _samples(run: Path, contents: Mapping[str, Any]) -> dict[int, str]:
    pictures = {}
    best = [row["trial"] for row in contents["leaderboard"][:_NUM_WITH_SAMPLES]]
    for trial in dict.fromkeys([*best, 0, contents["headline"].get("trial", 0)]):
        picture = _picture(trial_folder(run, trial) / SAMPLES_FILE)
        if picture:
            pictures[trial] = picture
    return pictures


def _picture(file: Path) -> str | None:
    """Return a PNG as a page holds it, or None where there is none, or it is something else."""
    try:
        content = file.read_bytes() if file.stat().st_size <= _LARGEST_PICTURE else b""
    except OSError:
        return None
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _gif(folder: Path) -> str | None:
    try:
        content = training_gif(folder)
    # A stranger's picture fails in many ways, none of them documented.
    except Exception:
        return None
    if content is None or len(content) > _LARGEST_GIF:
        return None
    return f"data:image/gif;base64,{base64.b64encode(content).decode()}"


def _code(text: str) -> Markup:
    """Return a text with what stands in backticks as code, all of it escaped."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts)
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
