"""From training records to batches: reading, mixing, encoding, caching, checking. Nothing here needs a trainer."""
