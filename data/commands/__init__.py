"""`feat data ...` and `feat sample`."""
