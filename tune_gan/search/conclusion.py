"""What a sweep leaves behind and says at its end."""

from contextlib import suppress
from pathlib import Path

from tune_gan.errors import CheckpointError
from tune_gan.files import write_whole
from tune_gan.gan.sampling import save_best_samples
from tune_gan.results.floor import read_floor
from tune_gan.results.formats import Format
from tune_gan.results.load import load_results
from tune_gan.results.ranking import best_trial_folder, rank
from tune_gan.results.show import best_yaml, print_next_steps, print_ranking

_SHOWN_TRIALS = 10


def conclude(folder: Path, as_json: bool) -> None:
    """Write ``best.yaml`` and ``best_samples.png`` of the best trial, and print the ranking.

    Args:
        folder: The run folder.
        as_json: Print the ranking as JSON and nothing else.

    Raises:
        SweepFailedError: if all trials have ended and none is ranked.
    """
    ranked = rank(load_results(folder))
    form = Format.JSON if as_json else Format.TABLE
    print_ranking(ranked, form, read_floor(folder), top=_SHOWN_TRIALS)
    unfinished = ranked["state"].isin(["running", "pending"]).any()
    if ranked["rank"].isna().all() and (unfinished or ranked.empty):
        return
    write_best(folder)
    if not as_json:
        print_next_steps(folder, ranked)


def write_best(folder: Path) -> None:
    """Write ``best.yaml`` and ``best_samples.png`` of a run's best configuration.

    Its samples are missing where its checkpoint was not kept.

    Raises:
        SweepFailedError: if no trial is ranked.
        StorageError: if a file cannot be written.
    """
    write_whole(folder / "best.yaml", best_yaml(folder))
    (folder / "best_samples.png").unlink(missing_ok=True)
    with suppress(CheckpointError):
        save_best_samples(best_trial_folder(folder), folder / "best_samples.png")
