"""LC: the learning-compression loop over any projection."""
