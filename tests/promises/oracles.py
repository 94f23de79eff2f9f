"""Oracle drafters: they know, or deliberately miss, what the model will say. No trained drafter finds more bugs."""

import random
from collections.abc import Sequence

from slipstream.speculate.drafter import DraftContext
from slipstream.step.draft import ROOT, DraftTree

MAX_DRAFT = 6


class Oracle:
    """Base: `known` holds whole token sequences (prompt and output) that the model is going to produce."""

    max_draft = MAX_DRAFT

    def __init__(self, known: Sequence[Sequence[int]] = (), vocab: int = 512, seed: int = 0):
        self.known = [tuple(sequence) for sequence in known]
        self.vocab, self.random = vocab, random.Random(seed)
        self.asked = 0

    def truth(self, tokens: Sequence[int], count: int) -> list[int]:
        """The next `count` tokens of a known sequence that begins with `tokens`; [] past the end of what is known."""
        tokens = tuple(tokens)
        for sequence in self.known:
            if len(sequence) > len(tokens) and sequence[: len(tokens)] == tokens:
                return list(sequence[len(tokens) : len(tokens) + count])
        return []

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        self.asked += len(contexts)
        return [self.guess(context) for context in contexts]

    def drop(self, request: int) -> None:
        return None

    def guess(self, context: DraftContext) -> DraftTree:
        raise NotImplementedError

    def some(self, count: int) -> list[int]:
        return [self.random.randrange(self.vocab) for _ in range(count)]


class Perfect(Oracle):
    """Always right."""

    def guess(self, context: DraftContext) -> DraftTree:
        return DraftTree.chain(self.truth(context.tokens, context.budget))


class AlwaysWrong(Oracle):
    """Right in everything but the first token, which makes everything wrong."""

    def guess(self, context: DraftContext) -> DraftTree:
        truth = self.truth(context.tokens, context.budget) or self.some(context.budget)
        return DraftTree.chain([(truth[0] + 1) % self.vocab, *truth[1:]])


class RandomTree(Oracle):
    """A tree of random shape that holds the truth at random depths between wrong branches, so that kept nodes lie
    scattered and must be moved."""

    def guess(self, context: DraftContext) -> DraftTree:
        truth = self.truth(context.tokens, MAX_DRAFT)
        tokens: list[int] = []
        parents: list[int] = []
        true_node, depth = ROOT, 0
        for node in range(self.random.randrange(1, context.budget + 1)):
            if depth < len(truth) and self.random.random() < 0.5:
                token, parent = truth[depth], true_node
                true_node, depth = node, depth + 1
            else:
                parent = self.random.randrange(ROOT, node)
                token = self.random.randrange(self.vocab)
                known = (parent, token) in zip(parents, tokens, strict=True)
                if known or (parent == true_node and depth < len(truth) and token == truth[depth]):
                    break
            tokens.append(token)
            parents.append(parent)
        return DraftTree(tuple(tokens), tuple(parents))


class DuplicateHeavy(Oracle):
    """Several guesses with common beginnings, merged; the truth among them."""

    def guess(self, context: DraftContext) -> DraftTree:
        truth = self.truth(context.tokens, 3) or self.some(3)
        return DraftTree.merge([[*truth[:1], *self.some(1)], truth[:2], truth[:2], truth, [*truth[:2], *self.some(1)], truth])


class OutOfVocabulary(Oracle):
    """Tokens that do not exist, between ones that do."""

    def guess(self, context: DraftContext) -> DraftTree:
        truth = self.truth(context.tokens, 4) or self.some(4)
        return DraftTree.merge([[self.vocab + 7, *truth], [*truth[:2], -1, *truth[2:]], [2**31 - 1]])


class TooMuch(Oracle):
    """Far more nodes than the budget allows, far deeper than the request will get."""

    def guess(self, context: DraftContext) -> DraftTree:
        return DraftTree.merge([self.truth(context.tokens, 200) or self.some(200), self.some(50)])


ORACLES = {cls.__name__: cls for cls in (Perfect, AlwaysWrong, RandomTree, DuplicateHeavy, OutOfVocabulary, TooMuch)}
