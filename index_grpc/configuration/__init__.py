"""Where the server's settings come from: flags, before the environment, before a file, before the defaults."""
