"""What one stage of training adds to the loop: its rows and curriculum, its layer map, and how it ends."""
