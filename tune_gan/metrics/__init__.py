"""The score: features, Fréchet distance and coverage. Knows torch only, and takes tensors."""
