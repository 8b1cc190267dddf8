"""Every kind of wrong input, as a user gives it, and the one line that it gets.

`wrong_input.txt` holds each command line with its exit code and output. A command is added by its line
alone; ``TUNE_GAN_RECORD=1 pytest -n 0 tests/test_wrong_input.py`` writes the file anew, and a person
reads what has changed.
"""

import os
import pickle
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.integration.commands import command, tune_gan
from tune_gan.errors import ConfigError
from tune_gan.search.spec import load_spec, resolve
from tune_gan.search.study import SweepStudy

_RECORD = Path(__file__).with_name("wrong_input.txt")
_IS_RECORDING = "TUNE_GAN_RECORD" in os.environ
_PROMPT = "$ "
_HUGE = "huge.yaml"
_LARGEST_MEMORY_KB = 200_000
# What a process of its own says of its child, which at its start would count the tests' own memory.
_MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""

_SPEC = "name: x\ngan: {preset: circle}\nspace: {gen_lr: {log_uniform: [1e-5, 1e-2]}}\n"
_FILES: dict[str, bytes | str] = {
    "file.txt": "no YAML of ours\n",
    "empty.yaml": "",
    "list.yaml": "[1, 2]\n",
    "binary.yaml": b"name: \xff\xfe\n",
    "nul.yaml": "name: x\x00y\n",
    "twice.yaml": f"{_SPEC}name: y\n",
    "tag.yaml": f"{_SPEC}x: !!python/object/apply:os.system ['touch x']\n",
    "target.yaml": f"{_SPEC}_target_: os.system\n",
    "brackets.yaml": "[" * 90_000,
    "mappings.yaml": "{a: " * 20_000,
    "digits.yaml": f"{_SPEC}search: {{num_trials: {'9' * 90_000}}}\n",
    "long.yaml": f"name: {'a' * 90_000}\n",
    "many.yaml": "".join(f"field_{i}: {i}\n" for i in range(5000)),
    "site.yaml": "cpus_per_node: 2\ntime: 1h\n",
    "bad-site.yaml": "cpus_per_node: 2\ntime: 1h\npartition: 'a b'\ngpu_per_node: 1\n",
    "no-gan.yaml": "name: x\nspace: {gen_lr: {log_uniform: [1e-5, 1e-2]}}\n",
}
# Each list holds the one before nine times: 9 ** 12 numbers in all.
_LISTS = ["&a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
_LISTS += [f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
_FILES["anchors.yaml"] = "name: x\ngan: {preset: circle}\nspace:\n  gen_lr:\n    choice:\n" + "".join(
    f"    - {line}\n" for line in _LISTS
)


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (Path("x"),))


def _write_inputs(here: Path) -> None:
    for name, content in _FILES.items():
        (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for name in ("empty", "images", "many", "cut", "pickle", "run"):
        (here / name).mkdir()
    (here / "images" / "notes.txt").write_text("no image")
    for number in range(3000):
        (here / "many" / f"{number}.png").write_bytes(b"x")
    (here / "cut" / "state.safetensors").write_bytes((500).to_bytes(8, "little") + b'{"__metada')
    (here / "pickle" / "state.safetensors").write_bytes(pickle.dumps(_Trap()))
    spec = resolve(load_spec("circle"))
    (here / "run" / "sweep.yaml").write_text(spec.to_yaml())
    study = SweepStudy(here / "run", spec)
    study.add(spec.default_point)
    (here / "run" / "trial_00000").mkdir()
    study.end(0, "failed", "ValueError: x", [])
    (here / "damaged").mkdir()
    (here / "damaged" / "sweep.yaml").write_text(spec.to_yaml()[:60])
    shutil.copytree(Path(__file__).parent / "results" / "run_of_0_1_0", here / "old")
    (here / "old" / "optuna_journal.log").write_text("{}\n")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    _write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def seconds_to_read() -> float:
    """How long the YAML library itself takes for as long a file, here and now."""
    text = _FILES["many.yaml"]
    started = time.thread_time()
    YAML(typ="safe", pure=True).load(text)
    return time.thread_time() - started


def _copy(inputs: Path, here: Path) -> Path:
    shutil.copytree(inputs, here, dirs_exist_ok=True, ignore=shutil.ignore_patterns("many"))
    (here / "many").symlink_to(inputs / "many")
    with (here / _HUGE).open("wb") as file:
        # It takes no room on the disk.
        file.truncate(100_000_000)
    return here


def _read_record() -> dict[str, str]:
    blocks = _RECORD.read_text().split("\n\n")
    entries = (block.strip("\n").partition("\n") for block in blocks)
    return {line.removeprefix(_PROMPT): rest for line, _, rest in entries if line}


def _run(line: str, here: Path) -> tuple[int, str]:
    _, *arguments = shlex.split(line)
    result = tune_gan(*arguments, cwd=here)
    output = (result.stdout + result.stderr).replace(str(here), "HERE")
    return result.returncode, output.replace(os.environ["XDG_CACHE_HOME"], "CACHE")


@pytest.mark.skipif(not _IS_RECORDING, reason="TUNE_GAN_RECORD is not set")
def test_record(inputs: Path, tmp_path: Path) -> None:
    def entry(number_and_line: tuple[int, str]) -> str:
        number, line = number_and_line
        code, output = _run(line, _copy(inputs, tmp_path / str(number)))
        return f"{_PROMPT}{line}\nexit {code}\n{output}"

    with ThreadPoolExecutor(2) as pool:
        entries = list(pool.map(entry, enumerate(_read_record())))
    _RECORD.write_text("\n".join(entries))


@pytest.mark.skipif(_IS_RECORDING, reason="the record is being written")
@pytest.mark.parametrize("line", _read_record())
def test_wrong_input_prints_what_is_recorded_and_writes_nothing(
    inputs: Path, tmp_path: Path, line: str
) -> None:
    here = _copy(inputs, tmp_path)
    before = _tree(here)
    code, output = _run(line, here)
    assert f"exit {code}\n{output}" == _read_record()[line] + "\n"
    assert _tree(here) == before


def _tree(here: Path) -> list[Path]:
    # The lock of a run folder stays behind.
    return sorted(path for path in here.rglob("*") if path.name != ".lock")


@pytest.mark.parametrize("line", _read_record())
def test_all_that_is_recorded_is_one_line_and_exit_2(line: str) -> None:
    code, *output = _read_record()[line].split("\n")
    assert code == "exit 2"
    assert len(output) == 1
    assert output[0].startswith("tune-gan: ")
    assert "Traceback" not in output[0]


def test_a_folder_that_is_no_run_stays_as_it_was(tmp_path: Path) -> None:
    code, output = _run("tune-gan resume .", tmp_path)
    assert (code, output.count("\n")) == (2, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*_FILES, _HUGE])
def test_a_wrong_file_is_refused_at_once_and_in_few_words(
    inputs: Path, tmp_path: Path, seconds_to_read: float, name: str
) -> None:
    path = _copy(inputs, tmp_path) / name
    started = time.thread_time()  # of this thread alone: Ray's, of earlier tests, go on beside it
    with pytest.raises(ConfigError) as caught:
        load_spec(str(path))
    assert time.thread_time() - started < 2 * seconds_to_read
    assert len(str(caught.value)) < 5000
    assert "\n" not in str(caught.value)


def test_a_huge_file_takes_no_memory(inputs: Path, tmp_path: Path) -> None:
    arguments = command("sweep", f"./{_HUGE}")
    result = subprocess.run(
        [sys.executable, "-c", _MEASURE, *arguments],
        cwd=_copy(inputs, tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    code, memory_kb = map(int, result.stdout.split())
    assert code == 2
    assert memory_kb < _LARGEST_MEMORY_KB
