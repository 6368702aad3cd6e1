"""Teachers behind one interface: `answer` takes requests and gives text, confidence and the soft labels behind it."""
