"""Drawn sample videos."""
