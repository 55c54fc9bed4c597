"""Hidden states and targets to sums of losses."""
