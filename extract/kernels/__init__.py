"""What the compiled kernels of extraction are made of."""
