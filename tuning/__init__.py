"""Searches the recipe: which knobs give a better student, and the Pareto front behind that answer."""
