"""The self-contained folder a student is served from: every module of this package is copied verbatim into it."""
