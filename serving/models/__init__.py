"""Networks by architecture name: each file builds, runs, generates with and slims one family of models."""
