"""The sources of the settings: flags override the environment, which overrides a file, which overrides the defaults."""
