"""Floor 2: which page of the KV pool holds what. Page numbers only: the tensors belong to the worker. No torch.

Every page is in one of four regions at any time:

                 allocate                    publish                    last request leaves
        free ----------------> private -----------------> shared ------------------------------> idle
         ^                        |                       ^                                       |  |
         |  release               |                       |                match                  |  |
         +------------------------+                       +---------------------------------------+  |
         |                                    evict, least recently used first                       |
         +-------------------------------------------------------------------------------------------+

    free      nobody's
    private   one request's own; the only pages that are ever written
    shared    full of committed tokens, in the prefix tree, held by one request or more
    idle      in the prefix tree and held by no request: a memory of the past, given up when room is needed

    pages.py    PagePool: the references to each page, and the count of each region
    prefix.py   PrefixCache: the tree from tokens to pages
    tables.py   PageTables: moves pages between the regions on behalf of the requests
"""

from slipstream.cache.pages import PagePool
from slipstream.cache.prefix import Match, PrefixCache
from slipstream.cache.tables import PageTable, PageTables

__all__ = ["Match", "PagePool", "PageTable", "PageTables", "PrefixCache"]
