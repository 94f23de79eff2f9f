"""Floor 4: where parameters come from: checkpoints and dummies, under canonical names. Owns reading and completeness.

    Weights        what a model asks for its parameters
    load           a checkpoint folder
    Dummy          a named shape, without a checkpoint
"""

from slipstream.weights.dummy import Dummy
from slipstream.weights.load import Loaded, load
from slipstream.weights.source import Weights

__all__ = ["Dummy", "Loaded", "Weights", "load"]
