"""The JSON bodies of requests and of responses."""
