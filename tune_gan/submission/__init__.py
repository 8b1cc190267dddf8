"""Send a sweep to a cluster: SLURM, a running Ray, Kubernetes."""
