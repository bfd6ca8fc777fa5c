"""What every method learns with: batches, the loop, freezing, frozen features, losses."""
