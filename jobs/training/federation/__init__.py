"""Distillation from several sites that share soft labels on public rows, and nothing else."""
