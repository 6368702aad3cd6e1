"""Who belongs to which arm, what is counted, and what the counts prove at any time. Pure; no clock, no files."""
