"""Architectures of GGUF, one file each, found by `general.architecture` (with _ for -). Data, and what the converter's work needs undone.

    ARCHITECTURE            of config.json
    FIELDS                  metadata key -> field of config.json
    complete(file, config)  what keys alone do not say, or say in another way; only where there is some
    NAMES, NOT_WEIGHTS      as in a family, see docs/add_a_family.md
    place(spec, parameter)  where a parameter lies
    MADE                    tensor -> (tensors that it is made of, function); only where there are some
"""
