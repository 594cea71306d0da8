"""The ConvLSTM multi-task network, in plain PyTorch."""
