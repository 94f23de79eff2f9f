"""PrefixCache: a tree that finds the pages of text computed before. It does not know requests.

A radix tree whose digit is one page of tokens (Zheng et al. 2023, RadixAttention, at page granularity): a node is one
page, its key the tokens in it. Inner nodes are full pages; a leaf may be partial, the tail of a text that ended.
The keys below a node are also kept in order: what begins most like a given text stands next to it there, so a partial
match is found by bisection however many siblings there are.
"""

import heapq
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from slipstream.cache.pages import PagePool


class Node:
    """One page in the tree.

    Attributes:
        key: its tokens, at most page_size.
        page: its page, -1 for the root.
        parent: the node whose tokens come before.
        children, order: what comes after, by key, and the keys in ascending order.
        used: time of its last use.
        queued: whether the eviction queue has an entry for it.
    """

    __slots__ = ("key", "page", "parent", "children", "order", "used", "serial", "queued")

    def __init__(self, key: tuple[int, ...], page: int, parent: "Node | None", serial: int):
        self.key = key
        self.page = page
        self.parent = parent
        self.children: dict[tuple[int, ...], Node] = {}
        self.order: list[tuple[int, ...]] = []
        self.used = serial
        self.serial = serial
        self.queued = False


@dataclass(frozen=True, slots=True)
class Match:
    """What the tree knows of a text.

    Attributes:
        pages: full pages, in order; the caller holds one reference to each.
        node: the node of the last of them (the root if there is none).
        tail: a page that goes on like the text, or None; not referenced. Copy it before writing to the copy.
        tail_tokens: how many tokens of the tail's page are the text's.
    """

    pages: list[int]
    node: Node
    tail: Node | None = None
    tail_tokens: int = 0


class PrefixCache:
    """The tree and the order in which its pages are given up.

    The tree holds one reference to each of its pages. A holder of a page holds all pages above it too, so a page that
    is idle has only idle pages below it, and the least recently used leaf can always go first. A leaf has one entry in
    the eviction queue unless somebody holds it; whoever lets go calls `leave`. Entries are brought up to date when
    they come up: O(log n) per page.
    """

    def __init__(self, pool: PagePool):
        self.root = Node((), -1, None, 0)
        self._pool = pool
        self._time = 0
        self._queue: list[tuple[int, int, Node]] = []  # (used, serial, leaf)

    def match(self, tokens: Sequence[int], limit: int) -> Match:
        """The longest prefix of `tokens[:limit]` in the tree; marks it as used."""
        self._time += 1
        size = self._pool.page_size
        node, pages, at = self.root, [], 0
        while at + size <= limit:
            child = node.children.get(tuple(tokens[at : at + size]))
            if child is None:
                break
            self._pool.share(child.page)
            child.used = self._time
            pages.append(child.page)
            node, at = child, at + size
        tail, tail_tokens = self._nearest(node, tuple(tokens[at : min(at + size, limit)]))
        if tail is not None:
            tail.used = self._time
        return Match(pages, node, tail, tail_tokens)

    def insert(self, node: Node, key: tuple[int, ...], page: int) -> Node:
        """Publishes a page that the caller holds.

        Args:
            node: what comes before; the caller holds its page.
            key: the committed tokens in the page; fewer than page_size only if nobody will ever write to it again.
            page: the page. The tree takes a reference of its own, unless it knows the tokens already.

        Returns:
            The node of these tokens: with this page, or with the one known before.
        """
        known = node.children.get(key)
        if known is None and len(key) < self._pool.page_size:
            longer, common = self._nearest(node, key)
            known = longer if common == len(key) else None
        if known is not None:
            return known
        self._time += 1
        child = Node(key, page, node, self._time)
        self._pool.keep(page)
        node.children[key] = child
        insort(node.order, key)
        if len(key) < self._pool.page_size:
            self._enqueue(child)  # a tail is copied, never held
        return child

    def leave(self, node: Node) -> None:
        """To be called when somebody has let go of `node` and the pages above it: now they may be idle."""
        if node is not self.root:
            self._time += 1
            node.used = self._time
            self._enqueue(node)

    def evict(self, n: int) -> int:
        """Gives up to `n` idle pages back to the pool, least recently used first. Returns how many."""
        freed = 0
        while freed < n and self._queue:
            used, _, leaf = heapq.heappop(self._queue)
            leaf.queued = False
            if leaf.children or self._pool.counts[leaf.page] > 1:
                continue  # no leaf any more, or held: it is queued again when that changes
            if used < leaf.used:
                self._enqueue(leaf)
                continue
            self._remove(leaf)
            freed += 1
        return freed

    def clear(self) -> int:
        """Gives all idle pages back. Returns how many."""
        return self.evict(self._pool.pages)

    def _nearest(self, node: Node, key: tuple[int, ...]) -> tuple[Node | None, int]:
        """The child that shares most of its beginning with `key`, and how many tokens."""
        best, most = None, 0
        at = bisect_left(node.order, key)
        for other in node.order[max(at - 1, 0) : at + 1]:
            common = common_prefix(other, key)
            if common > most:
                best, most = node.children[other], common
        return best, most

    def _enqueue(self, node: Node) -> None:
        if not node.queued and not node.children:
            node.queued = True
            heapq.heappush(self._queue, (node.used, node.serial, node))

    def _remove(self, leaf: Node) -> None:
        parent = leaf.parent
        del parent.children[leaf.key]
        del parent.order[bisect_left(parent.order, leaf.key)]
        self._pool.drop(leaf.page)
        if parent is not self.root:
            self._enqueue(parent)

    def nodes(self) -> Iterator[Node]:
        """All nodes but the root, parents before children."""
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def check_integrity(self) -> None:
        """Raises AssertionError if the tree contradicts itself or its pool."""
        pages: Counter[int] = Counter()
        for node in self.nodes():
            pages[node.page] += 1
            held = self._pool.counts[node.page] > 1
            assert node.parent.children[node.key] is node and 0 < len(node.key) <= self._pool.page_size
            assert node.order == sorted(node.children)
            assert not node.children or len(node.key) == self._pool.page_size, "something comes after a partial page"
            assert node.children or held or node.queued, f"page {node.page} is idle and can never be evicted"
            if held and len(node.key) == self._pool.page_size and node.parent is not self.root:
                assert self._pool.counts[node.parent.page] > 1, "a page is held without the one before it"
        assert all(count == 1 for count in pages.values()), "a page is in the tree twice"


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
