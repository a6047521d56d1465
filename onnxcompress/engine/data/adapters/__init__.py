"""Adapters: one kind of data a file."""
