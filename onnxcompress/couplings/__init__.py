"""How channels pass through operators, and how an operator is repaired after a cut: one family a file."""
