"""The picture of a network: boxes from its nodes, a place for each box, and the drawing."""
