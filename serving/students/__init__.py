"""How a student answers in this process: who goes together, texts in turns, and what is tried before it serves."""
