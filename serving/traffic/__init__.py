"""What serving writes to the store: requests and answers, and what was decided about a served model."""
