"""Executors: where a plan runs. `local` is this process."""
