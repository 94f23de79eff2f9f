"""Fuse: a token's embedding and a hidden state become one vector, the bottom of every head (arch/heads.py). Owns nothing above it."""

from torch import Tensor

from slipstream.arch.heads import HeadSpec
from slipstream.cost import WeightFormat
from slipstream.model.decoder import Decoder
from slipstream.model.linear import Linear
from slipstream.model.norm import Norm
from slipstream.ops.dispatch import Kernels
from slipstream.weights.source import Weights


class Fuse:
    """out = A norm(embedding) + B norm(state).

    Args:
        head: what the head is made of.
        weights: its parameters.
        format: linear weight format.
        target: whose embeddings are taken.
        kernels: who computes.
    """

    def __init__(self, head: HeadSpec, weights: Weights, format: WeightFormat, target: Decoder, kernels: Kernels):
        self._embed, self._add = target.embed, kernels.add
        self._norms = [Norm(head.body, name, weights, kernels) for name in ("embed_norm", "state_norm")]
        self._matrices = [Linear(weights, [name], False, format, kernels) for name in ("fuse_embed", "fuse_state")]
        self._join = Linear(weights, ["join"], False, format, kernels) if len(head.levels) > 1 else None

    def bring(self, states: Tensor, buffers: dict[str, Tensor]) -> None:
        """Puts states where `__call__` reads them; several levels side by side become one.

        Args:
            states: [rows, levels * hidden], or one [rows, hidden]
            buffers: "states" and "state", as wide as these two.
        """
        if self._join is None or states.shape[1] == buffers["state"].shape[1]:
            buffers["state"].copy_(states)
        else:
            buffers["states"].copy_(states)
            self._join(buffers["states"], buffers["state"])

    def __call__(self, ids: Tensor, out: Tensor, buffers: dict[str, Tensor]) -> None:
        """ids [rows] and the state brought -> out [rows, hidden]; uses the buffers "normed" and "update"."""
        normed, update = buffers["normed"], buffers["update"]
        self._embed(ids, out)
        self._norms[0](out, normed)
        self._matrices[0](normed, out)
        self._norms[1](buffers["state"], normed)
        self._matrices[1](normed, update)
        self._add(out, update)
