"""Rules that weigh drafts, by exact enumeration: every draft that may be drawn, every way in which the dice may fall. The tokens that
are said must be distributed as the model says, to the last bit that counts; and rules that are wrong must be caught in the same way."""

import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch

from slipstream.base.errors import InputError
from slipstream.sampling.distribution import Notes
from slipstream.speculate.choose import choose_rule
from slipstream.speculate.verify import block, reject, typical
from slipstream.speculate.weighing import KeyedDice, Weighed, rest
from slipstream.step.draft import DraftTree

VOCAB, DEPTH = 3, 2
Path = tuple[int, ...]


class Fate:
    """Dice that fall as they are told, then in the first way there is; the other ways are noted."""

    def __init__(self, told: list[int]):
        self.told, self.thrown, self.others, self.chance = told, 0, [], 1.0

    def accepts(self, probability: float) -> bool:
        return bool(self._fall([1 - min(1.0, probability), min(1.0, probability)]))

    def choose(self, weights: torch.Tensor) -> int:
        return self._fall((weights / weights.sum()).tolist())

    def _fall(self, chances: list[float]) -> int:
        ways = [way for way, chance in enumerate(chances) if chance > 0]
        if self.thrown < len(self.told):
            way = self.told[self.thrown]
        else:
            way = ways[0]
            self.others.extend([*self.told, other] for other in ways[1:])
            self.told = [*self.told, way]
        self.thrown += 1
        self.chance *= chances[way]
        return way


def falls(walk: Callable[[Fate], list[int]]) -> Iterator[tuple[list[int], float]]:
    """(what is said, how likely that is) for every way in which the dice may fall."""
    todo: list[list[int]] = [[]]
    while todo:
        fate = Fate(todo.pop())
        said = walk(fate)
        todo.extend(fate.others)
        yield said, fate.chance


def tables(seed: int, holes: bool) -> dict[Path, torch.Tensor]:
    """A random distribution after every path; with holes, as top-k and top-p make them."""
    rng = torch.Generator().manual_seed(seed)
    out = {}
    for length in range(DEPTH + 1):
        for path in itertools.product(range(VOCAB), repeat=length):
            weights = torch.rand(VOCAB, generator=rng, dtype=torch.float64) ** 2
            if holes:
                weights[torch.randint(VOCAB, (1,), generator=rng)] = 0
            out[path] = weights / weights.sum()
    return out


# Ways to draft: each yields (paths of a tree, notes, probability)


def chains(q: dict[Path, torch.Tensor]) -> Iterator[tuple[list[Path], Notes, float]]:
    """One token after the other is drawn."""
    for path in itertools.product(range(VOCAB), repeat=DEPTH):
        notes, chance = Notes(), 1.0
        for at, token in enumerate(path):
            notes.add(path[:at], token, q[path[:at]])
            chance *= float(q[path[:at]][token])
        if chance:
            yield [path], notes, chance


def certain(q: dict[Path, torch.Tensor]) -> Iterator[tuple[list[Path], Notes, float]]:
    """The likeliest chain, drawn from nothing."""
    path: Path = ()
    for _ in range(DEPTH):
        path += (int(q[path].argmax()),)
    yield [path], Notes(), 1.0


def bushes(q: dict[Path, torch.Tensor], renormalised: bool = True) -> Iterator[tuple[list[Path], Notes, float]]:
    """Two children of the root, and two of the first of them, drawn without replacement."""
    for first, second, below, beside in itertools.product(range(VOCAB), repeat=4):
        notes, chance = Notes(), 1.0
        for path, pair in (((), (first, second)), ((first,), (below, beside))):
            drawn_from = q[path]
            for token in pair:
                chance *= float(drawn_from[token])
                notes.add(path, token, drawn_from if renormalised else q[path])
                drawn_from = rest(drawn_from, None, token)
                drawn_from = drawn_from / drawn_from.sum() if drawn_from.sum() > 0 else drawn_from
        if chance and first != second and below != beside:
            yield [(first, below), (first, beside), (second,)], notes, chance


def mixed(q: dict[Path, torch.Tensor]) -> Iterator[tuple[list[Path], Notes, float]]:
    """A drawn chain, and beside each of its tokens the one above it, drawn from nothing."""
    for [(first, second)], notes, chance in chains(q):
        beside = [((first + 1) % VOCAB,), (first, (second + 1) % VOCAB)]
        yield [(first, second), *beside], notes, chance


def total_variation(walk, drafts, p: dict[Path, torch.Tensor]) -> float:
    """Between what is said, continued by the model to one length, and what the model says."""
    said: dict[Path, float] = {}
    for paths, notes, drawn in drafts:
        tree = DraftTree.merge(paths)
        target = [p[()], *(p[tuple(tree.tokens[n] for n in tree.path(node))] for node in range(len(tree)))]
        weighed = Weighed(tree, target, notes)
        for tokens, chance in falls(lambda dice, weighed=weighed: walk(weighed, dice)[1]):
            for more in itertools.product(range(VOCAB), repeat=DEPTH + 1 - len(tokens)):
                whole = (*tokens, *more)
                going_on = [float(p[whole[:at]][whole[at]]) for at in range(len(tokens), DEPTH + 1)]
                said[whole] = said.get(whole, 0.0) + drawn * chance * torch.tensor(going_on, dtype=torch.float64).prod().item()
    apart = 0.0
    for whole in itertools.product(range(VOCAB), repeat=DEPTH + 1):
        truth = 1.0
        for at in range(DEPTH + 1):
            truth *= float(p[whole[:at]][whole[at]])
        apart += abs(said.get(whole, 0.0) - truth) / 2
    return apart


def by(module):
    return lambda weighed, dice: module.walk(module.Options(), weighed, dice)


@pytest.mark.parametrize("holes", [False, True], ids=["full", "holes"])
@pytest.mark.parametrize("drafts", [chains, certain, bushes, mixed])
@pytest.mark.parametrize("rule", [reject, block], ids=["reject", "block"])
def test_the_text_is_distributed_as_without_drafts(rule, drafts, holes):
    for seed in range(3):
        p, q = tables(seed, holes), tables(100 + seed, holes and drafts is not bushes)
        assert total_variation(by(rule), drafts(q), p) < 1e-12
        assert total_variation(by(rule), drafts(p), p) < 1e-12, "a drafter that is the model"


def test_a_block_keeps_at_least_as_much():
    def length(rule, p, q):
        out = 0.0
        for paths, notes, drawn in chains(q):
            tree = DraftTree.chain(paths[0])
            weighed = Weighed(tree, [p[()], p[paths[0][:1]], p[paths[0]]], notes)
            out += sum(drawn * chance * len(said) for said, chance in falls(lambda dice, w=weighed: by(rule)(w, dice)[1]))
        return out

    gains = []
    for seed in range(6):
        p, q = tables(seed, False), tables(100 + seed, False)
        gains.append(length(block, p, q) - length(reject, p, q))
    assert min(gains) > -1e-12 and max(gains) > 0.005


def soft_argmax(q):
    """The classic mistake: the likeliest token is taken, and said to be drawn."""
    for [path], _, _ in certain(q):
        notes = Notes()
        for at, token in enumerate(path):
            notes.add(path[:at], token, q[path[:at]])
        yield [path], notes, 1.0


def as_far_as_reached(weighed, dice):
    """Block verification that stops with the probability of having come so far, whatever is left to say."""
    tokens, q = weighed.tree.tokens, [weighed.candidates(node - 1)[0][1] for node in range(len(weighed.tree))]
    reach = [1.0]
    for at, token in enumerate(tokens):
        reach.append(min(1.0, reach[-1] * float(weighed.target[at][token] / q[at][token])))
    kept = next((at for at in range(len(tokens), 0, -1) if dice.accepts(reach[at])), 0)
    beyond = weighed.target[kept] if kept == len(tokens) else rest(weighed.target[kept] * reach[kept], q[kept], tokens[kept])
    return list(range(kept)), [*tokens[:kept], dice.choose(beyond if beyond.sum() > 0 else weighed.target[kept])]


WRONG = {
    "argmax said to be drawn, reject": (by(reject), soft_argmax),
    "argmax said to be drawn, block": (by(block), soft_argmax),
    "not renormalised": (by(reject), lambda q: bushes(q, renormalised=False)),
    "block that forgets the rest": (as_far_as_reached, chains),
    "typical": (by(typical), chains),
    "all that is guessed": (lambda weighed, dice: ([], [*weighed.tree.tokens, dice.choose(weighed.target[-1])]), chains),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_caught(name):
    walk, drafts = WRONG[name]
    assert max(total_variation(walk, drafts(tables(100 + seed, False)), tables(seed, False)) for seed in range(3)) > 1e-3


def test_typical_keeps_the_longest_path_that_is_likely_enough():
    p = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    tree = DraftTree.merge([(2, 0), (1, 0, 1), (0, 2)])
    weighed = Weighed(tree, [p] * 7, Notes())
    kept, said = typical.walk(typical.Options(epsilon=0.2, delta=0.9), weighed, Fate([0]))
    assert [tree.tokens[node] for node in kept] == [1, 0, 1] and said == [1, 0, 1, 0]
    kept, said = typical.walk(typical.Options(epsilon=0.5, delta=0.9), weighed, Fate([]))
    assert said[:1] == [0] and kept, "entropy 0.9: min(0.5, 0.9 * 0.41) lets only the likeliest through"
    sure = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    assert typical.walk(typical.Options(), Weighed(DraftTree.chain([1, 0]), [sure] * 3, Notes()), Fate([]))[1] == [1, 1]


def test_dice_fall_alike_in_the_same_place_and_fairly():
    weights = torch.tensor([0.0, 0.5, 0.2, 0.3, 0.0], dtype=torch.float64)

    def throws(seed, sample, position):
        dice = KeyedDice(seed, sample, position)
        return [dice.accepts(0.3) for _ in range(5)] + [dice.choose(weights) for _ in range(10)]

    assert throws(7, 0, 3) == throws(7, 0, 3) != throws(7, 1, 3) != throws(7, 0, 4) != throws(-8, 0, 3)
    dice, count = KeyedDice(-(2**63), 2, 9), 3000
    assert sum(dice.accepts(0.3) for _ in range(count)) / count == pytest.approx(0.3, abs=0.04)
    chosen = torch.bincount(torch.tensor([dice.choose(weights) for _ in range(count)]), minlength=5) / count
    assert chosen.double().sub(weights).abs().max() < 0.04 and chosen[0] == chosen[4] == 0
    high = SimpleNamespace(choose=KeyedDice.choose, _uniform=lambda: 1 - 2.0**-53)
    assert KeyedDice.choose(high, weights) == 3, "never past the last that may be chosen"


def test_rules_by_name():
    assert choose_rule("match").exact and not choose_rule("match").weighs
    assert choose_rule("typical:epsilon=0.2").options.epsilon == 0.2 and not choose_rule("typical").exact
    for text, said in (
        ("rejekt", "did you mean 'reject'"),
        ("reject:k=1", "option of reject"),
        ("typical:epsilon=2", "epsilon=2.0 must be between 0 and 1"),
        ("typical:delta", "is not KEY=VALUE; options of typical: epsilon, delta"),
    ):
        with pytest.raises(InputError, match="verify") as error:
            choose_rule(text)
        assert said in str(error.value)
