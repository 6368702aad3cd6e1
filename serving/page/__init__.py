"""The live page of a service: one HTML file, its script and its style, and the state they show."""
