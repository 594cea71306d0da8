"""A folder of videos: what the cache lacks of them, who extracts it, what became of each."""
