"""Floor 4: from logits to tokens. Owns processors and the order in which they act; the draw itself is the `sample` op.

Knows nothing of requests' lives or of drafts: a row is logits, a history and a position.
"""
