"""Verification of a chain as one block (Sun et al. 2024, "Block verification accelerates speculative decoding").

Rejection decides token by token; a block looks at the whole chain before it decides how much of it is kept, which makes the kept part
a little longer and leaves the distribution of the text the model's:

    reach[i] = min(1, reach[i-1] * p(x_i) / q(x_i))       how far the text may have come by this chain; reach[0] = 1
    stop[i]  = rest / (rest + 1 - reach[i])               rest: the sum of reach[i] * p - q, cut at 0, at the place after x_i
    stop[k]  = reach[k]                                   at the chain's end

A die is thrown for each i, from the end on; the first that says stop[i] is how much is kept. Other trees are verified by rejection.
"""

from dataclasses import dataclass

from slipstream.speculate.verify import reject
from slipstream.speculate.weighing import Dice, Weighed, rest
from slipstream.step.draft import ROOT

EXACT = True


@dataclass(frozen=True)
class Options:
    """There are none."""


def walk(options: Options, weighed: Weighed, dice: Dice) -> tuple[list[int], list[int]]:
    """Walks the chain; see the package for what comes back."""
    tokens, target, length = weighed.tree.tokens, weighed.target, len(weighed.tree)
    if weighed.tree.parents != tuple(range(ROOT, length - 1)):
        return reject.walk(reject.Options(), weighed, dice)
    drawn_from = [weighed.candidates(node - 1)[0][1] for node in range(length)]
    reach = [1.0]
    for p, q, token in zip(target, drawn_from, tokens, strict=False):
        reach.append(min(1.0, reach[-1] * float(p[token]) / (1.0 if q is None else float(q[token]))))
    if dice.accepts(reach[length]):
        return list(range(length)), [*tokens, dice.choose(target[length])]
    for kept in range(length - 1, -1, -1):
        beyond = rest(target[kept] * reach[kept], drawn_from[kept], tokens[kept])  # what may still be said here
        share = float(beyond.sum())
        if kept == 0 or (share > 0 and dice.accepts(share / (share + 1 - reach[kept]))):
            break
    return list(range(kept)), [*tokens[:kept], dice.choose(beyond if share > 0 else target[kept])]
