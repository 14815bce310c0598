"""What tests and benchmarks share: real ranks, small runs, corpora, faults, pretended devices."""
