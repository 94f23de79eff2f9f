import pytest

from slipstream.base.errors import InputError
from slipstream.cache import PagePool


def test_pages_are_taken_and_come_home():
    pool = PagePool(4, 16)
    first = pool.allocate(3)
    assert first == [0, 1, 2] and pool.free == 1
    assert pool.allocate(2) is None and pool.free == 1
    assert pool.allocate(0) == []
    pool.share(1)
    for page in first:
        pool.release(page)
    assert pool.free == 3 and pool.counts == [0, 1, 0, 0]
    pool.check_integrity({1: 1})
    pool.release(1)
    pool.check_integrity({})


def test_a_kept_page_is_idle_when_only_the_tree_holds_it():
    pool = PagePool(2, 16)
    (page,) = pool.allocate(1)
    pool.keep(page)
    assert pool.idle == 0
    pool.release(page)
    assert (pool.idle, pool.free) == (1, 1)
    pool.share(page)
    assert pool.idle == 0
    pool.share(page)
    pool.release(page)
    assert pool.idle == 0
    pool.release(page)
    assert pool.idle == 1
    pool.drop(page)
    assert (pool.idle, pool.free) == (0, 2)


def test_wrong_moves_are_found():
    pool = PagePool(2, 16)
    (page,) = pool.allocate(1)
    with pytest.raises(AssertionError, match="not idle"):
        pool.drop(page)
    with pytest.raises(AssertionError, match="is free"):
        pool.share(1 - page)
    pool.keep(page)
    with pytest.raises(AssertionError, match="in the tree already"):
        pool.keep(page)
    pool.release(page)
    with pytest.raises(AssertionError, match="taken from the tree"):
        pool.release(page)
    with pytest.raises(AssertionError, match="1 holders"):
        PagePool(1, 1).check_integrity({0: 1})


@pytest.mark.parametrize("pages, page_size", [(0, 16), (4, 0)])
def test_a_pool_has_pages(pages, page_size):
    with pytest.raises(InputError, match="at least 1"):
        PagePool(pages, page_size)
