from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search import Searcher

from tests.search.test_spec import SPEC
from tune_gan.search.searcher import STORAGE_FILE, StudySearcher
from tune_gan.search.spec import SweepSpec

DEFAULT = {"gen_lr": 1e-3, "disc_steps": 1}


def _searcher(folder: Path, **changes: Any) -> StudySearcher:
    folder.mkdir(exist_ok=True)
    return StudySearcher(SweepSpec.parse({**SPEC, **changes}), folder)


def _study(folder: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(folder / STORAGE_FILE)))
    return optuna.load_study(study_name=None, storage=storage)


def _report(searcher: StudySearcher, trial: str, *scores: float) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for step, score in enumerate(scores, start=1):
        result = {
            "best_fid_proxy": score,
            "training_iteration": step,
            "iteration": 30 * step,
            "state": "running",
        }
        searcher.on_trial_result(trial, result)
    return result


@pytest.mark.parametrize("algorithm", ["random", "tpe"])
def test_the_default_comes_first_and_draws_are_seeded(tmp_path: Path, algorithm: str) -> None:
    def draws(seed: int, folder: str) -> list[Any]:
        search = {"algorithm": algorithm, "num_trials": 5, "seed": seed}
        searcher = _searcher(tmp_path / folder, search=search)
        return [searcher.suggest(str(i)) for i in range(5)]

    first = draws(0, "a")
    assert first[0] == DEFAULT
    assert draws(0, "b") == first
    assert draws(1, "c")[1:] != first[1:]
    for values in first[1:]:
        assert 1e-5 <= values["gen_lr"] <= 1e-2
        assert values["disc_steps"] in (1, 2, 5)


def test_a_grid_is_tried_whole_the_default_first(tmp_path: Path) -> None:
    space = {"gen_lr": {"grid": [1e-4, 1e-3]}, "disc_steps": {"grid": [1, 2]}}
    searcher = _searcher(tmp_path, space=space, search={"algorithm": "grid"})
    suggested = [searcher.suggest(str(i)) for i in range(5)]
    assert suggested[0] == DEFAULT
    assert suggested[1:4] == [
        {"gen_lr": 1e-4, "disc_steps": 1},
        {"gen_lr": 1e-4, "disc_steps": 2},
        {"gen_lr": 1e-3, "disc_steps": 2},
    ]
    assert suggested[4] == Searcher.FINISHED


def test_a_default_outside_the_space_is_tried_but_no_trial_of_the_study(tmp_path: Path) -> None:
    space = {"gen_lr": {"uniform": [0.1, 0.2]}, "disc_steps": {"choice": [2, 5]}}
    searcher = _searcher(tmp_path, space=space)
    assert searcher.suggest("0") == DEFAULT
    searcher.on_trial_complete("0", _report(searcher, "0", 3.0))
    second = searcher.suggest("1")
    assert isinstance(second, dict)
    assert second["disc_steps"] in (2, 5)
    assert len(_study(tmp_path).trials) == 1


def test_widths_are_suggested_as_text_that_the_configuration_reads(tmp_path: Path) -> None:
    space = {"gen_hidden": {"choice": [[128, 128], [64]]}}
    searcher = _searcher(tmp_path, space=space)
    assert searcher.suggest("0") == {"gen_hidden": "128,128"}


def test_the_study_learns_how_each_trial_ended(tmp_path: Path) -> None:
    searcher = _searcher(tmp_path)
    for trial in "01234":
        searcher.suggest(trial)
    searcher.on_trial_complete("0", _report(searcher, "0", *[9.0 - i for i in range(10)]))
    searcher.on_trial_complete("1", _report(searcher, "1", 50.0, 40.0))
    searcher.on_trial_complete("2", {**_report(searcher, "2", 60.0), "state": "diverged"})
    searcher.on_trial_complete("3", error=True)
    searcher.close()
    complete, pruned, *failed = _study(tmp_path).trials
    assert (complete.state, complete.value) == (TrialState.COMPLETE, 0.0)
    assert pruned.state == TrialState.PRUNED
    assert pruned.intermediate_values == {1: 50.0, 2: 40.0}
    assert [trial.state for trial in failed] == [TrialState.FAIL] * 3
    assert complete.user_attrs == {"tune_trial_id": "0"}
