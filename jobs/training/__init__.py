"""Training: one loop for the teacher's fit, the student's stages and its control arm."""
