"""Model-FLOPs utilisation: the arithmetic a step needs (mmbert.model.flops), over what the devices
could do meanwhile.
"""

FORMULA = (
    "MFU = FLOPs of the step / (seconds · devices · peak); FLOPs = 6·tokens·layers·(4d² + 3df) + "
    "12·d·Σ keys + 6·masked·(d² + dV)"
)

# Dense bfloat16 FLOP/s with float32 accumulation, from the vendor's data sheets; the first name
# that the device's own name contains.
PEAK_FLOPS: tuple[tuple[str, float], ...] = (
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("RTX 4090", 165e12),
)


def peak_flops(device_name: str) -> float | None:
    """The peak of a device called `device_name` (torch.cuda.get_device_name); None: not known."""
    return next((peak for name, peak in PEAK_FLOPS if name in device_name), None)
