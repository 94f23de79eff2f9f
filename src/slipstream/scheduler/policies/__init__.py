"""Who is served first. A policy is a module here, found by its file name, with

    STEADY: bool                        whether a key never changes, so that an order once made stays
    key(request, now) -> sortable       the smallest goes first; equal keys go by request number

The first running request in this order always gets what it needs; the last is the first to be preempted.
"""
