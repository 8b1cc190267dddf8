"""What a training shows of itself while it runs: pictures in ``grids/``, and TensorBoard."""

from pathlib import Path
from typing import Self

from torch import nn
from torch.utils.tensorboard import SummaryWriter

from tune_gan.config import GanConfig
from tune_gan.gan.data import Dataset, resize
from tune_gan.gan.pictures import picture, picture_tensor, save_gif
from tune_gan.gan.scoring import generate
from tune_gan.gan.training import Report
from tune_gan.metrics.score import score_latents

_NUM_IN_GRID = 25
_NUM_IN_TENSORBOARD = 64
_SIDE = 320  # Twice that would take four times as long to pack, longer than the score.
_GRID_NAME = "iteration_"


class Album:
    """Draws a run's samples from always the same latents, and writes its scalars.

    A 5x5 grid of every report goes into ``grids/``. TensorBoard gets the scalars, and 8x8 samples as
    runs ``fake``, at every report, and ``real``, once, under one tag, which it shows side by side. Of
    points all 2,000 are
    drawn, over as many real ones.

    Args:
        folder: The run's folder.
        config: What is trained.
        data: What it is trained on.
        resumed_at: The iteration from which it goes on; what was drawn later is taken out.
    """

    def __init__(self, folder: Path, config: GanConfig, data: Dataset, resumed_at: int) -> None:
        self._grids = folder / "grids"
        self._grids.mkdir(exist_ok=True)
        for file in grid_files(folder):
            if _iteration_of(file) > resumed_at:
                file.unlink()
        latents = score_latents(config.latent_dim)
        self._of_points = config.image_size is None
        self._latents = latents if self._of_points else latents[:_NUM_IN_TENSORBOARD]
        self._real = resize(data.held_out[: len(self._latents)], config.image_size)
        # With nothing drawn yet iteration 0 is to come.
        purge_step = resumed_at + 1 if resumed_at else 0
        self._scalars, self._fake_pictures, self._real_pictures = (
            SummaryWriter(str(place), purge_step=purge_step)
            for place in (folder, folder / "fake", folder / "real")
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in (self._scalars, self._fake_pictures, self._real_pictures):
            writer.close()

    def has_samples_of(self, iteration: int) -> bool:
        """Return whether the samples of an iteration are drawn already."""
        return self._file(iteration).is_file()

    def add_report(self, report: Report) -> None:
        """Write a report's numbers and draw its generator's samples."""
        iteration = int(report.metrics["iteration"])
        for name, value in report.metrics.items():
            if name != "iteration":
                self._scalars.add_scalar(name, value, iteration)
        self._scalars.flush()
        self.add_samples(report.training.scored_generator, iteration)

    def add_samples(self, generator: nn.Module, iteration: int) -> None:
        """Draw a generator's samples."""
        samples = generate(generator, self._latents)
        real = self._real if self._of_points else None
        in_grid = samples if self._of_points else samples[:_NUM_IN_GRID]
        file = self._file(iteration)
        aside = file.with_name(f".{file.name}.tmp")
        picture(in_grid, real, _SIDE).save(aside, format="PNG")
        aside.replace(file)
        self._fake_pictures.add_image("samples", picture_tensor(samples, real, _SIDE), iteration)
        self._fake_pictures.flush()
        if iteration == 0:
            # They stay the same.
            self._real_pictures.add_image("samples", picture_tensor(self._real, side=_SIDE), iteration)
            self._real_pictures.flush()

    def _file(self, iteration: int) -> Path:
        return self._grids / f"{_GRID_NAME}{iteration:07d}.png"


def write_hyperparameters(folder: Path, config: GanConfig, best: float, last: float) -> None:
    """Write a finished run's line of TensorBoard's HPARAMS table.

    Args:
        folder: The run's folder.
        config: Its hyperparameters.
        best: The `fid_proxy` of its best report.
        last: The `fid_proxy` of its last report.
    """
    values = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in config.model_dump(mode="json").items()
    }
    with SummaryWriter(str(folder)) as writer:
        scores = {"hparam/best_fid_proxy": best, "hparam/last_fid_proxy": last}
        writer.add_hparams(values, scores, run_name=".")


def save_training_gif(folder: Path) -> None:
    """Write ``training.gif`` with a frame for each picture in ``grids/``, if there is one."""
    frames = {f"iteration {_iteration_of(file)}": file for file in grid_files(folder)}
    if frames:
        save_gif(frames, folder / "training.gif")


def grid_files(folder: Path) -> list[Path]:
    """Return the pictures in a run's ``grids/``, first to last."""
    files = (folder / "grids").glob(f"{_GRID_NAME}*.png")
    # Only those that a training wrote, and wrote whole.
    ours = [file for file in files if file.stem.removeprefix(_GRID_NAME).isdecimal()]
    return sorted((file for file in ours if file.stat().st_size), key=_iteration_of)


def _iteration_of(file: Path) -> int:
    return int(file.stem.removeprefix(_GRID_NAME))
