"""Send a sweep to a running Ray cluster, through its Jobs API, and follow what it prints there."""

import asyncio
import importlib.util
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tune_gan
from tune_gan.errors import ConfigError, TuneGanError
from tune_gan.search.spec import SweepSpec

_ADDRESS = r"https?://[A-Za-z0-9_.\-\[\]:]+(/[A-Za-z0-9_.\-/]*)?"
_SPEC_FILE = "sweep.yaml"
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def entrypoint(spec: SweepSpec | None, run: Path) -> str:
    """Return the command line that a shell on the cluster's head runs.

    Args:
        spec: The sweep, which lies in the job's folder as ``sweep.yaml``; None to go on with the run.
        run: The run folder, a whole path that every node has.
    """
    what = ["resume", str(run)] if spec is None else ["sweep", _SPEC_FILE, "--out", str(run)]
    return shlex.join(["python", "-m", "tune_gan", *what, "--address", "auto"])


def runtime_environment(folder: Path) -> dict[str, Any]:
    """Return what the job has on the cluster: the sweep in its folder, and this tune-gan.

    What that imports must be installed there: to install it takes longer than a job should.
    """
    package = Path(tune_gan.__file__).parent
    return {"working_dir": str(folder), "py_modules": [str(package)], "excludes": ["__pycache__"]}


class RayJobs:
    """The Jobs API of a cluster.

    Args:
        address: Where its dashboard answers, ``http://HOST:8265``.

    Raises:
        ConfigError: if nothing answers there, it wants a token, or `ray[default]` is not installed.
    """

    def __init__(self, address: str) -> None:
        if not re.fullmatch(_ADDRESS, address):
            raise ConfigError(
                f"--address {address!r} is not where a cluster takes jobs; give that of its dashboard, "
                "http://HOST:8265"
            )
        if importlib.util.find_spec("aiohttp") is None:
            raise ConfigError("Ray's client for jobs is not installed; pip install 'ray[default]'")
        self.address = address
        from ray.job_submission import JobSubmissionClient

        for handler in logging.getLogger("ray").handlers:
            # Else it tells of every upload.
            handler.setLevel(logging.ERROR)
        with _in_one_line(address), _without_addresses():
            self._client = JobSubmissionClient(address)

    def submit(self, spec: SweepSpec | None, run: Path) -> str:
        """Send a job, as `entrypoint` says what it runs, and return its id."""
        with TemporaryDirectory() as folder, _in_one_line(self.address):
            if spec is not None:
                (Path(folder) / _SPEC_FILE).write_text(spec.to_yaml())
            job: str = self._client.submit_job(
                entrypoint=entrypoint(spec, run), runtime_env=runtime_environment(Path(folder))
            )
        return job

    def follow(self, job: str, write: Callable[[str], object]) -> int:
        """Write what a job prints, as it does, and return its exit code when it has ended.

        Raises:
            TuneGanError: if the cluster does not answer any more, or the job was stopped or could not
                start.
        """
        import aiohttp

        async def tail() -> None:
            async for text in self._client.tail_job_logs(job):
                write(text)

        try:
            asyncio.run(tail())
            while (info := self._client.get_job_info(job)).status.value not in _ENDED:
                time.sleep(0.5)
        except BrokenPipeError:
            # Nobody reads any more what is written.
            raise
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            raise TuneGanError(
                f"lost sight of job {job}, which goes on if the cluster does ({_short(error)}); "
                f"look after it with: ray job status {job} --address {self.address}"
            ) from None
        if info.status.value == "STOPPED":
            raise TuneGanError(f"job {job} was stopped")
        if info.driver_exit_code is None and info.status.value == "FAILED":
            raise TuneGanError(f"job {job} did not run ({_short(info.message)})")
        return info.driver_exit_code or 0


@contextmanager
def _without_addresses() -> Iterator[None]:
    """Leave out what would come before the address that is given, without a word."""
    names = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


@contextmanager
def _in_one_line(address: str) -> Iterator[None]:
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise ConfigError(
            f"the cluster at {address} takes no job without its own token; set RAY_AUTH_MODE=token, "
            "and RAY_AUTH_TOKEN_PATH to the file with it where that is not ~/.ray/auth_token"
        ) from None
    except (ConnectionError, requests.RequestException, aiohttp.ClientError) as error:
        raise ConfigError(f"no Ray cluster answers at {address} ({_short(error)})") from None
    except RuntimeError as error:
        raise TuneGanError(f"the cluster at {address} refuses ({_short(error)})") from None


def _short(error: object) -> str:
    return " ".join(str(error).split())[:300]
