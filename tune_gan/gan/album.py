"""What a training shows of itself while it runs: pictures in ``grids/``, and TensorBoard."""

from pathlib import Path
from typing import Self

from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from tune_gan.config import GanConfig
from tune_gan.gan.data import Dataset, resize
from tune_gan.gan.event_file import EventFile
from tune_gan.gan.loss_scalars import LossScalars
from tune_gan.gan.pictures import picture, picture_tensor
from tune_gan.gan.scoring import generate
from tune_gan.gan.training import Report
from tune_gan.grids import GRIDS, grid_file, grid_files, iteration_of, save_whole, training_gif
from tune_gan.losses_file import LOSSES_FILE
from tune_gan.metrics.score import NUM_GENERATED, score_latents

_NUM_IN_GRID = 25
_NUM_IN_TENSORBOARD = 64
_SIDE = 320  # Twice that would take four times as long to pack, longer than the score.


class Grids:
    """Draws a run's samples from always the same latents into ``grids/``, 5x5 images or 2,000 points.

    Args:
        folder: The run's folder.
        config: What is trained.
        data: What it is trained on.
        resumed_at: The iteration from which it goes on; what was drawn later is taken out.
        side: Height and width of a picture in pixels, roughly.
    """

    def __init__(
        self, folder: Path, config: GanConfig, data: Dataset, resumed_at: int, side: int = _SIDE
    ) -> None:
        self._folder, self._side = folder, side
        (folder / GRIDS).mkdir(exist_ok=True)
        for file in grid_files(folder):
            if iteration_of(file) > resumed_at:
                file.unlink()
        latents = score_latents(config.latent_dim)
        self.of_points = config.image_size is None
        self._latents = latents if self.of_points else latents[:_NUM_IN_TENSORBOARD]
        self.real = resize(data.held_out[: len(self._latents)], config.image_size)

    def has(self, iteration: int) -> bool:
        """Return whether the samples of an iteration are drawn already."""
        return self.file(iteration).is_file()

    def samples_of(self, generator: nn.Module) -> Tensor:
        """Return a generator's samples on the CPU, more of them than the grid shows."""
        return generate(generator, self._latents).cpu()

    def add(self, samples: Tensor, iteration: int) -> None:
        """Draw samples that `samples_of` returned."""
        in_grid = samples if self.of_points else samples[:_NUM_IN_GRID]
        save_whole(
            picture(in_grid, self.real if self.of_points else None, self._side), self.file(iteration)
        )

    def file(self, iteration: int) -> Path:
        """Return where the picture of an iteration is."""
        return grid_file(self._folder, iteration)


class Album:
    """Draws a run's samples, and writes its scalars.

    A 5x5 grid of every report goes into ``grids/``. TensorBoard gets the scalars, the losses of the
    folder's file, as `LossScalars` thins them, and 8x8 samples as runs ``fake``, at every report, and
    ``real``, once, under one tag, which it shows side by side. Of points all 2,000 are drawn, over as
    many real ones.

    Args:
        folder: The run's folder.
        config: What is trained.
        data: What it is trained on.
        resumed_at: The iteration from which it goes on; what was drawn later is taken out.
    """

    def __init__(self, folder: Path, config: GanConfig, data: Dataset, resumed_at: int) -> None:
        self._grids = Grids(folder, config, data, resumed_at)
        # With nothing drawn yet iteration 0 is to come.
        purge_step = resumed_at + 1 if resumed_at else 0
        self._fake_pictures, self._real_pictures = (
            SummaryWriter(str(place), purge_step=purge_step)
            for place in (folder / "fake", folder / "real")
        )
        self._scalars = EventFile(folder, purge_step)
        self._losses = LossScalars(
            self._scalars, folder / LOSSES_FILE, config.num_iterations, resumed_at
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in (self._scalars, self._fake_pictures, self._real_pictures):
            writer.close()

    def has_samples_of(self, iteration: int) -> bool:
        """Return whether the samples of an iteration are drawn already."""
        return self._grids.has(iteration)

    def samples_of(self, generator: nn.Module) -> Tensor:
        """Return what `add_report` and `add_samples` draw of a generator."""
        return self._grids.samples_of(generator)

    def add_report(self, report: Report, samples: Tensor) -> None:
        """Write a report's numbers, the losses until then, and draw its generator's samples."""
        iteration = int(report.metrics["iteration"])
        numbers = {name: value for name, value in report.metrics.items() if name != "iteration"}
        self._scalars.add_scalars(numbers, iteration)
        self._losses.add_until(iteration)
        self._scalars.flush()
        self.add_samples(samples, iteration)

    def add_samples(self, samples: Tensor, iteration: int) -> None:
        """Draw a generator's samples."""
        self._grids.add(samples, iteration)
        real = self._grids.real
        beneath = real if self._grids.of_points else None
        self._fake_pictures.add_image("samples", picture_tensor(samples, beneath, _SIDE), iteration)
        self._fake_pictures.flush()
        if iteration == 0:
            # They stay the same.
            self._real_pictures.add_image("samples", picture_tensor(real, side=_SIDE), iteration)
            self._real_pictures.flush()


def save_real_samples(file: Path, config: GanConfig, data: Dataset, side: int) -> None:
    """Draw held-out samples as a run's grids show generated ones."""
    held_out = data.held_out[:_NUM_IN_GRID] if config.image_size else data.held_out[:NUM_GENERATED]
    save_whole(picture(resize(held_out, config.image_size), side=side), file)


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
    content = training_gif(folder)
    if content is not None:
        (folder / "training.gif").write_bytes(content)
