"""Methods that read frames instead of features: they rebuild or predict normal pictures."""
