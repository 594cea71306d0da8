"""A run on new videos: scores, intervals, pictures."""
