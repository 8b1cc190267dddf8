"""Train the classifiers that ship: ``python -m tune_gan.metrics.train_features DATASET...``."""

import argparse
import json

from tune_gan.config import IMAGE_SIZE_OF_DATASET
from tune_gan.files import write_whole
from tune_gan.gan.data import load_dataset
from tune_gan.metrics.classifier import (
    RECIPES_FILE,
    SHIPPED,
    accuracy,
    digest_of,
    instrument_name,
    recipe,
    recipes,
    to_bytes,
    train_classifier,
)
from tune_gan.places import data_root

DATASETS = ("digits", "mnist", "fashion_mnist")


def train_features(dataset: str) -> None:
    """Train a data set's classifier on its training images and write it where it ships from.

    Scores of the same name are to stay the same: what is trained anew on another machine differs in
    the last digits, and so should its name.
    """
    data = load_dataset(dataset, data_root(None), IMAGE_SIZE_OF_DATASET[dataset])
    assert data.train_labels is not None
    assert data.held_out_labels is not None
    network = train_classifier(data.train, data.train_labels)
    content = to_bytes(network)
    name = instrument_name(dataset)
    known = recipes() if RECIPES_FILE.exists() else {}
    known[dataset] = {
        "instrument": name,
        "sha256": digest_of(content),
        "test_accuracy": accuracy(network, data.held_out, data.held_out_labels),
        "held_out_sha256": digest_of(data.held_out),
        "recipe": recipe(),
    }
    write_whole(SHIPPED / f"{name}.safetensors", content)
    write_whole(RECIPES_FILE, json.dumps(known, indent=2) + "\n")
    print(f"{name}: test accuracy {known[dataset]['test_accuracy']:.4f}, {len(content):,} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", nargs="+", choices=DATASETS)
    for chosen in parser.parse_args().dataset:
        train_features(chosen)
