"""Labels, splits and the datasets they come from."""
