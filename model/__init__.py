"""Stage 2: cached features -> windows -> ConvLSTM multi-task model -> scores -> report."""
