"""Floor 10: measuring, always beside the limit of the machine that measured.

driver.py     one loop for all cases: load, warm up, measure and probe in turn, sum up
results.py    what a result file holds, and where it goes
cases/        one file per case, found by its name
arguments.py  command-line arguments that choose a model and an engine
gpu/          `python -m slipstream.bench gpu-suite`: everything worth knowing about a GPU in one go
command.py    `slipstream bench`, also as `python -m slipstream.bench`
"""
