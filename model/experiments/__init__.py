"""Many runs for one answer: seeds, ablations, comparisons."""
