"""`slipstream bench`: the command of floor 10, under the name that users type."""

from slipstream.bench.command import bench

__all__ = ["bench"]
