"""The command line: parse and dispatch. Torch, ray and pandas are imported inside the commands."""

import inspect
import logging
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.exceptions import TyperException

from tune_gan import __version__, places
from tune_gan.config import OTHER_NAMES, GanConfig
from tune_gan.errors import ConfigError, StorageError, TuneGanError
from tune_gan.files import require_writable
from tune_gan.settings import parse_yaml, read_yaml

if TYPE_CHECKING:
    from tune_gan.submission.submit import Request

_INTERRUPTED = 130
_WATCH_PERIOD_S = 15
_LOOK_AGAIN_S = 0.1
_TARGETS = ("slurm", "ray", "kubernetes")

app = typer.Typer(
    name="tune-gan",
    help="Hyperparameter search for generative adversarial networks, on Ray Tune.",
    epilog="Start with: tune-gan sweep digits",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # --gen_lr is --gen-lr.
        "token_normalize_func": lambda flag: flag.replace("_", "-"),
    },
)

RunArgument = Annotated[Path, typer.Argument(help="The folder of a sweep.", show_default=False)]
RunsArgument = Annotated[
    list[Path], typer.Argument(help="The folders of sweeps.", show_default=False, metavar="RUN...")
]
FormatOption = Annotated[
    str, typer.Option("--format", metavar="FORM", help="table, csv, json, markdown or parquet.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DownloadOption = Annotated[
    bool,
    typer.Option(
        "--download",
        help="First fetch MNIST, Fashion-MNIST or a folder's ImageNet weights, if missing.",
    ),
]
TimeBudgetOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="End after this time: 2h, 90m, 1h30m or seconds.")
]
IterationsOption = Annotated[
    str | None, typer.Option(metavar="N", help="End after so many iterations of all trials together.")
]
NumTrialsOption = Annotated[str | None, typer.Option(metavar="N", help="Trials, the default included.")]
DataRootOption = Annotated[
    str | None, typer.Option(help="Folder with the MNIST or Fashion-MNIST files, or of images.")
]
ChangesOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Change a field or a part of the sweep."),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="Run on this Ray, or auto for this machine's; as RAY_ADDRESS."
    ),
]
NodesOption = Annotated[
    int, typer.Option(metavar="N", min=1, help="Wait for so many nodes of a Ray cluster to be there.")
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Stop where a folder holds a bad image, rather than skip it.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tune-gan {__version__}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Hyperparameter search for generative adversarial networks, on Ray Tune."""


def main() -> None:
    """Run the command line: exit with 0 done, 1 failed, 2 wrong input, 130 interrupted."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("tune_gan").setLevel(logging.INFO)
    warnings.simplefilter("ignore")
    # Where a shell has it ignored, it stays so.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)
    # What a cluster or a system ends in order is kept as what a person ends with Ctrl-C.
    for ending in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(ending, _end)
    try:
        exit_code = app(standalone_mode=False) or 0
        # Typer catches an interrupt that comes before a command is at work.
        if exit_code == _INTERRUPTED:
            raise KeyboardInterrupt
        _leave(exit_code)
    except TyperException as error:
        # Without a command the help has been printed and there is nothing to add.
        if message := error.format_message():
            _fail(f"{message} (see --help)", error.exit_code)
        sys.exit(error.exit_code)
    except TuneGanError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            sys.exit(0)
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}", TuneGanError.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", _INTERRUPTED)


def _end(signum: int, frame: FrameType | None) -> None:
    """Do what Ctrl-C does now, also where a shell has that ignored, which is in its background."""
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler):
        handler(signal.SIGINT, frame)
    else:
        _interrupt(signum, frame)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but never amid an import.

    C++ code that imports Python's aborts the process where that raises, which torch's does.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            # To the main thread, or what it waits for would not be interrupted.
            main_thread = threading.main_thread().ident
            again = threading.Timer(_LOOK_AGAIN_S, signal.pthread_kill, [main_thread, signum])
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _fail(message: str, exit_code: int) -> NoReturn:
    print(f"tune-gan: {message}", file=sys.stderr)
    _leave(exit_code)


def _leave(exit_code: int) -> NoReturn:
    """Exit; all is said, and Python's own end is not to be broken into."""
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(ending, signal.SIG_IGN)
    sys.exit(exit_code)


def _with_config_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, in place of its ``**flags``, an option for every field of `GanConfig`.

    Each takes text, which is read as a value in a YAML file would be.
    """
    parameters = list(inspect.signature(command).parameters.values())[:-1]
    for name, field in GanConfig.model_fields.items():
        default = field.get_default()
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        others = OTHER_NAMES.get(name, ())
        option = typer.Option(
            *(f"--{flag.replace('_', '-')}" for flag in (name, *others)),
            help=f"{field.description} Takes {GanConfig.valid_values(name)}."
            + ("" if shown is None else f" Default {shown}.")
            + (f" Also called {', '.join(others)}." if others else ""),
            metavar="VALUE",
            show_default=False,
            rich_help_panel="Configuration",
        )
        annotation = Annotated[str | None, option]
        command.__annotations__[name] = annotation
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, kind, default=None, annotation=annotation))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


@app.command()
@_with_config_flags
def train(
    preset: Annotated[str | None, typer.Option(help="Start from this preset's configuration.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Start from this YAML file, e.g. what `best` printed.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write, by default one in runs, named by its hyperparameters."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on in this folder, where a training was interrupted.")
    ] = None,
    show_samples: Annotated[
        bool,
        typer.Option(
            "--show-samples", help="Draw samples at every report, which a terminal gets anyway."
        ),
    ] = False,
    strict: StrictOption = False,
    download: DownloadOption = False,
    **flags: str | None,
) -> None:
    """Train one configuration and write its folder.

    The folder gets config.yaml, metrics.jsonl, TensorBoard events, grids/, samples.png,
    training.gif, checkpoint/ and result.json. The flags below override --preset or --config,
    which override the defaults.
    """
    values = {
        name: text if GanConfig.takes_text(name) else parse_yaml(text)
        for name, text in flags.items()
        if text is not None
    }
    if resume is not None:
        if set(values) - {"data_root", "weights"} or preset or config or out:
            raise ConfigError(
                "--resume goes on with its own configuration; "
                "beside it only --data-root and --weights may say where these lie now"
            )
        saved = GanConfig.from_yaml(resume / "config.yaml")
        gan = GanConfig.parse({**saved.model_dump(), **values})
    else:
        gan = _configuration(preset, config, values)
    from tune_gan.gan.progress import TrainingProgress
    from tune_gan.gan.run_folder import default_folder
    from tune_gan.gan.run_folder import train as train_into
    from tune_gan.results.floor import Floor

    _prepare_data(gan, download, strict)
    folder = (resume or out or default_folder(gan)).absolute()
    output = Console()
    samples = output if show_samples or output.is_terminal else None
    try:
        with TrainingProgress(gan, Console(stderr=True), samples) as progress:
            result = train_into(
                gan,
                folder,
                resume=resume is not None,
                on_start=progress.start,
                on_report=progress.show,
            )
    except KeyboardInterrupt:
        if (folder / "config.yaml").is_file():
            command = f"tune-gan train --resume {shlex.quote(str(folder))}"
            _fail(f"interrupted; what was reported is saved, go on with: {command}", _INTERRUPTED)
        raise
    print(f"{result.state} at iteration {result.iteration} in {result.time_s:.0f} s")
    print(
        f"fid_proxy {result.untrained_fid_proxy:.4g} untrained, {result.fid_proxy:.4g} now, "
        f"best {result.best_fid_proxy:.4g} at iteration {result.best_iteration}"
        + (", degenerate: samples that repeat a few or are all but of one class" * result.degenerate)
    )
    print(Floor(**result.real_samples).describe())
    print(f"folder {folder}")
    print(f"samples {folder / 'samples.png'}")
    print(f"training as pictures {folder / 'training.gif'}")
    if result.cause:
        raise TuneGanError(f"the training diverged at iteration {result.iteration}: {result.cause}")


@app.command()
def sweep(
    spec: Annotated[str, typer.Argument(help="A preset's name, or a YAML file.", show_default=False)],
    num_trials: NumTrialsOption = None,
    seed: Annotated[str | None, typer.Option(metavar="N", help="Seed of the draws.")] = None,
    data_root: DataRootOption = None,
    changes: ChangesOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write, by default runs/NAME-DATE-TIME.")
    ] = None,
    warm_start: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Let TPE learn from this run, too; may be given repeatedly."),
    ] = None,
    time_budget: TimeBudgetOption = None,
    max_iterations_total: IterationsOption = None,
    tracker: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Tell mlflow or wandb of every trial; install it first."),
    ] = None,
    strict: StrictOption = False,
    download: DownloadOption = False,
    address: AddressOption = None,
    min_nodes: NodesOption = 1,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the resolved sweep and what it takes; start nothing."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Search a space of configurations and rank them.

    The default configuration is always trial 0. --set takes a field of the configuration
    (num_iterations=500) or a path into the sweep (scheduler.name=none, space={...}).
    """
    from tune_gan.search.spec import describe_work, load_spec, resolve

    given = _changes(changes, num_trials, data_root)
    if seed is not None:
        given["search.seed"] = parse_yaml(seed)
    if warm_start:
        given["search.warm_start"] = [str(run) for run in warm_start]
    if tracker is not None:
        given["tracker"] = tracker
    if time_budget is not None:
        given["budget.time"] = time_budget
    if max_iterations_total is not None:
        given["budget.iterations"] = parse_yaml(max_iterations_total)
    loaded = resolve(load_spec(spec, given))
    if dry_run:
        from tune_gan.search.checks import check_sweep
        from tune_gan.search.disk import describe_disk

        warm_trials = check_sweep(loaded)
        print(loaded.to_yaml(), end="")
        print(f"# {describe_work(loaded)}")
        if warm_trials:
            print(f"# TPE learns from {len(warm_trials)} trials of other runs")
        print(f"# {describe_disk(loaded)}")
        return
    from tune_gan.search.tuner import default_run_folder, start_sweep

    _prepare_data(loaded.gan, download, strict)
    folder = (out or default_run_folder(loaded)).absolute()
    with _resumable(folder):
        end = start_sweep(loaded, folder, address=address, min_nodes=min_nodes)
        _conclude(end.folder, end.num_left, end.budget, as_json)


@app.command()
def resume(
    run: RunArgument,
    num_trials: Annotated[
        str | None,
        typer.Option(metavar="N", help="Run so many trials in all, more than the sweep has."),
    ] = None,
    time_budget: TimeBudgetOption = None,
    max_iterations_total: IterationsOption = None,
    data_root: Annotated[
        str | None, typer.Option(help="Where the data lie now, if they were moved.")
    ] = None,
    address: AddressOption = None,
    min_nodes: NodesOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Go on with a sweep that was stopped or killed, or run more trials of one that has ended.

    Trials that have ended stay; those that were interrupted go on from their checkpoints.
    """
    given: dict[str, Any] = {"data_root": data_root, "time_budget": time_budget}
    numbers = {"num_trials": num_trials, "max_iterations_total": max_iterations_total}
    given |= {name: parse_yaml(text) for name, text in numbers.items() if text is not None}
    changes = {name: value for name, value in given.items() if value is not None}
    from tune_gan.search.lock import require_free

    # Before Ray and torch are loaded, which takes seconds.
    require_free(run)
    from tune_gan.search.tuner import resume_sweep

    folder = run.absolute()
    with _resumable(folder):
        end = resume_sweep(folder, changes, address=address, min_nodes=min_nodes)
        if not end.num_resumed:
            print("nothing is left to do; --num-trials N runs more", file=sys.stderr)
        _conclude(end.folder, end.num_left, end.budget, as_json)


def _changes(
    changes: list[str] | None, num_trials: str | None, data_root: str | None
) -> dict[str, Any]:
    """Return what flags change in a sweep, by dotted path."""
    from tune_gan.search.spec import parse_change

    given = dict(parse_change(change) for change in changes or [])
    if num_trials is not None:
        given["search.num_trials"] = parse_yaml(num_trials)
    if data_root is not None:
        given["gan.data_root"] = data_root
    return given


@app.command()
def submit(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SPEC",
            help="A preset's name, a YAML file, or a run to go on with.",
            show_default=False,
        ),
    ],
    to: Annotated[
        str, typer.Option(metavar="WHERE", help="slurm, ray or kubernetes.", show_default=False)
    ],
    site: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="YAML file that says what a job asks of slurm or kubernetes."
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where a ray cluster takes jobs: http://HOST:8265."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder to write, a whole path on a file system that all nodes share."),
    ] = None,
    num_trials: NumTrialsOption = None,
    data_root: DataRootOption = None,
    changes: ChangesOption = None,
    requeue_until_done: Annotated[
        bool,
        typer.Option(
            "--requeue-until-done", help="At a job's time limit go on in a new one, to the last trial."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be submitted; submit nothing.")
    ] = False,
) -> None:
    """Send a sweep, or a run to go on with, to a cluster."""
    if to not in _TARGETS:
        raise ConfigError(f"--to takes one of {', '.join(_TARGETS)}, not {to!r}")
    if requeue_until_done and to != "slurm":
        raise ConfigError("--requeue-until-done goes with slurm; on kubernetes see retries")
    from tune_gan.submission.submit import read_request

    request = read_request(
        source, _changes(changes, num_trials, data_root), out, is_elsewhere=to != "slurm"
    )
    if to == "ray":
        if site is not None:
            raise ConfigError("--site goes with slurm and kubernetes; a ray cluster has its --address")
        _submit_to_ray(request, address, dry_run)
        return
    if address is not None:
        raise ConfigError(f"--address goes with ray; what {to} is asked for is in the --site file")
    if site is None:
        raise ConfigError("--site is missing; a site file says what a job asks for, as in cluster/")
    if to == "kubernetes":
        _submit_to_kubernetes(request, site, dry_run)
    else:
        _submit_to_slurm(request, site, requeue_until_done, dry_run)


def _submit_to_ray(request: "Request", address: str | None, dry_run: bool) -> None:
    from tune_gan.submission.submit import ray_job, submit_to_ray

    if dry_run:
        print(ray_job(request), end="")
        return
    if address is None:
        raise ConfigError("--address is missing; give where the cluster takes jobs, http://HOST:8265")
    raise SystemExit(submit_to_ray(request, address, partial(print, end="", flush=True)))


def _submit_to_kubernetes(request: "Request", site: Path, dry_run: bool) -> None:
    from tune_gan.submission.kubernetes import apply
    from tune_gan.submission.site import KubernetesSite
    from tune_gan.submission.submit import kubernetes_manifest

    job = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    manifest = kubernetes_manifest(request, KubernetesSite.from_yaml(site), job)
    if dry_run:
        print(manifest, end="")
        return
    apply(manifest)
    print(f"watch it with: kubectl get rayjob, or tune-gan status {request.run} where that is seen")


def _submit_to_slurm(request: "Request", site: Path, requeue: bool, dry_run: bool) -> None:
    from tune_gan.submission.site import SlurmSite
    from tune_gan.submission.submit import slurm_script, submit_to_slurm

    slurm_site = SlurmSite.from_yaml(site)
    if dry_run:
        print(slurm_script(request, slurm_site, requeue), end="")
        return
    for line in submit_to_slurm(request, slurm_site, requeue):
        print(line)


@app.command()
def confirm(
    run: RunArgument,
    top: Annotated[
        int, typer.Option(metavar="N", min=1, max=1000, help="So many of the best, and the default.")
    ] = 5,
    seeds: Annotated[
        int, typer.Option(metavar="N", min=2, max=1000, help="Trainings of each, with fresh seeds.")
    ] = 5,
    as_json: JsonOption = False,
) -> None:
    """Train the best configurations and the default with fresh seeds, and say how sure the best is.

    Each is scored with 10,000 samples of three sets of latents. Given again after a stop, it goes on.
    """
    from tune_gan.search.confirm import confirm as confirm_run

    folder = run.absolute()
    command = f"tune-gan confirm {shlex.quote(str(folder))} --top {top} --seeds {seeds}"
    with _resumable(folder, command):
        end = confirm_run(folder, top, seeds)
        from tune_gan.results.confirmed import load_confirmation
        from tune_gan.results.show import print_confirmation

        confirmed = load_confirmation(folder)
        assert confirmed is not None
        print_confirmation(confirmed, as_json)
        if end.num_left:
            raise KeyboardInterrupt
        from tune_gan.search.conclusion import write_best

        write_best(folder)


@contextmanager
def _resumable(folder: Path, command: str = "") -> Iterator[None]:
    """Say how to go on where a sweep ends too early."""
    command = command or f"tune-gan resume {shlex.quote(str(folder))}"
    try:
        yield
    except StorageError as error:
        if (folder / "sweep.yaml").is_file():
            raise StorageError(f"{error}; what was trained is kept, go on with: {command}") from None
        raise
    except KeyboardInterrupt:
        if (folder / "sweep.yaml").is_file():
            _fail(f"interrupted; what was trained is kept, go on with: {command}", _INTERRUPTED)
        raise


def _conclude(folder: Path, num_left: int, budget: str, as_json: bool) -> None:
    from tune_gan.search.conclusion import conclude

    conclude(folder, as_json)
    command = f"tune-gan resume {shlex.quote(str(folder))}"
    if budget:
        if "iterations" in budget:
            command += " --max-iterations-total N, with a greater N"
        print(
            f"tune-gan: {num_left} trials are left, since the budget is spent: {budget}; "
            f"go on with: {command}",
            file=sys.stderr,
        )
    elif num_left:
        raise KeyboardInterrupt


@app.command()
def rank(
    runs: RunsArgument,
    rule: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="best: the lowest score of a trial; last; mean-of-last-K: of its last K reports; "
            "common-budget: the lowest up to the iteration that all have reached; "
            "confirmed: the mean over the seeds of `confirm`.",
        ),
    ] = "best",
    where: Annotated[
        str | None,
        typer.Option(
            metavar="CONDITION",
            help="Only trials for which this holds: 'best_fid_proxy < 10 and state == \"completed\"'.",
        ),
    ] = None,
    form: FormatOption = "table",
    as_json: JsonOption = False,
) -> None:
    """Rank the trials of a sweep, or of several together, also while they run."""
    from tune_gan.results.floor import read_floor
    from tune_gan.results.formats import Format
    from tune_gan.results.rules import Rule, rank_runs
    from tune_gan.results.show import print_gain, print_ranking

    chosen, parsed = Format.parse(form, as_json), Rule.parse(rule)
    ranked = rank_runs(runs, parsed, where)
    if ranked.empty and where is not None:
        print(f"no trial fulfils {where!r}", file=sys.stderr)
    print_ranking(ranked, chosen, read_floor(runs[0]))
    if chosen == Format.TABLE and len(runs) == 1 and where is None:
        print_gain(ranked)


@app.command()
def status(run: RunArgument, as_json: JsonOption = False) -> None:
    """Say how far a sweep has come, and who is at work on it."""
    from tune_gan.results.show import print_status
    from tune_gan.search.lock import held_since, holder

    print_status(run, holder(run), held_since(run), as_json)


@app.command()
def best(run: RunArgument) -> None:
    """Print the best trial's configuration as YAML for `train --config`."""
    from tune_gan.results.show import best_yaml

    print(best_yaml(run), end="")


@app.command()
def importance(
    runs: RunsArgument,
    method: Annotated[
        str, typer.Option(metavar="METHOD", help="ped-anova (of the best tenth) or fanova (of all).")
    ] = "ped-anova",
    form: FormatOption = "table",
    as_json: JsonOption = False,
) -> None:
    """Say which hyperparameters mattered, alone and in pairs, and which no more than noise.

    Several runs must search one space. Under 30 trials it says nothing, since that would be guessing.
    """
    from tune_gan.results.answers import print_importance
    from tune_gan.results.formats import Format

    print_importance(runs, method, Format.parse(form, as_json))


@app.command()
def compare(
    runs: RunsArgument,
    by: Annotated[
        str,
        typer.Option(
            metavar="COST",
            help="iterations or seconds; or trials, for the score to expect of so many.",
        ),
    ] = "iterations",
    form: FormatOption = "table",
    as_json: JsonOption = False,
) -> None:
    """Compare the best scores of sweeps at equal cost.

    Runs whose sweeps differ by their seed alone are repeats of one: these get an interquartile mean
    and its interval.
    """
    from tune_gan.results.answers import print_comparison
    from tune_gan.results.formats import Format

    print_comparison(runs, by, Format.parse(form, as_json))


@app.command()
def curves(
    run: Annotated[
        Path,
        typer.Argument(
            help="The folder of a sweep, or with --losses of one training.", show_default=False
        ),
    ],
    reports: Annotated[
        bool, typer.Option("--reports", help="Print the score of every report of every trial instead.")
    ] = False,
    losses: Annotated[
        bool,
        typer.Option(
            "--losses",
            help="Print gen_loss, disc_loss, disc_real and disc_fake of every iteration of every trial "
            "instead; as a table of up to 20 iterations of a trial.",
        ),
    ] = False,
    form: FormatOption = "table",
    as_json: JsonOption = False,
) -> None:
    """Say whether early stopping was right: how early scores agreed with the final ones."""
    from tune_gan.results.answers import print_curves, print_learning_curves, print_losses
    from tune_gan.results.formats import Format

    if losses and reports:
        raise ConfigError("--losses and --reports ask for two tables; choose one")
    chosen = Format.parse(form, as_json)
    if losses:
        print_losses(run, chosen)
    elif reports:
        print_learning_curves(run, chosen)
    else:
        print_curves(run, chosen)


@app.command()
def seeds(run: RunArgument, form: FormatOption = "table", as_json: JsonOption = False) -> None:
    """Say how much of a score is the seed's, after `confirm`."""
    from tune_gan.results.answers import print_seeds
    from tune_gan.results.formats import Format

    print_seeds(run, Format.parse(form, as_json))


@app.command()
def report(
    run: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="HTML file to write, by default RUN/report.html."),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Write it again every 15 seconds while the sweep runs."),
    ] = False,
) -> None:
    """Write a report of a sweep, finished or not, as one HTML file that needs nothing else.

    Its numbers go into a .json file beside it.
    """
    from tune_gan.results.report.page import write_report
    from tune_gan.search.lock import holder

    is_first = True
    while True:
        is_live = watch and holder(run) is not None
        written = write_report(run, out, refresh_s=_WATCH_PERIOD_S if is_live else None)
        if is_first and watch:
            how_long = f"every {_WATCH_PERIOD_S} s until the sweep ends, or Ctrl-C"
            when = how_long if is_live else "once, since no sweep is at work on it"
            print(f"tune-gan: written {when}", file=sys.stderr)
        if is_first:
            print(written.page, flush=True)
        if not is_live:
            print(written.numbers)
            return
        is_first = False
        time.sleep(_WATCH_PERIOD_S)


@app.command()
def sample(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="The folder of a training, a trial, or a sweep, whose best trial it is then.",
            show_default=False,
        ),
    ],
    num_samples: Annotated[
        int, typer.Option("--num-samples", "-n", metavar="N", min=1, max=100_000, help="How many.")
    ] = 64,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Picture to write, by default samples.png without --npz."),
    ] = None,
    npz: Annotated[
        Path | None,
        typer.Option(help="NumPy file to write: arr_0, uint8 (N, H, W, C), or float32 points (N, 2)."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the latents.")] = 0,
) -> None:
    """Draw samples of the best generator of a training, a trial or a sweep."""
    if out is None and npz is None:
        out = Path("samples.png")
    for file in (out, npz):
        if file is not None:
            require_writable(file)
    if (checkpoint / "sweep.yaml").is_file():
        from tune_gan.results.ranking import best_trial_folder

        checkpoint = best_trial_folder(checkpoint)
    from tune_gan.gan.sampling import save_samples

    for file in save_samples(checkpoint, num_samples, seed, picture_file=out, npz_file=npz):
        print(file)


@app.command()
def score(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="The folder of a training, a trial, or a sweep, whose best trial it is then.",
            show_default=False,
        ),
    ],
    metrics: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Of fid_proxy, kid, coverage, density, distinct, class_entropy, spread, radial_error, "
            "sector_coverage, and fid, that of papers.",
        ),
    ] = "fid_proxy,kid,coverage",
    num_samples: Annotated[
        int, typer.Option("--num-samples", "-n", metavar="N", min=100, max=10_000, help="How many.")
    ] = 10_000,
    weights: Annotated[
        Path | None,
        typer.Option(help="File with the Inception weights for fid, by default that in torch's cache."),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Where the data lie now, if they were moved.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the best generator of a training, a trial or a sweep.

    It is measured against the held-out samples, with latents that did not choose it. fid is the
    Frechet inception distance of papers, by torch-fidelity: a tenth of a second an image on a CPU.
    """
    from tune_gan.gan.evaluation import evaluate, parse_metrics

    names = parse_metrics(metrics)
    if weights is not None and "fid" not in names:
        raise ConfigError(f"--weights goes with the metric fid, not {metrics}; add it, or leave it out")
    if (checkpoint / "sweep.yaml").is_file():
        from tune_gan.results.ranking import best_trial_folder

        checkpoint = best_trial_folder(checkpoint)
    measured = evaluate(checkpoint, names, num_samples, data_root=data_root, weights=weights)
    from tune_gan.results.show import print_measurements

    print_measurements(measured, as_json)


presets_app = typer.Typer(help="The sweeps that ship, and their configurations.", add_completion=False)
app.add_typer(presets_app, name="presets")


@presets_app.callback(invoke_without_command=True)
def list_presets(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the sweeps that ship; each is also a configuration for `train --preset`."""
    from tune_gan.presets import print_presets

    if context.invoked_subcommand is None:
        print_presets(as_json)


@presets_app.command("show")
def show_preset(name: Annotated[str, typer.Argument(help="The preset.", show_default=False)]) -> None:
    """Print a preset's YAML file, to begin a sweep of your own with."""
    from tune_gan.presets import preset_text

    print(preset_text(name), end="")


def _prepare_data(gan: GanConfig, download: bool, strict: bool) -> None:
    """Fetch what is missing, and refuse a folder with a bad image where that is asked for."""
    if strict and gan.dataset != "folder":
        raise ConfigError(f"--strict goes with dataset folder, not {gan.dataset}")
    root = places.data_root(gan.data_root)
    if download:
        from tune_gan.gan.data import download as fetch

        if not gan.labelled:
            fetch(gan.dataset, root)
    if strict:
        from tune_gan.gan.folder import load_folder

        assert gan.image_size is not None
        load_folder(root, gan.image_size, strict=True)


def _configuration(preset: str | None, config: Path | None, values: dict[str, Any]) -> GanConfig:
    from tune_gan.presets import resolve_gan

    if preset and config:
        raise ConfigError("--preset and --config each give a whole configuration; choose one")
    base: Any = read_yaml(config) if config else {}
    if not isinstance(base, dict):
        raise ConfigError(f"{config}: expected a mapping of fields to values")
    if {"gan", "space"} <= set(base):
        raise ConfigError(
            f"{config} is a sweep; run it with `tune-gan sweep`, or train its gan section"
        )
    if preset:
        base = {"preset": preset}
    return resolve_gan({**base, **values})
