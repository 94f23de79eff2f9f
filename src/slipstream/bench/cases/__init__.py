"""Bench cases, found by file name. A case says which points it measures and turns one point into raw figures."""
