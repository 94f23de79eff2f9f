"""Floor 4: where parameters come from: checkpoints and dummies, under canonical names. Owns reading and completeness.

    Weights        what a model asks for its parameters
    load           a checkpoint folder or a GGUF file, plain or quantised
    locate         an id of the hub to a path
    Dummy          a named shape, without a checkpoint
"""

from slipstream.weights.dummy import Dummy
from slipstream.weights.hub import locate
from slipstream.weights.load import Loaded, load
from slipstream.weights.source import Weights

__all__ = ["Dummy", "Loaded", "Weights", "load", "locate"]
