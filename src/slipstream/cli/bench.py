"""`slipstream bench`: the command of floor 10, under the name that users type."""

from slipstream.bench.group import bench

__all__ = ["bench"]
