"""Cases of the GPU suite, found by file name.

A case has QUESTION (one line), ORDER (the lower the earlier, by value), SECONDS (its share of the budget),
`measure(bench)`, which hands figures to `bench.row`, and `answer(rows)`, which turns all rows into a few sentences.
A point of a case is the unit that a crash or a hang may cost.
"""
