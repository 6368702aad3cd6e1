"""Watches what is served: shadows, drift, the judge of experiments, and the actor that acts on what it says."""
