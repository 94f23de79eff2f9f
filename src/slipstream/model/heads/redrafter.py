"""ReDrafter: a small recurrent net beside one hidden state guesses on (Cheng et al. 2024).

Owns the net. What goes from guess to guess is the state, which stays as it is, and the net's own, side by side. Must not know requests,
sampling, or who guesses.
"""

import torch
from torch import Tensor
from torch.nn.functional import silu

from slipstream.arch.heads import HeadSpec
from slipstream.model import head as base
from slipstream.model.batch import Batch
from slipstream.model.decoder import Decoder
from slipstream.model.linear import Linear
from slipstream.model.norm import Norm
from slipstream.ops.dispatch import Kernels
from slipstream.ops.replay import Replay
from slipstream.weights.source import Weights


class Head(base.Keyless):
    """See model/head.py. `normed` heads are those that slipstream trains, see arch/heads.py."""

    def __init__(self, head: HeadSpec, weights: Weights, target: Decoder, kernels: Kernels, *sizes: int):
        super().__init__(head, weights, target, kernels, *sizes)

        def linear(name: str, bias: bool) -> Linear:
            return Linear(weights, [name], bias, self._format, kernels)

        self._embed, self._hidden = target.embed, head.body.hidden
        self._norms = [Norm(head.body, name, weights, kernels) for name in ("embed_norm", "state_norm")] if head.norm else []
        self._token, self._before = linear("rnn_token", False), linear("rnn_state", True)
        self._blocks = [linear(f"blocks.{block}", True) for block in range(head.blocks)]
        self._down = linear("down", False) if head.norm else None
        self._logits = Replay(kernels, False)

    def bring(self, states: Tensor) -> None:
        """The target's states begin a guess, with nothing of the net's own; otherwise they are what came out."""
        buffers = self._scratch.rows(states.shape[0])
        if states.shape[1] == self._outs.shape[2]:
            buffers["state"].copy_(states)
            return
        self._fuse.bring(states, {"states": buffers["states"], "state": buffers["normed"]})
        buffers["state"][:, : self._hidden] = buffers["normed"]
        buffers["state"][:, self._hidden :] = 0

    def run(self, batch: Batch, pool: Tensor, buffers: dict[str, Tensor]) -> None:
        stream, normed, update, state = buffers["stream"], buffers["normed"], buffers["update"], buffers["state"]
        self._embed(batch.ids, stream)
        if self._norms:
            self._norms[0](stream, normed)
        self._token(normed if self._norms else stream, update)
        normed.copy_(state[:, self._hidden :])
        self._before(normed, stream)
        out = self._outs[0, : len(stream)]
        out[:, : self._hidden] = state[:, : self._hidden]
        out[:, self._hidden :] = silu(stream + update)

    def _run_logits(self, hidden: Tensor, rows: Tensor) -> None:
        buffers = self._ends.rows(rows.shape[0])
        x, normed = buffers["picked"], buffers["normed"]
        self._kernels.embed(rows, hidden, x)
        state = x[:, : self._hidden].clone()
        if self._norms:
            self._norms[1](state, normed)
            x[:, : self._hidden] = normed
        inner = torch.empty_like(x)
        for block in self._blocks:
            block(x, inner)
            x += silu(inner)
        if self._down is None:
            self._head(x, buffers["logits"])
            return
        self._down(x, normed)
        state += normed
        self._norm(state, normed)
        self._head(normed, buffers["logits"])
