"""Beside the method: beam search, T5 checkpoints."""
