"""What a site file says of a cluster."""

from typing import Annotated

from pydantic import AfterValidator, Field

from tune_gan.errors import ConfigError
from tune_gan.search.spec import Seconds
from tune_gan.settings import Settings

# Words that stand bare in a line of a job script.
_WORD = r"^[A-Za-z0-9_][A-Za-z0-9_.@:+,=/|&()\[\]*-]{0,199}$"
Word = Annotated[str, Field(pattern=_WORD)]


def _in_one_line(text: str) -> str:
    if not text.isprintable():
        raise ConfigError(f"{text!r} holds a newline or another control character; leave it out")
    return text


def _whole(text: str) -> str:
    if not text.startswith("/"):
        raise ConfigError(f"{text!r} is relative; give the whole path, which every node has")
    return _in_one_line(text)


Line = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_in_one_line)]
WholePath = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_whole)]


class SlurmSite(Settings):
    """What a job asks of a site's SLURM, and what its nodes need to run Python."""

    partition: Word | None = Field(None, description="By default the site's own.")
    account: Word | None = Field(None, description="Account to charge.")
    qos: Word | None = Field(None, description="Quality of service.")
    constraint: Word | None = Field(None, description="Features that nodes must have.")
    nodes: int = Field(1, ge=1, le=10_000, description="Nodes of a job.")
    cpus_per_node: int = Field(ge=1, le=10_000, description="CPUs of the job on each node.")
    gpus_per_node: int = Field(0, ge=0, le=64, description="GPUs of the job on each node.")
    gpu_type: Word | None = Field(
        None, description="Type of these GPUs or profile of MIG, as the site calls it: a100, 1g.10gb."
    )
    gres: Word | None = Field(
        None, description="Other generic resources on each node, such as shares of a GPU: shard:2."
    )
    memory_per_node: Annotated[str, Field(pattern=r"^[0-9]{1,9}[KMGT]?$")] | None = Field(
        None, description="Memory of the job on each node: 64G; without a letter MB."
    )
    time: Seconds = Field(description="Time limit of a job: 12h, 90m or seconds; whole minutes.")
    save_time: Seconds = Field(
        120.0, description="So long before the limit the sweep is told to save and stop."
    )
    modules: list[Word] = Field([], description="Environment modules to load.")
    container: WholePath | None = Field(
        None, description="Image that `apptainer exec` runs everything in."
    )
    python: Line | None = Field(
        None, description="Python with tune-gan on the nodes; by default the one that submits."
    )
    scratch: WholePath = Field("/tmp", description="Folder on each node's own disk.")  # noqa: S108


class KubernetesSite(Settings):
    """What a `RayJob` asks of a Kubernetes cluster, and what its pods need."""

    image: Word = Field(description="Container image that holds tune-gan.")
    volume_claim: Word = Field(description="Claim of a volume that many pods read and write.")
    mount: WholePath = Field("/shared", description="Where the pods have that volume.")
    namespace: Word | None = Field(None, description="By default that of kubectl.")
    workers: int = Field(1, ge=1, le=10_000, description="Pods that trials run on.")
    cpus_per_worker: int = Field(ge=1, le=10_000, description="CPUs of each.")
    gpus_per_worker: int = Field(0, ge=0, le=64, description="GPUs of each.")
    memory: Annotated[str, Field(pattern=r"^[0-9]{1,9}[KMGT]i?$")] = Field(
        "16Gi", description="Memory of each."
    )
    retries: int = Field(3, ge=0, le=1000, description="New clusters after a failure, to go on in.")
