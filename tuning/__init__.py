"""Which recipe is best: a search over any of its knobs, and what it found."""
