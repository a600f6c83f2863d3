"""What a measurement returns: its rows, its summary, its file, its page."""
