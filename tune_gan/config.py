"""`GanConfig`: everything that decides one training run, each hyperparameter once."""

import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tune_gan.errors import ConfigError
from tune_gan.settings import Settings

IMAGE_SIZE_OF_DATASET = {"circle": None, "digits": 8, "mnist": 28, "fashion_mnist": 28, "folder": 64}
DATASETS_WITHOUT_FILES = ("circle", "digits")
IMAGE_SIZE_OF_ARCHITECTURE = {"dcgan28": 28, "dcgan64": 64}

Dataset = Literal["circle", "digits", "mnist", "fashion_mnist", "folder"]
Architecture = Literal["mlp", "dcgan28", "dcgan64"]
Activation = Literal[
    "relu",
    "leaky_relu",
    "elu",
    "celu",
    "trelu",
    "gelu",
    "silu",
    "selu",
    "mish",
    "tanh",
    "softplus",
]
Loss = Literal["non_saturating", "minimax", "least_squares", "hinge", "wasserstein"]
Optimizer = Literal["adam", "adamw", "nadam", "radam", "rmsprop", "sgd"]

_NAMED_VALUES: dict[str, tuple[str, ...]] = {
    "dataset": get_args(Dataset),
    "architecture": get_args(Architecture),
    "activation": get_args(Activation),
    "loss": get_args(Loss),
    "optimizer": get_args(Optimizer),
}

# What the tutorials that these GANs come from call the fields; the command line takes them too.
OTHER_NAMES = {
    "gen_lr": ("lr_gen",),
    "disc_lr": ("lr_dscr",),
    "disc_steps": ("train_k",),
    "dropout": ("prob_dropout",),
    "report_every": ("output_period", "verbose_freq"),
}


def canonical(field: str, value: object) -> object:
    """Return a field's value in this program's spelling: ``ADAM`` is adam, ``leakyrelu`` leaky_relu.

    Case, dashes and underscores do not count; what is no value of the field comes back as it is.
    """
    if field in _NAMED_VALUES and isinstance(value, str):
        for name in _NAMED_VALUES[field]:
            if _letters(name) == _letters(value):
                return name
    return value


def _letters(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _widths(value: object) -> object:
    """Take a list (YAML), ``256,512`` (a flag, a categorical choice) or one number for a tuple."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if isinstance(value, str):
        parts = value.strip("[]() ").split(",")
        return tuple(int(part) if part.strip().isdigit() else part for part in parts)
    return tuple(value) if isinstance(value, Sequence) else value


def _path(value: str) -> str:
    """Refuse what no path should hold and YAML would not give back: control characters."""
    if not value or any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in value):
        raise ConfigError(f"{value!r} is no path: it is empty or holds a control character")
    return value


Width = Annotated[int, Field(ge=1, le=65536)]
Widths = Annotated[tuple[Width, ...], BeforeValidator(_widths), Field(min_length=1, max_length=16)]
LearningRate = Annotated[float, Field(gt=0, le=1)]


class GanConfig(Settings):
    """One training run of one GAN; frozen, validated, equal after a round trip through YAML.

    The defaults are the vanilla MLP GAN of the Flux tutorial (Goodfellow et al. 2014,
    https://arxiv.org/abs/1406.2661) on MNIST, but for beta1, which is 0.5 as Radford et al. 2015
    (https://arxiv.org/abs/1511.06434) advise: at Adam's 0.9 it collapses early.

    Raises:
        ConfigError: for an unknown field or a value out of bounds, in one line.
    """

    dataset: Dataset = Field(
        "mnist",
        description="Data set to learn: a 2-D ring, grey images, or any folder's images, in colour.",
    )
    data_root: Annotated[str, AfterValidator(_path)] | None = Field(
        None,
        description="Folder with the MNIST or Fashion-MNIST files, or the images of dataset folder "
        "(a place, no hyperparameter).",
    )
    weights: Annotated[str, AfterValidator(_path)] | None = Field(
        None,
        description="File with torchvision's ImageNet weights of MobileNetV2, in whose features a "
        "folder of images is scored; by default that in torchvision's cache. With labelled, the "
        "features.safetensors of another run; by default each run trains its own.",
    )
    labelled: bool = Field(
        False,
        description="Whether a folder's images lie in one subfolder for each class; they are then "
        "scored in the features of a classifier of these.",
    )
    image_size: Annotated[int, Field(ge=4, le=512)] | None = Field(
        None,
        description="Image height and width in pixels; by default that of the architecture or the "
        "data set. Images of another size are resized once. Null for the ring.",
    )
    architecture: Architecture = Field(
        "mlp", description="Networks: fully connected, or a DCGAN for 28x28 or 64x64 images."
    )
    gen_hidden: Widths = Field(
        (256, 512, 1024), description="Widths of the MLP generator's hidden layers, first to last."
    )
    disc_hidden: Widths = Field(
        (1024, 512, 256),
        description="Widths of the MLP discriminator's hidden layers, first to last.",
    )
    features: int = Field(
        64, ge=1, le=1024, description="Channels of a DCGAN's narrowest hidden layer."
    )
    latent_dim: int = Field(
        100, ge=1, le=4096, description="Dimension of the latent space, standard normal."
    )
    activation: Activation = Field(
        "leaky_relu",
        description="Hidden activation of both MLPs and of a DCGAN's discriminator.",
    )
    activation_alpha: float = Field(
        0.2,
        ge=0,
        le=10,
        description="Parameter of the activation: slope of leaky_relu, alpha of elu and celu, "
        "threshold of trelu; the others have none.",
    )
    dropout: float = Field(
        0.3, ge=0, lt=1, description="Probability of dropping a hidden unit of the discriminator."
    )
    disc_batch_norm: bool | None = Field(
        None,
        description="Batch norm between the discriminator's layers; by default as the architecture's "
        "document has it, in dcgan64 alone.",
    )
    spectral_norm: bool = Field(
        False, description="Divide every weight matrix of the discriminator by its spectral norm."
    )
    disc_logits: int = Field(
        1,
        ge=1,
        le=64,
        description="Outputs of an MLP discriminator, over which its losses are averaged.",
    )
    loss: Loss = Field("non_saturating", description="Adversarial loss.")
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="The real label is 1 minus this in the discriminator's loss (not with hinge and "
        "wasserstein).",
    )
    gp_weight: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="Weight of WGAN-GP's gradient penalty, 10 in its paper; it was not made for a "
        "discriminator with batch norm.",
    )
    r1_weight: float = Field(
        0.0, ge=0, le=1e6, description="Weight gamma of the R1 gradient penalty, 10 in its paper."
    )
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of an exponential moving average of the generator, which then is what is "
        "scored and sampled, e.g. 0.999; 0 is none.",
    )
    optimizer: Optimizer = Field("adam", description="Optimizer of both networks.")
    gen_lr: LearningRate = Field(2e-4, description="Learning rate of the generator.")
    disc_lr: LearningRate = Field(2e-4, description="Learning rate of the discriminator.")
    beta1: float = Field(
        0.5, ge=0, lt=1, description="Decay of the first moment (momentum of rmsprop and sgd)."
    )
    beta2: float = Field(
        0.999, ge=0, lt=1, description="Decay of the second moment (alpha of rmsprop; not in sgd)."
    )
    batch_size: int = Field(128, ge=2, le=65536, description="Real samples of one step.")
    disc_steps: int = Field(
        1, ge=1, le=100, description="Discriminator steps before each generator step."
    )
    num_iterations: int = Field(
        2000, ge=1, le=1_000_000_000, description="Generator steps of the whole run."
    )
    report_every: int = Field(
        100, ge=1, description="Generator steps between two reports, each with a score."
    )
    seed: int = Field(
        0, ge=0, le=2**32 - 1, description="Seed of weights, latents, batches and dropout."
    )
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:(0|[1-9][0-9]?))?)$")] = Field(
        "auto",
        description="Device to train on; auto takes a GPU that torch can use (cuda, then mps), or else "
        "the CPU.",
    )
    precision: Literal["auto", "fp32", "tf32", "bf16"] = Field(
        "auto",
        description="Arithmetic of the networks, their weights stay fp32: bf16 by autocast; tf32 of "
        "GPUs, elsewhere fp32. On a GPU auto is tf32 for mlp and bf16 for convolutions; on a CPU fp32.",
    )
    num_threads: int = Field(
        1,
        ge=1,
        le=1024,
        description="CPU threads to compute with; part of the run, since sums depend on it.",
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """Spell values as this program does and write in what follows from other fields."""
        if not isinstance(values, dict):
            return values
        values = {name: canonical(name, value) for name, value in values.items()}
        dataset = values.get("dataset", "mnist")
        architecture = str(values.get("architecture", "mlp"))
        if values.get("image_size") is None and dataset != "circle":
            size = IMAGE_SIZE_OF_DATASET.get(str(dataset))
            values["image_size"] = IMAGE_SIZE_OF_ARCHITECTURE.get(architecture, size)
        if values.get("disc_batch_norm") is None:
            values["disc_batch_norm"] = architecture == "dcgan64"
        return values

    @model_validator(mode="after")
    def _check_together(self) -> "GanConfig":
        """Refuse fields that are each valid but do not fit each other."""
        needed = IMAGE_SIZE_OF_ARCHITECTURE.get(self.architecture)
        if self.dataset == "circle" and (self.architecture != "mlp" or self.image_size is not None):
            raise ConfigError("dataset circle holds 2-D points; use architecture mlp, no image_size")
        if needed and self.image_size != needed:
            raise ConfigError(
                f"architecture {self.architecture} makes images of {needed}x{needed}; "
                f"image_size {self.image_size} does not fit, leave it out or use mlp"
            )
        if self.report_every > self.num_iterations:
            raise ConfigError(
                f"report_every {self.report_every} is above num_iterations {self.num_iterations}; "
                "no report would ever be made"
            )
        if self.activation == "celu" and self.activation_alpha == 0:
            raise ConfigError("activation celu divides by activation_alpha, which must be above 0")
        if self.dataset == "folder" and self.data_root is None:
            raise ConfigError("dataset folder needs data_root, the folder that holds the images")
        if self.weights is not None and self.dataset != "folder":
            raise ConfigError(f"weights go with dataset folder, not {self.dataset}")
        if self.labelled and self.dataset != "folder":
            raise ConfigError(f"labelled goes with dataset folder, not {self.dataset}; leave it out")
        if self.disc_logits > 1 and self.architecture != "mlp":
            raise ConfigError(
                f"disc_logits {self.disc_logits} goes with architecture mlp, not {self.architecture}"
            )
        if self.loss == "wasserstein" and not (self.gp_weight or self.r1_weight or self.spectral_norm):
            raise ConfigError(
                "loss wasserstein needs a smooth discriminator: set gp_weight (10 in the paper), "
                "r1_weight or spectral_norm"
            )
        return self

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: ``(2,)``, or ``(channels, image_size, image_size)`` for images.

        Images of a folder have 3 channels, all others 1.
        """
        if self.image_size is None:
            return (2,)
        return (3 if self.dataset == "folder" else 1, self.image_size, self.image_size)

    @property
    def num_reports(self) -> int:
        """Reports of a whole run, one every `report_every` iterations and one at the end."""
        return -(-self.num_iterations // self.report_every)
