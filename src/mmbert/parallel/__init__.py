"""Process grid, collectives, sharded parameters and the layers built from them."""
