"""Send a sweep to Kubernetes: a `RayJob` of KubeRay, which is a pure function of typed values."""

import re
import shlex
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

# Not ruamel.yaml as elsewhere: Kubernetes reads YAML 1.1, where `on` and `1_0` are no texts.
import yaml

from tune_gan.errors import ConfigError, TuneGanError
from tune_gan.search.spec import SweepSpec
from tune_gan.submission.site import KubernetesSite

_SPEC_FOLDER = "/etc/tune-gan"
# KubeRay makes names of its own from that of a job.
_LONGEST_NAME = 47
_VOLUME, _SPEC_VOLUME = "runs", "sweep"


def render_rayjob(site: KubernetesSite, spec: SweepSpec | None, run: Path, job: str) -> str:
    """Return one YAML text of a config map with the sweep, and of a `RayJob` that runs it.

    Ray's token authentication is on, with a token that KubeRay makes. A job that failed or was
    evicted goes on in a new cluster, as often as the site file says, with `tune-gan resume`.

    Args:
        site: What the job asks for.
        spec: The sweep; None to go on with a run.
        run: The run folder, below the path where the shared volume is mounted.
        job: What tells this job from earlier ones of the run: small letters, digits and dashes.

    Raises:
        ConfigError: if the run lies elsewhere, or a trial takes more than a worker has.
    """
    if not run.is_relative_to(site.mount) or run == Path(site.mount):
        raise ConfigError(f"--out {run} is not on the shared volume; give a folder in {site.mount}")
    name = _name_of(run, job)
    labels = {"app.kubernetes.io/name": "tune-gan", "app.kubernetes.io/instance": name}
    metadata: dict[str, Any] = {"name": name, "labels": labels}
    if site.namespace is not None:
        metadata["namespace"] = site.namespace
    manifests: list[dict[str, Any]] = []
    if spec is not None:
        config_map = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "data": {"sweep.yaml": spec.to_yaml()},
        }
        manifests.append(config_map)
    template = partial(_pod, site, None if spec is None else name)
    ray_job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata,
        "spec": {
            "entrypoint": _entrypoint(run, site.workers, may_begin=spec is not None),
            "submissionMode": "K8sJobMode",
            "shutdownAfterJobFinishes": True,
            "backoffLimit": site.retries,
            "rayClusterSpec": {
                "authOptions": {"mode": "token"},
                # The head searches and writes the run; trials run on the workers.
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": "0"},
                    "template": template(cpus=2, gpus=0),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": site.workers,
                        "minReplicas": site.workers,
                        "maxReplicas": site.workers,
                        "rayStartParams": {},
                        "template": template(site.cpus_per_worker, site.gpus_per_worker),
                    }
                ],
            },
        },
    }
    return yaml.safe_dump_all([*manifests, ray_job], sort_keys=False, width=1000)


def _name_of(run: Path, job: str) -> str:
    """Return a name as Kubernetes takes it, of small letters, digits and dashes."""
    text = re.sub(r"[^a-z0-9]+", "-", run.name.lower()).strip("-")
    text = text if text[:1].isalpha() else f"sweep-{text}"
    return f"{text[: _LONGEST_NAME - 1 - len(job)].strip('-')}-{job}"


def _entrypoint(run: Path, workers: int, may_begin: bool) -> str:
    """Return what a shell on the head runs: the sweep, or in a further attempt what is left of it."""
    nodes = ["--address", "auto", "--min-nodes", str(workers + 1)]
    begin = ["tune-gan", "sweep", f"{_SPEC_FOLDER}/sweep.yaml", "--out", str(run), *nodes]
    go_on = ["tune-gan", "resume", str(run), *nodes]
    if not may_begin:
        return shlex.join(go_on)
    is_begun = shlex.join(["test", "-e", str(run / "sweep.yaml")])
    script = f"if {is_begun}; then exec {shlex.join(go_on)}; else exec {shlex.join(begin)}; fi"
    return shlex.join(["sh", "-c", script])


def _pod(site: KubernetesSite, config_map: str | None, cpus: int, gpus: int) -> dict[str, Any]:
    amounts = {"cpu": str(cpus), "memory": site.memory}
    amounts |= {"nvidia.com/gpu": str(gpus)} if gpus else {}
    container: dict[str, Any] = {
        "name": "ray",
        "image": site.image,
        "env": [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}],
        "resources": {"requests": dict(amounts), "limits": amounts},
    }
    mounts: list[dict[str, Any]] = [{"name": _VOLUME, "mountPath": site.mount}]
    volumes: list[dict[str, Any]] = [
        {"name": _VOLUME, "persistentVolumeClaim": {"claimName": site.volume_claim}}
    ]
    if config_map is not None:
        mounts.append({"name": _SPEC_VOLUME, "mountPath": _SPEC_FOLDER, "readOnly": True})
        volumes.append({"name": _SPEC_VOLUME, "configMap": {"name": config_map}})
    container["volumeMounts"] = mounts
    return {"spec": {"containers": [container], "volumes": volumes}}


def apply(manifest: str) -> None:
    """Create what a manifest describes, with `kubectl`.

    Raises:
        ConfigError: if Kubernetes refuses it, or `kubectl` is not here.
        TuneGanError: if it does not answer.
    """
    if shutil.which("kubectl") is None:
        raise ConfigError("kubectl is not on this machine; write the manifest to a file with --dry-run")
    command = ["kubectl", "create", "--filename", "-"]
    try:
        answer = subprocess.run(  # noqa: S603
            command, input=manifest, capture_output=True, text=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TuneGanError(f"kubectl does not answer ({error})") from None
    if answer.returncode:
        said = [line for line in answer.stderr.splitlines() if line.strip()]
        reason = said[-1] if said else f"exit code {answer.returncode}"
        raise ConfigError(f"Kubernetes refuses the job ({reason.removeprefix('error: ')})")
