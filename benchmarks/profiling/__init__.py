"""Profiler traces, and what their events add up to."""
