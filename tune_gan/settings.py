"""What `GanConfig` and `SweepSpec` share: strict frozen models, one-line errors, safe YAML 1.2."""

import difflib
import io
import re
import reprlib
from collections.abc import Mapping
from functools import cache
from itertools import accumulate
from pathlib import Path
from types import UnionType
from typing import Any, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tune_gan.errors import MOST_COMPLAINTS, ConfigError, FieldError

_LARGEST_YAML_BYTES = 100_000
_DEEPEST = 100
# Two levels: a file may hold lists of lists of lists, by aliases more of them than there are atoms.
_SHORT_FORM = reprlib.Repr()
_SHORT_FORM.maxlevel = 2
_SHORT_FORM.maxstring = _SHORT_FORM.maxother = 80


class Settings(BaseModel):
    """A frozen model that refuses unknown fields and converts nothing silently.

    Raises:
        ConfigError: where a value does not fit, as one line that names the field, the value given,
            what is valid and, for a misspelt field, the nearest valid name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise FieldError(_complaints(error, type(self))) from None

    @classmethod
    def parse(cls, values: object) -> Self:
        """Build from what a YAML or JSON file holds: a mapping of field names to values."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"expected a mapping of fields to values, got {shortened(values)}")
        return cls(**{str(name): value for name, value in values.items()})

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Read a YAML file that `to_yaml` or a person wrote."""
        try:
            return cls.parse(read_yaml(path))
        except ConfigError as error:
            raise ConfigError(_with_path(path, str(error))) from None

    def to_yaml(self) -> str:
        """Return the YAML text that `from_yaml` reads back as an equal object."""
        return write_yaml(self.model_dump(mode="json"))

    @classmethod
    def valid_values(cls, field: str) -> str:
        """Say in words what the field takes, e.g. ``a number above 0 and at most 1``."""
        return _describe_schema(_schemas(cls).get(field, {}))

    @classmethod
    def takes_text(cls, field: str) -> bool:
        """Return whether any text is valid in a field, so that it must not be read as YAML."""
        return cls.valid_values(field).startswith("text")


@cache
def _schemas(model: type[Settings]) -> dict[str, Any]:
    """Return the JSON schema of each field; making it takes as long as all else of ``--help``."""
    schemas: dict[str, Any] = model.model_json_schema()["properties"]
    return schemas


def read_yaml(path: Path) -> Any:
    """Read a YAML 1.2 file with the safe loader: no tags, no repeated keys, ``1e-4`` is a number.

    Raises:
        ConfigError: if the file is missing, over 100 kB, or no valid YAML.
    """
    try:
        if path.stat().st_size > _LARGEST_YAML_BYTES:
            raise ConfigError(f"{path}: larger than the 100 kB that a configuration may be")
        return parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is no UTF-8 text") from None
    except ConfigError as error:
        raise ConfigError(_with_path(path, str(error))) from None


def parse_yaml(text: str) -> Any:
    """Parse YAML 1.2 text, or a single value as a flag gives it, by the rules of `read_yaml`."""
    if max(accumulate((ch in "[{") - (ch in "]}") for ch in text), default=0) > _DEEPEST:
        raise ConfigError(f"brackets are nested deeper than {_DEEPEST}")
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or type(error).__name__
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{where}is no valid YAML ({' '.join(str(problem).split())})") from None


def write_yaml(values: object) -> str:
    """Return block-style YAML of plain values, short lists on one line."""
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 10_000
    text = io.StringIO()
    yaml.dump(values, text)
    return text.getvalue()


_SECONDS_OF = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def parse_duration(value: object) -> object:
    """Return the seconds of a text such as ``2h``, ``1h30m`` or ``45s``; a bare number is seconds.

    Raises:
        ConfigError: for any other text.
    """
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"\d{1,12}(\.\d+)?", value):
        return float(value)
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", value.replace(" ", ""))
    if "".join(number + unit for number, unit in parts) != value.replace(" ", "") or not parts:
        raise ConfigError(f"{shortened(value)} is no time; give e.g. 2h, 1h30m, 45s or seconds")
    return float(sum(float(number) * _SECONDS_OF[unit] for number, unit in parts))


def describe_duration(seconds: float) -> str:
    """Return a time in words, to two units: ``1 h 30 min``, ``45 s``."""
    seconds = round(seconds)
    if seconds < 90:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"


def nearest(name: str, valid: list[str]) -> str:
    """Return `` did you mean X?`` for the valid name nearest to a misspelt one, else nothing."""
    close = difflib.get_close_matches(name, valid, n=1)
    return f" did you mean {close[0]}?" if close else ""


def _complaints(error: ValidationError, model: type[BaseModel]) -> list[tuple[str, str]]:
    complaints = []
    for detail in error.errors():
        path = ".".join(map(str, _without_branch(detail["loc"], model)))
        inner = detail.get("ctx", {}).get("error")
        if isinstance(inner, FieldError):
            complaints += [(".".join(filter(None, (path, p))), text) for p, text in inner.complaints]
        elif len(complaints) < MOST_COMPLAINTS:
            complaint = path, _describe_error(dict(detail), model)
            # What fits none of a union's types is complained of once for each of them.
            complaints += [complaint] if complaint not in complaints else []
        else:
            # It is counted alone, and the nearest valid name takes its time to find.
            complaints.append((path, detail["msg"]))
    return complaints


def _without_branch(location: tuple[int | str, ...], model: type[BaseModel]) -> tuple[int | str, ...]:
    """Leave out what Pydantic appends to a field that takes one of several types: the type's name."""
    if len(location) > 1 and isinstance(location[-1], str):
        field = _model_at(model, location[:-2]).model_fields.get(str(location[-2]))
        if field and get_origin(field.annotation) in (Union, UnionType):
            return location[:-1]
    return location


def _describe_error(detail: dict[str, Any], model: type[BaseModel]) -> str:
    location = detail["loc"]
    if detail["type"] == "extra_forbidden":
        valid = list(_model_at(model, location[:-1]).model_fields)
        hint = nearest(str(location[-1]), valid) or f" valid: {', '.join(valid)}"
        return f"unknown field (given {shortened(detail['input'])});{hint}"
    if detail["type"] == "missing":
        return "is missing"
    if detail["type"] in ("value_error", "assertion_error"):
        return str(detail["ctx"]["error"])
    owner, field = _model_at(model, location[:1]), str(location[-1])
    if field not in owner.model_fields:
        owner, field = model, str(location[0])
    schema = owner.model_json_schema()
    valid_text = _describe_schema(schema["properties"][field], schema.get("$defs", {}))
    return f"{shortened(detail['input'])} is not valid; give {valid_text}"


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    for part in location:
        field = model.model_fields.get(str(part))
        candidates = [field.annotation, *get_args(field.annotation)] if field else []
        inner = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not inner:
            return model
        model = inner[0]
    return model


def _describe_schema(schema: Mapping[str, Any], definitions: Mapping[str, Any] | None = None) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return _describe_schema((definitions or {}).get(name, {}), definitions)
    if "anyOf" in schema:
        return " or ".join(_describe_schema(option, definitions) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return f"one of {', '.join(map(str, values))}"
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _describe_bounds(schema)
    if kind == "array":
        return f"a list, each entry {_describe_schema(schema.get('items', {}), definitions)}"
    if kind == "string":
        return f"text of the form {schema['pattern']}" if "pattern" in schema else "text"
    return {"null": "null", "boolean": "true or false", "object": "a mapping"}.get(
        str(kind), "another value"
    )


def _describe_bounds(schema: Mapping[str, Any]) -> str:
    words = {
        "exclusiveMinimum": "above",
        "minimum": "at least",
        "exclusiveMaximum": "below",
        "maximum": "at most",
    }
    bounds = [f"{word} {schema[key]}" for key, word in words.items() if key in schema]
    return f" {' and '.join(bounds)}" if bounds else ""


def shortened(value: object) -> str:
    """Return a value's form for an error message: one line, long and nested parts left out."""
    return _SHORT_FORM.repr(value).replace("\n", " ")


def _with_path(path: Path, message: str) -> str:
    return message if message.startswith(str(path)) else f"{path}: {message}"
