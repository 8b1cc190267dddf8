"""Seeds for independent streams of random numbers."""

import hashlib


def derive_seed(seed: int, stream: str) -> int:
    """Return the seed of one of a run's streams, e.g. ``latents``, from the run's own.

    With the same seed, generators of the same kind would draw the same numbers: first weights and
    first latents would be correlated. The first 8 bytes of a SHA-256 keep streams apart.
    """
    digest = hashlib.sha256(f"{stream}:{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
