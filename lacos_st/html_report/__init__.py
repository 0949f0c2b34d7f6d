"""A page to look at: runs, scores, models and plans as one HTML file that needs neither a network nor a server."""
