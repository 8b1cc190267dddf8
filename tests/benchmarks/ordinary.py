"""The networks of the script that a reader of the tutorial would write."""

from torch import nn

from tune_gan.config import GanConfig
from tune_gan.gan.dropout import Dropout
from tune_gan.gan.models import build_networks


def ordinary_networks(config: GanConfig) -> tuple[nn.Module, nn.Module]:
    """Return generator and discriminator of torch's own layers, its dropout too."""
    networks = build_networks(config)
    for network in networks:
        layers = network.get_submodule("layers")
        for name, layer in list(layers.named_children()):
            if isinstance(layer, Dropout):
                layers.register_module(name, nn.Dropout(layer.p))
    return networks
