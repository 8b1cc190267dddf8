"""Train one configuration into a folder of its own: what ``tune-gan train`` runs."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tune_gan.config import GanConfig
from tune_gan.errors import RunFolderError, StorageError, TuneGanError
from tune_gan.files import append_line, write_whole
from tune_gan.gan.album import Album, save_training_gif, write_hyperparameters
from tune_gan.gan.beside import Beside
from tune_gan.gan.checkpoint import FILE_NAME, read_progress
from tune_gan.gan.data import load_data
from tune_gan.gan.models import choose_device
from tune_gan.gan.reports import described, json_metrics, keep_reports_until
from tune_gan.gan.sampling import save_best_samples
from tune_gan.gan.scoring import floor_of, generate, prepare, scorer_of, with_features
from tune_gan.gan.training import Report, ReportState, begin, iterate
from tune_gan.losses_file import LOSSES_FILE, keep_losses_until, write_losses
from tune_gan.metrics.score import NUM_GENERATED, score_latents
from tune_gan.places import with_whole_paths

_NOT_IN_NAME = ("data_root", "weights", "device", "num_threads")
_LONGEST_NAME = 200


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended.

    Attributes:
        folder: Its folder, whose `result.json` holds the rest of this.
        state: ``completed`` or ``diverged``.
        cause: Why it diverged, else empty.
        untrained_fid_proxy: Score before the first step.
        best_fid_proxy: The best report's, the lowest of those that are not degenerate.
        best_iteration: Iteration at which it was reached.
        fid_proxy: Score of the last report.
        iteration: Iteration of the last report.
        time_s: Wall time of training and scoring, in seconds.
        instrument: What the scores were measured with: ``mnist-lenet-v1, N=2000``.
        degenerate: Whether even the best samples are degenerate.
        real_samples: What real training samples score, as `floor_of` returns it.
    """

    folder: Path
    state: str
    cause: str
    untrained_fid_proxy: float
    best_fid_proxy: float
    best_iteration: int
    fid_proxy: float
    iteration: int
    time_s: float
    instrument: str
    degenerate: bool
    real_samples: dict[str, Any]


def train(
    config: GanConfig,
    out: Path | None = None,
    *,
    resume: bool = False,
    on_start: Callable[[int], None] | None = None,
    on_report: Callable[[Report], None] | None = None,
) -> TrainingResult:
    """Train one configuration and write all about it into a folder.

    Written are ``config.yaml`` first; at every report the losses of its iterations in
    ``losses.f32``, a line of ``metrics.jsonl``, a picture in ``grids/``, TensorBoard scalars and, as
    its runs ``real`` and ``fake`` under one tag, samples, and ``checkpoint/``; at the end
    ``samples.png``, from the best generator, ``training.gif``, the hyperparameters for TensorBoard,
    and ``result.json`` last.

    Args:
        config: What to train.
        out: The folder; by default `default_folder`.
        resume: Go on in a folder from its checkpoint, instead of starting in a new one.
        on_start: Called once the data and the score are ready, with the iteration to go on from.
        on_report: Called with every report.

    Returns:
        How the training ended.

    Raises:
        RunFolderError: if the folder exists (without `resume`) or cannot be written.
        DataError: if the data set cannot be loaded.
        CheckpointError: if the checkpoint to go on from is damaged or of another configuration.
    """
    config = with_whole_paths(config)
    folder = (out or default_folder(config)).absolute()
    checkpoint = folder / "checkpoint"
    if resume:
        _require_unfinished(folder)
    else:
        _start_folder(folder, config)
    try:
        config = _with_features(folder, config)
        _train_into(folder, config, on_start, on_report)
    except TuneGanError:
        # Leave nothing behind where nothing was begun.
        if not resume and not (checkpoint / FILE_NAME).is_file():
            shutil.rmtree(folder)
        raise
    save_best_samples(checkpoint, folder / "samples.png")
    save_training_gif(folder)
    progress = read_progress(checkpoint)
    best = min(progress.history, key=lambda scored: scored.place)
    result = TrainingResult(
        folder=folder,
        state=(ReportState.DIVERGED if progress.cause else ReportState.COMPLETED).value,
        cause=progress.cause,
        untrained_fid_proxy=_untrained_score(config),
        best_fid_proxy=best.fid_proxy,
        best_iteration=best.iteration,
        fid_proxy=progress.history[-1].fid_proxy,
        iteration=progress.iteration,
        time_s=progress.time_s,
        instrument=progress.instrument,
        degenerate=best.degenerate,
        real_samples=floor_of(config, NUM_GENERATED),
    )
    write_hyperparameters(folder, config, result.best_fid_proxy, result.fid_proxy)
    values = {name: value for name, value in asdict(result).items() if name != "folder"}
    write_whole(folder / "result.json", json.dumps(values, indent=2) + "\n")
    return result


def _with_features(folder: Path, config: GanConfig) -> GanConfig:
    complete = with_features(config, folder)
    if complete != config:
        write_whole(folder / "config.yaml", complete.to_yaml())
    return complete


def _train_into(
    folder: Path,
    config: GanConfig,
    on_start: Callable[[int], None] | None,
    on_report: Callable[[Report], None] | None,
) -> None:
    checkpoint = folder / "checkpoint"
    choose_device(config.device)
    prepare(config)
    data = load_data(config)
    resumed_at = _forget_later_reports(folder)
    with Album(folder, config, data, resumed_at) as album:
        if not album.has_samples_of(0):
            album.add_samples(album.samples_of(begin(config, data).generator), 0)
        if on_start:
            on_start(resumed_at)
        with Beside(choose_device(config.device)) as beside:
            for report in iterate(config, checkpoint if resumed_at else None, beside.look):
                beside.begin(_writing(folder, report, album))
                if on_report:
                    on_report(report)
            beside.wait()


def _writing(folder: Path, report: Report, album: Album) -> Callable[[], None]:
    """Return what writes a report, with all that it takes of the training as it is now."""
    samples = album.samples_of(report.training.scored_generator)
    snapshot, told = report.training.snapshot(), described(report)

    def write() -> None:
        write_losses(folder / LOSSES_FILE, int(report.metrics["iteration"]), report.losses)
        append_line(folder / "metrics.jsonl", {**json_metrics(report.metrics), **told})
        album.add_report(report, samples)
        snapshot.write(folder / "checkpoint")

    return write


def _untrained_score(config: GanConfig) -> float:
    generator = begin(config, load_data(config)).generator
    return scorer_of(config).score(generate(generator, score_latents(config.latent_dim)))["fid_proxy"]


def default_folder(config: GanConfig) -> Path:
    """Return a folder in ``runs`` whose name says the hyperparameters and the time.

    ``ARCHITECTURE-DATASET-FIELD_VALUE-...-DATE-TIME``, with every field that is not at its default but
    for places and what goes without saying; over 200 characters the last ones are left out.
    """
    name = f"{config.architecture}-{config.dataset}"
    defaults = GanConfig.parse(
        {"architecture": config.architecture, "dataset": config.dataset, "data_root": config.data_root}
    )
    for field, value in config:
        if field not in _NOT_IN_NAME and value != getattr(defaults, field):
            text = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
            part = f"-{field}_{text.replace(':', '')}"
            if len(name) + len(part) > _LONGEST_NAME:
                break
            name += part
    return Path("runs") / f"{name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"


def _start_folder(folder: Path, config: GanConfig) -> None:
    try:
        folder.mkdir(parents=True)
        write_whole(folder / "config.yaml", config.to_yaml())
    except FileExistsError:
        raise RunFolderError(
            f"{folder} exists already; name another with --out, or go on in it with --resume"
        ) from None
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be written ({error.strerror})") from None
    except StorageError as error:
        raise RunFolderError(str(error)) from None


def _require_unfinished(folder: Path) -> None:
    if (folder / "result.json").is_file():
        raise RunFolderError(f"{folder} is complete; there is nothing to resume")


def _forget_later_reports(folder: Path) -> int:
    """Cut reports and losses back to the checkpoint, whose iteration is returned, 0 without one.

    A run that was killed between a report and its checkpoint makes that report again.
    """
    checkpoint = folder / "checkpoint"
    has_checkpoint = (checkpoint / FILE_NAME).is_file()
    iteration = read_progress(checkpoint).iteration if has_checkpoint else 0
    keep_reports_until(folder / "metrics.jsonl", iteration)
    keep_losses_until(folder / LOSSES_FILE, iteration)
    return iteration
