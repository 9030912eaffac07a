"""Result folders: what a result is (identity), what its files hold (schema), and the one way to write and to read them.

identity   what changes a number, as JSON: the key of a result
schema     the files of a result folder, typed
seal       files whose first line is a checksum of the rest
parts      rows of finished batches, while a run goes through the images
records    writing: one result, its rows, its summary
reader     reading: everybody who shows a result goes through it
trust      what a stored result may have built, and what it may not
build      a config's `_target_` becomes an object
environment  what a run ran on
"""
