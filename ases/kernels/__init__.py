"""Fused attention in Triton: what ``ases.attention`` computes on a GPU, without a matrix of scores."""
