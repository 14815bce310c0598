"""Values of a site, such as its partition, modules and container, from one YAML file."""

from pydantic import Field

from mmbert.recipe.base import Settings


class Site(Settings):
    """Values that the jobs of a cluster need, whatever they train."""

    leave_out_slow_nodes: bool = Field(default=False)
    """Whether nodes that were reported as slow are left out of the next start."""
