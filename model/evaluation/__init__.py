"""A run against labelled videos: scores, measures, pictures, a report."""
