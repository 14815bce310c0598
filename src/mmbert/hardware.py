"""GPU specifications, used by the planner and for the MFU of a run."""

from dataclasses import dataclass

from mmbert.errors import UserError

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Gpu:
    """Peak specifications of one GPU model, as the vendor states them (dense, no sparsity).

    `memory_bytes` is the total that the driver reports; `flops` is dense bfloat16 FLOP/s with
    float32 accumulation. Both bandwidths are bytes/s per GPU in one direction: within a node
    (NVLink, or PCIe without it) and between nodes (assumes one network card per GPU where the
    vendor's reference system has one).
    """

    name: str
    memory_bytes: int
    flops: float
    intra_node_bandwidth: float
    inter_node_bandwidth: float
    gpus_per_node: int = 8


# Sources: NVIDIA data sheets (H100 and H200 SXM 989 TFLOP/s, B200 2,250, A100 SXM 312, L40S 362,
# RTX 4090 165); memory as nvidia-smi shows it; network 400, 200 or 100 Gb/s a GPU.
GPUS: tuple[Gpu, ...] = (
    Gpu("b200", 183_359 * MEBIBYTE, 2_250e12, 900e9, 50e9),
    Gpu("h200", 143_771 * MEBIBYTE, 989e12, 450e9, 50e9),
    Gpu("h100", 81_559 * MEBIBYTE, 989e12, 450e9, 50e9),
    Gpu("a100", 81_920 * MEBIBYTE, 312e12, 300e9, 25e9),
    Gpu("a100-40gb", 40_960 * MEBIBYTE, 312e12, 300e9, 25e9),
    Gpu("l40s", 46_068 * MEBIBYTE, 362e12, 26e9, 12.5e9),
    Gpu("rtx-4090", 24_564 * MEBIBYTE, 165e12, 26e9, 12.5e9),
)

# Dense bfloat16 FLOP/s of GPUs that the planner does not offer.
_OTHER_PEAKS = (("H100 PCIe", 756e12),)


def peak_flops(device_name: str) -> float | None:
    """Return the peak FLOP/s of `device_name` (torch.cuda.get_device_name), None if unknown.

    The figure is for dense bfloat16 with float32 accumulation.
    """
    names = ((gpu.name.upper().replace("-", " "), gpu.flops) for gpu in GPUS)
    return next((peak for name, peak in (*_OTHER_PEAKS, *names) if name in device_name), None)


def find_gpu(name: str) -> Gpu:
    """Return the GPU `name`, ignoring case and "_" for "-"; UserError lists the known ones."""
    wanted = name.strip().lower().replace("_", "-")
    for gpu in GPUS:
        if gpu.name == wanted:
            return gpu
    known = ", ".join(gpu.name for gpu in GPUS)
    raise UserError(f"unknown GPU {name!r}", remedy=f"choose one of: {known}")
