"""What real samples score, which no generator gets below for long."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from tune_gan.files import write_whole

FLOOR_FILE = "floor.json"


@dataclass(frozen=True)
class Floor:
    """Scores of real training samples, measured as if they had been generated.

    Attributes:
        instrument: What they were measured with; empty where that is not known.
        num_samples: Samples of each score.
        scores: A `fid_proxy` for each draw of samples.
    """

    instrument: str
    num_samples: int
    scores: list[float]

    def describe(self) -> str:
        """Say it in a line."""
        scores = ", ".join(f"{score:.3g}" for score in self.scores)
        by = f" by {self.instrument}" if self.instrument else ""
        return f"real training samples, {self.num_samples:,} at a time, score {scores}{by}"


def write_floor(folder: Path, floor: Floor) -> None:
    """Write ``floor.json`` into a run folder.

    Raises:
        StorageError: if it cannot be written.
    """
    write_whole(folder / FLOOR_FILE, json.dumps(asdict(floor)))


def read_floor(folder: Path) -> Floor | None:
    """Read what `write_floor` wrote, or return None where there is none or it is damaged."""
    try:
        values = json.loads((folder / FLOOR_FILE).read_text(encoding="utf-8"))
        scores = [float(score) for score in values["scores"]]
        if not all(map(math.isfinite, scores)):
            return None
        return Floor(str(values.get("instrument", "")), int(values["num_samples"]), scores)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
