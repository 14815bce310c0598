"""What the ranks of a job know of each other before they are connected.

- `agreement`: exchange through the rendezvous store; the checks, and their verdict on all ranks.
- `rendezvous`: store at the address of rank 0.
- `rank_facts`: what a rank reports about itself.
- `variables`: environment variables that must have one value on all nodes.
- `placement`: one machine under two names, devices, tensor groups across nodes.
- `deepspeed_launch`: the `deepspeed` command that started a rank, its hostfile and variables.
- `mpi_address`: address of rank 0 under `mpirun`.
- `errors_once`: errors of several ranks, printed once.
"""
