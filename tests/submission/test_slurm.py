"""The job script for SLURM: what it says, and that nothing in it runs what it should not."""

import os
import shlex
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tune_gan.errors import ConfigError, RunFolderError
from tune_gan.submission.site import SlurmSite
from tune_gan.submission.slurm import render_slurm
from tune_gan.submission.submit import read_request, require_shared, slurm_script, submit_to_slurm

_EXAMPLES = Path(__file__).parents[2] / "cluster" / "slurm"
_SITE: dict[str, Any] = {"cpus_per_node": 4, "time": "2h"}
_HOSTILE = ["a b", "it's", '"', "$(touch hacked)", "`touch hacked`", "; touch hacked", "*", "\\", "#"]
_RUN = Path("/shared/runs/digits")


def _render(run: Path = _RUN, python: str = "python3", requeue: bool = False, **site: Any) -> str:
    return render_slurm(SlurmSite.parse({**_SITE, **site}), "digits", run, python, requeue)


def _options(script: str) -> list[str]:
    return [
        line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")
    ]


def test_the_example_is_what_the_site_file_beside_it_gives() -> None:
    site = SlurmSite.from_yaml(_EXAMPLES / "site.yaml")
    assert site.python is not None
    rendered = render_slurm(site, "digits", _RUN, site.python, requeue=True)
    assert (_EXAMPLES / "job.sh").read_text() == rendered


def test_a_job_asks_for_what_the_site_file_says() -> None:
    script = _render(nodes=3, gpus_per_node=2, partition="long", memory_per_node="8G", save_time="5m")
    assert _options(script) == [
        "--job-name=digits",
        "--partition=long",
        "--nodes=3",
        "--ntasks-per-node=1",
        "--cpus-per-task=4",
        "--gpus-per-node=2",
        "--mem=8G",
        "--time=120",
        "--signal=B:USR1@300",
        "--open-mode=append",
        "--no-kill",
        "--no-requeue",
    ]
    assert "scontrol requeue" not in script
    assert "--requeue" in _options(_render(requeue=True))
    assert "scontrol requeue" in _render(requeue=True)


@pytest.mark.parametrize(
    ("site", "options"),
    [
        ({"gpus_per_node": 2}, ["--gpus-per-node=2"]),
        ({"gpus_per_node": 7, "gpu_type": "1g.10gb"}, ["--gpus-per-node=1g.10gb:7"]),
        ({"gres": "shard:2"}, ["--gres=shard:2"]),
        ({"gres": "a|b"}, ["--gres=a|b"]),
        ({}, []),
    ],
)
def test_the_job_and_its_other_nodes_ask_for_the_same_gpus(
    site: dict[str, Any], options: list[str]
) -> None:
    script = _render(nodes=2, **site)
    assert [o for o in _options(script) if o.startswith(("--gpus", "--gres"))] == options
    [step] = [line for line in script.replace("\\\n", "").splitlines() if 'job.sh" node' in line]
    asked = [word for word in shlex.split(step) if word.startswith(("--gpus", "--gres"))]
    assert asked == options


@pytest.mark.parametrize(
    ("seen", "count"),
    [
        ({"SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 4),
        ({"SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "MIG-1f2e-0a,MIG-5d3c-0b"}, 2),
        # A site whose SLURM binds no devices.
        ({"SLURM_GPUS_ON_NODE": "2"}, 2),
        # Ray takes no more than are to be seen.
        ({"SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "3"}, 1),
        ({"SLURM_SHARDS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "1"}, 1),
        ({"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50", "CUDA_VISIBLE_DEVICES": "0"}, 1),
        ({"SLURM_GPUS_ON_NODE": "1", "CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 0),
        ({"SLURM_GPUS_ON_NODE": "1", "CUDA_VISIBLE_DEVICES": ""}, 0),
        # What the one who submits had set, in a job that asked for no GPU.
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 0),
        ({}, 0),
    ],
)
def test_ray_is_told_of_the_gpus_that_the_job_sees(seen: dict[str, str], count: int) -> None:
    function = _render().partition("num_gpus() {")[2].partition("\n}\n")[0]
    ran = subprocess.run(
        ["bash", "-c", f"set -u\nnum_gpus() {{{function}\n}}\nnum_gpus"],
        env={"PATH": os.environ["PATH"], **seen},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == f"{count}\n"


@pytest.mark.parametrize("text", _HOSTILE)
def test_nothing_in_a_path_runs(text: str, tmp_path: Path) -> None:
    script = _render(Path(f"/shared/{text}"), python=f"/x/{text}", container=f"/images/{text}")
    # The lines that say where everything is, run by a real shell.
    given = script.partition("set -u")[2].partition("# Two jobs")[0]
    shown = 'printf "%s\\0" "$run" "$work" "$python" "${inside[@]}"'
    ran = subprocess.run(
        ["bash", "-c", f"set -u{given}\n{shown}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    run, work, python, *inside = ran.stdout.split("\0")[:-1]
    assert (run, work, python) == (f"/shared/{text}", f"/shared/{text}.slurm", f"/x/{text}")
    assert inside[-1] == f"/images/{text}"
    assert list(tmp_path.iterdir()) == []


def test_a_container_sees_the_run_the_data_and_the_scratch_folder() -> None:
    site = SlurmSite.parse({**_SITE, "container": "/images/x.sif", "gpus_per_node": 1})
    script = render_slurm(site, "digits", _RUN, "python3", False, data_root="/shared/data")
    expected = "apptainer exec --nv --bind /shared/runs --bind /tmp --bind /shared/data /images/x.sif"
    assert f"inside=({expected})\n" in script


@pytest.mark.parametrize("requeue", [False, True])
def test_a_script_is_one_that_bash_reads(requeue: bool, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(_render(requeue=requeue, modules=["cuda/12.8"]))
    assert "module load cuda/12.8 || fail" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"partition": "a b"}, "partition"),
        ({"partition": "a\nb"}, "partition"),
        ({"account": "$(touch x)"}, "account"),
        ({"modules": ["x; touch y"]}, "modules"),
        ({"qos": "--wrap=x"}, "qos"),
        ({"python": "a\nb"}, "newline"),
        ({"scratch": "tmp"}, "relative"),
        ({"container": "image.sif"}, "relative"),
        ({"time": "soon"}, "no time"),
        ({"nodes": 0}, "nodes"),
        ({"memory_per_node": "64 GB"}, "memory_per_node"),
        ({"gpu_per_node": 4}, "did you mean gpus_per_node?"),
    ],
)
def test_a_wrong_site_value_is_one_line(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SlurmSite.parse({**_SITE, **values})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("runs/x", "is relative"),
        ("/tmp/runs/x", "each machine has for itself"),
        ("/dev/shm/x", "each machine has for itself"),
        ("/shared/a\nb", "newline"),
    ],
)
def test_a_folder_of_one_machine_is_refused(run: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        require_shared(Path(run))


def test_a_trial_larger_than_a_node_is_refused() -> None:
    site = SlurmSite.parse({**_SITE, "gpus_per_node": 1})
    many = read_request("circle", {"resources.gpus": 2}, Path("/shared/never/x"))
    with pytest.raises(ConfigError, match=r"resources.gpus: a trial takes 2, .* gives 1 a node"):
        slurm_script(many, site, requeue=False)
    auto = read_request("circle", {}, Path("/shared/never/x"))
    assert slurm_script(auto, SlurmSite.parse(_SITE), requeue=False)
    named = read_request("circle", {"device": "cuda"}, Path("/shared/never/x"))
    assert slurm_script(named, site, requeue=False)
    with pytest.raises(ConfigError, match=r"gan.device cuda: the site gives no GPU to a node"):
        slurm_script(named, SlurmSite.parse(_SITE), requeue=False)
    shard = SlurmSite.parse({**_SITE, "gres": "shard:1"})
    assert slurm_script(named, shard, requeue=False)
    wide = read_request("circle", {"resources.cpus": 8}, Path("/shared/never/x"))
    with pytest.raises(ConfigError, match=r"resources.cpus: a trial takes 8, .* gives 4 a node"):
        slurm_script(wide, site, requeue=False)


def test_what_is_sent_is_for_nobody_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A stand-in for `sbatch` says how it is called; the real one is in tests/integration/slurm."""
    monkeypatch.setattr("tune_gan.submission.submit._LOCAL", ())
    folder = tmp_path_factory.mktemp("it's $(100%)")
    (folder / "bin").mkdir()
    sbatch = folder / "bin" / "sbatch"
    called = folder / "called"
    sbatch.write_text(f"#!/bin/sh\nprintf '%s\\0' \"$@\" > {shlex.quote(str(called))}\necho '17;lab'\n")
    sbatch.chmod(0o700)
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=":")
    monkeypatch.setenv("SECRET_TOKEN", "canary-5713")
    request = read_request("circle", {}, folder / "run")
    lines = submit_to_slurm(request, SlurmSite.parse(_SITE), requeue=False)
    assert lines[0] == f"job 17: sweep circle in {folder / 'run'}"
    work = folder / "run.slurm"
    assert called.read_text().split("\0")[:-1] == [
        "--parsable",
        "--chdir=/",
        f"--output={folder.parent}/{folder.name.replace('%', '%%')}/run.slurm/%j.log",
        str(work / "job.sh"),
    ]
    assert stat.S_IMODE(work.stat().st_mode) == 0o700
    assert stat.S_IMODE((work / "job.sh").stat().st_mode) == 0o600
    assert not any("canary-5713" in file.read_text() for file in work.iterdir())
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: x' >&2\nexit 1\n")
    with pytest.raises(ConfigError) as caught:
        submit_to_slurm(request, SlurmSite.parse(_SITE), requeue=False)
    assert str(caught.value) == (
        "SLURM refuses the job (invalid partition specified: x); change the site file"
    )


def test_a_run_is_gone_on_with_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tune_gan.submission.submit._LOCAL", ())
    new = read_request("circle", {"search.num_trials": 3}, tmp_path / "run")
    assert new.spec is not None
    assert (new.is_begun, new.spec.num_trials) == (False, 3)
    (tmp_path / "run").mkdir()
    with pytest.raises(RunFolderError, match="exists already"):
        read_request("circle", {}, tmp_path / "run")
    (tmp_path / "run" / "sweep.yaml").write_text(new.spec.to_yaml())
    begun = read_request(str(tmp_path / "run"), {}, None)
    assert (begun.is_begun, begun.run, begun.spec) == (True, tmp_path / "run", new.spec)
    with pytest.raises(ConfigError, match="goes on as it is"):
        read_request(str(tmp_path / "run"), {"search.num_trials": 9}, None)
