"""One drafter per file, each with `make() -> Drafter`."""
