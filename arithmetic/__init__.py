"""Arithmetic that both stages need: vectors, products of matrices, minimal filtering."""
