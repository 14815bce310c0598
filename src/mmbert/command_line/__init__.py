"""What all command lines share: how errors end a program, and the ranges of option values.

- `running`: one message and status 2 for every error that a user can fix.
- `values`: parsers of paths and numbers.
- `environment`: numbers in the variables of launchers.
"""
