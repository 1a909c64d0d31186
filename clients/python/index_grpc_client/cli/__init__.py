"""The command line, `index-client`. Its libraries come with the extra `cli`; `index_client` is where it starts."""
