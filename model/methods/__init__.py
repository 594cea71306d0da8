"""The competitors of the ConvLSTM model: one method a module, all fed by the same cache."""
