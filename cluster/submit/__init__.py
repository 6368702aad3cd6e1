"""Sending a command to a cluster through the Ray Jobs API, and looking after it there."""
