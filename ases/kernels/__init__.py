"""Fused attention in Triton: what ``ases.attention`` computes, without a matrix of scores."""
