"""PageTables: which pages a request holds, from its first to its last. It knows tokens and pages, not requests."""

from collections import Counter
from collections.abc import Iterable, Sequence

from slipstream.cache.pages import PagePool
from slipstream.cache.prefix import Node, PrefixCache


class PageTable:
    """The pages of one request, in the order of its positions. From `open` or `fork` to `close` it only grows: the device
    side needs to look at new entries only.

    Attributes:
        pages: page ids; position p is in pages[p // page_size]. Changed by PageTables only.
        published: how many of them, from the first, are a path in the tree.
        node: the tree's node of the last of these.
        apart: the tree has other pages for the text after that, so the rest stays out of it until the end.
    """

    __slots__ = ("pages", "published", "node", "apart", "_ids")

    def __init__(self, pages: list[int], published: int, node: Node):
        self.pages = pages
        self.published = published
        self.node = node
        self.apart = False
        self._ids: tuple[int, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        """The pages as a tuple, made anew only when there are more."""
        if len(self._ids) != len(self.pages):
            self._ids = tuple(self.pages)
        return self._ids


class PageTables:
    """Opens, grows, publishes and closes page tables.

    A table that holds a page of the tree holds all pages above it. Pages are written only past the committed tokens of
    the one table that holds them; whatever two can see is full, and stays as it is.

    Args:
        pool, prefix: the pages and the tree.
        publishing: False: nothing enters the tree, so nothing is found there and every page is freed at the end.
    """

    def __init__(self, pool: PagePool, prefix: PrefixCache, publishing: bool = True):
        self.pool = pool
        self.prefix = prefix
        self.publishing = publishing
        self._copies: list[tuple[int, int, Node | None]] = []  # (from, to, the source's node if the tree named it)

    @property
    def available(self) -> int:
        """Pages that can be had without taking any from a request."""
        return self.pool.free + self.pool.idle

    def pages_for(self, slots: int) -> int:
        """Pages that hold `slots` positions."""
        return -(-slots // self.pool.page_size)

    def missing(self, table: PageTable, slots: int) -> int:
        """Pages that the table lacks for positions 0..slots-1."""
        return max(0, self.pages_for(slots) - len(table.pages))

    def slots(self, table: PageTable) -> int:
        """Positions that the table can have at most as things are."""
        return (len(table.pages) + self.available) * self.pool.page_size

    def open(self, tokens: Sequence[int], limit: int, spare: int) -> tuple[PageTable, int] | None:
        """A table that begins with what the tree knows of `tokens[:limit]`.

        Returns:
            The table and how many tokens it holds; None if there is no room for all `tokens` beside `spare` pages.
        """
        match = self.prefix.match(tokens, limit)
        table = PageTable(match.pages, len(match.pages), match.node)
        needed = self.pages_for(len(tokens)) - len(table.pages) + spare
        if needed > self.available:
            self._release(table)
            return None
        cached = len(table.pages) * self.pool.page_size
        if match.tail is None:
            return table, cached
        return table, cached + self._copy(table, match.tail.page, match.tail, match.tail_tokens, needed)

    def fork(self, origin: PageTable, shared: int, total: int, spare: int) -> tuple[PageTable, int] | None:
        """A table that begins with the first `shared` tokens of another one, which holds at least that many.

        Returns:
            As `open`, for a text of `total` tokens.
        """
        full, rest = divmod(shared, self.pool.page_size)
        needed = self.pages_for(total) - full + spare
        if needed > self.available:
            return None
        published = min(full, origin.published)
        node = origin.node
        for _ in range(origin.published - published):
            node = node.parent
        table = PageTable(origin.pages[:full], published, node)
        for page in table.pages:
            self.pool.share(page)
        if rest == 0:
            return table, shared
        return table, shared - rest + self._copy(table, origin.pages[full], None, rest, needed)

    def grow(self, table: PageTable, slots: int) -> bool:
        """Makes room for positions 0..slots-1; idle pages are given up for it. False, and nothing done, if it cannot be."""
        more = self.pages_for(slots) - len(table.pages)
        if more <= 0:
            return True
        if more > self.available:
            return False
        if more > self.pool.free:
            self.prefix.evict(more - self.pool.free)
        table.pages += self.pool.allocate(more)
        return True

    def publish(self, table: PageTable, tokens: Sequence[int], cached: int) -> None:
        """Puts the pages that `tokens[:cached]` fills into the tree. Costs nothing while no page has become full."""
        size = self.pool.page_size
        while self.publishing and not table.apart and (table.published + 1) * size <= cached:
            at = table.published
            node = self.prefix.insert(table.node, tuple(tokens[at * size : (at + 1) * size]), table.pages[at])
            if node.page == table.pages[at]:
                table.node, table.published = node, at + 1
            else:
                table.apart = True

    def close(self, table: PageTable, tokens: Sequence[int], cached: int) -> None:
        """Publishes what `tokens[:cached]` adds to the tree, the partial tail included, and gives all pages back."""
        size = self.pool.page_size
        if self.publishing:
            for at in range(table.published, self.pages_for(cached)):
                if self.pool.counts[table.pages[at]] > 1:
                    break  # a fork has it too: the last to close publishes it
                end = min((at + 1) * size, cached)
                table.node = self.prefix.insert(table.node, tuple(tokens[at * size : end]), table.pages[at])
        self._release(table)

    def take_copies(self) -> tuple[tuple[int, int], ...]:
        """The (from page, to page) copies asked for since the last call, in order. Their sources were held until now, so
        none of them can have been given to anybody else in this step."""
        if not self._copies:
            return ()
        copies = tuple((source, target) for source, target, _ in self._copies)
        for source, _, node in self._copies:
            self.pool.release(source)
            if node is not None:
                self.prefix.leave(node)
        self._copies.clear()
        return copies

    def _copy(self, table: PageTable, source: int, node: Node | None, tokens: int, needed: int) -> int:
        """Lets the table go on with a copy of `source`. Holding an idle source may leave one page too few: then no copy.
        Returns how many tokens that brings."""
        self.pool.share(source)
        if needed > self.available:
            self.pool.release(source)
            return 0
        self.grow(table, (len(table.pages) + 1) * self.pool.page_size)
        self._copies.append((source, table.pages[-1], node))
        return tokens

    def _release(self, table: PageTable) -> None:
        for page in table.pages:
            self.pool.release(page)
        table.pages = []
        self.prefix.leave(table.node)

    def check_integrity(self, held: Iterable[tuple[PageTable, int]]) -> None:
        """Raises AssertionError unless the tables in use, with the number of tokens each holds, account for every reference,
        and no page that is still to be written is visible to two."""
        held = list(held)
        holders = Counter(node.page for node in self.prefix.nodes())
        holders.update(source for source, _, _ in self._copies)
        for table, _ in held:
            holders.update(table.pages)
        for table, cached in held:
            full = cached // self.pool.page_size
            assert len(set(table.pages)) == len(table.pages), "a page is twice in a table"
            assert self.pages_for(cached) <= len(table.pages), "a table does not cover its tokens"
            assert table.ids == tuple(table.pages), "a table changed other than by growing"
            assert table.published <= full, "a page was published before it was full"
            assert all(holders[page] == 1 for page in table.pages[full:]), "a page that is to be written has two holders"
            node = table.node
            for page in reversed(table.pages[: table.published]):
                assert node.page == page, "published pages are not a path in the tree"
                node = node.parent
            assert node is self.prefix.root
        self.pool.check_integrity(holders)
        self.prefix.check_integrity()
