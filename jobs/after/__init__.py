"""Looking back at what a run did: its report for people, in the terminal and as one page."""
