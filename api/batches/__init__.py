"""Batches: files of requests that are kept in storage, run one by one, and answered line by line."""
