"""Send a sweep to SLURM: a job script, which is a pure function of typed values, and `sbatch`."""

import shlex
import shutil
import subprocess
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from tune_gan.errors import ConfigError, TuneGanError
from tune_gan.submission.site import SlurmSite


def work_folder(run: Path) -> Path:
    """Return the folder beside a run that holds its jobs' script, sweep, logs and tokens."""
    return run.with_name(f"{run.name}.slurm")


def render_slurm(
    site: SlurmSite,
    name: str,
    run: Path,
    python: str,
    requeue: bool,
    data_root: str | None = None,
) -> str:
    """Return the script of a job that runs a sweep, or what is left of one, on all nodes it gets.

    Args:
        site: What the job asks for.
        name: The sweep's name, which is the job's.
        run: The run folder, a whole path on a file system that every node shares.
        python: The Python of the nodes that has tune-gan.
        requeue: Whether the job goes on in a new one when its time is over.
        data_root: Folder of the data, which a container is to see.
    """
    gpus_per_node = None
    if site.gpus_per_node:
        kind = f"{site.gpu_type}:" if site.gpu_type else ""
        gpus_per_node = f"{kind}{site.gpus_per_node}"
    options = {
        "job-name": name,
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
        "nodes": site.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": site.cpus_per_node,
        "gpus-per-node": gpus_per_node,
        "gres": site.gres,
        "mem": site.memory_per_node,
        "time": max(1, round(site.time / 60)),
        "signal": f"B:USR1@{site.save_time:.0f}",
        "open-mode": "append",
    }
    lines = [f"--{option}={value}" for option, value in options.items() if value is not None]
    # A lost node is no reason to end what the others do.
    lines += ["--no-kill", "--requeue" if requeue else "--no-requeue"]
    inside = []
    if site.container is not None:
        gpus = ["--nv"] if site.gpus_per_node or site.gres else []
        folders = [str(run.parent), site.scratch, *([data_root] if data_root else [])]
        binds = [part for folder in folders for part in ("--bind", folder)]
        inside = ["apptainer", "exec", *gpus, *binds, site.container]
    environment = Environment(
        loader=PackageLoader("tune_gan.submission", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 -- a script; every value in it is quoted for the shell
    )
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    return environment.get_template("slurm.sh.j2").render(
        options=lines,
        # Of the step on the other nodes, which is to see them as the job does.
        gpus=[line for line in lines if line.startswith(("--gpus-per-node", "--gres"))],
        run=run,
        work=work_folder(run),
        python=python,
        inside=inside,
        scratch=site.scratch,
        modules=site.modules,
        requeue=requeue,
    )


def send(run: Path) -> str:
    """Submit the script that lies in a run's work folder.

    Returns:
        The job's number.

    Raises:
        ConfigError: if SLURM refuses it, or is not here.
    """
    work = work_folder(run)
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "sbatch is not on this machine; submit from a login node of the cluster, "
            "or see the job's script with --dry-run"
        )
    # %j is the job's number; a name may hold a % of its own.
    log = f"{str(work).replace('%', '%%')}/%j.log"
    command = ["sbatch", "--parsable", "--chdir=/", f"--output={log}", str(work / "job.sh")]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TuneGanError(f"sbatch does not answer ({error})") from None
    if answer.returncode:
        said = [line for line in answer.stderr.splitlines() if line.strip()]
        reason = (said[-1] if said else f"exit code {answer.returncode}").removeprefix("sbatch: ")
        raise ConfigError(
            f"SLURM refuses the job ({reason.removeprefix('error: ')}); change the site file"
        )
    return answer.stdout.strip().split(";")[0]
