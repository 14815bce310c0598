"""Tests of the Slurm scripts, most of them on a real Slurm cluster made of namespaces."""
