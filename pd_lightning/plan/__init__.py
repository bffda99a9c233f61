"""`pd-lightning plan`: what a run will cost, and whether distilling pays, before anything is spent."""
