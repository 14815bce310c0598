"""Pretrain an encoder; the same program as `python -m mmbert.pretrain`.

Start it with `deepspeed`, `torchrun`, `srun python`, `mpirun python` or `python`.
"""

from mmbert.pretrain import main

if __name__ == "__main__":
    main()
