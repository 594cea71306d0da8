"""The commands of the second stage: parse, one call, print."""
