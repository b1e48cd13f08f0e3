"""What is kept on disk: whole files only, and one command in a folder at a time."""
