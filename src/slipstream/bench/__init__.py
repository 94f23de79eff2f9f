"""Floor 10: measuring, always beside the limit of the machine that measured.

driver.py     one loop for all cases: load, warm up, measure and probe in turn, sum up
results.py    what a result file holds, and where it goes
cases/        one file per case, found by its name
comparison.py Slipstream and other engines on the same weights, taking turns
peer.py       one other engine in a process of its own; peers/ has one file for each, found by its name
serving.py    load tests of a server: load.py sends (csrc/load.h), traces.py reads lengths and times, own_server.py starts ours
made_weights.py random weights of a named shape as files that other engines read too
arguments.py  command-line arguments that choose a model and an engine
gpu/          `python -m slipstream.bench gpu-suite`: everything worth knowing about a GPU in one go
group.py      `slipstream bench`, also as `python -m slipstream.bench`: command.py for the cases, peers_command.py for the comparison
"""
