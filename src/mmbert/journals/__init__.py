"""What processes of a run write down for each other and for people.

- `run_journal`: the starts of a run, and what was noticed about nodes.
- `rank_failures`: why the ranks of a start failed, for the loop that restarts them.
"""
