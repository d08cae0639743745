"""Which images are the same field of cells, and what training and test images share."""
