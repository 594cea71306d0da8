"""`feat cache ...`, and the commands that hold labels against a cache."""
