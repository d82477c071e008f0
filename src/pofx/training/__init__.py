"""`fit`: the one loop that turns a Model and Data into a fitted Model and its history."""
