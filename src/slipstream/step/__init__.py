"""Floor 1: the words that host and device share. Owns the vocabulary of a step and nothing that acts on it; no torch.

    SamplingParams   what a request asks of its text
    DraftTree        tokens guessed ahead
    Chunk, Plan      rows of one request / of all requests in one step
    Outcome, Result  what came of them
    Executor         whoever can run a plan
"""

from slipstream.step.draft import DraftTree
from slipstream.step.params import SamplingParams
from slipstream.step.plan import Admission, Chunk, Executor, Outcome, Plan, Result, TokenLogprobs

__all__ = ["Admission", "Chunk", "DraftTree", "Executor", "Outcome", "Plan", "Result", "SamplingParams", "TokenLogprobs"]
