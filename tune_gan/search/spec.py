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
from tune_gan.settings import Settings, nearest, parse_duration, parse_yaml, read_yaml
from tune_gan.space import Constraint, Distribution, default_point, grid_after_default, in_order

_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_LARGEST_GRID = 100_000
# Ray counts a CPU and a GPU in so many parts.
RAY_PARTS = 10_000

# In this order, or the bounds are missing where an error says what is valid.
Seconds = Annotated[float, Field(gt=0, le=1e8), BeforeValidator(parse_duration)]
Objective = Literal["fid_proxy", "samples_per_s", "train_time_s"]


class SearchSettings(Settings):
    """How configurations are chosen."""

    algorithm: Literal["grid", "random", "tpe"] = Field(
        "tpe", description="Every combination, random draws, or Optuna's TPE."
    )
    num_trials: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="Trials, the default configuration included; not with grid."
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Seed of the draws.")
    objectives: list[Objective] = Field(
        ["fid_proxy"],
        min_length=1,
        max_length=2,
        description="fid_proxy, and a second one: samples_per_s (more is better) or train_time_s.",
    )
    warm_start: list[str] = Field([], description="Run folders whose trials TPE learns from, too.")

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Which way is better, for each objective."""
        return ["maximize" if o == "samples_per_s" else "minimize" for o in self.objectives]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.objectives[0] != "fid_proxy" or len(set(self.objectives)) < len(self.objectives):
            raise ConfigError("search.objectives: give fid_proxy, then samples_per_s or train_time_s")
        if self.warm_start and self.algorithm != "tpe":
            raise ConfigError(
                f"search.warm_start does not go with algorithm {self.algorithm}, which learns nothing; "
                "search with tpe"
            )
        return self


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
    brackets: int = Field(
        1, ge=1, le=10, description="ASHA brackets; each further one begins to stop a rung later."
    )


class HealthSettings(Settings):
    """When a trial stops itself because nothing is to be hoped for any more.

    The defaults were measured on 145 random configurations of the ring, none of them stopped
    (tests/benchmarks): these rules would have ended 38 of them, the best of which came to rank 18
    later. At a factor of 2 in two evaluations it would have been 65, one of them later third.
    """

    min_coverage: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Collapsed below this coverage, if it is also under half of the trial's own best: "
        "a generator that still learns has a low coverage, too.",
    )
    min_spread: float = Field(
        0.1, ge=0, le=1, description="Collapsed below this share of the real samples' spread."
    )
    max_score_ratio: Annotated[float, Field(gt=1)] | None = Field(
        3.0, description="Stopped, its best kept, above so many times its own best score; null: never."
    )
    evaluations: int = Field(
        3, ge=1, description="So many in a row, after the grace period, for each of these."
    )


class Budget(Settings):
    """When a sweep ends before its last trial; it can be resumed."""

    time: Seconds | None = Field(
        None, description="Time of one `sweep` or `resume`: 2h, 90m or seconds."
    )
    iterations: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Iterations of all trials together."
    )
    trial_time: Seconds | None = Field(
        None, description="Time of one trial, after which it is stopped."
    )


class FailureSettings(Settings):
    """What happens when a trial crashes."""

    max_failures: int = Field(
        2,
        ge=0,
        le=1000,
        description="Retries, from the last checkpoint, of a trial that crashes without a report "
        "in between.",
    )
    report_timeout: Seconds = Field(
        3600.0, description="A trial that reports nothing for so long is killed, as if it had crashed."
    )


class Confirmation(Settings):
    """What `tune-gan confirm` trains: some configurations of another run with fresh seeds."""

    candidates: dict[int, dict[str, Any]] = Field(
        min_length=1,
        description="By their trial in the other run, the searched fields of the configurations.",
    )
    seeds: list[int] = Field(min_length=1, description="The seeds to train each with.")
    top: int = Field(ge=1, description="How many of the best were asked for.")
    num_ended: int = Field(ge=0, description="Trials of the other run that had ended.")
    num_samples: int = Field(10_000, ge=100, description="Samples of each score.")
    num_latent_seeds: int = Field(3, ge=1, description="Sets of latents to score each with.")

    def name_of(self, number: int) -> str:
        """Name one of its own trials by what it is a training of."""
        seed, candidate = divmod(number, len(self.candidates))
        return f"trial {list(self.candidates)[candidate]} with seed {self.seeds[seed]}"


class Resources(Settings):
    """What each trial takes."""

    cpus: int = Field(1, ge=1, le=1024, description="CPUs of a trial, and its threads.")
    gpus: Annotated[float, Field(ge=0, le=64)] | Literal["auto"] = Field(
        "auto",
        description="GPUs of a trial; 0.25 lets four share one; auto measures how many can share one, "
        "and takes none where there is none.",
    )
    lanes: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        1,
        description="Trials that share these CPUs and GPUs, trained as one batch of models where they "
        "have the same shape; auto measures how many pay.",
    )
    max_concurrent_trials: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Trials at a time; by default as many as CPUs and GPUs allow."
    )

    @property
    def num_gpus(self) -> float:
        """GPUs of a trial; a whole one while ``auto`` has not chosen, for what is tried before."""
        return 1.0 if self.gpus == "auto" else self.gpus


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


def _constraints_section(value: object) -> object:
    return [Constraint.parse(v) for v in value] if isinstance(value, list) else value


def _candidates(value: object) -> object:
    """Take the trial numbers of a JSON or YAML mapping, which may be text."""
    if not isinstance(value, Mapping) or not isinstance(value.get("candidates"), Mapping):
        return value
    try:
        numbered = {int(number): dict(values) for number, values in value["candidates"].items()}
    except (TypeError, ValueError):
        raise ConfigError("candidates takes trial numbers with their fields") from None
    return {**value, "candidates": numbered}


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
        mapping: dict[str, Any] = {distribution.kind: values}
        if distribution.when:
            mapping["when"] = {
                name: [canonical(name, v) for v in vs] for name, vs in distribution.when.items()
            }
        return Distribution.from_mapping(mapping)
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
    constraints: Annotated[list[Constraint], BeforeValidator(_constraints_section)] = Field(
        [], description="Comparisons that every trial fulfils, e.g. disc_lr >= gen_lr."
    )
    search: SearchSettings = Field(default_factory=SearchSettings)
    scheduler: SchedulerSettings = Field(default_factory=SchedulerSettings)
    health: HealthSettings = Field(default_factory=HealthSettings)
    budget: Budget = Field(default_factory=Budget)
    failures: FailureSettings = Field(default_factory=FailureSettings)
    resources: Resources = Field(default_factory=Resources)
    keep_checkpoints: int = Field(
        5, ge=1, description="Trials of the run whose checkpoints are kept: the best, once they ended."
    )
    tracker: Literal["none", "mlflow", "wandb"] = Field(
        "none", description="Experiment tracker that is told of every trial."
    )
    confirmation: Annotated[Confirmation, BeforeValidator(_candidates)] | None = None

    @field_serializer("space")
    def _write_space(self, space: dict[str, Distribution]) -> dict[str, Any]:
        return {field: distribution.to_mapping() for field, distribution in space.items()}

    @field_serializer("constraints")
    def _write_constraints(self, constraints: list[Constraint]) -> list[str]:
        return [str(constraint) for constraint in constraints]

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if not self.space:
            raise ConfigError("space is empty: name at least one field to search")
        self._check_conditions()
        self._check_constraints()
        if self.gan.num_threads not in (1, self.resources.cpus):
            raise ConfigError(
                f"gan.num_threads {self.gan.num_threads}: a trial computes with a thread for each of "
                f"its resources.cpus, {self.resources.cpus}; set that instead"
            )
        self._check_gpus()
        self._check_bounds()
        self._check_lanes()
        self._check_algorithm()
        return self

    def _check_conditions(self) -> None:
        in_order(self.space)
        for field, distribution in self.space.items():
            for name, values in distribution.when.items():
                never = [value for value in values if not self.space[name].contains(value)]
                if never:
                    raise ConfigError(f"space.{field}.when: {name} never is {never[0]!r}")

    def _check_constraints(self) -> None:
        values = self.gan.model_dump()
        for constraint in self.constraints:
            for field in constraint.fields:
                if isinstance(values.get(field), bool) or not isinstance(
                    values.get(field), int | float
                ):
                    hint = "" if field in values else nearest(field, list(GanConfig.model_fields))
                    raise ConfigError(
                        f"constraints: {constraint}: {field} is no number field{hint and ';' + hint}"
                    )
            if not set(constraint.fields) & set(self.space):
                raise ConfigError(f"constraints: {constraint}: none of its fields is searched")
            if not constraint.holds(values):
                given = ", ".join(f"{field} {values[field]}" for field in constraint.fields)
                raise ConfigError(
                    f"constraints: the default configuration does not fulfil {constraint} ({given}); "
                    "change it under gan"
                )

    def allows(self, point: Mapping[str, Any]) -> bool:
        """Return whether a point of the space fulfils the constraints."""
        values = {**self.gan.model_dump(), **point}
        return all(constraint.holds(values) for constraint in self.constraints)

    def _check_bounds(self) -> None:
        """Put every end and choice of the space into the configuration once."""
        base, default = self.gan.model_dump(), self.default_point
        for field, distribution in self.space.items():
            for value in (*distribution.extremes(), *distribution.between()):
                # With what is searched only where this field has this value.
                point: dict[str, Any] = {}
                for name in in_order(self.space):
                    if name == field:
                        point[name] = value
                    elif self.space[name].is_active(point):
                        point[name] = default.get(name, self.space[name].extremes()[0])
                try:
                    GanConfig.parse({**base, **point})
                except ConfigError as error:
                    raise ConfigError(f"space: {error}") from None

    def _check_gpus(self) -> None:
        """Refuse what Ray cannot give a trial."""
        gpus = self.resources.num_gpus
        if 0 < gpus * RAY_PARTS < 1:
            raise ConfigError(f"resources.gpus {gpus:g}: the least share of a GPU is {1 / RAY_PARTS:g}")
        if gpus > 1 and gpus % 1:
            raise ConfigError(
                f"resources.gpus {gpus:g}: above 1 only whole GPUs can be given; set "
                f"{math.floor(gpus)} or {math.ceil(gpus)}"
            )

    def require_device(self) -> None:
        """Refuse a device that trials would not have with their GPUs.

        Of a sweep that begins: earlier versions began others, which must still be read.

        Raises:
            ConfigError: with what to set instead.
        """
        gpus, device = self.resources.num_gpus, self.gan.device
        if device == "auto" or (device == "cpu" and self.resources.gpus in (0, "auto")):
            return
        if device == "cpu":
            raise ConfigError(
                f"gan.device cpu: resources.gpus is {gpus:g}, but a trial on a CPU takes no GPU; leave "
                "one of them out"
            )
        if gpus == 0:
            raise ConfigError(
                f"gan.device {device}: resources.gpus is 0, which gives a trial no GPU; leave one of "
                "them out"
            )
        index, most = int(device.partition(":")[2] or 0), math.ceil(gpus)
        if index >= most:
            given = f"its {most} GPUs, cuda:0 to cuda:{most - 1}" if most > 1 else "one GPU, cuda:0"
            raise ConfigError(
                f"gan.device {device}: Ray shows a trial {given}, whichever those of the machine are; "
                "set cuda"
            )

    def _check_lanes(self) -> None:
        searched = self.space.get("spectral_norm")
        may_be = self.gan.spectral_norm or (searched is not None and True in searched.extremes())
        if may_be and self.resources.lanes not in (1, "auto"):
            raise ConfigError(
                f"resources.lanes {self.resources.lanes}: networks with spectral_norm are trained one "
                "by one; leave lanes out"
            )

    def _check_algorithm(self) -> None:
        if self.confirmation is not None:
            return
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
        size = math.prod(len(distribution.extremes()) for distribution in self.space.values())
        if is_grid and size > _LARGEST_GRID:
            raise ConfigError(f"the grid has {size:,} points, more than {_LARGEST_GRID:,}; use random")
        if is_grid and self.search.num_trials is not None:
            raise ConfigError(
                f"search.num_trials {self.search.num_trials} does not go with algorithm grid, "
                f"which tries all {len(self.given_points())} trials; leave it out"
            )
        if not is_grid and self.search.num_trials is None:
            raise ConfigError(f"search.num_trials is missing; {self.search.algorithm} needs it")

    @property
    def default_point(self) -> dict[str, Any]:
        """The searched fields of the default configuration, as a point of the space."""
        return default_point(self.space, self.gan.model_dump())

    def given_points(self) -> list[dict[str, Any]]:
        """Return the points that are not drawn: the default, a grid, or all of a confirmation."""
        if self.confirmation is not None:
            candidates = self.confirmation.candidates.values()
            return [{**point, "seed": seed} for seed in self.confirmation.seeds for point in candidates]
        if self.search.algorithm == "grid":
            return grid_after_default(self.space, self.constraints, self.gan.model_dump())
        return [self.default_point]

    @property
    def num_trials(self) -> int:
        """Trials of the whole sweep, the default configuration included."""
        if self.search.num_trials is None or self.confirmation is not None:
            return len(self.given_points())
        return self.search.num_trials

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
        spec = SweepSpec.parse(values)
        spec.require_device()
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    return spec


def resolve(spec: SweepSpec) -> SweepSpec:
    """Write into a sweep what follows from where it runs and what it takes.

    These are whole paths, a thread for each CPU, and the CPU as the device where trials have no GPU.
    """
    gan = with_whole_paths(spec.gan).model_copy(update={"num_threads": spec.resources.cpus})
    if spec.resources.gpus == 0:
        gan = gan.model_copy(update={"device": "cpu"})
    warm_start = [str(Path(run).absolute()) for run in spec.search.warm_start]
    search = spec.search.model_copy(update={"warm_start": warm_start})
    return spec.model_copy(update={"gan": gan, "search": search})


def describe_work(spec: SweepSpec) -> str:
    """Say how many trials a sweep runs and how much it trains at the most."""
    iterations = spec.num_trials * spec.gan.num_iterations
    samples = iterations * spec.gan.disc_steps * spec.gan.batch_size
    text = f"{spec.num_trials} trials of {spec.gan.num_iterations:,} iterations: at most "
    text += f"{iterations:,} iterations, some {samples:,} real samples"
    if spec.scheduler.name == "asha":
        grace_period, reports = spec.grace_period, spec.gan.num_reports
        text += (
            f"; weak trials stop from report {grace_period} of {reports} on"
            if grace_period < reports
            else f"; no trial stops early, with {reports} report{'s' * (reports > 1)}"
        )
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
