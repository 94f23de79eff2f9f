"""Ops on rows of logits: a token, log-probabilities."""

import torch
from torch import Tensor

from slipstream.base import native
from slipstream.ops.cpu.checks import fits, integers
from slipstream.ops.types import SampleRows

_native = native.module


def sample(logits: Tensor, rows: SampleRows, out: Tensor) -> None:
    """out [rows] int32: one token id per row of logits [rows, vocab]; a NaN logit counts as -inf, a row of -inf yields 0."""
    count, vocab = logits.shape
    _native.sample(
        fits("sample", "logits", logits, (count, vocab)), count, vocab,
        fits("sample", "temperature", rows.temperature, (count,)), integers("sample", "top_k", rows.top_k, count),
        fits("sample", "top_p", rows.top_p, (count,)), fits("sample", "min_p", rows.min_p, (count,)),
        fits("sample", "seed", rows.seed, (count,), torch.int64), integers("sample", "position", rows.position, count),
        integers("sample", "sample", rows.sample, count), integers("sample", "out", out, count),
    )  # fmt: skip


def logprobs(logits: Tensor, tokens: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probability and rank of tokens [rows], and the `top` likeliest ids.

    Returns:
        (logprob [rows], rank [rows], top ids [rows, top], their logprobs [rows, top]); ranks and ids are int32.
    """
    count, vocab = logits.shape
    value, rank = torch.empty(count), torch.empty(count, dtype=torch.int32)
    ids, values = torch.empty(count, top, dtype=torch.int32), torch.empty(count, top)
    _native.logprobs(
        fits("logprobs", "logits", logits, (count, vocab)), count, vocab, integers("logprobs", "tokens", tokens, count), top,
        value.data_ptr(), rank.data_ptr(), ids.data_ptr(), values.data_ptr(),
    )  # fmt: skip
    return value, rank, ids, values
