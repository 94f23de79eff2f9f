"""PagePool: how many hold each page. It does not know what a page holds, nor who holds it."""

from collections.abc import Mapping

from slipstream.base.errors import InputError


class PagePool:
    """References to a fixed number of pages.

    A page is free without references. The prefix tree has at most one reference to a page (a *kept* page); where that
    is the only one, the page is *idle*: it counts as available, because the tree can give it up.

    Attributes:
        pages: how many there are; they are numbered from 0.
        page_size: tokens per page.
        counts: references per page. [pages]
        idle: how many pages only the tree holds.
    """

    __slots__ = ("pages", "page_size", "counts", "idle", "_free", "_kept")

    def __init__(self, pages: int, page_size: int):
        if pages < 1 or page_size < 1:
            raise InputError(f"pages={pages}, page_size={page_size}: both must be at least 1")
        self.pages = pages
        self.page_size = page_size
        self.counts = [0] * pages
        self.idle = 0
        self._free = list(range(pages - 1, -1, -1))  # taken from the end
        self._kept = bytearray(pages)

    @property
    def free(self) -> int:
        """Pages without a reference."""
        return len(self._free)

    def allocate(self, n: int) -> list[int] | None:
        """`n` free pages with one reference each; None, and nothing taken, if there are fewer."""
        rest = len(self._free) - n
        if rest < 0:
            return None
        taken = self._free[rest:]
        del self._free[rest:]
        taken.reverse()
        for page in taken:
            self.counts[page] = 1
        return taken

    def share(self, page: int) -> None:
        """One more reference to a page that has some."""
        assert self.counts[page] > 0, f"page {page} is free"
        if self.counts[page] == 1 and self._kept[page]:
            self.idle -= 1
        self.counts[page] += 1

    def release(self, page: int) -> None:
        """One reference less; the last one frees the page."""
        left = self.counts[page] = self.counts[page] - 1
        if left == 0:
            assert not self._kept[page], f"page {page} was taken from the tree"
            self._free.append(page)
        elif left == 1 and self._kept[page]:
            self.idle += 1
        assert left >= 0, f"page {page} was released twice"

    def keep(self, page: int) -> None:
        """The tree takes its reference to a page that a request holds."""
        assert self.counts[page] > 0 and not self._kept[page], f"page {page} is free, or in the tree already"
        self._kept[page] = True
        self.counts[page] += 1

    def drop(self, page: int) -> None:
        """The tree gives up an idle page, which is free then."""
        assert self._kept[page] and self.counts[page] == 1, f"page {page} is not idle"
        self._kept[page] = False
        self.idle -= 1
        self.counts[page] = 0
        self._free.append(page)

    def check_integrity(self, holders: Mapping[int, int]) -> None:
        """Raises AssertionError unless the references are exactly `holders` (page -> how many hold it)."""
        for page, count in enumerate(self.counts):
            assert count == holders.get(page, 0), f"page {page}: {count} references, {holders.get(page, 0)} holders"
        free = set(self._free)
        assert len(free) == len(self._free), "a page is free twice"
        assert free == {page for page, count in enumerate(self.counts) if count == 0}, "free pages have references"
        assert self.idle == sum(1 for page, count in enumerate(self.counts) if count == 1 and self._kept[page])
