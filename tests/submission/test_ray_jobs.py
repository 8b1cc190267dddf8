"""What a Ray cluster is sent: the command line, quoted, and what the job has there."""

import shlex
from pathlib import Path

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

import tune_gan
from tests.integration.commands import tune_gan as run_tune_gan
from tune_gan.errors import ConfigError
from tune_gan.search.spec import SweepSpec, load_spec, resolve
from tune_gan.settings import parse_yaml
from tune_gan.submission.ray_jobs import RayJobs, entrypoint
from tune_gan.submission.submit import ray_job, read_request

_RUN = Path("/shared/runs/ring")


@pytest.mark.parametrize("name", ["a b", "it's", "$(touch x)", "`touch x`", "a;touch x", 'a"b', "-n"])
def test_a_run_of_any_name_is_one_word_of_the_command_line(name: str) -> None:
    run = Path("/shared") / name
    sweep = resolve(load_spec("circle"))
    begin = ["python", "-m", "tune_gan", "sweep", "sweep.yaml", "--out", str(run), "--address", "auto"]
    assert shlex.split(entrypoint(sweep, run)) == begin
    go_on = ["python", "-m", "tune_gan", "resume", str(run), "--address", "auto"]
    assert shlex.split(entrypoint(None, run)) == go_on


def test_a_dry_run_shows_the_job_and_the_sweep() -> None:
    request = read_request("circle", {"search.num_trials": 3}, _RUN, is_elsewhere=True)
    job, sweep = ray_job(request).split("# FOLDER/sweep.yaml:\n")
    assert parse_yaml(job) == {
        "entrypoint": entrypoint(request.spec, _RUN),
        "runtime_env": {
            "working_dir": "FOLDER",
            "py_modules": [str(Path(tune_gan.__file__).parent)],
            "excludes": ["__pycache__"],
        },
    }
    assert SweepSpec.parse(parse_yaml(sweep)) == request.spec


def test_ray_takes_the_example_of_a_cluster_that_grows() -> None:
    file = Path(__file__).parents[2] / "cluster" / "ray" / "cluster.yaml"
    cluster = yaml.safe_load(file.read_text())
    validate_config(prepare_config(cluster))
    with pytest.raises(ValidationError, match="max_wokers"):
        validate_config(prepare_config({**cluster, "max_wokers": 3}))


@pytest.mark.parametrize(
    "address", ["auto", "head:8265", "ray://head:10001", "http://a b", "http://h\n"]
)
def test_an_address_that_takes_no_jobs_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="is not where a cluster takes jobs; give that of its"):
        RayJobs(address)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "ray"], "--address is missing; give where the cluster takes jobs, http://HOST:8265"),
        (
            ["--to", "ray", "--address", "http://127.0.0.1:1"],
            "no Ray cluster answers at http://127.0.0.1:1 (",
        ),
        (
            ["--to", "ray", "--site", "x.yaml"],
            "--site goes with slurm and kubernetes; a ray cluster has its --address",
        ),
        (
            ["--to", "slurm", "--address", "http://127.0.0.1:1"],
            "--address goes with ray; what slurm is asked for is in the --site file",
        ),
        (
            ["--to", "ray", "--requeue-until-done"],
            "--requeue-until-done goes with slurm; on kubernetes see retries",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    ended = run_tune_gan("submit", "circle", "--out", "/srv/ring", *arguments, cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith(f"tune-gan: {said}")
