"""How good a model is and what it costs: pure functions of answers, and the few that ask and time engines."""
