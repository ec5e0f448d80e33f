"""Official HICom checkpoints to ours: the only place that knows the official names and option strings."""
