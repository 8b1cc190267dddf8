"""What a training shows while it runs: a bar on a terminal, a line a report elsewhere."""

from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tune_gan.config import GanConfig
from tune_gan.gan.training import Report


class TrainingProgress:
    """Shows one training's reports on a console, while it is entered as a context.

    Args:
        config: What is trained.
        console: Where to write.
    """

    def __init__(self, config: GanConfig, console: Console) -> None:
        self._config, self._console = config, console
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
        )
        title = f"{config.architecture} on {config.dataset}"
        self._task = self._bar.add_task(title, total=config.num_iterations, score="no score yet")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, report: Report) -> None:
        """Show a report."""
        iteration = report.metrics["iteration"]
        score = f"fid_proxy {report.metrics['fid_proxy']:.4g}"
        score += f", best {report.metrics['best_fid_proxy']:.4g}"
        self._bar.update(self._task, completed=iteration, score=score)
        if not self._console.is_terminal:
            losses = " ".join(f"{n} {report.metrics[n]:.4g}" for n in ("gen_loss", "disc_loss"))
            line = f"iteration {iteration}/{self._config.num_iterations}: {score}, {losses}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
