"""Training: one loop for every method, with labels or with the original model as teacher."""
