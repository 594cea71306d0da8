"""Faults on purpose: files damaged by the thousand, kills at any moment."""
