"""I3D: the network, and the same function prepared for a fast CPU."""
