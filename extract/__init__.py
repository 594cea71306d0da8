"""Stage 1: videos -> frames -> clips -> TV-L1 flow -> I3D features -> HDF5 shards."""
