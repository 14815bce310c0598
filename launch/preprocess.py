"""Start preprocessing: `python`, `mpirun -n N python -m mpi4py` or `srun python` this file."""

from mmbert_prep.cli import main

if __name__ == "__main__":
    main()
