import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from tests.limits import largest_file
from tune_gan.errors import RunFolderError, StorageError
from tune_gan.files import append_line, read_lines
from tune_gan.results.trials import METRIC, TRIALS_FILE, read_trials, trial_folder
from tune_gan.search.spec import SweepSpec
from tune_gan.search.study import STORAGE_FILE, SweepStudy, SweepTrial

SPEC: dict[str, Any] = {
    "name": "test",
    "gan": {"preset": "circle", "disc_steps": 1, "num_iterations": 300, "report_every": 30},
    "space": {
        "gen_lr": {"log_uniform": [1e-5, 1e-2]},
        "disc_steps": {"choice": [1, 2, 5]},
        "gen_hidden": {"choice": [[64], [128, 128]]},
    },
    "search": {"algorithm": "tpe", "num_trials": 8, "seed": 3},
}
POINT: dict[str, Any] = {"gen_lr": 1e-3, "disc_steps": 1, "gen_hidden": "128,128"}
_OBJECTIVES = {"search": {**SPEC["search"], "objectives": ["fid_proxy", "train_time_s"]}}


def _create(folder: Path, **changes: Any) -> SweepStudy:
    folder.mkdir(exist_ok=True)
    spec = SweepSpec.parse({**SPEC, **changes})
    (folder / "sweep.yaml").write_text(spec.to_yaml())
    return SweepStudy(folder, spec)


def _report(study: SweepStudy, number: int, *scores: float) -> None:
    """Report as a trial of a sweep does, into its own file and to the study."""
    folder = trial_folder(study.folder, number)
    folder.mkdir(exist_ok=True)
    for i, score in enumerate(scores, start=1):
        line = {"iteration": 30 * i, "evaluation": i, "fid_proxy": score, "train_time_s": 0.5 * i}
        best = min(scores[:i])
        append_line(folder / "result.json", {**line, METRIC: best, "state": "running"})
        study.report(number, i, best)


def _varied(folder: Path, **changes: Any) -> SweepStudy:
    """Make a study with a trial of every state."""
    study = _create(folder, **changes)
    second = [1.5] if changes else []
    for i, steps in enumerate([1, 2, 5, 1, 2, 5, 1]):
        study.add({**POINT, "gen_lr": 10.0 ** -(i % 3 + 2), "disc_steps": steps})
    _report(study, 0, 9.0, 7.0, 8.0)
    study.end(0, "completed", "", [7.0, *second])
    _report(study, 1, 50.0, 40.0, 60.0)
    study.end(1, "stopped", "scheduler", [])
    _report(study, 2, 30.0, 20.0, 90.0)
    study.end(2, "stopped", "past its best: fid_proxy 90 is over 3 times its best", [20.0, *second])
    _report(study, 3, 12.0, 11.0)
    study.end(3, "diverged", "at iteration 60: gen_loss is nan", [])
    trial_folder(folder, 4).mkdir()
    study.end(4, "failed", "ValueError: <b>boom</b>", [])
    _report(study, 5, 33.0)
    study.requeue(5)
    _report(study, 6, 44.0, 43.0)
    return study


def _told(study: SweepStudy) -> list[tuple[int, TrialState, list[float] | None]]:
    return [(trial.number, trial.state, trial.values) for trial in study.frozen_trials]


def _listed(folder: Path) -> list[tuple[int, str, dict[str, Any]]]:
    lines, damaged = read_lines(folder / TRIALS_FILE)
    assert damaged == 0
    return [(line["trial"], line["state"], line["config"]) for line in lines]


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the study itself warned of."""
    return [r.getMessage() for r in caplog.records if r.name == "tune_gan.search.study"]


def test_a_new_study_holds_its_spec_and_no_trials(tmp_path: Path) -> None:
    study = _create(tmp_path / "run")
    assert study.trials == []
    reopened = SweepStudy(tmp_path / "run")
    assert reopened.spec == study.spec == SweepSpec.parse(SPEC)
    assert reopened.trials == []


def test_a_changed_spec_is_read_back(tmp_path: Path) -> None:
    study = _create(tmp_path / "run")
    longer = SweepSpec.parse({**SPEC, "search": {**SPEC["search"], "num_trials": 99}})
    study.change_spec(longer)
    assert study.spec == longer
    assert SweepStudy(tmp_path / "run").spec == longer


def test_every_state_is_told_to_optuna_and_listed(tmp_path: Path) -> None:
    study = _varied(tmp_path / "run")
    assert [(trial.number, trial.state, trial.cause) for trial in study.trials] == [
        (0, "completed", ""),
        (1, "stopped", "scheduler"),
        (2, "stopped", "past its best: fid_proxy 90 is over 3 times its best"),
        (3, "diverged", "at iteration 60: gen_loss is nan"),
        (4, "failed", "ValueError: <b>boom</b>"),
        (5, "pending", "interrupted"),
        (6, "running", ""),
    ]
    assert study.trials[0] == SweepTrial(
        0, {**POINT, "gen_lr": 1e-2}, "completed", "", {1: 9.0, 2: 7.0, 3: 7.0}
    )
    assert _told(study) == [
        (0, TrialState.COMPLETE, [7.0]),
        (1, TrialState.PRUNED, [40.0]),
        (2, TrialState.COMPLETE, [20.0]),
        (3, TrialState.FAIL, None),
        (4, TrialState.FAIL, None),
        (5, TrialState.WAITING, None),
        (6, TrialState.RUNNING, None),
    ]
    listed = read_trials(tmp_path / "run")
    assert [(trial.number, trial.state) for trial in listed] == [
        (trial.number, trial.state) for trial in study.trials
    ]
    assert [trial.values for trial in listed] == [trial.values for trial in study.trials]
    assert SweepStudy(tmp_path / "run").trials == study.trials


def test_numbers_are_those_of_optuna(tmp_path: Path) -> None:
    study = _create(tmp_path / "run")
    assert [study.add(POINT).number for _ in range(5)] == [0, 1, 2, 3, 4]
    reopened = SweepStudy(tmp_path / "run")
    assert reopened.add(POINT).number == 5
    assert [trial.number for trial in reopened.frozen_trials] == list(range(6))
    assert [number for number, _, _ in _listed(tmp_path / "run")] == list(range(6))


def test_what_is_asked_of_one_trial_or_of_all_is_what_the_list_says(tmp_path: Path) -> None:
    study = _varied(tmp_path / "run")
    assert [study.trial(number) for number in range(7)] == study.trials
    assert [study.has(number) for number in (0, 6, 7, 99)] == [True, True, False, False]
    assert study.states == Counter(trial.state for trial in study.trials)


def test_a_report_counts_once(tmp_path: Path) -> None:
    study = _create(tmp_path / "run")
    study.add(POINT)
    study.report(0, 1, 5.0)
    study.report(0, 1, 3.0)
    study.report(0, 2, 4.0)
    assert study.trials[0].reports == {1: 5.0, 2: 4.0}


def test_an_interrupted_trial_goes_on(tmp_path: Path) -> None:
    study = _create(tmp_path / "run")
    study.add(POINT)
    study.report(0, 1, 5.0)
    study.requeue(0)
    assert (study.trials[0].state, study.trials[0].cause) == ("pending", "interrupted")
    study.start(0)
    assert (study.trials[0].state, study.trials[0].reports) == ("running", {1: 5.0})
    study.end(0, "completed", "", [5.0])
    assert _told(study) == [(0, TrialState.COMPLETE, [5.0])]
    lines, _ = read_lines(tmp_path / "run" / TRIALS_FILE)
    assert [line["state"] for line in lines] == ["running", "pending", "running", "completed"]


def test_what_befalls_a_running_trial_is_listed(tmp_path: Path) -> None:
    study = _create(tmp_path / "run")
    study.add(POINT)
    study.note(0, "begun anew, since its checkpoint is damaged")
    lines, _ = read_lines(tmp_path / "run" / TRIALS_FILE)
    assert lines[-1] == {
        "trial": 0,
        "state": "running",
        "cause": "begun anew, since its checkpoint is damaged",
    }
    assert study.trials[0].state == "running"


def test_a_trial_ends_once(tmp_path: Path) -> None:
    study = _create(tmp_path / "run")
    study.add(POINT)
    study.end(0, "completed", "", [5.0])
    study.end(0, "completed", "", [4.0])
    assert _told(study) == [(0, TrialState.COMPLETE, [5.0])]


def test_two_objectives_are_kept(tmp_path: Path) -> None:
    study = _varied(tmp_path / "run", **_OBJECTIVES)
    assert _told(study)[:3] == [
        (0, TrialState.COMPLETE, [7.0, 1.5]),
        (1, TrialState.PRUNED, None),
        (2, TrialState.COMPLETE, [20.0, 1.5]),
    ]


@pytest.mark.parametrize(
    ("changes", "point"),
    [
        ({"space": {"gen_lr": {"uniform": [0.1, 0.2]}}}, {"gen_lr": 1e-3}),
        ({"space": {"gen_hidden": {"choice": [[64], [32]]}}}, {"gen_hidden": "128,128"}),
        (
            {"gan": {**SPEC["gan"], "gp_weight": 0.5}, "space": {"gp_weight": {"int_uniform": [0, 9]}}},
            {"gp_weight": 0.5},
        ),
        (
            {
                "space": {
                    "dropout": {"quantized_uniform": [0.1, 0.5, 0.1]},
                    "disc_steps": {"choice": [1]},
                }
            },
            {"dropout": 0.0, "disc_steps": 1},
        ),
    ],
)
def test_a_default_outside_the_space_is_kept(
    tmp_path: Path, changes: dict[str, Any], point: dict[str, Any]
) -> None:
    study = _create(tmp_path / "run", **changes)
    added = study.add(study.spec.default_point)
    assert added.values == point
    study.end(0, "completed", "", [5.0])
    for opened in (study, SweepStudy(tmp_path / "run")):
        assert opened.trials == [SweepTrial(0, point, "completed")]
        (frozen,) = opened.frozen_trials
        inside = {n: v for n, v in point.items() if study.spec.space[n].contains(v)}
        assert frozen.params == inside
        assert frozen.user_attrs["other_values"] == {n: point[n] for n in point if n not in inside}
    assert [trial.values for trial in read_trials(tmp_path / "run")] == [point]


def test_the_seed_of_a_confirmation_is_kept_though_it_is_not_searched(tmp_path: Path) -> None:
    study = _create(
        tmp_path / "run",
        confirmation={"candidates": {3: POINT}, "seeds": [7], "top": 1, "num_ended": 4},
    )
    study.add(study.spec.given_points()[0])
    assert SweepStudy(tmp_path / "run").trials[0].values == {**POINT, "seed": 7}


_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.search.test_study import _varied
_varied(Path(sys.argv[1]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_study_is_settled(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(folder)], check=False)
    assert killed.returncode == -signal.SIGKILL
    study = SweepStudy(folder)
    assert [trial.state for trial in study.trials][-2:] == ["pending", "running"]
    study.settle()
    assert [trial.state for trial in study.trials] == [
        "completed",
        "stopped",
        "stopped",
        "diverged",
        "failed",
        "pending",
        "pending",
    ]
    assert study.trials[6].reports == {1: 44.0, 2: 43.0}
    assert _listed(folder) == [(t.number, t.state, t.values) for t in study.trials]
    assert SweepStudy(folder).trials == study.trials


def test_settling_twice_changes_nothing(tmp_path: Path) -> None:
    study = _varied(tmp_path / "run")
    study.settle()
    trials, text = study.trials, (tmp_path / "run" / TRIALS_FILE).read_text()
    study.settle()
    assert (study.trials, (tmp_path / "run" / TRIALS_FILE).read_text()) == (trials, text)


def test_settling_clears_what_killed_processes_left_aside(tmp_path: Path) -> None:
    study = _varied(tmp_path / "run")
    before = {path.name for path in (tmp_path / "run").iterdir()}
    (tmp_path / "run" / ".trials.jsonl.99999.tmp").write_text("half")
    study.settle()
    assert {path.name for path in (tmp_path / "run").iterdir()} == before


def test_a_lock_left_behind_does_not_stop_a_study(tmp_path: Path) -> None:
    """Optuna itself waits half a minute for it."""
    folder = tmp_path / "run"
    _create(folder).add(POINT)
    (folder / f"{STORAGE_FILE}.lock").symlink_to(folder / STORAGE_FILE)
    assert SweepStudy(folder).add(POINT).number == 1


def test_a_journal_cut_within_its_last_line_is_cut_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    study = _create(folder)
    study.add(POINT)
    study.report(0, 1, 5.0)
    before = study.trials
    path = folder / STORAGE_FILE
    begin = path.stat().st_size
    study.report(0, 2, 4.0)
    content = path.read_bytes()
    assert content.count(b"\n", begin) == 1
    for size in range(begin, len(content), 4):
        caplog.clear()
        path.write_bytes(content[:size])
        reopened = SweepStudy(folder)
        assert reopened.trials == before
        assert path.read_bytes() == content[:begin]
        warned = [f"{path}: cut back by {size - begin} bytes to its last whole line"]
        assert _warnings(caplog) == (warned if size > begin else [])
        reopened.report(0, 2, 3.0)
        assert SweepStudy(folder).trials[0].reports == {1: 5.0, 2: 3.0}


def test_a_journal_cut_within_a_new_trial_is_cut_back(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    study = _create(folder)
    study.add(POINT)
    path, listed = folder / STORAGE_FILE, (folder / TRIALS_FILE).read_bytes()
    begin, before = path.stat().st_size, study.trials
    study.add({**POINT, "disc_steps": 5})
    content = path.read_bytes()
    for size in range(begin, len(content), 37):
        path.write_bytes(content[:size])
        # The list is only written after the journal.
        (folder / TRIALS_FILE).write_bytes(listed)
        reopened = SweepStudy(folder)
        assert reopened.trials == before
        assert reopened.add(POINT).number == 1


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_journal_that_lost_more_than_its_end_loses_no_trial_that_the_list_knows(
    tmp_path: Path, kept: float
) -> None:
    """Else a trial of that number is drawn anew, into a folder that holds another's checkpoint."""
    folder = tmp_path / "run"
    study = _varied(folder)
    study.settle()
    path = folder / STORAGE_FILE
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    reopened = SweepStudy(folder)
    reopened.settle()
    assert [(t.number, t.state, t.cause, t.values) for t in reopened.trials] == [
        (t.number, t.state, t.cause, t.values) for t in study.trials
    ]
    # Those that are to go on report again.
    assert [t.reports for t in reopened.trials[:5]] == [t.reports for t in study.trials[:5]]
    assert [(n, s) for n, s, _ in _told(reopened)] == [(n, s) for n, s, _ in _told(study)]
    assert SweepStudy(folder).trials == reopened.trials


def _break_middle(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    lines[len(lines) // 2] = b'{"op_code": 5, "worker\n'
    return b"".join(lines)


def _lose_the_study(content: bytes) -> bytes:
    return b"".join(content.splitlines(keepends=True)[1:])


def _flip(content: bytes) -> bytes:
    middle = content.index(b"\n", len(content) // 2) + 1
    return content[:middle] + bytes([content[middle] ^ 0x40]) + content[middle + 1 :]


def _garbage(_: bytes) -> bytes:
    return np.random.default_rng(0).bytes(5000)


def _no_study(_: bytes) -> bytes:
    return b"5\n{}\n"


_DAMAGES: list[Callable[[bytes], bytes] | None] = [
    None,
    lambda content: b"",
    _garbage,
    lambda content: b"\x00" * len(content),
    _break_middle,
    _lose_the_study,
    _flip,
    _no_study,
]


@pytest.mark.parametrize("changes", [{}, _OBJECTIVES], ids=["one", "two"])
@pytest.mark.parametrize(
    "damage",
    _DAMAGES,
    ids=["missing", "empty", "garbage", "zeros", "middle", "headless", "flipped", "other"],
)
def test_a_lost_journal_is_made_anew_from_the_list(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[bytes], bytes] | None,
    changes: dict[str, Any],
) -> None:
    folder = tmp_path / "run"
    study = _varied(folder, **changes)
    running = study.trials
    study.settle()
    expected, told = study.trials, _told(study)
    path = folder / STORAGE_FILE
    damaged = None if damage is None else damage(path.read_bytes())
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)

    caplog.clear()
    made = SweepStudy(folder)
    assert made.spec == study.spec
    assert made.trials == expected
    # What Optuna registers for a pruned trial by itself, its last score, it also takes from there.
    assert [(n, s, None if s == TrialState.PRUNED else v) for n, s, v in _told(made)] == [
        (n, s, None if s == TrialState.PRUNED else v) for n, s, v in told
    ]
    problem = "is missing" if damaged is None else "is damaged ("
    warning = _warnings(caplog)[-1]
    assert warning.startswith(f"{path} {problem}")
    assert warning.endswith(f": made anew from {TRIALS_FILE}, {len(running)} trials")
    assert "\n" not in warning

    aside = path.with_name(f"{STORAGE_FILE}.damaged")
    assert aside.exists() is (damaged is not None)
    if damaged is not None:
        assert aside.read_bytes() == damaged

    made.settle()
    assert _listed(folder) == [(t.number, t.state, t.values) for t in expected]
    assert made.add(POINT).number == len(expected)
    caplog.clear()
    assert SweepStudy(folder).trials == made.trials
    assert _warnings(caplog) == []


def test_a_rebuilt_study_keeps_the_numbers_of_trials_that_the_list_lost(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    study = _varied(folder)
    study.settle()
    lines = (folder / TRIALS_FILE).read_text().splitlines(keepends=True)
    (folder / TRIALS_FILE).write_text("".join([*lines[:1], "{\n", *lines[2:]]))
    (folder / STORAGE_FILE).unlink()
    made = SweepStudy(folder)
    assert [trial.number for trial in made.trials] == list(range(7))
    assert made.trials[1] == SweepTrial(1, {}, "failed", "lost with the study")
    assert made.trials[2:] == study.trials[2:]


def test_a_default_outside_the_space_is_rebuilt(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    study = _create(folder, space={"gen_lr": {"uniform": [0.1, 0.2]}})
    study.add(study.spec.default_point)
    _report(study, 0, 5.0)
    study.end(0, "completed", "", [5.0])
    (folder / STORAGE_FILE).unlink()
    made = SweepStudy(folder)
    assert made.trials == study.trials == [SweepTrial(0, {"gen_lr": 1e-3}, "completed", "", {1: 5.0})]


def test_a_lost_list_is_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    study = _varied(folder)
    for damage in (None, b"", b"\xff\x00 no list"):
        (folder / TRIALS_FILE).unlink()
        if damage is not None:
            (folder / TRIALS_FILE).write_bytes(damage)
        reopened = SweepStudy(folder)
        reopened.settle()
        assert _listed(folder) == [(t.number, t.state, t.values) for t in reopened.trials]
        assert [t.values for t in reopened.trials] == [t.values for t in study.trials]


@pytest.mark.parametrize("journal", [None, b"", b"\xff\xfe\x00garbage"])
@pytest.mark.parametrize("listed", [None, b""])
def test_trials_without_journal_and_list_are_refused(
    tmp_path: Path, journal: bytes | None, listed: bytes | None
) -> None:
    folder = tmp_path / "run"
    _varied(folder)
    for name, content in ((STORAGE_FILE, journal), (TRIALS_FILE, listed)):
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)
    with pytest.raises(RunFolderError) as caught:
        SweepStudy(folder)
    problem = "is missing" if journal is None else r"is damaged ("
    assert str(caught.value).startswith(f"{folder / STORAGE_FILE} {problem}")
    assert str(caught.value).endswith(
        f", and {TRIALS_FILE} holds no trials to make it anew from; start a new sweep"
    )
    assert "\n" not in str(caught.value)


def test_a_study_that_was_killed_before_its_first_trial_begins_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    study = _create(folder)
    (folder / STORAGE_FILE).write_bytes(b"")
    made = SweepStudy(folder)
    assert made.spec == study.spec
    assert made.add(POINT).number == 0


def _journal_is_a_folder(folder: Path) -> None:
    (folder / STORAGE_FILE).unlink()
    (folder / STORAGE_FILE).mkdir()


def _list_is_a_folder(folder: Path) -> None:
    (folder / TRIALS_FILE).unlink()
    (folder / TRIALS_FILE).mkdir()


def _writes(study: SweepStudy) -> list[Callable[[], object]]:
    return [
        lambda: study.add(POINT),
        lambda: study.start(1),
        lambda: study.requeue(0),
        lambda: study.note(0, "x"),
        lambda: study.report(0, 7, 1.0),
        lambda: study.end(0, "completed", "", [1.0]),
        lambda: study.change_spec(study.spec),
        study.settle,
    ]


@pytest.mark.parametrize(
    ("lose", "first"),
    [(_journal_is_a_folder, first) for first in (0, 1, 2, 4, 5, 6)]
    + [(_list_is_a_folder, first) for first in (0, 1, 2, 3, 5, 7)],
)
def test_nothing_is_written_after_a_write_that_failed(
    tmp_path: Path, lose: Callable[[Path], None], first: int
) -> None:
    folder = tmp_path / "run"
    study = _create(folder)
    for _ in range(2):
        study.add(POINT)
    study.requeue(1)
    written = (STORAGE_FILE, TRIALS_FILE)
    kept = {name: (folder / name).read_bytes() for name in written}
    lose(folder)
    with pytest.raises(StorageError, match=r"cannot be (written|read) \(Is a directory\)") as caught:
        _writes(study)[first]()
    assert study.broken is caught.value
    for name in written:
        if (folder / name).is_dir():
            (folder / name).rmdir()
            (folder / name).write_bytes(kept[name])
    now = {name: (folder / name).read_bytes() for name in written}
    for write in _writes(study):
        with pytest.raises(StorageError) as again:
            write()
        assert again.value is caught.value
    assert {name: (folder / name).read_bytes() for name in written} == now


def test_a_full_disk_breaks_the_study_and_leaves_one_to_go_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    study = _create(folder)
    study.add(POINT)
    study.report(0, 1, 5.0)
    trials, path = study.trials, folder / STORAGE_FILE
    size = path.stat().st_size
    with largest_file(size + 40), pytest.raises(StorageError) as caught:
        study.report(0, 2, 4.0)
    assert str(caught.value) == f"{path} cannot be written (File too large)"
    assert study.broken is caught.value
    assert path.stat().st_size == size + 40
    with pytest.raises(StorageError):
        study.report(0, 3, 3.0)
    assert path.stat().st_size == size + 40
    reopened = SweepStudy(folder)
    assert reopened.trials == trials
    reopened.settle()
    assert reopened.trials[0].reports == {1: 5.0}


def test_a_study_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        SweepStudy(tmp_path / "none", SweepSpec.parse(SPEC))
    path = tmp_path / "none" / TRIALS_FILE
    assert str(caught.value) == f"{path} cannot be written (No such file or directory)"


def test_a_journal_that_is_a_folder_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / STORAGE_FILE).mkdir()
    with pytest.raises(StorageError) as caught:
        SweepStudy(tmp_path)
    assert str(caught.value) == f"{tmp_path / STORAGE_FILE} cannot be read (Is a directory)"


def test_a_journal_that_is_gone_cannot_be_read(tmp_path: Path) -> None:
    """Ray Tune asks for the number of trials all the time."""
    study = _create(tmp_path / "run")
    (tmp_path / "run" / STORAGE_FILE).unlink()
    with pytest.raises(StorageError, match="No such file or directory"):
        study.has(0)
    with pytest.raises(StorageError, match="No such file or directory"):
        len(study.frozen_trials)


def _work(folder: Path, begin: Any, added: Any) -> None:
    study = SweepStudy(folder)
    begin.wait(60)
    for _ in range(20):
        number = study.add(POINT).number
        study.report(number, 1, float(os.getpid()))
        study.end(number, "completed", "", [float(os.getpid())])
        added.put((os.getpid(), number))


def test_eight_processes_lose_no_trial(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    _create(folder)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tune_gan.search.study"])
    begin, added = context.Barrier(8), context.SimpleQueue()
    workers = [context.Process(target=_work, args=(folder, begin, added)) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 8
    numbers = [added.get() for _ in range(160)]
    assert sorted(number for _, number in numbers) == list(range(160))
    study = SweepStudy(folder)
    values = {number: [float(pid)] for pid, number in numbers}
    assert _told(study) == [(n, TrialState.COMPLETE, values[n]) for n in range(160)]
    assert [trial.state for trial in read_trials(folder)] == ["completed"] * 160
