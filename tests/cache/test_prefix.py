import random

import pytest

from slipstream.cache import PagePool, PageTables, PrefixCache


@pytest.fixture
def tables():
    pool = PagePool(16, 4)
    return PageTables(pool, PrefixCache(pool))


def remember(tables, tokens):
    """A request that computes `tokens` and ends. Returns the pages it had."""
    table, cached = tables.open(tokens, len(tokens) - 1, 0)
    assert tables.grow(table, len(tokens))
    tables.take_copies()
    pages = list(table.pages)
    tables.publish(table, tokens, len(tokens))
    tables.check_integrity([(table, len(tokens))])
    tables.close(table, tokens, len(tokens))
    tables.check_integrity([])
    return pages


def match(tables, tokens, limit=None):
    """(full pages, tokens of the tail), without keeping them."""
    found = tables.prefix.match(tokens, len(tokens) if limit is None else limit)
    for page in found.pages:
        tables.pool.release(page)
    tables.prefix.leave(found.node)
    return found.pages, found.tail_tokens


def test_full_pages_and_tails_are_found(tables):
    text = list(range(10))
    pages = remember(tables, text)
    assert match(tables, text) == (pages[:2], 2)
    assert match(tables, text, 9) == (pages[:2], 1)
    assert match(tables, text, 8) == (pages[:2], 0)
    assert match(tables, text, 7) == (pages[:1], 3)
    assert match(tables, text, 0) == ([], 0)
    assert match(tables, text[:5] + [77, 78, 79]) == (pages[:1], 1)
    assert match(tables, text + [10, 11, 12]) == (pages[:2], 2)
    assert match(tables, [5, 6, 7, 8]) == ([], 0)


def test_the_nearest_of_many_siblings_is_found(tables):
    """The tail match by bisection equals the best of all siblings."""
    draw = random.Random(5)
    texts = [[draw.randrange(3) for _ in range(draw.randrange(1, 5))] for _ in range(14)]
    for text in texts:
        remember(tables, text)
    known = list(tables.prefix.root.children)
    for _ in range(200):
        query = [draw.randrange(3) for _ in range(3)]
        best = max(sum(1 for n in range(1, 4) if key[:n] == tuple(query[:n])) for key in known)
        assert match(tables, query) == ([], best)


def test_equal_texts_are_stored_once(tables):
    text = list(range(11))
    first, second = tables.open(text, 10, 0)[0], tables.open(text, 10, 0)[0]
    for table in (first, second):
        tables.grow(table, 11)
        tables.publish(table, text, 11)
    assert first.published == 2 and second.published == 0 and second.apart
    tables.check_integrity([(first, 11), (second, 11)])
    tables.close(first, text, 11)
    tables.close(second, text, 11)
    tables.check_integrity([])
    assert tables.pool.idle == 3 and tables.pool.free == 13
    assert len(list(tables.prefix.nodes())) == 3


def test_a_tail_that_says_nothing_new_is_not_kept(tables):
    remember(tables, [1, 2, 3, 4])
    remember(tables, [1, 2])
    assert [node.key for node in tables.prefix.nodes()] == [(1, 2, 3, 4)]
    remember(tables, [1, 9])
    assert sorted(node.key for node in tables.prefix.nodes()) == [(1, 2, 3, 4), (1, 9)]


def test_the_least_recently_used_leaf_goes_first(tables):
    a, b, c = [1] * 8, [2] * 8, [3] * 4
    for text in (a, b, c):
        remember(tables, text)
    match(tables, a)
    known = lambda: [len(match(tables, text)[0]) for text in (a, b, c)]  # noqa: E731
    assert tables.prefix.evict(1) == 1 and len(list(tables.prefix.nodes())) == 4
    tables.prefix.check_integrity()
    assert tables.prefix.evict(1) == 1  # the rest of b, older than c
    assert known() == [2, 0, 1]  # touches a, then c
    assert tables.prefix.evict(2) == 2
    assert known() == [0, 0, 1]
    assert tables.prefix.clear() == 1
    assert tables.pool.free == 16
    tables.check_integrity([])


def test_what_is_held_is_never_evicted(tables):
    text = list(range(12))
    pages = remember(tables, text)
    other = remember(tables, [50, 51, 52, 53])
    table, cached = tables.open(text, 8, 0)
    assert table.pages == pages[:2] and cached == 8
    assert tables.prefix.clear() == 2  # the third page, and the other text
    tables.check_integrity([(table, cached)])
    assert tables.pool.counts[pages[0]] == 2 and tables.pool.counts[other[0]] == 0
    tables.close(table, text, cached)
    assert tables.prefix.clear() == 2 and tables.pool.free == 16


def test_the_source_of_a_copy_is_held_until_it_is_planned(tables):
    pages = remember(tables, [1, 2, 3])
    table, cached = tables.open([1, 2, 7, 7, 7], 4, 0)
    assert cached == 2 and len(table.pages) == 1 and table.pages[0] != pages[0]
    assert tables.prefix.clear() == 0
    assert tables.take_copies() == ((pages[0], table.pages[0]),)
    assert tables.take_copies() == ()
    tables.check_integrity([(table, cached)])
    assert tables.prefix.clear() == 1


def test_no_copy_where_its_source_would_take_the_last_page():
    pool = PagePool(2, 4)
    tables = PageTables(pool, PrefixCache(pool))
    remember(tables, [1, 2, 3])
    table, cached = tables.open([1, 2, 9, 9, 9, 9], 5, 0)  # needs both pages
    assert cached == 0 and tables.grow(table, 6) and tables.take_copies() == ()
    tables.check_integrity([(table, 6)])


def test_no_room_takes_nothing(tables):
    remember(tables, list(range(8)))
    assert tables.open(list(range(8)), 7, 15) is None
    assert tables.open(list(range(65)), 64, 0) is None
    assert tables.available == 16 and tables.pool.idle == 2
    tables.check_integrity([])
    table, _ = tables.open([9], 0, 0)
    assert not tables.grow(table, 65) and table.pages == []
    assert tables.grow(table, 64) and tables.pool.idle == 0


@pytest.mark.parametrize("publishing", [True, False])
def test_a_fork_shares_full_pages_and_copies_the_tail(publishing):
    pool = PagePool(16, 4)
    tables = PageTables(pool, PrefixCache(pool), publishing)
    text = list(range(10))
    origin, _ = tables.open(text, 9, 0)
    tables.grow(origin, 10)
    tables.publish(origin, text, 10)
    fork, cached = tables.fork(origin, 9, 10, 0)
    assert cached == 9 and fork.pages[:2] == origin.pages[:2]
    assert tables.take_copies() == ((origin.pages[2], fork.pages[2]),)
    tables.check_integrity([(origin, 10), (fork, 9)])
    early, cached = tables.fork(origin, 4, 10, 0)
    assert cached == 4 and early.pages == origin.pages[:1] and tables.take_copies() == ()
    tables.check_integrity([(origin, 10), (fork, 9), (early, 4)])
    assert tables.fork(origin, 9, 10, 13) is None
    tables.close(origin, text, 10)
    tables.check_integrity([(fork, 9), (early, 4)])
    tables.close(fork, text, 9)
    tables.close(early, text, 4)
    tables.check_integrity([])
    assert tables.pool.idle == (3 if publishing else 0) and tables.available == 16


def test_a_fork_of_a_table_apart_outlives_it(tables):
    """The tree knows the text by other pages; what two forks share is published by the last of them."""
    text = list(range(9))
    known = tables.open(text, 8, 0)[0]
    origin = tables.open(text, 8, 0)[0]
    for table in (known, origin):
        tables.grow(table, 9)
        tables.publish(table, text, 9)
    assert origin.apart
    fork, cached = tables.fork(origin, 8, 9, 0)
    tables.close(known, text, 9)
    tables.close(origin, text, 9)
    tables.check_integrity([(fork, cached)])
    assert tables.available == 14
    assert tables.prefix.clear() == 3
    longer = text[:8] + [70, 71, 72, 73]
    tables.grow(fork, 12)
    tables.publish(fork, longer, 12)
    tables.check_integrity([(fork, 12)])
    tables.close(fork, longer, 12)
    tables.check_integrity([])
    assert tables.pool.idle == 3
