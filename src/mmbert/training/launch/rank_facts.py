"""What a rank reports about itself before the ranks are connected."""

from pydantic import BaseModel, ConfigDict


class RankFacts(BaseModel):
    """Place, device and environment of a rank."""

    model_config = ConfigDict(frozen=True)

    rank: int
    local_rank: int
    host: str
    machine: str
    """Boot and network namespace: equal for two host names of one machine."""
    device: str
    """Type of the device: cpu or cuda."""
    visible_devices: str | None = None
    """CUDA_VISIBLE_DEVICES."""
    placed_by_launcher: bool = False
    """Whether one command started the ranks of all nodes, so that a node may be listed twice. With
    a launcher started on every node by hand, several may share a machine on purpose."""
    variables: dict[str, str]
    shell_variables: dict[str, str] | None = None
    """Variables where `deepspeed` was started; None if that is not visible from here."""
