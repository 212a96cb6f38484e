"""Reports of finished and live runs: what was run, its curves and its results, on one page."""
