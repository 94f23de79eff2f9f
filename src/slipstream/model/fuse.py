"""Fuse: a token's embedding and a hidden state become what a head's layers read, the bottom of every head (arch/heads.py). Owns nothing
above it."""

from torch import Tensor

from slipstream.arch.heads import HeadSpec
from slipstream.cost import WeightFormat
from slipstream.model.decoder import Decoder
from slipstream.model.embedding import Embedding
from slipstream.model.linear import Linear
from slipstream.model.norm import Norm
from slipstream.ops.dispatch import Kernels
from slipstream.weights.source import Weights


class Fuse:
    """The bottom of a head, see arch.heads.Bottom.

    Args:
        head: what the head is made of.
        weights: its parameters.
        format: linear weight format.
        target: whose embeddings are taken, where the head has none of its own.
        kernels: who computes.

    Attributes:
        records: whether it only calls kernels.
    """

    def __init__(self, head: HeadSpec, weights: Weights, format: WeightFormat, target: Decoder, kernels: Kernels):
        kind = self._kind = head.bottom.kind
        self._add, self._normed_stream, self.records = kernels.add, head.bottom.normed_stream, kind in ("normed", "plain")
        self._embed = Embedding(weights, format, kernels) if head.embeds else target.embed
        names = ("embed_norm", "state_norm") if kind in ("normed", "wide") else ()
        self._norms = [Norm(head.body, name, weights, kernels) for name in names]
        matrices = (("fuse_embed", head.bottom.bias), ("fuse_state", False)) if self.records else ()
        self._matrices = [Linear(weights, [name], bias, format, kernels) for name, bias in matrices]
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

    def __call__(self, ids: Tensor, out: Tensor, buffers: dict[str, Tensor]) -> Tensor | None:
        """ids [rows] and the state brought -> out [rows, hidden]; uses the buffers "normed" and "update".

        Returns:
            What the layer's mixer reads in place of `out`, if it does. [rows, 2 * hidden]
        """
        normed, update, state = buffers["normed"], buffers["update"], buffers["state"]
        if self._kind == "state":
            out.copy_(state)
            return None
        if self._kind == "wide":
            return self._side_by_side(ids, out, buffers)
        self._embed(ids, out if self._norms else normed)
        if self._norms:
            self._norms[0](out, normed)
            self._norms[1](state, update)
            state = update
        self._matrices[0](normed, out)
        self._matrices[1](state, normed)
        self._add(out, normed)
        return None

    def _side_by_side(self, ids: Tensor, out: Tensor, buffers: dict[str, Tensor]) -> Tensor:
        """Both normed, beside each other; the state, normed or as it is, goes to `out`."""
        normed, update, state, wide = buffers["normed"], buffers["update"], buffers["state"], buffers["wide"]
        hidden = state.shape[1]
        self._embed(ids, out)
        self._norms[0](out, normed)
        self._norms[1](state, update)
        wide[:, :hidden].copy_(normed)
        wide[:, hidden:].copy_(update)
        out.copy_(update if self._normed_stream else state)
        return wide
