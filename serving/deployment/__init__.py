"""Ray Serve: gateways, arms and teacher as one declarative document, and how it changes while it serves."""
