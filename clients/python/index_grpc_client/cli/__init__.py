"""The command line `index-client`. Its libraries come with the extra `cli`; the module `index_client` starts it."""
