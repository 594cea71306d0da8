"""Linear models and the controls whose score says what a set of videos gives away."""
