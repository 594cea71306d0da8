"""The networks' weights: found, fetched, converted, recorded."""
