"""Labels as they come from people: formats, several annotators, checks, statistics."""
