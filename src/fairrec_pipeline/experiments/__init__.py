"""Many trainings: grids, seeds, what is complete and what is not, one after the other or side by side."""
