"""An Executor without a model: every KV slot remembers the whole text it was computed from.

A row writes the text up to its token into its slot; before a row "attends", every slot that it would read must hold
exactly the right beginning of its text. So a stale page, a page with two writers, a copy made too late or a kept node
that was not moved is found at the row that would read it. The next token is a function of (seed, sample, text).
"""

import random
import zlib
from dataclasses import replace

from slipstream.scheduler import SchedulerOptions
from slipstream.step import Chunk, DraftTree, Outcome, Plan, Result, TokenLogprobs
from slipstream.step.plan import UNKNOWN

VOCAB = 11


def next_token(seed: int, sample: int, text: tuple[int, ...]) -> int:
    return zlib.crc32(repr((seed, sample, text)).encode()) % VOCAB


def logprob_of(text: tuple[int, ...], token: int) -> TokenLogprobs:
    return TokenLogprobs(token, -float(zlib.crc32(repr((text, token)).encode()) % 97), 1)


def expected_output(prompt, params, seed, sample, ends, max_len, watch=None) -> tuple[tuple[int, ...], str]:
    """What a request says and why it ends, one token after the other, without any engine."""
    text = list(prompt)
    if params.max_tokens == 0:
        return (), "length"
    while True:
        token = next_token(seed, sample, tuple(text))
        text.append(token)
        new = len(text) - len(prompt)
        said = watch(token) if watch else None
        if new >= params.min_tokens and ((token in ends and not params.ignore_eos) or token in params.stop_token_ids):
            return tuple(text[len(prompt) :]), "stop"
        if said:
            return tuple(text[len(prompt) :]), said
        if new == params.max_tokens or len(text) == max_len:
            return tuple(text[len(prompt) :]), "length"


class SlotModel:
    """Runs plans and checks everything a device would have to rely on.

    Args:
        options: what the plans must keep to.
        draft: kind of the drafts: "none", "right", "wrong", "tree" or "mixed".
        seed: of the drafts that are drawn.
    """

    def __init__(self, options: SchedulerOptions, draft: str = "none", seed: int = 0):
        self.options = options
        self.size, self.pages = options.page_size, options.pages
        self.draft = draft
        self.random = random.Random(seed)
        self.slots: list[tuple[int, ...] | None] = [None] * (self.pages * self.size)
        self.known: dict[int, tuple] = {}  # request -> (Admission, tokens known to the device, page table)
        self.rows = 0
        self.drafted = 0
        self.kept = 0
        self.moved = 0
        self.again = 0  # passes beyond a step's first

    def run(self, plan: Plan) -> Result:
        for number in plan.released:
            del self.known[number]
        for admission in plan.admitted:
            assert admission.request not in self.known, "admitted twice"
            self.known[admission.request] = (admission, list(admission.tokens), ())
        for source, target in plan.copies:
            assert source != target
            for offset in range(self.size):
                self.slots[target * self.size + offset] = self.slots[source * self.size + offset]
        done = self._pass(plan)
        guessed = bool(plan.chunks and plan.chunks[0].draft.tokens)
        for _ in range(self.random.randint(1, plan.passes) - 1 if guessed else plan.passes - 1):
            self.again += 1
            if guessed:
                done, plan = self._round(plan, done)
                continue
            assert all(len(chunk.trunk) == 1 and chunk.sample and not chunk.draft.tokens for chunk in plan.chunks)
            chunks = [
                replace(chunk, start=chunk.start + 1, trunk=outcome.tokens[-1:]) for chunk, outcome in zip(plan.chunks, done, strict=True)
            ]
            done = [self._again(chunk, before) for chunk, before in zip(chunks, done, strict=True)]
            plan = replace(plan, chunks=tuple(chunks))
        return Result(tuple(done))

    def _round(self, plan: Plan, before: list[Outcome]) -> tuple[list[Outcome], Plan]:
        """One more check, of guesses that were made in between; all chains are of one length."""
        assert len({len(chunk.draft) for chunk in plan.chunks}) == 1
        chunks = []
        for chunk in plan.chunks:
            admission, tokens, _ = self.known[chunk.request]
            draft = self._guess(admission, tuple(tokens), len(chunk.draft))
            chunks.append(replace(chunk, start=len(tokens) - 1, trunk=tuple(tokens[-1:]), draft=draft))
        plan = replace(plan, chunks=tuple(chunks))
        after = self._pass(plan)
        return [
            replace(more, tokens=first.tokens + more.tokens, rounds=(*first.said, len(more.tokens)))
            for first, more in zip(before, after, strict=True)
        ], plan

    def _again(self, chunk: Chunk, before: Outcome) -> Outcome:
        """One more pass of a request. Behind its last page nothing it does means anything, and it writes where its last slot is."""
        if chunk.start >= len(chunk.pages) * self.size:
            self.slots[self._slot(chunk, len(chunk.pages) * self.size - 1)] = None
            return replace(before, tokens=(*before.tokens, 0))
        (more,) = self._pass(Plan(chunks=(chunk,)))
        return replace(more, tokens=before.tokens + more.tokens, logprobs=before.logprobs and before.logprobs + more.logprobs)

    def _pass(self, plan: Plan) -> list[Outcome]:
        self._check_shape(plan)
        texts = [self._write(chunk) for chunk in plan.chunks]
        for chunk, (trunk_texts, node_texts) in zip(plan.chunks, texts, strict=True):
            self._read(chunk, trunk_texts, node_texts)
        self.rows += plan.rows
        return [self._outcome(chunk, *both) for chunk, both in zip(plan.chunks, texts, strict=True)]

    def _check_shape(self, plan: Plan) -> None:
        longest, drafts = self.options.max_chunk, self.options.max_draft
        assert plan.rows <= self.options.max_step_tokens and len(plan.chunks) <= self.options.max_batch
        assert len({chunk.request for chunk in plan.chunks}) == len(plan.chunks)
        written: set[int] = set()
        for chunk in plan.chunks:
            assert 1 <= len(chunk.trunk) <= longest and len(chunk.draft) <= drafts and 0 <= chunk.draft_budget <= drafts
            chunk.draft.check()
            assert all(0 <= token < VOCAB for token in chunk.draft.tokens)
            assert chunk.start + chunk.rows <= len(chunk.pages) * self.size, "rows without a page"
            assert len(set(chunk.pages)) == len(chunk.pages) and all(0 <= page < self.pages for page in chunk.pages)
            admission, tokens, pages = self.known[chunk.request]
            assert chunk.pages[: len(pages)] == pages, "a page table changed other than by growing"
            self.known[chunk.request] = (admission, tokens, chunk.pages)
            known = chunk.trunk if chunk.trunk != (UNKNOWN,) else tuple(tokens[-1:])
            assert tuple(tokens[chunk.start : chunk.start + len(chunk.trunk)]) == known
            assert chunk.sample == (chunk.start + len(chunk.trunk) == len(tokens) and admission.params.max_tokens > 0)
            assert chunk.sample or not chunk.draft, "a draft without a root"
            slots = {self._slot(chunk, at) for at in range(chunk.start, chunk.start + chunk.rows)}
            assert len(slots) == chunk.rows and not slots & written, "a slot is written twice"
            written |= slots

    def _slot(self, chunk: Chunk, position: int) -> int:
        return chunk.pages[position // self.size] * self.size + position % self.size

    def _write(self, chunk: Chunk) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        tokens = tuple(self.known[chunk.request][1])
        trunk = [tokens[: position + 1] for position in range(chunk.start, chunk.start + len(chunk.trunk))]
        nodes = []
        for token, parent in zip(chunk.draft.tokens, chunk.draft.parents, strict=True):
            nodes.append((trunk[-1] if parent == -1 else nodes[parent]) + (token,))
        for row, text in enumerate(trunk + nodes):
            self.slots[self._slot(chunk, chunk.start + row)] = text
        return trunk, nodes

    def _read(self, chunk: Chunk, trunk: list[tuple[int, ...]], nodes: list[tuple[int, ...]]) -> None:
        """Every row reads all positions up to its own; those of a node past the trunk are its path's slots."""
        text, end = trunk[-1], chunk.start + len(chunk.trunk)
        for position in range(end):
            found = self.slots[self._slot(chunk, position)]
            assert found == text[: position + 1], f"request {chunk.request} reads {found} at {position} of {text}"
        for node in range(len(nodes)):
            for step in chunk.draft.path(node):
                assert self.slots[self._slot(chunk, end + step)] == nodes[node][: len(nodes[step])]

    def _outcome(self, chunk: Chunk, trunk: list[tuple[int, ...]], nodes: list[tuple[int, ...]]) -> Outcome:
        admission, tokens, _ = self.known[chunk.request]
        scores = self._scores(chunk, admission, trunk)
        if not chunk.sample:
            assert chunk.draft_budget == 0
            return Outcome(chunk.request, scores=scores)
        drawn = [next_token(admission.seed, admission.sample, text) for text in trunk[-1:] + nodes]  # root first
        path, at = [], -1
        for node, (token, parent) in enumerate(zip(chunk.draft.tokens, chunk.draft.parents, strict=True)):
            if parent == at and token == drawn[1 + at]:
                path.append(node)
                at = node
        end = chunk.start + len(chunk.trunk)
        for target, node in enumerate(path):  # as the worker does it: kept rows become part of the trunk
            self.slots[self._slot(chunk, end + target)] = self.slots[self._slot(chunk, end + node)]
            self.moved += target != node
        new = tuple(chunk.draft.tokens[node] for node in path) + (drawn[1 + at],)
        texts = trunk[-1:] + [nodes[node] for node in path]
        self.drafted += len(nodes)
        self.kept += len(path)
        tokens.extend(new)
        logprobs = tuple(logprob_of(text, token) for text, token in zip(texts, new, strict=True))
        return Outcome(
            chunk.request,
            new,
            logprobs if admission.params.logprobs is not None else None,
            scores,
            self._guess(admission, tuple(tokens), chunk.draft_budget),
        )

    def _scores(self, chunk: Chunk, admission, trunk: list[tuple[int, ...]]):
        if chunk.score is None:
            return None
        assert 0 <= chunk.score < len(chunk.trunk)
        end = min(len(chunk.trunk), admission.prompt - 1 - chunk.start)
        assert end > chunk.score, "scores of nothing"
        return tuple(logprob_of(trunk[row], admission.tokens[chunk.start + row + 1]) for row in range(chunk.score, end))

    def _guess(self, admission, text: tuple[int, ...], budget: int) -> DraftTree:
        kind = self.draft if self.draft != "mixed" else self.random.choice(["none", "right", "wrong", "tree", "rude"])
        if kind == "none" or budget == 0 and kind != "rude":
            return DraftTree()
        right = []
        for _ in range(max(budget, 3)):
            right.append(next_token(admission.seed, admission.sample, text + tuple(right)))
        if kind == "right":
            return DraftTree.chain(right[:budget])
        wrong = [(token + 1) % VOCAB for token in right]
        if kind == "rounds":  # right up to somewhere
            turn = self.random.randrange(budget + 1)
            return replace(DraftTree.chain([*right[:turn], *((token + 1) % VOCAB for token in right[turn:budget])]), again=True)
        if kind == "wrong":
            return DraftTree.chain(wrong[:budget])
        if kind == "rude":  # longer than allowed, and outside the vocabulary
            return DraftTree.merge([right + right, wrong[:2] + [VOCAB + 5], [VOCAB, 1], [-1]])
        depth = max(budget // 3, 1)  # so that the right path fits behind the wrong ones and must be moved when kept
        turn = self.random.randrange(depth + 1)
        paths = [wrong[:depth], (right[:turn] + wrong[turn:])[:depth], right[:depth]]
        return DraftTree.merge(paths).prune(budget, budget, VOCAB)
