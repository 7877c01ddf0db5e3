"""The recipes that come with handful, one module each, and how they are found."""
