"""Methods: they decide, and return a Plan; one file each."""
