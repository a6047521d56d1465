"""Sections of a report, one file each; every file registers what it defines."""
