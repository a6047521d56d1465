"""Storage: encodings written into a graph, and recognised in one."""
