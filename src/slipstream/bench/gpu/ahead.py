"""Compiling before measuring: many forms by all cores, into Triton's cache. Must not know which forms."""

import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from slipstream.bench.gpu.bench import Bench
from slipstream.ops.triton.chain import chained
from slipstream.ops.triton.launch import Variant

WANTED: list[Variant] = []  # a kernel cannot be sent to another process, but one that is forked has it


def compile_ahead(bench: Bench, variants: Iterable[Variant]) -> None:
    """Compiles each form once; in forked processes, which do not touch the device."""
    chained()  # asks what device there is, for all of them
    WANTED[:] = {(one.kernel, *one.constants.items(), one.types, one.warps, one.stages, one.registers): one for one in variants}.values()
    with ProcessPoolExecutor(os.cpu_count(), get_context("fork")) as pool:
        failures = [text for text in pool.map(_compile, range(len(WANTED))) if text]
    bench.note(f"{len(WANTED)} forms compiled before")
    for text in failures:
        bench.failure("compiling", text)


def _compile(number: int) -> str:
    """What went wrong, "" if nothing did."""
    from slipstream.ops.triton.compile import compiled

    variant = WANTED[number]
    try:
        compiled(variant)
    except Exception as error:  # one form that does not compile is a line of the result
        return f"{variant.kernel.__name__} {variant.constants}: {type(error).__name__}: {str(error)[:300]}"
    return ""
