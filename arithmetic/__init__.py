"""What both stages compute with: vectors, functions of them, filterings, products of matrices."""
