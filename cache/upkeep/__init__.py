"""Checking a cache, tidying it, saying what is in it."""
