"""Is this cluster fit to run on? Looks at every node, judges what it sees, and says what to do."""
