"""From files of reviews to shards of bytes, with labels where there are some."""
