"""The manifest for KubeRay: what it says, and that KubeRay's own definition of a `RayJob` takes it."""

import gzip
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tune_gan.errors import ConfigError
from tune_gan.search.spec import SweepSpec, load_spec, resolve
from tune_gan.settings import parse_yaml
from tune_gan.submission.kubernetes import render_rayjob
from tune_gan.submission.site import KubernetesSite
from tune_gan.submission.submit import kubernetes_manifest, read_request

_EXAMPLES = Path(__file__).parents[2] / "cluster" / "kubernetes"
_CRD = os.environ.get("TUNE_GAN_RAYJOB_CRD")
_RUN = Path("/shared/runs/circle")
_JOB = "20261122-093000"


def _documents(run: Path = _RUN, **site: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    values = yaml.safe_load((_EXAMPLES / "site.yaml").read_text()) | site
    text = render_rayjob(KubernetesSite.parse(values), resolve(load_spec("circle")), run, _JOB)
    config_map, job = yaml.safe_load_all(text)
    return config_map, job


def test_the_example_is_what_the_site_file_beside_it_gives() -> None:
    site = KubernetesSite.from_yaml(_EXAMPLES / "site.yaml")
    rendered = render_rayjob(site, resolve(load_spec("circle")), _RUN, _JOB)
    assert (_EXAMPLES / "rayjob.yaml").read_text() == rendered


def test_the_sweep_in_it_is_the_one_that_was_given() -> None:
    config_map, _ = _documents()
    assert SweepSpec.parse(parse_yaml(config_map["data"]["sweep.yaml"])) == resolve(load_spec("circle"))


def _unknown(values: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """Return fields that a schema does not name, which Kubernetes would drop without a word."""
    if isinstance(values, list):
        return [name for part in values for name in _unknown(part, schema.get("items", {}), path)]
    if not isinstance(values, dict) or "properties" not in schema:
        return []
    known = schema["properties"]
    found = [f"{path}.{name}" for name in values if name not in known]
    for name in set(values) & set(known):
        found += _unknown(values[name], known[name], f"{path}.{name}")
    return found


@pytest.mark.skipif(_CRD is None, reason="TUNE_GAN_RAYJOB_CRD names no definition of a RayJob")
@pytest.mark.parametrize("gpus", [0, 2])
def test_the_definition_of_a_rayjob_takes_it(gpus: int) -> None:
    assert _CRD is not None
    with gzip.open(_CRD, "rt") as file:
        definition = yaml.load(file, yaml.CSafeLoader)
    version = next(v for v in definition["spec"]["versions"] if v["name"] == "v1")
    schema = version["schema"]["openAPIV3Schema"]
    _, job = _documents(gpus_per_worker=gpus)
    jsonschema.validate(job, schema)
    assert _unknown(job["spec"], schema["properties"]["spec"]) == []
    # Neither check is one that everything passes.
    assert _unknown({"entrypoin": ""}, schema["properties"]["spec"]) == [".entrypoin"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**job, "spec": {**job["spec"], "backoffLimit": "3"}}, schema)


def test_tokens_gpus_the_volume_and_retries_are_asked_for() -> None:
    _, job = _documents(gpus_per_worker=2, retries=5)
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert (job["spec"]["backoffLimit"], job["spec"]["shutdownAfterJobFinishes"]) == (5, True)
    [workers] = cluster["workerGroupSpecs"]
    [container] = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert container["volumeMounts"][0]["mountPath"] == "/shared"
    [head] = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]


@pytest.mark.parametrize("text", ["a b", "it's", '"', "$(touch hacked)", "`touch hacked`", ";x", "on"])
def test_nothing_in_a_path_runs(text: str, tmp_path: Path) -> None:
    """The entry point is read by a shell, and what that calls by a second one."""
    run = Path("/shared") / text
    _, job = _documents(run)
    stand_in = tmp_path / "bin" / "tune-gan"
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o700)
    called = subprocess.run(
        ["sh", "-c", job["spec"]["entrypoint"]],
        cwd=tmp_path,
        env={"PATH": f"{stand_in.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = ["sweep", "/etc/tune-gan/sweep.yaml", "--out", str(run), "--address", "auto"]
    assert called.stdout.splitlines()[:6] == expected
    assert [file.name for file in tmp_path.iterdir()] == ["bin"]
    assert shlex.split(job["spec"]["entrypoint"])[0] == "sh"


def test_an_attempt_after_a_failure_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    _, job = _documents(run, mount=str(tmp_path))
    run.mkdir()
    (run / "sweep.yaml").touch()
    entrypoint = job["spec"]["entrypoint"].replace("exec tune-gan", "echo")
    said = subprocess.run(["sh", "-c", entrypoint], capture_output=True, text=True, check=True).stdout
    assert said.split()[:2] == ["resume", str(run)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Digits_1.2", "digits-1-2"), ("1", "sweep-1"), ("x" * 60, "x" * 31), ("ü", "sweep")],
)
def test_names_are_those_that_kubernetes_takes(name: str, expected: str) -> None:
    config_map, job = _documents(Path("/shared") / name)
    names = (config_map["metadata"]["name"], job["metadata"]["name"])
    assert names == (f"{expected}-{_JOB}", f"{expected}-{_JOB}")
    # KubeRay's own bound.
    assert len(names[1]) <= 47


def test_no_secret_of_who_submits_is_in_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "canary-5713")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("SECRET=canary-5713")
    request = read_request("circle", {}, _RUN, is_elsewhere=True)
    site = KubernetesSite.from_yaml(_EXAMPLES / "site.yaml")
    assert "canary-5713" not in kubernetes_manifest(request, site, _JOB)


def test_a_run_that_only_the_cluster_sees_is_gone_on_with() -> None:
    request = read_request("/shared/runs/mine", {}, None, is_elsewhere=True)
    site = KubernetesSite.from_yaml(_EXAMPLES / "site.yaml")
    job = yaml.safe_load(kubernetes_manifest(request, site, _JOB))
    assert job["kind"] == "RayJob"
    assert job["spec"]["entrypoint"] == "tune-gan resume /shared/runs/mine --address auto --min-nodes 3"
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert [volume["name"] for volume in head["volumes"]] == ["runs"]
    assert [mount["name"] for mount in head["containers"][0]["volumeMounts"]] == ["runs"]


@pytest.mark.parametrize(
    ("root", "said"), [(None, "--data-root is missing; mnist has files"), ("data", "data is relative")]
)
def test_the_place_of_the_data_must_be_given(root: str | None, said: str) -> None:
    changes = {} if root is None else {"gan.data_root": root}
    with pytest.raises(ConfigError, match=said):
        read_request("dcgan28", changes, _RUN, is_elsewhere=True)
    spec = read_request("dcgan28", {"gan.data_root": "/shared/data"}, _RUN, is_elsewhere=True).spec
    assert spec is not None
    assert spec.gan.data_root == "/shared/data"


def test_what_cannot_run_there_is_one_line() -> None:
    with pytest.raises(ConfigError, match="is not on the shared volume; give a folder in /shared"):
        _documents(Path("/home/me/run"))
    site = KubernetesSite.from_yaml(_EXAMPLES / "site.yaml")
    request = read_request("circle", {"resources.gpus": 2}, _RUN)
    with pytest.raises(ConfigError, match=r"takes 2, .* gives 1 a worker \(gpus_per_worker\)"):
        kubernetes_manifest(request, site, _JOB)
