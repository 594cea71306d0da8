"""Methods that name a whole video's category, without frames: the rows of the paper's Table 6."""
