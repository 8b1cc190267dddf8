import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.integration.commands import PATIENCE_S, command, tune_gan
from tests.results.test_results import TRIALS, write_run
from tune_gan import load_losses
from tune_gan.config import OTHER_NAMES, GanConfig
from tune_gan.losses_file import LOSSES_FILE, write_losses
from tune_gan.presets import preset_names
from tune_gan.search.spec import load_spec, resolve
from tune_gan.settings import parse_yaml


def test_help_is_quick_and_names_the_commands(tmp_path: Path) -> None:
    libraries = "import pydantic.json_schema, ruamel.yaml, typer.rich_utils"
    seconds: dict[str, list[float]] = {"help": [], "libraries": []}
    for _ in range(6):
        seconds["help"].append(_processor_seconds([*command("--help")], tmp_path))
        seconds["libraries"].append(_processor_seconds([sys.executable, "-c", libraries], tmp_path))
    # What the command line itself adds is less than its libraries take, on whatever machine.
    assert min(seconds["help"]) < 2 * min(seconds["libraries"])
    result = tune_gan("--help", cwd=tmp_path)
    assert result.returncode == 0
    for name in ("train", "sweep", "rank", "best"):
        assert re.search(rf"\b{name}\b", result.stdout)


def _processor_seconds(arguments: list[str], folder: Path) -> float:
    """Processor time, which a busy machine does not stretch; there is nothing to wait for."""
    before = os.times()
    subprocess.run(arguments, cwd=folder, check=True, capture_output=True)
    after = os.times()
    used = after.children_user + after.children_system
    return used - before.children_user - before.children_system


def test_version(tmp_path: Path) -> None:
    assert re.fullmatch(r"tune-gan \d+\.\d+\.\d+\n", tune_gan("--version", cwd=tmp_path).stdout)


def test_train_has_a_flag_for_every_field(tmp_path: Path) -> None:
    text = " ".join(tune_gan("train", "--help", cwd=tmp_path).stdout.split())
    for name in GanConfig.model_fields:
        assert re.search(rf"--{name.replace('_', '-')}[ ,…]", text), name
    for names in OTHER_NAMES.values():
        assert f"Also called {', '.join(names)}." in re.sub(r"[│ ]+", " ", text)
    assert "a number above 0 and at most 1" in re.sub(r"[│ ]+", " ", text)


WRONG_INPUT: list[tuple[list[str], str]] = [
    (["swep"], "No such command 'swep'. Did you mean 'sweep'?"),
    (["train", "--gen-lrr", "1"], "--gen-lr"),
    (["train", "--gen_lr", "-1"], "gen_lr: -1 is not valid; give a number above 0 and at most 1"),
    (["train", "--gen-lr", "fast"], "gen_lr: 'fast' is not valid; give a number above 0"),
    (["train", "--gen-lr", "[1"], "is no valid YAML"),
    (["train", "--preset", "vanila"], "no preset 'vanila'; did you mean vanilla?"),
    (["train", "--preset", "vanilla", "--config", "c.yaml"], "choose one"),
    (["train", "--config", "missing.yaml"], "missing.yaml: cannot be read (No such file"),
    (["train", "--config", "list.yaml"], "expected a mapping"),
    (["train", "--config", "twice.yaml"], "twice.yaml: line 2: is no valid YAML"),
    (["train", "--config", "tag.yaml"], "tag.yaml: line 1: is no valid YAML"),
    (["train", "--config", "sweep.yaml"], "sweep.yaml is a sweep; run it with `tune-gan sweep`"),
    (["train", "--resume", "missing"], "missing/config.yaml: cannot be read"),
    (["train", "--resume", "missing", "--seed", "3"], "goes on with its own configuration"),
    (["train", "--data-root", "empty"], "empty/mnist/train-images-idx3-ubyte.gz"),
    (["train", "--dataset", "circle", "--out", "empty"], "empty exists already"),
    (["train", "--dataset", "circle", "--out", "list.yaml/run"], "cannot be written"),
    (["train", "--dataset", "digits", "--batch-size", "5000"], "the 1297 training samples"),
    (["sweep"], "Missing argument 'spec'"),
    (["sweep", "digit"], "no preset 'digit'; did you mean digits?"),
    (["sweep", "missing.yaml"], "missing.yaml: cannot be read"),
    (["sweep", "list.yaml"], "list.yaml: expected a mapping"),
    (["sweep", "digits", "--num-trials", "0"], "search.num_trials: 0 is not valid"),
    (["sweep", "digits", "--num-trials", "many"], "search.num_trials: 'many' is not valid"),
    (["sweep", "digits", "--set", "gen_lr"], "expected field=value"),
    (["sweep", "digits", "--set", "gen_lrr=1"], "did you mean gen_lr?"),
    (["sweep", "digits", "--set", "space.lr={uniform: [0, 1]}"], "lr: unknown field"),
    (["sweep", "digits", "--set", "search.algorithm=grid"], "does not go with algorithm grid"),
    (["sweep", "digits", "--set", "space.gen_lr={grid: [0.1]}"], "grid does not go with"),
    (["sweep", "vanilla", "--data-root", "empty"], "empty/mnist/train-images-idx3-ubyte.gz"),
    (["sweep", "circle", "--out", "empty"], "empty exists already"),
    (["sweep", "circle", "--out", "/proc/run"], "/proc/run cannot be made"),
    (["sweep", "circle", "--set", "batch_size=20000"], "above the 10000 training samples"),
    (["sweep", "circle", "--set", "resources.gpus=64"], "but there are"),
    (["train", "--dataset", "circle", "--device", "cuda:99"], "device cuda:99 is not there"),
    (["train", "--dataset", "folder"], "dataset folder needs data_root"),
    (["train", "--dataset", "folder", "--data-root", "no"], "no does not exist"),
    (["train", "--dataset", "folder", "--data-root", "empty"], "empty holds no PNG, JPEG"),
    (["train", "--dataset", "digits", "--strict"], "--strict goes with dataset folder, not digits"),
    (["train", "--loss", "wasserstein"], "loss wasserstein needs"),
    (["train", "--optimizer", "ADAMM"], "'ADAMM' is not valid; give one of adam, adamw"),
    (["sample", "missing"], "no checkpoint at missing"),
    (["score", "missing"], "no checkpoint at missing"),
    (["score", "missing", "--metrics", "kidd"], "no metric 'kidd'; did you mean kid? valid: fid_proxy"),
    (["score", "missing", "--weights", "x"], "--weights goes with the metric fid, not fid_proxy,kid,"),
    (["score", "missing", "-n", "20000"], "should be less than or equal to 10000"),
    (["sample", "empty", "-n", "0"], "greater than or equal to 1"),
    (["presets", "show", "vanila"], "no preset 'vanila'; did you mean vanilla?"),
    (["presets", "list"], "No such command 'list'"),
    (["rank", "missing"], "missing is no run folder"),
    (["rank", "empty"], "empty is no run folder"),
    (["best", "empty"], "empty is no run folder"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG_INPUT)
def test_wrong_input_is_one_line_and_exit_2(arguments: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.yaml").write_text("[1, 2]\n")
    (tmp_path / "sweep.yaml").write_text("name: x\ngan: {}\nspace: {}\n")
    (tmp_path / "twice.yaml").write_text("gen_lr: 0.1\ngen_lr: 0.2\n")
    (tmp_path / "tag.yaml").write_text("gen_lr: !!python/object/apply:os.getcwd []\n")
    before = sorted(tmp_path.rglob("*"))
    result = tune_gan(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("preparing ")]
    assert len(lines) == 1
    assert lines[0].startswith("tune-gan: ")
    assert words in lines[0]
    written = [path for path in sorted(tmp_path.rglob("*")) if path.name != "runs"]
    assert written == before


@pytest.mark.parametrize(
    ("begun", "ending"),
    [
        ("the command line", signal.SIGINT),
        ("the command line", signal.SIGTERM),
        ("torch", signal.SIGINT),
        ("the training", signal.SIGINT),
    ],
)
def test_an_early_interrupt_is_one_line_too(begun: str, ending: signal.Signals, tmp_path: Path) -> None:
    arguments = command("train", "--preset", "circle", "--out", "run")
    with subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not _has_begun(begun, process.pid, tmp_path / "run"):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(ending)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("tune-gan: interrupted")
    assert "Traceback" not in errors


def _has_begun(what: str, pid: int, folder: Path) -> bool:
    """Whether a process is importing this, as the libraries say that it has open, or trains."""
    if what == "the training":
        return folder.is_dir()
    library = {"the command line": "pydantic_core", "torch": "libtorch_cpu"}[what]
    return library in Path(f"/proc/{pid}/maps").read_text()


def test_it_can_be_ended_in_the_background_of_a_shell(tmp_path: Path) -> None:
    """There Ctrl-C is ignored."""
    arguments = " ".join(command("train", "--preset", "circle", "--out", "run"))
    shell = ["sh", "-c", f"{arguments} & echo $!; wait $!"]
    with subprocess.Popen(
        shell, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        while not (tmp_path / "run/config.yaml").is_file():
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(number, signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("tune-gan: interrupted")


def test_a_cache_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/cache")
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3000):
        Image.new("RGB", (8, 8)).save(images / f"{number}.bmp")
    arguments = ("--dataset", "folder", "--data-root", images, "--image-size", "8", "--strict")
    result = tune_gan("train", *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("tune-gan: the images cannot be kept in /proc/cache")
    assert result.stderr.count("\n") == 1


def test_what_ships_needs_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/cache")
    arguments = ("--dataset", "digits", "--num-iterations", "20", "--report-every", "10")
    result = tune_gan("train", *arguments, "--out", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["instrument"] == "digits-lenet-v1, N=2000"


def test_paths_are_taken_as_they_are(tmp_path: Path) -> None:
    result = tune_gan("train", "--data-root", "2026 #x", cwd=tmp_path)
    assert "2026 #x/mnist/train-images" in result.stderr


# The command line of the parameter scan that the vanilla preset comes from, but for its length.
_SCAN = (
    "--lr_dscr=0.0002 --lr_gen=0.0002 --batch_size=8 --num_iterations=4 --latent_dim=100 "
    "--optimizer=ADAM --activation=leakyrelu --activation_alpha=0.2 --train_k=8 --prob_dropout=0.3 "
    "--output_period=2"
)


def test_the_tutorial_s_own_command_line(tmp_path: Path, mnist_root: str) -> None:
    result = tune_gan("train", *_SCAN.split(), "--data-root", mnist_root, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    wanted = "mlp-mnist-batch_size_8-disc_steps_8-num_iterations_4-report_every_2-"
    assert folder.name.startswith(wanted)
    config = GanConfig.from_yaml(folder / "config.yaml")
    assert (config.optimizer, config.activation, config.dropout) == ("adam", "leaky_relu", 0.3)
    assert re.search(
        r"^fid_proxy \S+ untrained, \S+ now, best \S+ at iteration [24](, degenerate.*)?$",
        result.stdout,
        re.M,
    )
    # No terminal, nothing drawn: the six lines of the summary alone.
    assert len(result.stdout.splitlines()) == 6


def test_measures_of_a_training(tmp_path: Path) -> None:
    flags = "--dataset circle --num-iterations 2 --report-every 2 --out run"
    assert tune_gan("train", *flags.split(), cwd=tmp_path).returncode == 0
    metrics = ("--metrics", "fid-proxy,radial_error", "-n", "500")
    shown = tune_gan("score", "run", *metrics, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    heading, first, second = (line.split() for line in shown.stdout.splitlines())
    assert heading == ["metric", "value", "+-", "by"]
    assert first[0] == "fid_proxy"
    assert first[3:] == second[2:] == ["circle-fourier-v1,", "N=500"]
    records = json.loads(tune_gan("score", "run", *metrics, "--json", cwd=tmp_path).stdout)
    assert [record["metric"] for record in records] == ["fid_proxy", "radial_error"]
    assert f"{records[0]['value']:.4g}" == first[1]
    refused = tune_gan("score", "run", "--metrics", "fid", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr == "tune-gan: fid is a distance of images, and dataset circle holds points\n"


def test_samples_in_the_output_and_in_files(tmp_path: Path) -> None:
    flags = "--dataset digits --num-iterations 2 --report-every 2 --out run --show-samples"
    result = tune_gan("train", *flags.split(), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout
    assert len(result.stdout.splitlines()) == 5 + 6
    shown = tune_gan("sample", "run", "-n", "9", "--seed", "3", cwd=tmp_path)
    assert (shown.returncode, shown.stdout) == (0, "samples.png\n")
    both = tune_gan("sample", "run", "-o", "a 'b'.png", "--npz", "x.npz", cwd=tmp_path)
    assert both.stdout.splitlines() == ["a 'b'.png", "x.npz"]
    for name in ("samples.png", "a 'b'.png", "x.npz"):
        assert (tmp_path / name).stat().st_size > 100


def test_presets_are_shown(tmp_path: Path) -> None:
    table = tune_gan("presets", cwd=tmp_path).stdout
    assert [line.split()[0] for line in table.splitlines()[1:] if line[0] != " "] == preset_names()
    (tmp_path / "mine.yaml").write_text(tune_gan("presets", "show", "circle", cwd=tmp_path).stdout)
    mine = tune_gan("sweep", "./mine.yaml", "--dry-run", cwd=tmp_path).stdout
    assert mine == tune_gan("sweep", "circle", "--dry-run", cwd=tmp_path).stdout


def test_dry_run_prints_a_sweep_that_can_be_run_and_starts_nothing(tmp_path: Path) -> None:
    for name in preset_names():
        result = tune_gan("sweep", name, "--num-trials", "7", "--dry-run", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "# 7 trials of" in result.stdout
        (tmp_path / "spec.yaml").write_text(result.stdout)
        assert resolve(load_spec(str(tmp_path / "spec.yaml"))).to_yaml() in result.stdout
    again = tune_gan("sweep", "./spec.yaml", "--dry-run", cwd=tmp_path)
    assert again.stdout == result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


def test_rank_and_best_of_a_run(tmp_path: Path) -> None:
    write_run(tmp_path / "a run", TRIALS)
    table = tune_gan("rank", "a run", cwd=tmp_path)
    assert table.returncode == 0
    assert "\x1b" not in table.stdout
    assert table.stdout.splitlines()[2].split()[:3] == ["1", "2", "completed"]
    as_json = tune_gan("rank", "a run", "--json", cwd=tmp_path)
    assert [entry["trial"] for entry in parse_yaml(as_json.stdout)] == [2, 0, 1, 5, 6, 4, 3]
    best = tune_gan("best", "a run", cwd=tmp_path)
    assert GanConfig.parse(parse_yaml(best.stdout)).gen_lr == 1e-4


def test_best_fails_where_no_trial_is_ranked(tmp_path: Path) -> None:
    write_run(tmp_path / "run", TRIALS[3:5])
    result = tune_gan("best", "run", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("tune-gan: no trial can be ranked")
    assert result.stderr.count("\n") == 1


def test_analysis_script_is_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from analysis import rank

    write_run(tmp_path / "run", TRIALS)
    rank.main([str(tmp_path / "run")])
    assert capsys.readouterr().out == tune_gan("rank", "run", cwd=tmp_path).stdout


def test_the_losses_of_a_sweep_and_of_a_training(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", TRIALS)
    rows = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], dtype=np.float32)
    write_losses(run / "trial_00002" / LOSSES_FILE, 2, rows)
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "config.yaml").write_text("dataset: circle\n")
    write_losses(tmp_path / "training" / LOSSES_FILE, 1, rows[1:])
    heading = "trial,iteration,gen_loss,disc_loss,disc_real,disc_fake"
    shown = tune_gan("curves", "run", "--losses", "--format", "csv", cwd=tmp_path)
    assert shown.stdout.splitlines() == [heading, "2,1,1.0,2.0,3.0,4.0", "2,2,5.0,6.0,7.0,8.0"]
    shown = tune_gan("curves", "training", "--losses", "--format", "csv", cwd=tmp_path)
    assert shown.stdout.splitlines() == [heading, "0,1,5.0,6.0,7.0,8.0"]
    with (tmp_path / "losses.parquet").open("wb") as file:
        arguments = command("curves", "run", "--losses", "--format", "parquet")
        subprocess.run(arguments, cwd=tmp_path, stdout=file, check=True)
    kept = pd.read_parquet(tmp_path / "losses.parquet")
    pd.testing.assert_frame_equal(kept, load_losses(run))
