"""GPU specifications, used for memory and time estimates and MFU."""

from dataclasses import dataclass

from mmbert.errors import ArgumentError

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Gpu:
    """Peak specifications of a GPU model as stated by the vendor (dense, no sparsity).

    Attributes:
        memory_bytes: total reported by the driver.
        flops: dense bfloat16 FLOP/s with float32 accumulation.
        intra_node_bandwidth: bytes/s per GPU in one direction, NVLink or else PCIe.
        inter_node_bandwidth: bytes/s per GPU in one direction, with one network card per GPU if
            the vendor's reference system has one.
    """

    name: str
    memory_bytes: int
    flops: float
    intra_node_bandwidth: float
    inter_node_bandwidth: float
    gpus_per_node: int = 8


# Sources: NVIDIA data sheets (H100 and H200 SXM 989 TFLOP/s, B200 2,250, A100 SXM 312, L40S 362,
# RTX 4090 165); memory as shown by nvidia-smi; network 400, 200 or 100 Gb/s per GPU.
GPUS: tuple[Gpu, ...] = (
    Gpu("b200", 183_359 * MEBIBYTE, 2_250e12, 900e9, 50e9),
    Gpu("h200", 143_771 * MEBIBYTE, 989e12, 450e9, 50e9),
    Gpu("h100", 81_559 * MEBIBYTE, 989e12, 450e9, 50e9),
    Gpu("a100", 81_920 * MEBIBYTE, 312e12, 300e9, 25e9),
    Gpu("a100-40gb", 40_960 * MEBIBYTE, 312e12, 300e9, 25e9),
    Gpu("l40s", 46_068 * MEBIBYTE, 362e12, 26e9, 12.5e9),
    Gpu("rtx-4090", 24_564 * MEBIBYTE, 165e12, 26e9, 12.5e9),
)

# Dense bfloat16 FLOP/s of cards that the planner does not support.
_OTHER_PEAKS = (("H100 PCIe", 756e12),)


def group_bandwidths(gpu: Gpu, *, tensor: int, data: int) -> tuple[float, float]:
    """Return the bytes/s that each GPU sends in a data group and in a tensor group, as planned.

    Tensor groups stay within a node; data groups cross nodes if the GPUs exceed one node. A ring
    leaves each node once, so the rings of a node's data groups share its network cards in
    proportion to their members.
    """
    across_nodes = tensor * data > gpu.gpus_per_node
    cards = max(1.0, gpu.gpus_per_node / tensor)
    data_bandwidth = (
        min(gpu.intra_node_bandwidth, cards * gpu.inter_node_bandwidth)
        if across_nodes
        else gpu.intra_node_bandwidth
    )
    tensor_bandwidth = (
        gpu.intra_node_bandwidth if tensor <= gpu.gpus_per_node else gpu.inter_node_bandwidth
    )
    return data_bandwidth, tensor_bandwidth


def gpu_of_device(device_name: str) -> Gpu | None:
    """Return the GPU with a name from torch.cuda.get_device_name; None if the planner lacks it."""
    if any(name in device_name for name, _ in _OTHER_PEAKS):
        return None
    named = ((gpu.name.upper().replace("-", " "), gpu) for gpu in GPUS)
    return next((gpu for name, gpu in named if name in device_name), None)


def peak_flops(device_name: str) -> float | None:
    """Return the peak dense bfloat16 FLOP/s (float32 accumulation) of a device; None if unknown.

    Args:
        device_name: name from torch.cuda.get_device_name.
    """
    names = ((gpu.name.upper().replace("-", " "), gpu.flops) for gpu in GPUS)
    return next((peak for name, peak in (*_OTHER_PEAKS, *names) if name in device_name), None)


def find_gpu(name: str) -> Gpu:
    """Return the GPU named `name` (any case, "_" for "-"). Raises ArgumentError if unknown."""
    wanted = name.strip().lower().replace("_", "-")
    for gpu in GPUS:
        if gpu.name == wanted:
            return gpu
    known = ", ".join(gpu.name for gpu in GPUS)
    raise ArgumentError(f"unknown GPU {name!r}", remedy=f"choose one of: {known}")
