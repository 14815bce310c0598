"""Mutation testing: faults as patches that tests must detect, and the command to run them."""
