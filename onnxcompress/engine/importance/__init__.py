"""Importance: how much a network would miss each channel of a group; one criterion a file."""
