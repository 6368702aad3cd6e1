"""What `python -m serving` does on this machine: start, detach, find and ask the service of a store."""
