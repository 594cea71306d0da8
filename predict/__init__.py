"""From a video to its scores: what needs both stages, which do not know each other."""
