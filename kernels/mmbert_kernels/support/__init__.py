"""What operations share: choice of implementation, checks, Triton's import, matrix products."""
