"""What a sweep leaves behind and says at its end."""

from pathlib import Path

from tune_gan.gan.sampling import save_best_samples
from tune_gan.results.load import load_results
from tune_gan.results.ranking import best_trial_folder, rank
from tune_gan.results.show import best_yaml, print_next_steps, print_ranking

_SHOWN_TRIALS = 10


def conclude(folder: Path, num_trials: int, as_json: bool) -> bool:
    """Write ``best.yaml`` and ``best_samples.png`` of the best trial, and print the ranking.

    Args:
        folder: The run folder.
        num_trials: Trials that the sweep was to run.
        as_json: Print the ranking as JSON and nothing else.

    Returns:
        Whether all trials have ended.

    Raises:
        SweepFailedError: if all trials have ended and none is ranked.
    """
    ranked = rank(load_results(folder))
    print_ranking(ranked, as_json, top=_SHOWN_TRIALS)
    ended = int((~ranked["state"].isin(["running", "pending"])).sum()) >= num_trials
    if ranked["rank"].isna().all() and not ended:
        return False
    (folder / "best.yaml").write_text(best_yaml(folder), encoding="utf-8")
    save_best_samples(best_trial_folder(folder), folder / "best_samples.png")
    if not as_json:
        print_next_steps(folder, ranked)
    return ended
