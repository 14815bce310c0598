"""What the nodes of a run have in common, and what each does once for its ranks.

- `node_map`: which rank runs on which node, and the groups of a node's ranks and of all nodes.
- `versions`: versions of the packages on this node.
- `agreement`: comparison of packages, recipe, shards and clocks before training.
- `links`: speed of the collectives and of the links between neighbors.
- `link_report`: slow links by name, held against the plan.
- `local_shards`: copies of the shards on the nodes' own disks.
- `start_log`: log entries about all that.
"""
