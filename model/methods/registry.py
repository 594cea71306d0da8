"""The methods by name. To add one: a module with a class that meets `Method`, and a line here."""

from data.errors import ConfigError
from model.methods.ar_net import ARNet
from model.methods.autoencoder import AutoEncoder
from model.methods.base import Method
from model.methods.deepmil import DeepMIL
from model.methods.flow_magnitude import FlowMagnitude
from model.methods.gmm import GaussianMixtureMethod
from model.methods.knn import NearestNeighbourMethod
from model.methods.logistic import Logistic
from model.methods.position import Position
from model.methods.shuffled import Shuffled
from model.methods.sparse import SparseCoding

CONVLSTM = "convlstm"
"""The model of this project; it has its own training and settings."""

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        DeepMIL(),
        ARNet(),
        GaussianMixtureMethod(),
        SparseCoding(),
        NearestNeighbourMethod(),
        AutoEncoder(),
        Logistic(),
        Shuffled(),
        Position(),
        FlowMagnitude(),
    )
}


def choose_method(name: str) -> Method:
    """Return the method of that name with its default settings.

    Raises:
        ConfigError: there is none.
    """
    if name not in METHODS:
        raise ConfigError(
            f"method {name!r} is unknown, expected one of {', '.join([CONVLSTM, *METHODS])}"
        )
    return METHODS[name]
