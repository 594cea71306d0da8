"""What both stages compute with: vectors, functions of them, products of matrices."""
