"""One drafter per file. docs/add_a_drafter.md shows a whole one.

    Options                    frozen dataclass of bool, int, float and str fields with defaults; `nodes`: tokens of a guess at most
    make(options, around)      the drafter
    beside(options, source)    only where it runs a model: which one
"""
