"""Where the work runs and what everyone agrees on.

The recipe, the artifact store, the schemas, the Ray session and the model registry.
"""
