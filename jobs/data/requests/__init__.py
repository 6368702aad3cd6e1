"""Which requests a teacher gets: prompts out of templates, one per temperature and draw, chosen round by round."""
