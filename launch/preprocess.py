"""Preprocess text into token shards; the same program as `python -m mmbert_prep`.

Start it with `python`, `mpirun -n N python -m mpi4py` or `srun python`.
"""

from mmbert_prep.cli import main

if __name__ == "__main__":
    main()
