"""How a model answers: networks, engines, the bundle, and the HTTP gateway that serves it."""
