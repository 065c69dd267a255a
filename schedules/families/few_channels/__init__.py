"""Convolutions of few input channels on mma.sync, with the max pool that follows."""
