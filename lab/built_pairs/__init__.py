"""Is what `hicom build-data` builds as good to train on as the world's own clips? See `comparing`."""
