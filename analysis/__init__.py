"""Questions to a run folder, one a file: ``python -m analysis.rank RUN``."""
