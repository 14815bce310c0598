"""Tests of the Slurm scripts, mostly on a real Slurm cluster inside namespaces."""
