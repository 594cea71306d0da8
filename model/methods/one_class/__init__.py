"""Methods that learn what normal clips look like and score by how far a clip is from it."""
