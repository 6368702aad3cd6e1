"""Who answers within the deadline, student or teacher, and what is remembered for it between requests."""
