"""Rules of verification, one per file, found by name: which nodes of a draft are kept, and what is said after them.

    match     the default: the text is the one without drafts, bit by bit
    reject    the text's distribution is the one without drafts; which text it is depends on the drafts
    block     the same, and a chain of guesses goes a little further
    typical   lossy: what is likely enough is kept, and the distribution is another one

All but `match` weigh a draft by distributions (speculate/weighing.py) and have

    Options                          frozen dataclass of bool, int, float and str fields with defaults
    EXACT                            whether the distribution is the one without drafts
    walk(options, weighed, dice)     the kept nodes, and their tokens followed by one more
"""
