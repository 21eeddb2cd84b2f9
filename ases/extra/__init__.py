"""Extras: beam search and T5 checkpoints."""
