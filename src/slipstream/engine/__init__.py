"""Floor 8: the loop and its faces. Owns requests from the prompt to the last character; device work is behind an Executor."""
