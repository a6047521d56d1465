"""Measures: what files hold, cost and answer; statistics of latencies."""
