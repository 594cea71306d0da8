"""Clusters that others run: one engine a file, which makes calls on their workers."""
