"""Teachers' scores: kept once for every text pair, combined when they are read."""
