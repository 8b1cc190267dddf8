"""The sweeps and configurations that ship with the package, one YAML file each."""

import json
from importlib.resources import files
from typing import Any

from rich.console import Console
from rich.table import Table

from tune_gan.config import GanConfig
from tune_gan.errors import ConfigError
from tune_gan.settings import nearest, parse_yaml


def preset_names() -> list[str]:
    """Return the names of all presets, sorted."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in files(__name__).iterdir()
        if entry.name.endswith(".yaml")
    )


def preset_text(name: str) -> str:
    """Return a preset's YAML file as it is.

    Raises:
        ConfigError: if there is no preset of that name.
    """
    names = preset_names()
    if name not in names:
        hint = nearest(name, names)
        raise ConfigError(f"no preset {name!r};{hint} valid: {', '.join(names)}")
    return files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def read_preset(name: str) -> dict[str, Any]:
    """Return a preset's sweep as its YAML file holds it.

    Raises:
        ConfigError: if there is no preset of that name.
    """
    values = parse_yaml(preset_text(name))
    assert isinstance(values, dict)
    return values


def print_presets(as_json: bool) -> None:
    """Print what presets there are: name, data set, architecture, and the first line of the file."""
    records = []
    for name in preset_names():
        gan = load_preset(name)
        about = preset_text(name).splitlines()[0].removeprefix("# ")
        records.append(
            {"name": name, "dataset": gan.dataset, "architecture": gan.architecture, "about": about}
        )
    if as_json:
        print(json.dumps(records, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in records[0]:
        table.add_column(heading, no_wrap=heading == "name", overflow="fold")
    for record in records:
        table.add_row(*record.values())
    Console().print(table)


def load_preset(name: str) -> GanConfig:
    """Return the configuration of a preset, its sweep's ``gan`` section.

    Raises:
        ConfigError: if there is no preset of that name.
    """
    return resolve_gan({"preset": name})


def resolve_gan(section: dict[str, Any]) -> GanConfig:
    """Build the configuration that a ``gan`` section describes: its preset, then its own fields.

    Raises:
        ConfigError: for an unknown preset or field, or an invalid value.
    """
    own = {str(name): value for name, value in section.items() if name != "preset"}
    base: dict[str, Any] = read_preset(str(section["preset"]))["gan"] if "preset" in section else {}
    return GanConfig.parse({**base, **own})
