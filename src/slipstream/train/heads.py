"""Bodies of trained drafters, for training: plain torch with autograd, parameters named as in the files that the engine loads.

Owns the forward passes, unrolled as deep as the drafter will guess: at depth i it works from what it made itself at depth i - 1, as it
will have to. Inference never imports this; the two meet in the file (arch/heads.py). Must not know data, loss or optimiser.

    tokens  t0 t1 t2 t3 ...   states  s0 s1 s2 ... of the target      row r reads t[r + 1] and s[r], and guesses t[r + 2] first
"""

from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from slipstream.arch.heads import BLOCKS, RANK
from slipstream.train.lm import MLP, Attention, rotary, rotate


class Body(nn.Module):
    """What most heads have: several levels become one state, and a norm before the output layer.

    Args:
        config: of the head, as arch.heads.head_config makes it.
    """

    def __init__(self, config: dict):
        super().__init__()
        self.config, hidden = config, config["hidden_size"]
        if len(config["levels"]) > 1:
            self.join = nn.Linear(len(config["levels"]) * hidden, hidden, bias=False)
        self.norm = nn.RMSNorm(hidden, eps=config["rms_norm_eps"])

    joins = False  # whether what `unroll` yields goes through the target's last layers, and not through a norm of its own

    def start(self) -> None:
        """First values: small ones, and the state goes on as it is, which is a guess that is not far off."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.004 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02)
        hidden = self.config["hidden_size"]
        with torch.no_grad():
            if len(self.config["levels"]) > 1:
                self.join.weight[:, -hidden:] += torch.eye(hidden)

    def joined(self, states: Tensor) -> Tensor:  # [..., levels * hidden] -> [..., hidden]
        return self.join(states).float() if len(self.config["levels"]) > 1 else states


class Fused(Body):
    """The bottom of a head that knows a token: its embedding and a hidden state make one vector."""

    def __init__(self, config: dict):
        super().__init__(config)
        hidden, eps = config["hidden_size"], config["rms_norm_eps"]
        self.embed_norm, self.state_norm = nn.RMSNorm(hidden, eps=eps), nn.RMSNorm(hidden, eps=eps)
        self.fuse_embed, self.fuse_state = nn.Linear(hidden, hidden, bias=False), nn.Linear(hidden, hidden, bias=False)

    def start(self) -> None:
        super().start()
        with torch.no_grad():
            self.fuse_state.weight += torch.eye(self.config["hidden_size"])

    def fused(self, embedded: Tensor, state: Tensor) -> Tensor:  # both [..., hidden] -> [..., hidden]
        return (self.fuse_embed(self.embed_norm(embedded)) + self.fuse_state(self.state_norm(state))).float()  # the stream is never rounded


class Block(nn.Module):
    """One decoder layer, or only its ffn."""

    def __init__(self, config: dict, attends: bool):
        super().__init__()
        hidden, eps = config["hidden_size"], config["rms_norm_eps"]
        if attends:
            self.input_layernorm = nn.RMSNorm(hidden, eps=eps)
            self.self_attn = Attention(hidden, config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"])
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps=eps)
        self.mlp = MLP(hidden, config["intermediate_size"])

    def fed(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.post_attention_layernorm(x))


class Eagle(Fused):
    """One decoder layer that goes on from its own output (Li et al. 2024), unrolled in training as in EAGLE-3 (Li et al. 2025)."""

    goes_on_normed = False

    def __init__(self, config: dict):
        super().__init__(config)
        self.layers = nn.ModuleList([Block(config, attends=True)])
        self.start()

    def unroll(self, embedded: Tensor, states: Tensor) -> Iterator[Tensor]:
        """Guesses, one depth after the other.

        Args:
            embedded: embeddings of the tokens. [batch, time, hidden]
            states: the target's, of the same tokens. [batch, time, levels * hidden]

        Yields:
            At depth i (0 first) what the output layer reads, of rows 0 .. time - 2 - i. [batch, time - 1 - i, hidden]
        """
        layer, config, time = self.layers[0], self.config, embedded.shape[1] - 1
        state, past = self.joined(states[:, :time]), []
        turn = partial(turned, *rotary(config["head_dim"], config["rope_theta"], time + config["depth"], embedded.device))
        for depth in range(config["depth"]):
            rows = time - depth  # row r stands for a draft that begins behind position r + 1
            x = self.fused(embedded[:, 1 + depth :], state[:, :rows])
            x = x + attended(layer.self_attn, layer.input_layernorm(x), turn, past)
            state = layer.fed(x)
            normed = self.norm(state)
            yield normed
            if self.goes_on_normed:
                state = normed


class Mtp(Eagle):
    """The same, going on from what the output layer reads (DeepSeek-AI 2024)."""

    goes_on_normed = True


class Medusa(Fused):
    """A block per depth on one state, none of which knows what the others guess (Cai et al. 2024); the last token is known to all."""

    def __init__(self, config: dict):
        super().__init__(config)
        self.layers = nn.ModuleList(Block(config, attends=False) for _ in range(config["depth"]))
        self.start()

    def unroll(self, embedded: Tensor, states: Tensor) -> Iterator[Tensor]:
        """See Eagle.unroll."""
        time = embedded.shape[1] - 1
        x = self.fused(embedded[:, 1:], self.joined(states[:, :time]))
        for depth, layer in enumerate(self.layers):
            yield self.norm(layer.fed(x[:, : time - depth]))


class Blockwise(Body):
    """A block per depth on the state alone (Stern et al. 2018): not even the last token is known, which the model said from this state."""

    def __init__(self, config: dict):
        super().__init__(config)
        self.layers = nn.ModuleList(Block(config, attends=False) for _ in range(config["depth"]))
        self.start()

    def unroll(self, embedded: Tensor, states: Tensor) -> Iterator[Tensor]:
        """See Eagle.unroll."""
        time = embedded.shape[1] - 1
        x = self.joined(states[:, :time])
        for depth, layer in enumerate(self.layers):
            yield self.norm(layer.fed(x[:, : time - depth]))


class Redrafter(Body):
    """A recurrent net beside one state, which stays the same at all depths (Cheng et al. 2024)."""

    def __init__(self, config: dict):
        super().__init__(config)
        hidden, eps = config["hidden_size"], config["rms_norm_eps"]
        self.embed_norm, self.state_norm = nn.RMSNorm(hidden, eps=eps), nn.RMSNorm(hidden, eps=eps)
        self.rnn_token, self.rnn_state = nn.Linear(hidden, hidden, bias=False), nn.Linear(hidden, hidden)
        self.blocks = nn.ModuleList(nn.Linear(2 * hidden, 2 * hidden) for _ in range(BLOCKS))
        self.down = nn.Linear(2 * hidden, hidden, bias=False)
        self.start()

    def unroll(self, embedded: Tensor, states: Tensor) -> Iterator[Tensor]:
        """See Eagle.unroll."""
        time = embedded.shape[1] - 1
        state = self.joined(states[:, :time])
        own = torch.zeros_like(state)
        for depth in range(self.config["depth"]):
            rows = time - depth
            state, token = state[:, :rows], self.rnn_token(self.embed_norm(embedded[:, 1 + depth :]))
            own = silu(token + self.rnn_state(own[:, :rows])).float()
            x = torch.cat([self.state_norm(state), own], -1)
            for block in self.blocks:
                x = x + silu(block(x))
            yield self.norm(state + self.down(x))


class Streaming(nn.Module):
    """Rows that join the target at a layer, one per depth: the state there, what a map with a low-rank change of the depth's own makes of
    the last token and the state, and an embedding of the depth (after Bhendawade et al. 2024). The layers, which stay as they are, are the
    target's (train/rest.py)."""

    joins = True

    def __init__(self, config: dict):
        super().__init__()
        self.config, hidden, eps = config, config["hidden_size"], config["rms_norm_eps"]
        self.embed_norm, self.state_norm = nn.RMSNorm(hidden, eps=eps), nn.RMSNorm(hidden, eps=eps)
        self.make()

    def make(self) -> None:
        hidden, depth = self.config["hidden_size"], self.config["depth"]
        self.map = nn.Linear(2 * hidden, hidden, bias=False)
        self.down = nn.ModuleList(nn.Linear(2 * hidden, RANK, bias=False) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(RANK, hidden, bias=False) for _ in range(depth))
        self.streams = nn.ParameterList(nn.Parameter(torch.zeros(hidden)) for _ in range(depth))

    def entering(self, known: Tensor, depth: int) -> Tensor:
        """What is added to the state, in units of its size. known [..., 2 * hidden] -> [..., hidden]"""
        return self.map(known) + self.up[depth](self.down[depth](known)) + self.streams[depth]

    @torch.no_grad()
    def fit(self, windows: Iterable[tuple[Tensor, Tensor]]) -> None:
        """First values, by least squares: rows begin as near as they can to the states that the tokens to come will have there.

        Args:
            windows: embeddings and states of texts, as `unroll` takes them.
        """
        inner, outer = 0.0, 0.0  # [2 * hidden, 2 * hidden], [depth, 2 * hidden, hidden]
        for embedded, states in windows:
            rows = embedded.shape[1] - self.config["depth"]
            known = self.known(embedded, states)[:, :rows].flatten(0, 1)
            now = states[:, :rows]
            ahead = [(states[:, 1 + depth : 1 + depth + rows] - now) / size(now) for depth in range(self.config["depth"])]
            inner = inner + known.T @ known
            outer = outer + torch.stack([known.T @ change.flatten(0, 1) for change in ahead])
        inner = inner + 1e-3 * inner.diagonal().mean() * torch.eye(len(inner), device=inner.device)
        self.begin(torch.linalg.solve(inner, outer).mT, inner)

    def begin(self, maps: Tensor, inner: Tensor) -> None:
        """Takes over the best map of each depth [depth, hidden, 2 * hidden], as well as it can; inner: products of what is known with
        itself, summed. [2 * hidden, 2 * hidden]"""
        self.map.weight.copy_(maps[0])
        root = torch.linalg.cholesky(inner)  # changes are near in what they make of what is known, and not in themselves
        for own, down, up in zip(maps, self.down, self.up, strict=True):
            left, sizes, right = torch.linalg.svd((own - maps[0]) @ root, full_matrices=False)
            half = sizes[:RANK].sqrt()
            up.weight.copy_(left[:, :RANK] * half)
            down.weight.copy_(torch.linalg.solve_triangular(root, half[:, None] * right[:RANK], upper=False, left=False))

    def known(self, embedded: Tensor, states: Tensor) -> Tensor:
        """The last token and the state before it, side by side. [batch, time - 1, 2 * hidden]"""
        return torch.cat([self.embed_norm(embedded[:, 1:]), self.state_norm(states[:, :-1])], -1)

    def unroll(self, embedded: Tensor, states: Tensor) -> Iterator[Tensor]:
        """See Eagle.unroll; but what it yields goes through the target's layers first (Target.joined)."""
        known = self.known(embedded, states)
        for depth in range(self.config["depth"]):
            rows = known.shape[1] - depth
            state = states[:, :rows]
            yield (state + size(state) * self.entering(known[:, :rows], depth)).float()


class Firp(Streaming):
    """The same with a map for each depth, and nothing else (FIRP, 2024)."""

    def make(self) -> None:
        hidden = self.config["hidden_size"]
        self.maps = nn.ModuleList(nn.Linear(2 * hidden, hidden, bias=False) for _ in range(self.config["depth"]))

    def entering(self, known: Tensor, depth: int) -> Tensor:
        return self.maps[depth](known)

    def begin(self, maps: Tensor, inner: Tensor) -> None:
        for own, best in zip(self.maps, maps, strict=True):
            own.weight.copy_(best)


BODIES = {
    **{"blockwise": Blockwise, "eagle": Eagle, "firp": Firp, "medusa": Medusa, "mtp": Mtp, "redrafter": Redrafter},
    **{"streaming": Streaming},
}


def size(state: Tensor) -> Tensor:
    """Root of the mean square. [..., hidden] -> [..., 1]"""
    return state.square().mean(-1, keepdim=True).sqrt()


def turned(cos: Tensor, sin: Tensor, x: Tensor, first: int) -> Tensor:
    """x [batch, heads, time, head_dim] rotated for positions from `first` on."""
    at = slice(first, first + x.shape[2])
    return rotate(x, cos[at], sin[at])


def attended(layer: Attention, x: Tensor, turn, past: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Attention of one depth. Row r sees the keys of depth 0 up to its own, and of later depths those of its own draft.

    Args:
        x: [batch, rows, hidden]
        turn: rotates (heads, first position).
        past: keys and values of the depths before, [batch, heads, rows or more, head_dim] each; those of this one are added.
    """
    batch, rows, _ = x.shape
    depth, group = len(past), layer.heads // layer.kv_heads
    q, k, v = (part(x).view(batch, rows, -1, layer.head_dim).transpose(1, 2) for part in (layer.q_proj, layer.k_proj, layer.v_proj))
    q = turn(q, depth) * layer.head_dim**-0.5
    past.append((turn(k, depth).repeat_interleave(group, 1), v.repeat_interleave(group, 1)))
    keys, values = past[0][0][:, :, :rows], past[0][1][:, :, :rows]
    hidden = torch.ones(rows, rows, dtype=torch.bool, device=x.device).triu(1)
    scores = [(q @ keys.transpose(2, 3)).masked_fill(hidden, float("-inf"))]
    scores += [(q * own[:, :, :rows]).sum(-1, keepdim=True) for own, _ in past[1:]]
    shares = torch.cat(scores, -1).softmax(-1)  # [batch, heads, rows, rows + depth]
    y = shares[..., :rows] @ values
    for at, (_, own) in enumerate(past[1:]):
        y = y + shares[..., rows + at, None] * own[:, :, :rows]
    return layer.o_proj(y.transpose(1, 2).reshape(batch, rows, -1))
