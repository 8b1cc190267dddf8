"""Send a sweep, or what is left of one, to a cluster."""

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_gan.config import DATASETS_WITHOUT_FILES
from tune_gan.errors import ConfigError, RunFolderError, StorageError
from tune_gan.files import write_whole
from tune_gan.results.trials import read_sweep
from tune_gan.search.spec import SweepSpec, load_spec, resolve
from tune_gan.settings import write_yaml
from tune_gan.submission import kubernetes, slurm
from tune_gan.submission.ray_jobs import RayJobs, entrypoint, runtime_environment
from tune_gan.submission.site import KubernetesSite, SlurmSite

# What each machine has for itself.
_LOCAL = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/proc")  # noqa: S108


@dataclass(frozen=True)
class Request:
    """What is to be sent.

    Attributes:
        spec: The sweep; None for a run to go on with that this machine does not see.
        run: The run folder, a whole path that every node of the cluster has.
        is_begun: Whether the run is there and is to go on.
    """

    spec: SweepSpec | None
    run: Path
    is_begun: bool


def read_request(
    source: str, changes: Mapping[str, Any], out: Path | None, is_elsewhere: bool = False
) -> Request:
    """Read what is to be sent: a sweep as `load_spec` takes it, or the folder of a run.

    Args:
        source: A preset's name, a YAML file, or a run folder.
        changes: As for `load_spec`; none for a run folder.
        out: The run folder of a new sweep.
        is_elsewhere: Whether the cluster has other file systems than this machine: then the data's
            place must be given, and a run folder need not be here.

    Raises:
        ConfigError: if there is no such sweep, or `out` is missing, relative or of one machine alone.
        RunFolderError: if the folder of the new run exists.
    """
    is_begun = (Path(source) / "sweep.yaml").is_file()
    if is_begun or (is_elsewhere and _names_a_folder_elsewhere(source)):
        if (changes or out is not None) and not is_begun:
            raise ConfigError(f"{source} is neither a sweep nor a run here; a new sweep needs its file")
        if changes or out is not None:
            raise ConfigError(f"{source} is a run, which goes on as it is; leave out the other options")
        run = Path(source).absolute()
        require_shared(run)
        return Request(SweepSpec.parse(read_sweep(run)) if is_begun else None, run, is_begun=True)
    spec = load_spec(source, changes)
    if is_elsewhere:
        _require_places(spec)
    spec = resolve(spec)
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


def _names_a_folder_elsewhere(source: str) -> bool:
    path = Path(source)
    return path.is_absolute() and path.suffix not in (".yaml", ".yml") and not path.exists()


def _require_places(spec: SweepSpec) -> None:
    """See that places are said as the cluster has them, where those of this machine are none of its."""
    gan = spec.gan
    for name, places in (("gan.weights", [gan.weights]), ("search.warm_start", spec.search.warm_start)):
        for place in places:
            if place is not None and not Path(place).is_absolute():
                raise ConfigError(
                    f"{name}: {place} is relative; give the whole path, as every node has it"
                )
    if gan.dataset in DATASETS_WITHOUT_FILES:
        return
    if gan.data_root is None or not Path(gan.data_root).is_absolute():
        given = "is missing" if gan.data_root is None else f"{gan.data_root} is relative"
        raise ConfigError(
            f"--data-root {given}; {gan.dataset} has files, give the whole path of their folder as "
            "every node has it"
        )


def _require_room(spec: SweepSpec | None, where: str, cpus: int, gpus: int) -> None:
    """See that a trial fits on a node or worker of the site."""
    if spec is None:
        return
    taken, device = spec.resources, spec.gan.device
    if not gpus and device not in ("auto", "cpu"):
        raise ConfigError(
            f"gan.device {device}: the site gives no GPU to a {where} (gpus_per_{where}); use auto or "
            "cpu, or change that"
        )
    # What auto takes is chosen there.
    num_gpus = 0.0 if taken.gpus == "auto" else taken.gpus
    for name, wanted, given in (("gpus", num_gpus, gpus), ("cpus", taken.cpus, cpus)):
        if wanted > given:
            raise ConfigError(
                f"resources.{name}: a trial takes {wanted:g}, but the site gives {given} a {where} "
                f"({name}_per_{where}); lower it with --set resources.{name}={given}, or change that"
            )


def kubernetes_manifest(request: Request, site: KubernetesSite, job: str) -> str:
    """Return the YAML text that makes the job.

    Args:
        request: What is sent.
        site: What the job asks for.
        job: What tells it from earlier ones of the same run.

    Raises:
        ConfigError: if a trial takes more than a worker of the site has, or the run is not on its
            volume.
    """
    _require_room(request.spec, "worker", site.cpus_per_worker, site.gpus_per_worker)
    return kubernetes.render_rayjob(site, request.spec, request.run, job)


def ray_job(request: Request) -> str:
    """Return as YAML what a Ray cluster gets: the command line, and what the job has there."""
    sweep = None if request.is_begun else request.spec
    job = {
        "entrypoint": entrypoint(sweep, request.run),
        "runtime_env": runtime_environment(Path("FOLDER")),
    }
    return write_yaml(job) + (f"# FOLDER/sweep.yaml:\n{sweep.to_yaml()}" if sweep else "")


def submit_to_ray(request: Request, address: str, write: Callable[[str], object]) -> int:
    """Submit a job, write what to tell of it and then what it prints, and return its exit code.

    Raises:
        ConfigError: if no cluster answers, or it wants a token.
        TuneGanError: if the cluster refuses the job or does not answer any more, or it was stopped.
    """
    jobs = RayJobs(address)
    job = jobs.submit(None if request.is_begun else request.spec, request.run)
    run, place = shlex.quote(str(request.run)), shlex.quote(address)
    name = f" {request.spec.name}" if request.spec else ""
    write(f"job {job}: sweep{name} in {request.run}\n")
    write(f"watch it with: ray job logs {job} --follow --address {place}, or tune-gan status {run}\n")
    write(f"stop it with:  ray job stop {job} --address {place}\n")
    write(f"then go on:    tune-gan submit {run} --to ray --address {place}\n")
    try:
        return jobs.follow(job, write)
    except KeyboardInterrupt:
        write(f"\nno longer following; job {job} goes on, as the lines above say\n")
        raise


def slurm_script(request: Request, site: SlurmSite, requeue: bool) -> str:
    """Return the job's script.

    Raises:
        ConfigError: if a trial takes more than a node of the site has.
    """
    assert request.spec is not None, "the nodes have the file systems of this machine"
    # A shared card is one of a node's GPUs, too.
    gpus = site.gpus_per_node or int(site.gres is not None)
    _require_room(request.spec, "node", site.cpus_per_node, gpus)
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
    assert request.spec is not None, "the nodes have the file systems of this machine"
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
