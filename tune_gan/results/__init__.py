"""Read a run folder, rank it, show it. The only folder that imports pandas; knows no torch or ray."""
