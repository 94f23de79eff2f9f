"""Floor 6: guessing ahead. Owns verification and the drafters; a wrong guess costs time, never an answer."""
