"""What parts of serving agree on: what is observed, how requests are refused, the way to the control actor."""
