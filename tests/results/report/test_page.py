"""The report of a run: its numbers, and its page in a real browser."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.integration.commands import PATIENCE_S
from tests.results.test_confirmed import CLEAR, write_confirmation
from tests.results.test_importance import write_study
from tests.results.test_results import COLLAPSED, SWEEP, TRIALS, Trial, write_run
from tune_gan.errors import ConfigError, RunFolderError
from tune_gan.files import append_line
from tune_gan.grids import GRIDS, grid_file, save_whole
from tune_gan.losses_file import LOSSES_FILE, read_losses, write_losses
from tune_gan.results.load import load_results
from tune_gan.results.ranking import rank
from tune_gan.results.report.page import write_report
from tune_gan.results.show import best_yaml, ranking_records
from tune_gan.search.lock import locked

_HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def _with_pictures(run: Path, num_trials: int) -> Path:
    source = np.random.default_rng(0)
    save_whole(Image.new("L", (160, 160), 90), run / "real.png")
    for number in range(num_trials):
        folder = run / f"trial_{number:05d}"
        (folder / GRIDS).mkdir(parents=True, exist_ok=True)
        for iteration in (100, 200, 300) if number < 5 else ():
            pixels = source.integers(256, size=(160, 160), dtype=np.uint8)
            save_whole(Image.fromarray(pixels), grid_file(folder, iteration))
            shutil.copy(grid_file(folder, iteration), folder / "samples.png")
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return _with_pictures(write_run(tmp_path / "run", [*TRIALS, COLLAPSED]), 8)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if _CHROMIUM is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root a sandbox cannot be had; and what is drawn must need no WebGL.
        flags = ["--no-sandbox", "--disable-gpu", "--disable-3d-apis"]
        browser = playwright.chromium.launch(
            executable_path=_CHROMIUM, args=flags, timeout=1000 * PATIENCE_S
        )
        yield browser
        browser.close()


class _Page:
    """A report in the browser, and what it did."""

    def __init__(self, browser: Any, file: Path, scheme: str = "light") -> None:
        size = {"width": 1240, "height": 900}
        self.page = browser.new_page(viewport=size, color_scheme=scheme)
        self.page.set_default_timeout(1000 * PATIENCE_S)
        self.problems: list[str] = []
        self.fetched: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.fetched.append(request.url))
        self.page.goto(file.absolute().as_uri())
        self.page.wait_for_function("document.querySelectorAll('.plot').length == 0 || window.Plotly")

    def fetched_from_outside(self, file: Path) -> list[str]:
        return [u for u in self.fetched if u != file.absolute().as_uri() and not u.startswith("data:")]

    def trials(self) -> list[int]:
        rows = self.page.locator("#trials tbody tr:visible")
        return [int(row.get_attribute("data-trial")) for row in rows.all()]


def test_the_numbers_are_those_of_the_run(run: Path) -> None:
    written = write_report(run)
    assert (written.page, written.numbers) == (run / "report.html", run / "report.json")
    assert written.num_unfinished == 2
    numbers = json.loads(written.numbers.read_text())
    assert numbers["leaderboard"] == ranking_records(rank(load_results(run)))
    assert numbers["headline"]["trial"] == 2
    assert numbers["headline"]["command"].startswith("tune-gan best ")
    assert {row["state"]: row["trials"] for row in numbers["states"]}["diverged"] == 1
    assert numbers["importance"]["missing"].startswith("4 trials can be compared")
    assert [c["trial"] for c in numbers["curves"]["trials"]] == [0, 1, 2, 3, 4, 5, 7]
    page = written.page.read_text()
    assert 'http-equiv="refresh"' not in page
    assert page.count("data:image/gif;base64,") == 1


def test_it_loads_sorts_filters_and_shows_a_trial(run: Path, browser: Any) -> None:
    file = write_report(run).page
    shown = _Page(browser, file)
    assert shown.trials() == [2, 0, 1, 5, 6, 7, 4, 3]
    shown.page.get_by_role("button", name="best_fid_proxy", exact=True).click()
    # What a trial has not is below, upwards and downwards.
    by_score = [7, 5, 4, 2, 3, 0, 1]
    assert shown.trials()[-1] == 6
    scores = {
        row["trial"]: row["best_fid_proxy"]
        for row in json.loads((run / "report.json").read_text())["leaderboard"]
    }
    assert [scores[t] for t in shown.trials()[:-1]] == sorted(scores[t] for t in by_score)
    shown.page.get_by_role("button", name="best_fid_proxy", exact=True).press("Enter")
    assert [scores[t] for t in shown.trials()[:-1]] == sorted(
        (scores[t] for t in by_score), reverse=True
    )
    assert shown.trials()[-1] == 6
    shown.page.get_by_label("Filter").fill("completed 0.01")
    assert shown.trials() == [0]
    assert shown.page.locator("#count").text_content() == "1 of 8 trials"
    shown.page.get_by_label("Filter").fill("")
    shown.page.get_by_role("button", name="Show trial 2").click()
    dialog = shown.page.get_by_role("dialog")
    assert dialog.is_visible()
    assert "Trial 2" in dialog.text_content()
    assert "gen_lr: 0.0001" in dialog.text_content()
    assert dialog.locator("#trial-samples").evaluate("image => image.naturalWidth") == 160
    shown.page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert shown.page.locator(".plot .main-svg").count() > 0
    assert (shown.problems, shown.fetched_from_outside(file)) == ([], [])


def _write_losses(run: Path, trial: int, last: int) -> None:
    """Write losses whose generator's is the iteration and whose discriminator's ten times as much."""
    rows = np.arange(1, last + 1, dtype=np.float32)[:, None] * np.array([1, 10, 0, 0], np.float32)
    write_losses(run / f"trial_{trial:05d}" / LOSSES_FILE, last, rows)


def test_losses_of_the_best_and_of_the_default_are_bands_over_stretches(run: Path) -> None:
    # Trial 4 diverged, and trial 1 has none.
    for trial, last in ((0, 3), (2, 201), (4, 200)):
        _write_losses(run, trial, last)
    best, default = json.loads(write_report(run).numbers.read_text())["losses"]
    assert (best["trial"], default["trial"]) == (2, 0)
    assert default == {
        "trial": 0,
        "first": [1, 2, 3],
        "last": [1, 2, 3],
        "gen_loss": {name: [1.0, 2.0, 3.0] for name in ("mean", "low", "high")},
        "disc_loss": {name: [10.0, 20.0, 30.0] for name in ("mean", "low", "high")},
    }
    assert best["first"] == list(range(1, 202, 3))
    assert best["last"] == list(range(3, 202, 3))
    assert best["gen_loss"]["mean"] == [float(i) for i in range(2, 202, 3)]
    assert best["gen_loss"]["low"][:2] == [1.2, 4.2]
    assert best["gen_loss"]["high"][:2] == [2.8, 5.8]
    assert best["disc_loss"]["mean"][:2] == [20.0, 50.0]


def test_losses_are_drawn_below_scores_with_gaps_where_they_are_not_finite(
    run: Path, browser: Any
) -> None:
    for trial in (0, 1, 2):
        _write_losses(run, trial, 6)
    rows = read_losses(run / "trial_00002" / LOSSES_FILE)
    rows[3, 0] = np.nan
    write_losses(run / "trial_00002" / LOSSES_FILE, 6, rows)
    shown = _Page(browser, write_report(run).page)
    traces = shown.page.evaluate(
        "document.querySelector('[data-figure=losses]').data.map("
        "t => [t.name || 'band', t.yaxis || 'y', t.visible, t.x, t.y])"
    )
    assert [(name, axis) for name, axis, *_ in traces[:5]] == [
        ("trial 2", "y"),
        ("band", "y2"),
        ("trial 2", "y2"),
        ("band", "y3"),
        ("trial 2", "y3"),
    ]
    score, band, mean = (trace[3:] for trace in traces[:3])
    assert score == [[100, 200, 300], [70, 5, 9]]
    assert mean == [[1, 2, 3, 4, 5, 6], [1, 2, 3, None, 5, 6]]
    assert band == [
        [1, 2, 3, 3, 2, 1, None, 5, 6, 6, 5, None],
        [1, 2, 3, 3, 2, 1, None, 5, 6, 6, 5, None],
    ]
    visible = {name: is_visible for name, _, is_visible, *_ in traces if name != "band"}
    assert visible == {"trial 2": True, "trial 0 (default)": True, "trial 1": "legendonly"}
    assert shown.page.locator("[data-figure=losses] .main-svg").count() > 0
    assert shown.problems == []


def test_a_run_without_losses_shows_none(run: Path) -> None:
    assert json.loads(write_report(run).numbers.read_text())["losses"] == []
    assert 'data-figure="losses"' not in (run / "report.html").read_text()


def test_losses_that_cannot_be_read_are_left_out(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    _write_losses(run, 2, 3)
    monkeypatch.setattr("tune_gan.losses_file.np.fromfile", fail)
    assert json.loads(write_report(run).numbers.read_text())["losses"] == []


def test_degenerate_trials_are_marked_in_the_figures(run: Path, browser: Any) -> None:
    path = run / "trial_00002" / "result.json"
    reports = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**report, "degenerate": True}) + "\n" for report in reports))
    file = write_report(run).page
    shown = _Page(browser, file)
    drawn = shown.page.evaluate(
        "[...document.querySelectorAll('[data-figure=curves],[data-figure^=slice]')].map("
        "plot => plot.data.map("
        "t => [t.name, t.line && t.line.dash, t.marker && t.marker.symbol, t.text]))"
    )
    assert [t[1] for t in drawn[0] if "degenerate" in t[3]] == ["dot"]
    assert [t[:3] for t in drawn[1] if "degenerate" in t[0]] == [
        ["completed, degenerate", None, "x-thin-open"]
    ]
    lines = shown.page.locator("#parallel polyline title").all_text_contents()
    assert [line for line in lines if "degenerate" in line] == ["trial 2, completed, degenerate"]
    assert shown.problems == []


def test_a_command_in_a_message_is_code(run: Path) -> None:
    page = write_report(run).page.read_text()
    assert "<code>tune-gan resume RUN --num-trials N</code>" in page


def test_what_a_stranger_wrote_runs_nothing(tmp_path: Path, browser: Any) -> None:
    trials: list[Trial] = [*TRIALS, ("failed", [9.0], _HOSTILE)]
    run = write_run(tmp_path / "run with <b> and 'quotes'", trials)
    spec = (run / "sweep.yaml").read_text() + f"# {_HOSTILE}\n"
    (run / "sweep.yaml").write_text(spec)
    (run / "environment.json").write_text(json.dumps({"command": _HOSTILE, "host": _HOSTILE}))
    line = {"trial": 0, "state": "completed", "config": {"gen_lr": 0.01, "disc_hidden": _HOSTILE}}
    append_line(run / "trials.jsonl", line)
    append_line(
        run / "trial_00000" / "result.json",
        {"iteration": 400, "fid_proxy": 2.0, "instrument": _HOSTILE},
    )
    file = write_report(run).page
    shown = _Page(browser, file)
    shown.page.get_by_role("button", name="Show trial 0").click()
    shown.page.wait_for_timeout(300)
    assert shown.page.evaluate("window.hacked") is None
    assert _HOSTILE in shown.page.get_by_role("dialog").text_content()
    assert _HOSTILE in shown.page.locator("#states").text_content()
    assert (shown.problems, shown.fetched_from_outside(file)) == ([], [])


def test_what_a_large_run_shows(tmp_path: Path, browser: Any) -> None:
    """Importance, contour, timeline, seeds and a hideable state, of 200 trials in under 10 MB."""
    run = _with_pictures(write_study(tmp_path / "run", 200), 200)
    for number in range(200):
        file = run / f"trial_{number:05d}" / "result.json"
        if number % 10 == 9:
            append_line(run / "trials.jsonl", {"trial": number, "state": "diverged", "cause": "nan"})
        reports = [json.loads(line) for line in file.read_text().splitlines()]
        file.unlink()
        for i, report in enumerate(reports):
            when = {
                "reported_at": 1e9 + 10 * number + i,
                "time_s": 1.0 + i,
                "worker": f"a:{number % 2}",
            }
            append_line(file, {**report, **when})
    write_confirmation(run, CLEAR)
    file = write_report(run).page
    assert file.stat().st_size < 10_000_000
    shown = _Page(browser, file)
    names = shown.page.locator("[data-figure]").evaluate_all(
        "plots => plots.map(p => p.dataset.figure)"
    )
    assert {
        "curves",
        "progress",
        "attainable",
        "importance",
        "confirmation",
        "timeline",
        "contour",
    } <= set(names)
    assert {"slice-gen_lr", "slice-beta1", "slice-dropout"} <= set(names)
    shown.page.wait_for_function(f"document.querySelectorAll('.plot .main-svg').length >= {len(names)}")
    lines = shown.page.locator("#parallel polyline:visible")
    assert lines.count() == 200
    shown.page.get_by_label("hide diverged").check()
    assert lines.count() == 180
    assert (shown.problems, shown.fetched_from_outside(file)) == ([], [])


@pytest.mark.parametrize(
    "trials",
    [[], [("pending", [], "")], [("diverged", [1e6], "gen_loss is nan")], [("running", [5.0], "")]],
)
def test_a_run_without_a_winner_has_a_page_too(
    trials: list[Trial], tmp_path: Path, browser: Any
) -> None:
    run = write_run(tmp_path / "run", trials)
    if not trials:
        (run / "trials.jsonl").touch()
    file = write_report(run).page
    shown = _Page(browser, file)
    assert "No best trial to name" in shown.page.locator(".headline").text_content()
    assert (shown.problems, shown.fetched_from_outside(file)) == ([], [])


def test_a_confirmation_that_chose_another_trial_is_the_headline(run: Path) -> None:
    """By one seed it is trial 2; over seeds 0, and nothing of one seed's gain is said beside it."""
    write_confirmation(run, CLEAR, num_ended=6)
    numbers = json.loads(write_report(run).numbers.read_text())
    assert (numbers["headline"]["trial"], numbers["headline"]["gain"]) == (0, None)
    page = (run / "report.html").read_text()
    assert "Trial 0: fid_proxy 50" in page
    assert "times lower, by one seed" not in page
    # Before its last training it chooses nothing, and what it says of the first is of another trial.
    unfinished: dict[int, list[float | str]] = {0: [1.0, "running"], 2: [2.0, "not begun"]}
    shutil.rmtree(run / "confirm")
    write_confirmation(run, unfinished, num_ended=6)
    numbers = json.loads(write_report(run).numbers.read_text())
    assert numbers["headline"]["trial"] == 2
    assert "Not separable" not in (run / "report.html").read_text()


def test_a_value_outside_the_space_has_no_logarithm(tmp_path: Path) -> None:
    run = write_study(tmp_path / "run", 40)
    values = {"gen_lr": 0.0, "beta1": 0.5, "dropout": 0.1}
    append_line(run / "trials.jsonl", {"trial": 0, "state": "completed", "config": values})
    numbers = json.loads(write_report(run).numbers.read_text())
    assert numbers["importance"]["trials"] == 39
    assert 'data-figure="contour"' in (run / "report.html").read_text()


@pytest.mark.parametrize(
    "text", [None, "cut: [", "gan: {num_iterations: 300}\nspace: {state: {choice: [a]}}\n"]
)
def test_without_a_whole_sweep_file_every_whole_row_is_shown(run: Path, text: str | None) -> None:
    if text is None:
        (run / "sweep.yaml").unlink()
    else:
        (run / "sweep.yaml").write_text(text)
    numbers = json.loads(write_report(run).numbers.read_text())
    assert [row["trial"] for row in numbers["leaderboard"]][:3] == [2, 0, 1]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("confirm/sweep.yaml", "cut: ["),
        ("environment.json", '{"started": NaN, "packages": [1e999]}'),
        ("environment.json", "[]"),
        ("sweep.yaml", f"{SWEEP}search: x\nscheduler: asha\n"),
        ("sweep.yaml", f"{SWEEP}search: {{seed: .nan, algorithm: 2026-01-01}}\n"),
    ],
)
def test_a_damaged_file_beside_the_trials_is_no_traceback(run: Path, name: str, text: str) -> None:
    write_confirmation(run, CLEAR)
    (run / name).write_text(text)
    numbers = json.loads(write_report(run).numbers.read_text())
    assert [row["trial"] for row in numbers["leaderboard"]][:3] == [2, 0, 1]


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_two_objectives_have_a_front_in_dark_light_and_print(
    scheme: str, tmp_path: Path, browser: Any
) -> None:
    sweep = f"{SWEEP}search: {{objectives: [fid_proxy, train_time_s]}}\n"
    run = write_run(tmp_path / "run", [("completed", [s], "") for s in (9.0, 5.0, 7.0)], sweep)
    file = write_report(run).page
    figure = json.loads(file.with_suffix(".json").read_text())["leaderboard"]
    # Trial n takes n + 1 seconds, so that the last is worse than the second in score and in time.
    assert {row["trial"]: row["pareto"] for row in figure} == {0: True, 1: True, 2: False}
    shown = _Page(browser, file, scheme)
    paper = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"dark": "rgb(21, 24, 28)", "light": "rgb(255, 255, 255)"}[scheme]
    assert shown.page.locator("[data-figure=objectives] .main-svg").count() > 0
    shown.page.emulate_media(media="print")
    assert not shown.page.get_by_role("navigation").is_visible()
    assert len(shown.page.pdf()) > 10_000
    assert (shown.problems, shown.fetched_from_outside(file)) == ([], [])


def test_a_report_overwrites_nothing_of_the_run(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"in a run folder a report is report\.html"):
        write_report(run, run / "environment.html")


def test_a_huge_picture_is_not_decoded(run: Path) -> None:
    Image.new("1", (13400, 13400)).save(grid_file(run / "trial_00002", 200))
    assert "data:image/gif" not in write_report(run).page.read_text()


def test_damaged_pictures_are_left_out(run: Path) -> None:
    (run / "trial_00002" / "samples.png").write_bytes(b"<svg onload=alert(1)>")
    grid_file(run / "trial_00002", 200).write_bytes(b"\x89PNG\r\n\x1a\n cut")
    page = write_report(run).page.read_text()
    assert "onload=alert" not in page
    assert "data:image/gif" not in page


def test_wrong_names_and_folders_are_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a report's name ends in \.html"):
        write_report(run, tmp_path / "report.pdf")
    with pytest.raises(RunFolderError):
        write_report(tmp_path)


def test_it_is_written_again_while_the_sweep_runs(run: Path) -> None:
    command = [sys.executable, "-m", "tune_gan", "report", str(run), "--watch"]
    with locked(run):
        watching = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + PATIENCE_S
        while not (run / "report.html").is_file() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert 'http-equiv="refresh" content="15"' in (run / "report.html").read_text()
        append_line(run / "trial_00002" / "result.json", {"iteration": 400, "fid_proxy": 0.5})
    output, _ = watching.communicate(timeout=PATIENCE_S)
    assert watching.returncode == 0
    assert output.splitlines() == [str(run / "report.html"), str(run / "report.json")]
    page = (run / "report.html").read_text()
    assert 'http-equiv="refresh"' not in page
    assert "fid_proxy 0.5<" in page


def test_where_it_cannot_be_written_it_says_so(run: Path) -> None:
    (run / "report.html").mkdir()
    command = [sys.executable, "-m", "tune_gan", "report", str(run)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"tune-gan: {run / 'report.html'} cannot be written")
    assert len(ended.stderr.splitlines()) == 1


def test_a_confirmed_winner_that_is_lost_is_not_the_best(run: Path) -> None:
    write_confirmation(run, CLEAR, num_ended=6)
    assert json.loads(write_report(run).numbers.read_text())["headline"]["trial"] == 0
    lines = (run / "trials.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["trial"] != 0]
    (run / "trials.jsonl").write_text("".join(f"{line}\n" for line in kept))
    assert json.loads(write_report(run).numbers.read_text())["headline"]["trial"] == 2
    assert best_yaml(run).startswith("# trial 2 of")


def test_numbers_that_are_none_are_left_out(run: Path) -> None:
    (run / "floor.json").write_text('{"instrument": "x", "num_samples": 9, "scores": [NaN]}')
    with (run / "trials.jsonl").open("a") as file:
        file.write('{"trial": 1, "state": "stopped", "config": {"disc_hidden": [NaN]}}\n')
    numbers = json.loads(write_report(run).numbers.read_text())
    assert numbers["floor"] is None
    assert next(r for r in numbers["leaderboard"] if r["trial"] == 1)["config"]["disc_hidden"] == [None]


def test_another_run_is_not_overwritten(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", TRIALS)
    (other / "environment.json").write_text("{}")
    for page in (other / "environment.html", run / ".." / "other" / "environment.html"):
        with pytest.raises(ConfigError, match=r"in a run folder a report is report\.html"):
            write_report(run, page)
    assert (other / "environment.json").read_text() == "{}"


def test_numbers_on_a_line_have_no_contour(tmp_path: Path) -> None:
    sweep = (
        "name: t\ngan: {dataset: digits, num_iterations: 300}\n"
        "space: {gen_lr: {log_uniform: [1e-5, 1e-2]}, disc_lr: {log_uniform: [1e-5, 1e-2]}}\n"
    )
    run = write_run(tmp_path / "run", [("completed", [1.0 + n], "") for n in range(32)], sweep)
    for number in range(32):
        rate = 10 ** (-5 + number / 12)
        config = {"gen_lr": rate, "disc_lr": rate}
        append_line(run / "trials.jsonl", {"trial": number, "state": "completed", "config": config})
    assert 'data-figure="contour"' not in write_report(run).page.read_text()


def test_a_link_in_a_value_is_text(tmp_path: Path, browser: Any) -> None:
    sweep = (
        "name: t\ngan: {dataset: digits, num_iterations: 300}\nspace: {disc_hidden: {choice: ["
        "'<a href=\"https://evil.example/\">x</a>', '32']}}\n"
    )
    run = write_run(tmp_path / "run", [("completed", [1.0], ""), ("completed", [2.0], "")], sweep)
    for number, value in enumerate(['<a href="https://evil.example/">x</a>', "32"]):
        line = {"trial": number, "state": "completed", "config": {"disc_hidden": value}}
        append_line(run / "trials.jsonl", line)
    file = write_report(run).page
    shown = _Page(browser, file)
    assert shown.page.locator("a[href*='evil'], [*|href*='evil']").count() == 0
    assert shown.problems == []
