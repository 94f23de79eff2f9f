"""Heads on a model's hidden states, one kind per file, found by its name; arch/heads.py says what they are made of.

    Head(head, weights, target, kernels, max_rows, max_logit_rows, max_len)   as model/head.py has it
"""
