"""Language models: a decoder that continues texts or answers prompts, over a vocabulary too large for dense labels."""
