"""One command line a study; see README.md for the table of them."""
