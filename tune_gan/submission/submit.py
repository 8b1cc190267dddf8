"""Send a sweep, or what is left of one, to a cluster."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_gan.errors import ConfigError, RunFolderError, StorageError
from tune_gan.files import write_whole
from tune_gan.results.trials import read_sweep
from tune_gan.search.spec import SweepSpec, load_spec, resolve
from tune_gan.submission import kubernetes, slurm
from tune_gan.submission.site import KubernetesSite, SlurmSite

# What each machine has for itself.
_LOCAL = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/proc")  # noqa: S108


@dataclass(frozen=True)
class Request:
    """What is to be sent.

    Attributes:
        spec: The sweep.
        run: The run folder, a whole path that every node of the cluster has.
        is_begun: Whether the run is there and is to go on.
    """

    spec: SweepSpec
    run: Path
    is_begun: bool


def read_request(source: str, changes: Mapping[str, Any], out: Path | None) -> Request:
    """Read what is to be sent: a sweep as `load_spec` takes it, or the folder of a run.

    Args:
        source: A preset's name, a YAML file, or a run folder.
        changes: As for `load_spec`; none for a run folder.
        out: The run folder of a new sweep.

    Raises:
        ConfigError: if there is no such sweep, or `out` is missing, relative or of one machine alone.
        RunFolderError: if the folder of the new run exists.
    """
    if (Path(source) / "sweep.yaml").is_file():
        if changes or out is not None:
            raise ConfigError(f"{source} is a run, which goes on as it is; leave out the other options")
        run = Path(source).absolute()
        require_shared(run)
        return Request(SweepSpec.parse(read_sweep(run)), run, is_begun=True)
    spec = resolve(load_spec(source, changes))
    if out is None:
        raise ConfigError("--out is missing; give a new folder on a file system that all nodes share")
    require_shared(out)
    if out.exists():
        raise RunFolderError(
            f"{out} exists already; name another folder with --out, or submit that run"
        )
    return Request(spec, out, is_begun=False)


def require_shared(run: Path) -> None:
    """See that a run folder is none that only one machine can have.

    Raises:
        ConfigError: if it is.
    """
    if not run.is_absolute():
        raise ConfigError(f"--out {run} is relative; give the whole path, which every node has")
    if not str(run).isprintable():
        raise ConfigError(f"--out {str(run)!r} holds a newline or another control character")
    place = next((p for p in _LOCAL if run.resolve().is_relative_to(p)), None)
    if place is not None:
        raise ConfigError(
            f"--out {run} lies in {place}, which each machine has for itself; "
            "give a folder on a file system that all nodes share"
        )


def _require_room(spec: SweepSpec, where: str, cpus: int, gpus: int) -> None:
    """See that a trial fits on a node or worker of the site."""
    taken = spec.resources
    for name, wanted, given in (("gpus", taken.gpus, gpus), ("cpus", taken.cpus, cpus)):
        if wanted > given:
            raise ConfigError(
                f"resources.{name}: a trial takes {wanted:g}, but the site gives {given} a {where} "
                f"({name}_per_{where}); lower it with --set resources.{name}={given}, or change that"
            )


def kubernetes_manifest(request: Request, site: KubernetesSite) -> str:
    """Return the YAML text that makes the job.

    Raises:
        ConfigError: if a trial takes more than a worker of the site has, or the run is not on its
            volume.
    """
    _require_room(request.spec, "worker", site.cpus_per_worker, site.gpus_per_worker)
    return kubernetes.render_rayjob(site, request.spec, request.run)


def slurm_script(request: Request, site: SlurmSite, requeue: bool) -> str:
    """Return the job's script.

    Raises:
        ConfigError: if a trial takes more than a node of the site has.
    """
    _require_room(request.spec, "node", site.cpus_per_node, site.gpus_per_node)
    python = site.python or sys.executable
    data_root = request.spec.gan.data_root
    return slurm.render_slurm(site, request.spec.name, request.run, python, requeue, data_root)


def submit_to_slurm(request: Request, site: SlurmSite, requeue: bool) -> list[str]:
    """Submit a job and return what to tell of it, line by line.

    The folder beside the run, ``RUN.slurm``, gets the script, the sweep and the job's log.

    Raises:
        ConfigError: if a trial does not fit, or SLURM refuses the job.
        StorageError: if the folder cannot be written.
    """
    script, work = slurm_script(request, site, requeue), slurm.work_folder(request.run)
    try:
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{work} cannot be made ({error.strerror})") from None
    if not request.is_begun:
        write_whole(work / "sweep.yaml", request.spec.to_yaml())
    write_whole(work / "job.sh", script)
    (work / "job.sh").chmod(0o600)
    job = slurm.send(request.run)
    run, log = shlex.quote(str(request.run)), shlex.quote(str(work / f"{job}.log"))
    return [
        f"job {job}: sweep {request.spec.name} in {request.run}",
        f"watch it with: tune-gan status {run}, or tail -f {log}",
        f"stop it with:  scancel {job}",
        f"then go on:    tune-gan submit {run} --to slurm --site FILE",
    ]
