"""Floor 3: which rows run in the next step. Plain Python on integers; it neither sees a tensor nor waits for one.

    request.py     Request: one text in the making; Event: what a step added to it
    queue.py       Queue: requests in the order of a policy
    admission.py   who may come in, and with which pages
    budget.py      what one step may take, in rows and in seconds
    chunk.py       a request's rows in one step
    controller.py  how many guesses pay
    scheduler.py   Scheduler: plans steps and takes in what came of them
    options.py     what there is to share out
    policies/      one file per order: who is served first
"""

from slipstream.scheduler.controller import Controller
from slipstream.scheduler.options import SchedulerOptions, Stats
from slipstream.scheduler.request import Event, Request, State
from slipstream.scheduler.scheduler import Scheduler

__all__ = ["Controller", "Event", "Request", "Scheduler", "SchedulerOptions", "State", "Stats"]
