"""Telling a full memory from other errors."""

import torch

WORDS = ("can't allocate memory", "not enough memory", "out of memory")


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out: elsewhere than on CUDA only its text tells."""
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in WORDS)
