"""What all command lines share: how errors end a program, and the ranges of option values.

- `running`: one message and status 2 for every error that a user can fix.
- `streams`: standard output of any encoding, or closed.
- `console`: the console, on which text is printed as it is.
- `tables`: tables that keep every figure in a narrow terminal.
- `values`: parsers of paths and numbers.
- `environment`: numbers in the variables of launchers.
"""
