"""How a model is made: one verb, one file, one command; `ls jobs/*.py` is the pipeline."""
