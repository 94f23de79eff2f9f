"""One command that measures everything worth knowing about a GPU: `python -m slipstream.bench gpu-suite --out DIR`.

    command    arguments
    runner     the cases one after the other, each in a process of its own, within a budget
    child      that process: one case
    bench      what a case gets: points, rows, notes, a clock, the machine's limits, published figures
    clock      times of calls: CUDA graphs and events, or the wall clock where there is no device
    journal    results.jsonl: everything, as soon as it is known
    report     suite.json and table.md made from it
    limits designs scenes shapes published kernels    what several cases share
    cases/     one file per case, found by its name

Runs where only torch, triton, numpy, safetensors, tokenizers and jinja2 are installed. With --dry-run all of it runs on the CPU.
"""
