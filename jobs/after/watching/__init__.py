"""What `jobs watch` is made of: which verdict is an alarm, which requests failed, and the round that repairs them."""
