"""The ConvLSTM multi-task network, in plain PyTorch and, on a GPU, two kernels."""
