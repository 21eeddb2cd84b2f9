"""Fused attention in Triton: ``ases.attention`` without a score matrix."""
