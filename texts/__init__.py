"""Texts: files of them in every format that people have, labelled sets, and a text as the model reads it.

Nothing here needs torch. `reader.py` is the one reader of files; what it needs beside Python (orjson, pyarrow) is
imported for the formats that need it.
"""
