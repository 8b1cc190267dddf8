"""`SweepSpec`: what a sweep's YAML file may say."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, field_serializer, model_validator

from tune_gan.config import GanConfig, canonical
from tune_gan.errors import ConfigError
from tune_gan.places import with_whole_paths
from tune_gan.presets import read_preset, resolve_gan
from tune_gan.search.space import Distribution
from tune_gan.settings import Settings, nearest, parse_yaml, read_yaml

_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class SearchSettings(Settings):
    """How configurations are chosen."""

    algorithm: Literal["grid", "random", "tpe"] = Field(
        "tpe", description="Every combination, random draws, or Optuna's TPE."
    )
    num_trials: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="Trials, the default configuration included; not with grid."
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Seed of the draws.")


class SchedulerSettings(Settings):
    """When weak trials are stopped early."""

    name: Literal["asha", "none"] = Field("asha", description="ASHA, or no early stopping.")
    grace_period: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Reports before a trial may be stopped; by default a tenth of all, at least 2.",
    )
    reduction_factor: float = Field(
        3, gt=1, le=100, description="One in so many trials goes on from each rung to the next."
    )


class Resources(Settings):
    """What each trial takes."""

    cpus: int = Field(1, ge=1, le=1024, description="CPUs of a trial, and its threads.")
    gpus: float = Field(0, ge=0, le=64, description="GPUs of a trial; 0.25 lets four share one.")
    max_concurrent_trials: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Trials at a time; by default as many as CPUs and GPUs allow."
    )


# Trials that differ in these would not compare, or would differ by luck and place alone.
_NOT_SEARCHED = (
    "dataset",
    "data_root",
    "weights",
    "image_size",
    "num_iterations",
    "report_every",
    "seed",
    "device",
    "num_threads",
)


def _gan_section(value: object) -> object:
    return resolve_gan(dict(value)) if isinstance(value, Mapping) else value


def _space_section(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    return {str(field): _distribution(str(field), given) for field, given in value.items()}


def _distribution(field: str, given: object) -> Distribution:
    if field not in GanConfig.model_fields:
        hint = nearest(field, list(GanConfig.model_fields))
        raise ConfigError(f"{field}: unknown field of the configuration;{hint or ' see --help'}")
    if field in _NOT_SEARCHED:
        raise ConfigError(
            f"{field}: cannot be searched, scores would not compare; set it for all trials under gan"
        )
    if isinstance(given, Distribution):
        return given
    try:
        distribution = Distribution.from_mapping(given)
        values = [canonical(field, value) for value in distribution.arguments]
        return Distribution.from_mapping({distribution.kind: values})
    except ConfigError as error:
        raise ConfigError(f"{field}: {error}") from None


class SweepSpec(Settings):
    """A sweep: a base configuration, the space around it, and how to search it.

    Raises:
        ConfigError: for an unknown field, an invalid value, a distribution that leaves its field's
            bounds, or a space that does not fit the algorithm; in one line.
    """

    name: str = Field(pattern=_NAME_PATTERN, description="Name of the sweep.")
    gan: Annotated[SerializeAsAny[GanConfig], BeforeValidator(_gan_section)] = Field(
        description="The default configuration, which is always trial 0."
    )
    space: Annotated[dict[str, Distribution], BeforeValidator(_space_section)] = Field(
        description="Fields to search, each with its distribution."
    )
    search: SearchSettings = Field(default_factory=SearchSettings)
    scheduler: SchedulerSettings = Field(default_factory=SchedulerSettings)
    resources: Resources = Field(default_factory=Resources)

    @field_serializer("space")
    def _write_space(self, space: dict[str, Distribution]) -> dict[str, Any]:
        return {field: distribution.to_mapping() for field, distribution in space.items()}

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if not self.space:
            raise ConfigError("space is empty: name at least one field to search")
        if self.gan.num_threads not in (1, self.resources.cpus):
            raise ConfigError(
                f"gan.num_threads {self.gan.num_threads}: a trial computes with a thread for each of "
                f"its resources.cpus, {self.resources.cpus}; set that instead"
            )
        self._check_bounds()
        self._check_algorithm()
        return self

    def _check_bounds(self) -> None:
        """Put every end and choice of the space into the configuration once."""
        base = self.gan.model_dump()
        for field, distribution in self.space.items():
            for value in distribution.extremes():
                try:
                    GanConfig.parse({**base, field: value})
                except ConfigError as error:
                    raise ConfigError(f"space: {error}") from None

    def _check_algorithm(self) -> None:
        is_grid = self.search.algorithm == "grid"
        wrong = [
            field
            for field, distribution in self.space.items()
            if (distribution.kind != "grid" and not distribution.is_finite)
            if is_grid
        ] or [
            field
            for field, distribution in self.space.items()
            if distribution.kind == "grid" and not is_grid
        ]
        if wrong and is_grid:
            raise ConfigError(
                f"space.{wrong[0]}: {self.space[wrong[0]].kind} does not go with algorithm grid; "
                "give it as grid or choice, or search with random or tpe"
            )
        if wrong:
            raise ConfigError(
                f"space.{wrong[0]}: grid does not go with algorithm {self.search.algorithm}; "
                "give it as choice, or search with algorithm grid"
            )
        if is_grid and self.search.num_trials is not None:
            raise ConfigError(
                f"search.num_trials {self.search.num_trials} does not go with algorithm grid, "
                f"which tries all {self._grid_size} trials; leave it out"
            )
        if not is_grid and self.search.num_trials is None:
            raise ConfigError(f"search.num_trials is missing; {self.search.algorithm} needs it")

    @property
    def default_values(self) -> dict[str, Any]:
        """The searched fields of the default configuration, which is trial 0."""
        return {field: getattr(self.gan, field) for field in self.space}

    @property
    def num_trials(self) -> int:
        """Trials of the whole sweep, the default configuration included."""
        return self.search.num_trials or self._grid_size

    @property
    def _grid_size(self) -> int:
        default_in_grid = all(
            distribution.contains(self.default_values[field])
            for field, distribution in self.space.items()
        )
        sizes = [len(distribution.extremes()) for distribution in self.space.values()]
        return math.prod(sizes) + (0 if default_in_grid else 1)

    @property
    def grace_period(self) -> int:
        """Reports before a trial may be stopped."""
        chosen = self.scheduler.grace_period or max(2, math.ceil(0.1 * self.gan.num_reports))
        return min(chosen, self.gan.num_reports)


def load_spec(source: str, changes: Mapping[str, Any] | None = None) -> SweepSpec:
    """Load a sweep.

    Args:
        source: The name of a preset, or the path of a YAML file (with a slash or ending in .yaml).
        changes: Values by dotted path into the file, e.g. ``search.num_trials``; a bare name is a
            field of the configuration, e.g. ``num_iterations``.

    Raises:
        ConfigError: if there is no such preset or file, or it does not describe a sweep.
    """
    is_path = "/" in source or source.endswith((".yaml", ".yml"))
    path = Path(source)
    values = read_yaml(path) if is_path else read_preset(source)
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: expected a mapping with name, gan and space")
    for name, value in (changes or {}).items():
        _change(values, name, value)
    try:
        return SweepSpec.parse(values)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def resolve(spec: SweepSpec) -> SweepSpec:
    """Write into a sweep what follows from where it runs: whole paths, a thread for each CPU."""
    gan = with_whole_paths(spec.gan).model_copy(update={"num_threads": spec.resources.cpus})
    return spec.model_copy(update={"gan": gan})


def describe_work(spec: SweepSpec) -> str:
    """Say how many trials a sweep runs and how much it trains at the most."""
    iterations = spec.num_trials * spec.gan.num_iterations
    samples = iterations * spec.gan.disc_steps * spec.gan.batch_size
    text = f"{spec.num_trials} trials of {spec.gan.num_iterations:,} iterations: at most "
    text += f"{iterations:,} iterations, some {samples:,} real samples"
    if spec.scheduler.name == "asha":
        text += f"; weak trials stop from report {spec.grace_period} of {spec.gan.num_reports} on"
    return text


def parse_change(text: str) -> tuple[str, Any]:
    """Split ``field=value``; the value is read as YAML, so ``1e-4`` is a number.

    Raises:
        ConfigError: if there is no ``=`` or the value is no YAML.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {text}: expected field=value, e.g. --set num_iterations=500")
    return name.strip(), parse_yaml(value)


def _change(values: dict[str, Any], name: str, value: object) -> None:
    path = name.replace("-", "_").split(".")
    if path[0] not in SweepSpec.model_fields and len(path) == 1:
        if path[0] not in GanConfig.model_fields:
            hint = nearest(path[0], list(GanConfig.model_fields))
            raise ConfigError(
                f"--set {name}: unknown field of the configuration;{hint} other parts of the sweep "
                "are set by their path, e.g. search.seed=1"
            )
        path.insert(0, "gan")
    for part in path[:-1]:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {name}: {part} holds no fields")
        values = inner
    values[path[-1]] = value
