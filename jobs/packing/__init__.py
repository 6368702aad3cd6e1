"""Makes the folder that is served: graphs of a network, the code that answers, and the description that seals it."""
