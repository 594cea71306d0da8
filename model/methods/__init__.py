"""What is trained: the ConvLSTM model here, its competitors in folders; one method a module."""
