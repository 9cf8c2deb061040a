"""Run all combinations of options of a sweep file, locally or on SLURM: `python -m sweep FILE --local N`."""
