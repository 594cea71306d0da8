"""Public datasets: from their own files to `labels.csv`."""
