"""TV-L1 optical flow: on the CPU one frame pair a thread, on torch devices many at once."""
