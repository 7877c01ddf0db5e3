"""Bad inputs: what the command line gets, and what it has to answer."""
