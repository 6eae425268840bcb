"""The parts of the stream benchmark: its world, what a learner is, the rivals, the figures."""
