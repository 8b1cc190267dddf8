"""What a training shows while it runs: a bar on a terminal, a line a report elsewhere, samples."""

from typing import Self

from PIL import Image
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from rich_pixels import Pixels

from tune_gan.config import GanConfig
from tune_gan.gan.pictures import picture, tiles
from tune_gan.gan.scoring import generate
from tune_gan.gan.training import Report
from tune_gan.metrics.score import score_latents

_NUM_SHOWN = 4
_POINTS_COLUMNS = 48
_SHADES = " .:-=+*#%@"


class TrainingProgress:
    """Shows one training's reports on a console, from its `start` to the end of the context.

    Args:
        config: What is trained.
        console: Where to write the progress.
        sample_console: Where to draw samples at every report; None draws none.
    """

    def __init__(
        self, config: GanConfig, console: Console, sample_console: Console | None = None
    ) -> None:
        self._config, self._console = config, console
        # On one terminal the samples go above the bar, which only its own console can do.
        same_terminal = sample_console and sample_console.is_terminal and console.is_terminal
        self._sample_console = console if same_terminal else sample_console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("iterations, {task.fields[score]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            redirect_stdout=False,
        )
        title = f"{config.architecture} on {config.dataset}"
        self._task = self._bar.add_task(title, total=config.num_iterations, score="no score yet")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, iteration: int) -> None:
        """Show that the training goes on from an iteration."""
        self._bar.reset(self._task, completed=iteration)
        self._bar.start()

    def show(self, report: Report) -> None:
        """Show a report."""
        iteration = report.metrics["iteration"]
        score = f"fid_proxy {report.metrics['fid_proxy']:.4g}"
        score += f", best {report.metrics['best_fid_proxy']:.4g}"
        self._bar.update(self._task, completed=iteration, score=score)
        if not self._console.is_terminal:
            losses = " ".join(f"{n} {report.metrics[n]:.4g}" for n in ("gen_loss", "disc_loss"))
            epoch = f"epoch {report.metrics['epoch']:.1f}"
            line = f"iteration {iteration}/{self._config.num_iterations}: {score}, {losses}, {epoch}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        if self._sample_console:
            self._sample_console.print(self._samples(report, self._sample_console))

    def _samples(self, report: Report, console: Console) -> RenderableType:
        """Draw four samples, or on the ring all points, as wide as the terminal allows."""
        latents = score_latents(self._config.latent_dim)
        if self._config.image_size is None:
            points = generate(report.training.scored_generator, latents)
            side = min(_POINTS_COLUMNS, console.width)
            return _blocks(picture(points).resize((side, side)), console)
        samples = generate(report.training.scored_generator, latents[:_NUM_SHOWN])
        image = tiles(samples.cpu(), _NUM_SHOWN)
        if image.width > console.width:
            image.thumbnail((console.width, image.height))
        return _blocks(image, console)


def _blocks(image: Image.Image, console: Console) -> RenderableType:
    """Return a picture as half blocks, two pixels a character, or without colour as shades."""
    if console.color_system is not None and not console.no_color:
        pixels: RenderableType = Pixels.from_image(image)
        return pixels
    rows = image.convert("L").resize((image.width, max(1, image.height // 2)))
    levels = [value * len(_SHADES) // 256 for value in rows.tobytes()]
    lines = [levels[start : start + rows.width] for start in range(0, len(levels), rows.width)]
    return Text("\n".join("".join(_SHADES[level] for level in line) for line in lines), no_wrap=True)
