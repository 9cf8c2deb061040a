"""How a run is executed: processes, threads, run folders, resume, files that are written atomically."""
