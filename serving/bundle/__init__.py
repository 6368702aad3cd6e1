"""The self-contained folder a student is served from; `predict.py` is copied verbatim into each bundle."""
