"""Loading a Hugging Face folder through transformers, without its progress bars."""

from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM
from transformers.utils import logging


def load_masked_language_model(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """AutoModelForMaskedLM of `folder` in `dtype`, on the CPU, ready to evaluate."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        # Cast afterwards: the argument for it has one name in 4.x and another in 5.x.
        model: torch.nn.Module = AutoModelForMaskedLM.from_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()
    return model.to(dtype).eval()
