"""Running models: the program driver, the worker process and its client."""
