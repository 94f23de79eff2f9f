"""Logging: the standard library's, under one name. Messages go to stderr at WARNING unless the program says otherwise."""

import logging


def get(name: str) -> logging.Logger:
    """The logger of a module of Slipstream."""
    return logging.getLogger(name)
