"""Questions about pictures, sounds and video, answered by free generation over a vocabulary of words."""
